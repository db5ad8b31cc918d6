"""Numbers in sentences."""

from __future__ import annotations


def plural(number: float, noun: str, form: str = ",") -> str:
    """A number and its noun: 1 pair, 7,680 pairs, 1.5 epochs. form: how the number is written."""
    text = format(number, form)
    return f"{text} {noun}{'' if text == '1' else 's'}"
