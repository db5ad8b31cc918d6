"""`python -m workbench`: the command line, for what starts Python itself, as torchrun does."""

from workbench.cli import entry

if __name__ == "__main__":
    entry()
