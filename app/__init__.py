"""The bundled app: image to video in the browser and on the command line. Starts as `python -m app`."""
