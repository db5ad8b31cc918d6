"""What an argument of a command may be: functions of its text, as argparse takes them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

MAX_SHOWN = 300
"""How many characters of what was found wrong in a command are shown."""


def cut(text: str) -> str:
    """One line of what was found, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."


def positive(text: str) -> int:
    """A whole number above 0."""
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed whole numbers from 1 to 999999999")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed whole numbers from 0 to 999999999")
    return int(text)


def temperature(text: str) -> float:
    """A finite number, 0 or above."""
    from workbench.decimals import read_float

    try:
        value = read_float(text)
    except ValueError:
        value = -1.0
    if value < 0:
        raise argparse.ArgumentTypeError(f"found {cut(text)!r}, allowed 0 and finite numbers above it")
    return value


def folder(text: str) -> Path:
    """A path that can be one, ~ for the home folder."""
    from workbench.config import check_path  # pydantic takes a tenth of a second, in which a signal finds no handler

    try:
        return Path(check_path(text)).expanduser()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
