"""Where images go: one module per kind of sink."""
