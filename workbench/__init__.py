"""A research workbench for post-training language models. README.md shows the path of data."""

__version__ = "0.1.0"
