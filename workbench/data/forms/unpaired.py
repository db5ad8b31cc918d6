"""Completions that are wanted or not, each by itself, as KTO takes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data import formats
from workbench.data.bad_rows import BadRows
from workbench.data.counts import Counts
from workbench.data.formats import Example, Unpaired
from workbench.data.forms.base import DataForm
from workbench.data.forms.rows import ROWS
from workbench.data.sets import Part, RowSet, TokenSet, load_arrays, save_arrays
from workbench.data.tokenise import tokenise_rows
from workbench.data.wanted import Wanted
from workbench.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class UnpairedSet(TokenSet):
    """Rows, and of each whether its completion is wanted: (rows,) bool."""

    rows: RowSet
    desirable: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Those of the rows, and desirable (B,) bool."""
        import torch

        return {**self.rows.batch(rows), "desirable": torch.from_numpy(self.desirable[rows])}

    def parts(self, row: int) -> list[Part]:
        return [*self.rows.parts(row), Part.of_text("label", str(bool(self.desirable[row])).lower())]

    def save(self, path: Path) -> None:
        self.rows.save(path)
        save_arrays(path, **load_arrays(path), desirable=self.desirable)

    @classmethod
    def load(cls, path: Path) -> UnpairedSet:
        return cls(RowSet.load(path), load_arrays(path)["desirable"])


class UnpairedRows(DataForm):
    """Rows that are labelled true or false."""

    name = "unpaired"
    wanted = Wanted((formats.UNPAIRED,), "prompt, completion, label")
    sources = ("path", "dataset")
    sources_text = "path or dataset, of rows of prompt, completion and label"
    example_file = "labelled.jsonl"

    @property
    def held_out_form(self) -> DataForm:
        return ROWS

    @property
    def identity(self) -> dict[str, Any]:
        """Before there was a set for it, rows were kept without their labels, to be looked at alone."""
        return {"form": self.name, "labelled": True}

    def tokenise(
        self,
        examples: Iterable[Example],
        tokenizer: Tokenizer,
        max_tokens: int,
        *,
        as_chat: bool,
        task: str | None = None,
        bad: BadRows | None = None,
    ) -> tuple[UnpairedSet, Counts]:
        desirable: list[bool] = []
        rows, counts = tokenise_rows(
            *(examples, tokenizer, max_tokens),
            as_chat=as_chat,
            every_token=False,
            bad=bad,
            on_kept=lambda row: desirable.append(row.desirable),
        )
        return UnpairedSet(rows, np.array(desirable, bool)), counts

    def load(self, path: Path, reference: Path | None = None) -> UnpairedSet:
        assert reference is None, "the stage of a reference scores pairs alone"
        return UnpairedSet.load(path)

    def num_characters(self, example: Example) -> int:
        assert isinstance(example, Unpaired), "readers give no other examples as unpaired ones"
        return ROWS.num_characters(example.example)


UNPAIRED = UnpairedRows()
