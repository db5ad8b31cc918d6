"""Forms that a completion may be asked to have, whatever it says in them.

A form is a list of parts; it is there when all of them are. None is there in an empty text, and the last one is that
the completion ended: one that was cut has no last line yet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from workbench.rewards.reward import Sample

VERSION = 1
_HASHES_LINE = re.compile(r"#### -?[$]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_BOX = "\\boxed{"
_AFTER_A_BOX = re.compile(r"[\s.$*)\]\\]*")
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def format_reward(form: str, *, graded: bool, samples: Sequence[Sample]) -> list[float]:
    """1 where the whole form is there, else 0; graded: the share of its parts."""
    found = [_FORMS[form](sample.prompt, sample.completion, sample.ended) for sample in samples]
    return [sum(parts) / len(parts) if graded else float(all(parts)) for parts in found]


def boxed(text: str) -> tuple[str, str] | None:
    """(content, what follows) of the last \\boxed{...}, its braces balanced; None where there is none."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth, at = 1, start + len(_BOX)
    for end in range(at, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
        if depth == 0:
            return text[at:end], text[end + 1 :]
    return None


def _gsm8k(_prompt: str, text: str, ended: bool) -> list[bool]:
    """The last line is `#### n`: the mark, nowhere else in the text, at the line's beginning; a number; the end."""
    line = text.rstrip(" \n").split("\n")[-1]
    once = text.count("####") == 1
    return [once, once and line.startswith("####"), once and bool(_HASHES_LINE.fullmatch(line)), bool(text) and ended]


def _boxed(_prompt: str, text: str, ended: bool) -> list[bool]:
    """One box, closed, with a letter or digit in it, and at most punctuation after it; the end."""
    found = boxed(text)
    once = found is not None and text.count(_BOX) == 1
    filled = found is not None and once and any(map(str.isalnum, found[0]))
    last = found is not None and filled and bool(_AFTER_A_BOX.fullmatch(found[1]))
    return [once, filled, last, bool(text) and ended]


def _think_answer(prompt: str, text: str, ended: bool) -> list[bool]:
    """Each tag once, in order; a thought; an answer; nothing outside; the end. A prompt may have opened the first."""
    if text and prompt.rstrip().endswith("<think>"):
        text = f"<think>{text}"
    at = [text.find(tag) for tag in _TAGS]
    ordered = at == sorted(at) and at[0] >= 0 and all(text.count(tag) == 1 for tag in _TAGS)
    if not ordered:
        return [False, False, False, False, bool(text) and ended]
    before, thought = text[: at[0]], text[at[0] + len(_TAGS[0]) : at[1]]
    between, answer = text[at[1] + len(_TAGS[1]) : at[2]], text[at[2] + len(_TAGS[2]) : at[3]]
    outside = before + between + text[at[3] + len(_TAGS[3]) :]
    said = [any(map(str.isalnum, part)) for part in (thought, answer)]
    return [True, *said, not outside.strip(), ended]


_FORMS: dict[str, Callable[[str, str, bool], list[bool]]] = {
    "gsm8k": _gsm8k,
    "boxed": _boxed,
    "think_answer": _think_answer,
}
