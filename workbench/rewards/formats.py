"""Forms that a completion may be asked to have, whatever it says in them.

A form is a list of parts, the last one that the completion ended with all others there: one that was cut has no last
line yet, and one that ended without them has nothing of the form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from workbench.rewards.number import BOX, last_box
from workbench.rewards.reward import Sample

VERSION = 2
_HASHES_LINE = re.compile(r"#### -?[$]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_AFTER_A_BOX = re.compile(r"[\s.$*)\]\\]*")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_reward(form: str, *, graded: bool, samples: Sequence[Sample]) -> list[float]:
    """1 where the whole form is there, else 0; graded: the share of its parts."""
    values = []
    for sample in samples:
        # What the chat template's question began of the answer is part of its form.
        text = sample.completion and sample.prefill + sample.completion
        parts = _FORMS[form]("" if sample.prefill else sample.prompt, text)
        parts.append(all(parts) and sample.ended)
        values.append(sum(parts) / len(parts) if graded else float(parts[-1]))
    return values


def _gsm8k(_prompt: str, text: str) -> list[bool]:
    """The last line is `#### n`: the mark, nowhere else in the text, at the line's beginning; a number, and no more."""
    line = text.rstrip(" \n").split("\n")[-1]
    once = text.count("####") == 1
    return [once, once and line.startswith("####"), once and bool(_HASHES_LINE.fullmatch(line))]


def _boxed(_prompt: str, text: str) -> list[bool]:
    """One box, closed, with a letter or digit in it, and at most punctuation after it."""
    found = last_box(text)
    once = found is not None and text.count(BOX) == 1
    if found is None or found[1] is None:
        return [once, False, False]
    filled = once and any(map(str.isalnum, found[0]))
    return [once, filled, filled and bool(_AFTER_A_BOX.fullmatch(found[1]))]


def _think_answer(prompt: str, text: str) -> list[bool]:
    """Each tag once, in order; a thought; an answer; nothing outside. A prompt may have opened the first."""
    if text and prompt.rstrip().endswith("<think>"):
        text = f"<think>{text}"
    at = [text.find(tag) for tag in _TAGS]
    once = [text.count(tag) == 1 for tag in _TAGS]
    if not all(once) or at != sorted(at):
        return [*once, False, False, False]
    before, thought = text[: at[0]], text[at[0] + len(_TAGS[0]) : at[1]]
    between, answer = text[at[1] + len(_TAGS[1]) : at[2]], text[at[2] + len(_TAGS[2]) : at[3]]
    outside = before + between + text[at[3] + len(_TAGS[3]) :]
    said = [any(map(str.isalnum, part)) for part in (thought, answer)]
    return [*once, *said, not outside.strip()]


_FORMS: dict[str, Callable[[str, str], list[bool]]] = {
    "gsm8k": _gsm8k,
    "boxed": _boxed,
    "think_answer": _think_answer,
}
