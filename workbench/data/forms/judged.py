"""Rows of which something is said besides: a label, a score. A form of such rows adds one value a row to them."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import Example, Judged
from workbench.data.forms.base import DataForm
from workbench.data.forms.rows import ROWS
from workbench.data.sets import Part, RowSet, TokenSet, load_arrays, save_arrays
from workbench.data.tokenise import OnKept, tokenise_rows
from workbench.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class JudgedSet(TokenSet):
    """Rows, and a value of each: (rows,) bool or float32. name: that of the values in a batch."""

    rows: RowSet
    name: str
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """What a RowSet's batch has, and the values (B,) by their name."""
        import torch

        return {**self.rows.batch(rows), self.name: torch.from_numpy(self.values[rows])}

    def parts(self, row: int) -> list[Part]:
        return [*self.rows.parts(row), Part.of_text(self.name, json.dumps(self.values[row].item()))]

    def save(self, path: Path) -> None:
        self.rows.save(path)
        save_arrays(path, **load_arrays(path), **{f"judged/{self.name}": self.values})

    @classmethod
    def load(cls, path: Path) -> JudgedSet:
        [(name, values)] = ((name, values) for name, values in load_arrays(path).items() if name.startswith("judged/"))
        return cls(RowSet.load(path), name.removeprefix("judged/"), values)


class JudgedRows(DataForm):
    """Rows with one value each."""

    sources: ClassVar[tuple[str, ...]] = ("path", "dataset")
    value: ClassVar[str]
    """The name of the values in a batch."""
    dtype: ClassVar[type] = np.float32

    @abstractmethod
    def judge(self, example: Any) -> float:
        """The value of an example."""

    @property
    def held_out_form(self) -> DataForm:
        return ROWS

    @property
    def identity(self) -> dict[str, Any]:
        """The form's identity. It has the name of the values, because unpaired rows were once kept without any."""
        return {"form": self.name, "value": self.value}

    def tokenise(
        self,
        examples: Iterable[Example],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        as_chat: bool,
        task: str | None = None,
        bad: BadRows | None = None,
        on_kept: OnKept | None = None,
    ) -> tuple[JudgedSet, Counts]:
        values: list[float] = []

        def keep(example: Any) -> None:
            values.append(self.judge(example))
            if on_kept is not None:
                on_kept(example)

        rows, counts = tokenise_rows(
            examples, tokenizer, max_tokens, as_chat=as_chat, every_token=False, bad=bad, on_kept=keep
        )
        return JudgedSet(rows, self.value, np.array(values, self.dtype)), counts

    def load(self, path: Path, reference: Path | None = None) -> JudgedSet:
        assert reference is None, "the stage of a reference scores pairs alone"
        return JudgedSet.load(path)

    def num_characters(self, example: Example) -> int:
        assert isinstance(example, Judged), "readers give no other examples as judged ones"
        return ROWS.num_characters(example.example)
