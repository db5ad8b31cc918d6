"""Batches whose rows are of several sources: what is recorded of each of them, and how their losses are weighted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch

from workbench.errors import DefinitionError, MethodError
from workbench.tracking.values import Mean, Sum
from workbench.trainer.loop.batches import Batch
from workbench.trainer.loss import LossResult, LossTerm

SOURCE, LOSS_WEIGHT, ROW = "source_ids", "loss_weight", "row_ids"
"""The keys of a batch that tell the source of each row, by its number, the weight of its loss, and which row of the
data it is."""


@runtime_checkable
class MixedLoader(Protocol):
    """A loader that draws from several sources (workbench.data's MixLoader)."""

    @property
    def sources(self) -> Sequence[str]:
        """Their names, by number."""

    def drawn(self, batches: int) -> Sequence[tuple[int, float]]:
        """Tells how many rows of each source are in so many batches from the first on, and in how many passes."""


@runtime_checkable
class ObservingLoader(Protocol):
    """A loader that draws prompts by what their completions earned (workbench.data's PassRateLoader): it is a part with
    state of its own, which `observe` alone changes."""

    def observe(self, earned: Mapping[int, Sequence[float]]) -> None:
        """Take in what the completions of each row earned in the updates that were just committed."""

    def measures(self) -> dict[str, float]:
        """What is recorded of what was observed so far."""

    def state_dict(self) -> dict[str, Any]:
        """What was observed so far, as tensors; every process has the same."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""


class Sources:
    """Tells the sources of a loader's rows apart; nothing of it is part of a checkpoint."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader if isinstance(loader, MixedLoader) else None
        self._weights: dict[str, float] = {}

    def tell_apart(self, result: LossResult, batch: Batch, lengths: torch.Tensor) -> LossResult:
        """The result of a micro-batch with each term and metric of each source besides, and with the terms of weighted
        losses. lengths: tokens of its sequences, row after row, once or more often. Raises MethodError where the losses
        of rows are needed and not told.

        The units that a term is divided by stay those of all rows, whatever their weights.
        """
        self._weights = {name: term.weight for name, term in result.terms.items()}
        source, metrics = batch[SOURCE], dict(result.metrics)
        for name, rows in result.rows.items():
            shown = f"loss/{name}" if name in result.terms else name
            for place, total, units in _of_each(source, rows.sums, rows.units):
                metrics[f"{shown}/{self.name(place)}"] = Mean(total, units)
        tokens = lengths.view(-1, len(source)).sum(0)
        metrics |= {f"tokens/{self.name(i)}": Sum(total) for i, total, _ in _of_each(source, tokens, tokens)}
        return replace(result, terms=_weighted(result, batch), metrics=metrics)

    def name(self, place: int) -> str:
        """The name of a source by its number."""
        return str(place) if self._loader is None else self._loader.sources[place]

    def complete(self, row: dict[str, float], batches: int) -> dict[str, float]:
        """The row of a step with each source's whole loss, and with the rows drawn of it in so many batches."""
        if not self._weights:
            return row
        terms, found = self._weights, dict(row)
        losses: dict[str, float] = {}
        for term, weight in terms.items():
            start = f"loss/{term}/"
            for name in [name for name in found if name.startswith(start)]:
                value = found[name] if len(terms) > 1 else found.pop(name)
                losses[name.removeprefix(start)] = losses.get(name.removeprefix(start), 0.0) + weight * value
        for name, loss in losses.items():
            if f"loss/{name}" in row:
                raise DefinitionError(f"a source is named {name}, and so is a term of the loss; give it another name")
            found[f"loss/{name}"] = loss
        drawn = self._loader.drawn(batches) if self._loader is not None else ()
        for place, (rows, passes) in enumerate(drawn):
            found |= {f"rows/{self.name(place)}": float(rows), f"passes/{self.name(place)}": passes}
        return found | (self._loader.measures() if isinstance(self._loader, ObservingLoader) else {})


def _of_each(source: torch.Tensor, sums: torch.Tensor, units: torch.Tensor) -> list[tuple[int, Any, float]]:
    """(source, its sum, its units) of each source that has units among the rows."""
    size = int(source.max()) + 1
    totals = torch.zeros(size, dtype=torch.float64, device=source.device).index_add(0, source, sums.detach().double())
    counts = torch.zeros(size, dtype=torch.float64, device=source.device).index_add(0, source, units.double())
    return [(place, totals[place], count) for place, count in enumerate(counts.tolist()) if count]


def _weighted(result: LossResult, batch: Batch) -> dict[str, LossTerm]:
    if LOSS_WEIGHT not in batch:
        return result.terms
    unknown = [name for name in result.terms if name not in result.rows]
    if unknown:
        raise MethodError(
            f"a source has a loss_weight, and _compute_loss does not tell the rows of {unknown[0]} apart; give "
            "LossResult(terms, metrics, rows={name: RowSums(sums, units)}) with what each row adds to each term"
        )
    weights = batch[LOSS_WEIGHT]
    return {
        name: replace(term, loss_sum=(result.rows[name].sums * weights).sum()) for name, term in result.terms.items()
    }
