"""Prompts drawn by how often the model's own completions of them passed.

Letters: R rows of all sources, S sources, K bands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.data.curriculum import Curriculum
from workbench.data.mix import MixedSet, MixLoader, Shares
from workbench.errors import CheckpointError

if TYPE_CHECKING:
    import torch

ROW = "row_ids"
"""The key of a batch that tells which rows of the data its prompts are."""
_NEVER = -1


class PassRateLoader(MixLoader):
    """Endless batches of several sources, or one. How many rows of each band of each source a batch has, the shares
    tell; which they are, the pass rates measured so far: of the rows whose rate is in the band those that were drawn
    least often, in an order that the seed and the batch's number decide; where they are too few, those with the
    nearest rates as well.

    What was drawn and measured is this loader's state, the same in every process; it changes in `observe` alone.
    """

    def __init__(
        self,
        data: MixedSet,
        batch_rows: int,
        seed: int,
        shares: Shares,
        curriculum: Curriculum,
        *,
        steps_per_batch: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """data: undivided; shares: of the S x K bands, source by source."""
        super().__init__(
            data, batch_rows, seed, shares, steps_per_batch=steps_per_batch, rank=rank, world_size=world_size
        )
        assert curriculum.pass_rate is not None, "a curriculum by pass rate"
        self._settings, self._ranges = curriculum.pass_rate, np.array(curriculum.rates)
        self._rates = np.full(len(data), self._settings.prior)
        self._measured_at = np.full(len(data), _NEVER)
        """(R,) steps made before each rate was measured."""
        self._times = np.zeros(len(data), np.int64)
        """(R,) how often each row was drawn."""
        self._drawn_of = np.zeros(len(data.parts) * len(self._ranges), np.int64)
        """(S x K,) rows drawn of each band, as they were then."""
        self._observed = np.zeros(1, np.int64)
        """Batches given before the last call of observe."""
        self._given = self._bands_at(0)
        """(R,) the bands by which the last batch was drawn."""
        self._ahead: list[tuple[np.ndarray, np.ndarray]] = []
        """Rows of batches that were given and not observed yet, and their bands."""

    @property
    def position(self) -> int:
        """Number of the next batch. Setting it forgets what was given and not observed."""
        return self._position

    @position.setter
    def position(self, value: int) -> None:
        self._position, self._ahead = value, []

    @property
    def sources(self) -> tuple[str, ...]:
        bands = range(1, len(self._ranges) + 1)
        return tuple(f"{name}-{band}" for name in self.data.names for band in bands)

    def drawn(self, batches: int) -> list[tuple[int, float]]:
        """Of each band, in all that was observed: rows, and how often they would be its whole source."""
        sizes = np.repeat([len(part) for part in self.data.parts], len(self._ranges))
        return [(int(n), float(n / size)) for n, size in zip(self._drawn_of, sizes, strict=True)]

    def rows_of(self, position: int) -> np.ndarray:
        """The rows of batch number `position`, over all processes, by what is known now."""
        wanted = (self._drawn(position + 1) - self._drawn(position)).reshape(-1, len(self._ranges))
        times = self._times.copy()
        for rows, _ in self._ahead:
            np.add.at(times, rows, 1)
        chance = np.random.default_rng([self.seed, position]).permutation(len(self.data))
        rates, taken = self._rates_at(position), np.zeros(len(self.data), bool)
        found = [np.zeros(0, np.int64)]
        for own, numbers in zip(self.data.parts, wanted, strict=True):
            for (low, high), number in zip(self._ranges, numbers, strict=True):
                distance = np.maximum(low - rates[own], 0) + np.maximum(rates[own] - high, 0)
                nearest = np.round(distance, 9)  # 1 - 0.9 and 0.1 are as far, whatever floats say
                order = np.lexsort((chance[own], times[own], nearest, taken[own]))
                rows = np.resize(own[order], number)  # where the source has fewer, each again
                taken[rows] = True
                found.append(rows)
        return np.concatenate(found)

    def observe(self, earned: Mapping[int, Sequence[float]]) -> None:
        """Take in what the completions of each row earned since the last call; all batches given since then count as
        drawn."""
        for rows, bands in self._ahead:
            np.add.at(self._times, rows, 1)
            np.add.at(self._drawn_of, bands, 1)
        self._ahead, self._observed[0] = [], self._position
        known = self._is_known(self._position)
        for row, rewards in earned.items():
            rate = float(np.mean([self._settings.passes(reward) for reward in rewards]))
            memory = self._settings.memory if known[row] else 0.0
            self._rates[row] = memory * self._rates[row] + (1 - memory) * rate
            self._measured_at[row] = self._position * self._steps_per_batch

    def measures(self) -> dict[str, float]:
        """Of each source the mean rate of the prompts that were measured, and the share of those that were not; and the
        share of its prompts in each band, where those that were not measured are in that of the prior."""
        position = int(self._observed[0])
        known, bands = self._is_known(position), self._bands_at(position)
        found: dict[str, float] = {}
        for name, own in zip(self.data.names, self.data.parts, strict=True):
            if known[own].any():
                found[f"pass_rate/{name}"] = float(self._rates[own][known[own]].mean())
            found[f"unmeasured/{name}"] = float(1 - known[own].mean())
        for place, name in enumerate(self.sources):
            size = len(self.data.parts[place // len(self._ranges)])
            found[f"prompts/{name}"] = float((bands == place).sum() / size)
        return found

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What was observed; every process has the same."""
        import torch

        return {name: torch.from_numpy(values.copy()) for name, values in self._state().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """The mirror of state_dict; what was given and not observed is forgotten. Raises CheckpointError where it is of
        other data or bands."""
        found = {name: tuple(values.shape) for name, values in state.items()}
        own = {name: values.shape for name, values in self._state().items()}
        if found != own:
            raise CheckpointError(
                f"the checkpoint holds pass rates of other data or bands: found shapes {found}, allowed {own}; run "
                "afresh (FRESH=1), or with the data and bands that it was written with"
            )
        self._ahead = []
        for name, values in self._state().items():
            values[:] = state[name].numpy()

    def _state(self) -> dict[str, np.ndarray]:
        return {
            "rates": self._rates,
            "measured_at": self._measured_at,
            "times": self._times,
            "drawn": self._drawn_of,
            "observed": self._observed,
        }

    def _is_known(self, position: int) -> np.ndarray:
        """(R,) whether a rate was measured, and not too long before a batch."""
        known = self._measured_at != _NEVER
        if self._settings.forget_after is None:
            return known
        return known & (position * self._steps_per_batch - self._measured_at <= self._settings.forget_after)

    def _rates_at(self, position: int) -> np.ndarray:
        """(R,) the rate of each row by which a batch is drawn."""
        return np.where(self._is_known(position), self._rates, self._settings.prior)

    def _bands_at(self, position: int) -> np.ndarray:
        """(R,) the band of each row, counted over all sources."""
        rows, lowest = np.arange(len(self.data)), self._ranges[:, 0]
        own = np.minimum((self._rates_at(position)[:, None] < lowest).sum(1), len(lowest) - 1)
        return self.data.source_of(rows) * len(lowest) + own

    def _take(self) -> np.ndarray:
        self._given = self._bands_at(self._position)
        rows = super()._take()
        self._ahead.append((rows, self._given[rows]))
        return rows

    def _batch(self, rows: np.ndarray) -> dict[str, Any]:
        """As of any mix, each row with its band in the place of its source, and its number."""
        import torch

        numbers = {"source_ids": self._given[rows], ROW: np.asarray(rows, np.int64)}
        return super()._batch(rows) | {name: torch.from_numpy(values) for name, values in numbers.items()}
