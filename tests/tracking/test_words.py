"""Text for people: what reaches a terminal does not act on it, and one thing is singular."""

from __future__ import annotations

import pytest

from workbench.tracking.terminal import visible
from workbench.tracking.words import plural


@pytest.mark.parametrize(
    "code", [*range(9), *range(11, 32), 127, *range(128, 160), 0x200E, 0x202E, 0x2066, 0x2028, 0xD800]
)
def test_every_character_that_acts_on_a_terminal_is_written_out(code):
    shown = visible(f"a{chr(code)}b")
    assert shown.startswith("a\\")
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize("text", ["", "a\nb\tc", "größer β 中文 العربية", "👩\u200d🔬", "می\u200cخواهم"])
def test_letters_of_any_script_stay_as_they_are(text):
    assert visible(text) == text


def test_one_is_singular():
    assert [plural(n, "pair") for n in (0, 1, 2, 7680)] == ["0 pairs", "1 pair", "2 pairs", "7,680 pairs"]
    assert [plural(n, "epoch", ".3g") for n in (0.5, 1.0, 1.0004, 2.0)] == [
        "0.5 epochs",
        "1 epoch",
        "1 epoch",
        "2 epochs",
    ]
