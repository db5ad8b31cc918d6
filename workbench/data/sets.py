"""Tokenised data, as it is stored and as batches are made of it. B rows or pairs, L positions."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from workbench.data.ragged import Ragged

if TYPE_CHECKING:
    import torch

IGNORED = -100


class Dataset(Protocol):
    """What a loader needs."""

    def __len__(self) -> int: ...

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        ...

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """The rows named, padded; of a set of prompts also lists of text."""
        ...


@dataclass(frozen=True)
class Part:
    """A part of a row as it is shown: token ids, of which some may be learned, or text that no model reads."""

    name: str
    ids: np.ndarray
    learned: np.ndarray
    """(T,) bool."""
    text: str | None = None

    @classmethod
    def of(cls, name: str, ids: np.ndarray, *, learned: bool) -> Part:
        """A part whose ids are all learned, or none of them."""
        return cls(name, ids, np.full(len(ids), learned))

    @classmethod
    def of_text(cls, name: str, text: str) -> Part:
        """A part that is text and holds no token."""
        return cls(name, np.zeros(0, np.int32), np.zeros(0, bool), text)


class TokenSet(ABC):
    """Rows of one data form as token ids, as they are stored and as batches are made of them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def lengths(self) -> np.ndarray:
        """Tokens that a step computes for each row."""

    @property
    def read_lengths(self) -> np.ndarray:
        """Tokens of each row, a prompt that several completions follow counted once."""
        return self.lengths

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each row's longest text, which max_tokens bounds and the model needs positions for."""
        return self.lengths

    @property
    def num_answered(self) -> int | None:
        """Prompts that have an answer; None where rows are no prompts."""
        return None

    @abstractmethod
    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """The rows named, padded."""

    @abstractmethod
    def parts(self, row: int) -> list[Part]:
        """A row as it is shown."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """One safetensors file."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path) -> Self:
        """The mirror of save."""


@dataclass(frozen=True)
class RowSet(TokenSet):
    """ids of every row; labelled: (all tokens,) bool, true at tokens that are learned."""

    ids: Ragged
    labelled: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        return self.ids.lengths

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """{input_ids, labels, attention_mask} (B, L), padded on the right."""
        ids, mask = self.ids.padded(rows, 0)
        learned, _ = Ragged(self.labelled, self.ids.offsets).padded(rows, False)
        return _tensors(input_ids=ids, labels=np.where(learned, ids, IGNORED), attention_mask=mask)

    def parts(self, row: int) -> list[Part]:
        learned = self.labelled[self.ids.offsets[row] : self.ids.offsets[row + 1]]
        return [Part("", self.ids[row], learned)]

    def save(self, path: Path) -> None:
        save_arrays(path, ids=self.ids.values, offsets=self.ids.offsets, labelled=self.labelled)

    @classmethod
    def load(cls, path: Path) -> RowSet:
        arrays = load_arrays(path)
        return cls(Ragged(arrays["ids"], arrays["offsets"]), arrays["labelled"])


@dataclass(frozen=True)
class PairSet(TokenSet):
    """Prompts and both completions (without the prompt); with the reference's log-probabilities once they are known."""

    prompts: Ragged
    chosen: Ragged
    rejected: Ragged
    ref_chosen: np.ndarray | None = None
    """(all chosen tokens,) float32, nats; laid out as chosen.values."""
    ref_rejected: np.ndarray | None = None
    margins: np.ndarray | None = None
    """(pairs,) float32, by how much each chosen completion is better; None: nothing says so."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens that a step computes for each pair, the prompt twice."""
        return 2 * self.prompts.lengths + self.chosen.lengths + self.rejected.lengths

    @property
    def read_lengths(self) -> np.ndarray:
        return self.prompts.lengths + self.chosen.lengths + self.rejected.lengths

    @property
    def text_lengths(self) -> np.ndarray:
        return self.prompts.lengths + np.maximum(self.chosen.lengths, self.rejected.lengths)

    def with_reference(self, path: Path) -> PairSet:
        """Returns these pairs with the log-probabilities that save_reference wrote."""
        arrays = load_arrays(path)
        return replace(self, ref_chosen=arrays["chosen"], ref_rejected=arrays["rejected"])

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """{prompt_, chosen_, rejected_}{input_ids, attention_mask} (B, L), prompts padded on the left.

        With the reference known also ref_chosen_logprobs and ref_rejected_logprobs, 0 at padding; margins (B,) where
        the data has them.
        """
        batch: dict[str, np.ndarray] = {}
        for name, ragged in (("prompt", self.prompts), ("chosen", self.chosen), ("rejected", self.rejected)):
            ids, mask = ragged.padded(rows, 0, left=name == "prompt")
            batch |= {f"{name}_input_ids": ids, f"{name}_attention_mask": mask}
        if self.ref_chosen is not None and self.ref_rejected is not None:
            for name, ragged, known in (
                ("chosen", self.chosen, self.ref_chosen),
                ("rejected", self.rejected, self.ref_rejected),
            ):
                batch[f"ref_{name}_logprobs"] = Ragged(known, ragged.offsets).padded(rows, 0.0)[0]
        if self.margins is not None:
            batch["margins"] = self.margins[rows]
        return _tensors(**batch)

    def parts(self, row: int) -> list[Part]:
        completions = {"chosen": self.chosen, "rejected": self.rejected}
        shown = [Part.of(name, ids[row], learned=True) for name, ids in completions.items()]
        margin = [] if self.margins is None else [Part.of_text("margin", json.dumps(self.margins[row].item()))]
        return [Part.of("prompt", self.prompts[row], learned=False), *shown, *margin]

    def save(self, path: Path) -> None:
        parts = {"prompts": self.prompts, "chosen": self.chosen, "rejected": self.rejected}
        arrays = {name: part.values for name, part in parts.items()}
        arrays |= {} if self.margins is None else {"margins": self.margins}
        save_arrays(path, **arrays, **{f"{name}_offsets": part.offsets for name, part in parts.items()})

    @classmethod
    def load(cls, path: Path) -> PairSet:
        arrays = load_arrays(path)
        prompts, chosen, rejected = (
            Ragged(arrays[name], arrays[f"{name}_offsets"]) for name in ("prompts", "chosen", "rejected")
        )
        return cls(prompts, chosen, rejected, margins=arrays.get("margins"))


@dataclass(frozen=True)
class Texts:
    """Texts in one flat array, some of which may be absent. utf8: (sum of bytes,) uint8; present: (texts,) bool."""

    utf8: Ragged
    present: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[str | None]) -> Texts:
        """The texts one behind the other."""
        encoded = [np.frombuffer((text or "").encode(), np.uint8) for text in texts]
        return cls(Ragged.from_rows(encoded, np.uint8), np.array([text is not None for text in texts], bool))

    def __len__(self) -> int:
        return len(self.utf8)

    def __getitem__(self, row: int) -> str | None:
        return self.utf8[row].tobytes().decode() if self.present[row] else None


@dataclass(frozen=True)
class PromptSet(TokenSet):
    """Prompts that are completed while training, as token ids and as verifiers see them."""

    prompts: Ragged
    texts: Texts
    answers: Texts
    """What completions are checked against; absent where a row has none."""
    prompt_ids: Texts
    """Hash of task and prompt, which completions.jsonl names a prompt by."""
    rows: Texts | None = None
    """JSON of what rewards may take besides: {columns, messages}; absent where a row has neither."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> np.ndarray:
        return self.prompts.lengths

    @property
    def num_answered(self) -> int:
        return int(self.answers.present.sum())

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """{prompts (B, L) padded on the left, prompt_mask (B, L), texts, answers (None: the row has none), prompt_ids,
        columns (by name), messages (the turns that a prompt is; None: it is text)}, the last five lists of B."""
        ids, mask = self.prompts.padded(rows, 0, left=True)
        parts = {"texts": self.texts, "answers": self.answers, "prompt_ids": self.prompt_ids}
        lists = {name: [part[int(row)] for row in rows] for name, part in parts.items()}
        more = [self.row(int(row)) for row in rows]
        lists["columns"] = [found.get("columns", {}) for found in more]
        turns = [found.get("messages") for found in more]
        lists["messages"] = [found and tuple((role, content) for role, content in found) for found in turns]  # type: ignore[misc]
        return {**_tensors(prompts=ids, prompt_mask=mask), **lists}

    def asked(self) -> Iterator[tuple[str, str | None]]:
        """Text and answer of every prompt."""
        return ((self.texts[row] or "", self.answers[row]) for row in range(len(self)))

    def columns(self) -> list[str]:
        """Names of the rows' own columns, as far as some row has them."""
        return list(dict.fromkeys(name for row in range(len(self)) for name in self.row(row).get("columns", {})))

    def row(self, row: int) -> dict[str, Any]:
        """{columns, messages} of a row, as far as it has them."""
        text = self.rows[row] if self.rows is not None else None
        return json.loads(text) if text else {}

    def parts(self, row: int) -> list[Part]:
        found, answer = [Part.of("prompt", self.prompts[row], learned=False)], self.answers[row]
        return found if answer is None else [*found, Part.of_text("answer", answer)]

    def save(self, path: Path) -> None:
        arrays = {"prompts": self.prompts.values, "prompts_offsets": self.prompts.offsets}
        rows = self.rows if self.rows is not None else Texts.of([None] * len(self))
        parts = {"texts": self.texts, "answers": self.answers, "prompt_ids": self.prompt_ids, "rows": rows}
        for name, part in parts.items():
            arrays |= {name: part.utf8.values, f"{name}_offsets": part.utf8.offsets, f"{name}_present": part.present}
        save_arrays(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> PromptSet:
        arrays = load_arrays(path)
        texts, answers, prompt_ids, rows = (
            Texts(Ragged(arrays[name], arrays[f"{name}_offsets"]), arrays[f"{name}_present"])
            for name in ("texts", "answers", "prompt_ids", "rows")
        )
        return cls(Ragged(arrays["prompts"], arrays["prompts_offsets"]), texts, answers, prompt_ids, rows)


def save_reference(path: Path, chosen: np.ndarray, rejected: np.ndarray) -> None:
    """Per-token log-probabilities of a reference, laid out as a PairSet's completions."""
    save_arrays(path, chosen=chosen, rejected=rejected)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file by name."""
    from safetensors.numpy import load_file

    return load_file(path)


def save_arrays(path: Path, **arrays: np.ndarray) -> None:
    """The mirror of load_arrays."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def _tensors(**arrays: np.ndarray) -> dict[str, torch.Tensor]:
    import torch

    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return {name: tensor.long() if tensor.dtype == torch.int32 else tensor for name, tensor in tensors.items()}
