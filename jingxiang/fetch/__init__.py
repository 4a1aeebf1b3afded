"""The fetch engine: artifacts named by their SHA-256 in, files of the store out, whatever the mirrors do.

Standard library only: the bootstrap fetches the toolkit's own packages with it, before anything is installed.
"""
