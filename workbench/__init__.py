"""A research workbench for post-training language models. See README.md for the path of data."""

__version__ = "0.1.0"
