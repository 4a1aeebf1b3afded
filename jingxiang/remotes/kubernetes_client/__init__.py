"""A program that talks to a cluster; see `__main__`."""
