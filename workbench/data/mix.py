"""Several sources as one: their rows in one set, and batches that draw from each of them by its weight.

Letters: S sources, or bands of difficulty where they are divided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.batches import BatchLoader
from workbench.data.ragged import Ragged
from workbench.data.sets import Texts, TokenSet
from workbench.errors import DataError
from workbench.tracking.words import plural

if TYPE_CHECKING:
    import torch

Shares = Callable[[int], Sequence[float]]
"""(S,) the share of each source among the rows drawn after so many steps; they add up to 1."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Source:
    """One source as a loader and a trainer see it. loss_weight: what the losses of its rows are multiplied by.
    difficulty: (rows,) of each row, where the source is divided into bands."""

    name: str
    rows: TokenSet
    loss_weight: float = 1.0
    difficulty: np.ndarray | None = None


class MixedSet:
    """The rows of all sources, one source behind the other. A batch tells the source of each row, or its band where
    sources are divided by difficulty; and the weight of its loss where one of them has another than 1."""

    def __init__(self, sources: Sequence[Source], bands: int = 1) -> None:
        """bands: of each source with difficulties, of equal size from the easiest rows to the hardest. Raises DataError
        where a source has fewer rows."""
        named: list[tuple[str, float, np.ndarray]] = []
        start = 0
        for source in sources:
            number = len(source.rows)
            if source.difficulty is None:
                named.append((source.name, source.loss_weight, start + np.arange(number)))
            elif number < bands:
                raise DataError(too_few(source.name, number, bands))
            else:
                parts = np.array_split(start + np.argsort(source.difficulty, kind="stable"), bands)
                names = (f"{source.name}-{band}" for band in range(1, bands + 1))
                named += [(name, source.loss_weight, part) for name, part in zip(names, parts, strict=True)]
            start += number
        self.names = tuple(name for name, _, _ in named)
        """(S,) of each source, or band."""
        self.parts = [rows for _, _, rows in named]
        """(S,) the numbers of its rows."""
        self._rows: TokenSet = joined([source.rows for source in sources])
        self._weights = np.array([weight for _, weight, _ in named], np.float32)
        self._source = np.zeros(start, np.int64)
        for place, rows in enumerate(self.parts):
            self._source[rows] = place

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return self._rows.lengths

    def source_of(self, rows: np.ndarray) -> np.ndarray:
        """The number of each row's source, or band."""
        return self._source[rows]

    def batch(self, rows: np.ndarray) -> dict[str, Any]:
        """The rows named, padded, with their source (B,), and loss_weight (B,) where there are any."""
        import torch

        source = self._source[rows]
        found: dict[str, torch.Tensor] = {"source_ids": torch.from_numpy(source)}
        if (self._weights != 1).any():
            found["loss_weight"] = torch.from_numpy(self._weights[source])
        return {**self._rows.batch(rows), **found}


class MixLoader(BatchLoader):
    """Endless batches of several sources. Each has its share of the rows drawn, rounded so that none is a whole row
    ahead or behind; which rows, its own permutation tells, epoch by epoch, so that none repeats before all were drawn.

    shares: by the step, of which each batch gives steps_per_batch. `position` and the seed alone decide a batch.
    """

    data: MixedSet

    def __init__(
        self,
        data: MixedSet,
        batch_rows: int,
        seed: int,
        shares: Shares,
        *,
        steps_per_batch: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(data, batch_rows, seed, rank=rank, world_size=world_size)
        self._shares, self._steps_per_batch = shares, steps_per_batch
        self._orders: dict[tuple[int, int], np.ndarray] = {}
        self._reached: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        """The rows of each source that are due before a batch, and those drawn, by the numbers of the last batches."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Their names."""
        return self.data.names

    def drawn(self, batches: int) -> list[tuple[int, float]]:
        """Tells how many rows of each source are in so many batches from the first on, and in how many passes."""
        return [(int(n), float(n / len(part))) for n, part in zip(self._drawn(batches), self.data.parts, strict=True)]

    def end_after(self, epochs: float, smallest_share: int = 1) -> int:
        self._reached.clear()  # the last batch may be smaller now
        return super().end_after(epochs, smallest_share)

    def rows_of(self, position: int) -> np.ndarray:
        """The rows of batch number `position`, over all processes, source by source."""
        before, behind = self._drawn(position), self._drawn(position + 1)
        return np.concatenate([self._of_source(s, *span) for s, span in enumerate(zip(before, behind, strict=True))])

    def _of_source(self, source: int, first: int, end: int) -> np.ndarray:
        """The rows that one source gives from its draw number `first` to that before `end`."""
        size = len(self.data.parts[source])
        draws = np.arange(first, end)
        epochs = draws // size
        taken = [self._order_of(source, int(e))[draws[epochs == e] % size] for e in np.unique(epochs)]
        return self.data.parts[source][np.concatenate([np.zeros(0, np.int64), *taken])]

    def _order_of(self, source: int, epoch: int) -> np.ndarray:
        if (source, epoch) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != source}
            order = np.random.default_rng([self.seed, epoch, source]).permutation(len(self.data.parts[source]))
            self._orders[source, epoch] = order
        return self._orders[source, epoch]

    def _drawn(self, position: int) -> np.ndarray:
        """(S,) rows drawn of each source before batch number `position`."""
        start = max((known for known in self._reached if known <= position), default=0)
        nothing = np.zeros(len(self.sources))
        due, counts = self._reached.get(start, (nothing, nothing.astype(np.int64)))
        for batch in range(start, position):
            size = self._span(batch)[1]
            due = due + size * np.asarray(self._shares(batch * self._steps_per_batch))
            counts = counts + rounded(due - counts, size)
        near = {known: value for known, value in self._reached.items() if abs(known - position) <= 1}
        self._reached = near | {position: (due, counts)}
        return counts


def rounded(due: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that add up to the total and are nearest to what is due (S,): what is behind by most comes first,
    and of equal ones the first. due: adds up to the total; below 0 where a source is ahead."""
    whole = np.maximum(np.floor(due + _ROUNDING), 0).astype(np.int64)
    rest = due - whole
    while (missing := total - int(whole.sum())) != 0:
        place = int(np.argmax(rest)) if missing > 0 else int(np.argmin(np.where(whole > 0, rest, np.inf)))
        whole[place] += np.sign(missing)
        rest[place] -= np.sign(missing)
    return whole


def joined(sets: Sequence[Any]) -> Any:
    """Sets of one form, one behind the other; what they hold is joined field by field."""
    first = sets[0]
    if len(sets) == 1 or first is None or isinstance(first, str):
        assert all(each == first for each in sets[1:]), "sets of one form hold the same fields"
        return first
    if isinstance(first, np.ndarray):
        return np.concatenate(sets)
    if isinstance(first, Ragged):
        ends = np.cumsum([0, *(len(each.values) for each in sets)])
        offsets = [each.offsets[1:] + end for each, end in zip(sets, ends, strict=False)]
        return Ragged(np.concatenate([each.values for each in sets]), np.concatenate([np.zeros(1, np.int64), *offsets]))
    assert isinstance(first, TokenSet | Texts), "a set holds arrays, ragged arrays, texts, names and other sets"
    names = [field.name for field in dataclasses.fields(first)]  # type: ignore[arg-type]
    return type(first)(*(joined([getattr(each, name) for each in sets]) for name in names))


def too_few(name: str, rows: int, bands: int) -> str:
    """What is said of a source that has fewer rows than bands of difficulty."""
    return f"source {name} has {plural(rows, 'row')}, allowed {bands} or more: one a band"
