"""What a completion earns on both sides, called as TRL calls its own."""

from __future__ import annotations

import zlib
from typing import Any


def reward(completions: list[str], **_: Any) -> list[float]:
    """Of the text alone, in [0, 1), as good as drawn at random: no two completions of a group earn the same, so each
    has an advantage and is trained on."""
    return [zlib.crc32(text.encode()) / 2**32 for text in completions]
