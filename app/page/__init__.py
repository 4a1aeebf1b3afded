"""The web page: Gradio's form, our own scripts for what lives (`static/`), and what surrounds both.

application  all of it together
shell        the page on its way to the browser: language, scripts, a proxy's folder
blocks       the fields, and what happens when
form         what then is done
words        the texts of the scripts
"""
