"""Prompts that two sets of rows share, and those that stand twice in one: by 64-bit hashes, exactly as they are written
and after case and white space are folded. A million rows are 16 MB, and two sets are compared in a second."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workbench.data.conversations import TOOLS, Turns
from workbench.data.formats import Chat, Example, Judged, Text
from workbench.data.sets import load_arrays, save_arrays

FILE = "prompts.safetensors"


@dataclass(frozen=True)
class PromptHashes:
    """exact, folded: (rows,) uint64, of each row's own prompt; earlier_exact, earlier_folded: of the prompts of the
    earlier answers of conversations."""

    exact: np.ndarray
    folded: np.ndarray
    earlier_exact: np.ndarray
    earlier_folded: np.ndarray

    def __len__(self) -> int:
        return len(self.exact)

    @property
    def repeated(self) -> tuple[int, int]:
        """Rows whose prompt stands in a row before: as it is written; after folding."""
        return _repeated(self.exact), _repeated(self.folded)

    def shared_with(self, trained: PromptHashes) -> tuple[int, int]:
        """Rows whose prompt is one of those that another set is learned from: as it is written; after folding."""
        exact = _shared(self.exact, np.concatenate([trained.exact, trained.earlier_exact]))
        return exact, _shared(self.folded, np.concatenate([trained.folded, trained.earlier_folded]))

    def save(self, path: Path) -> None:
        """One safetensors file."""
        save_arrays(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> PromptHashes:
        """The mirror of save."""
        return cls(**load_arrays(path))


@dataclass
class PromptHasher:
    """Takes examples as they go by."""

    _exact: array[int] = field(default_factory=lambda: array("Q"))
    _folded: array[int] = field(default_factory=lambda: array("Q"))
    _earlier_exact: array[int] = field(default_factory=lambda: array("Q"))
    _earlier_folded: array[int] = field(default_factory=lambda: array("Q"))

    def seen(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples themselves, each counted."""
        for example in examples:
            *earlier, last = prompts_of(example)
            for text in earlier:
                self._earlier_exact.append(_hash(text))
                self._earlier_folded.append(_hash(fold(text)))
            self._exact.append(_hash(last))
            self._folded.append(_hash(fold(last)))
            yield example

    def result(self) -> PromptHashes:
        """The hashes of the examples so far."""
        found = (self._exact, self._folded, self._earlier_exact, self._earlier_folded)
        return PromptHashes(*(np.array(values, np.uint64) for values in found))


def hashes_of(examples: Iterable[Example]) -> PromptHashes:
    """The hashes of all of the examples."""
    hasher = PromptHasher()
    for _ in hasher.seen(examples):
        pass
    return hasher.result()


def prompts_of(example: Example) -> list[str]:
    """What is asked before each answer of an example, the last of them its own; of a text, and of a row whose prompt is
    empty, what is learned."""
    if isinstance(example, Judged):
        return prompts_of(example.example)
    if isinstance(example, Text):
        return [example.text]
    if isinstance(example, Chat):
        answers = [i for i, turn in enumerate(example.messages) if turn[0] == "assistant"]
        asked = [_asked(example.messages[:index]) for index in answers if index >= example.learn_from]
        last = asked.pop() if asked else ""
        return [*(text for text in asked if text), last or _asked(example.messages)]
    prompt = example.prompt if isinstance(example.prompt, str) else _asked(example.prompt)
    if prompt.strip():
        return [prompt]
    answer = next((getattr(example, name) for name in ("completion", "chosen", "answer") if hasattr(example, name)), "")
    return [answer if isinstance(answer, str) else _asked(answer or ())]


def fold(text: str) -> str:
    """The text without differences of case and white space."""
    return " ".join(text.casefold().split())


def _asked(turns: Turns) -> str:
    """What is asked, as one text; where a user asks once, it is that of a plain prompt. Another system message or tools
    do not change it."""
    return "\n".join(turn[1] for turn in turns if turn[0] not in ("system", TOOLS))


def _repeated(hashes: np.ndarray) -> int:
    ordered = np.sort(hashes)
    return int((ordered[1:] == ordered[:-1]).sum())


def _shared(hashes: np.ndarray, among: np.ndarray) -> int:
    """Sorting is a tenth of the time of numpy's own isin and unique."""
    if not len(among):
        return 0
    ordered = np.sort(among)
    return int((ordered[np.searchsorted(ordered, hashes) % len(ordered)] == hashes).sum())


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
