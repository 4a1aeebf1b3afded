"""jingxiang: one lock, any mirror: from a bare machine to a running GPU video app."""

__version__ = "0.1.0"
