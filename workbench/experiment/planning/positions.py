"""Texts longer than their model has positions: refused by row before anything is computed, or told by a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.data.forms import DataForm
from workbench.data.settings import ReadData
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.stages.cache import StageResult
from workbench.models.positions import Positions, find_positions, model_positions
from workbench.trainer.online.settings import RolloutSettings

FEWER_TOKENS = "cut rows by a smaller max_tokens, leave the row out, or take a model with more positions"
FEWER_NEW = "cut prompts by a smaller max_tokens, ask for fewer new tokens (max_new_tokens), or leave the row out"


def check_rows(spec: RunSpec, form: DataForm, rows: StageResult, path: Path, model: Path) -> None:
    """Raises DataError for the first row, pair or prompt that the model has no positions for. path: of the rows'
    arrays."""
    new, positions = _new_tokens(spec) if form.is_sampled else 0, model_positions(model)
    longest = spec.data.max_tokens + new if isinstance(spec.data, ReadData) else math.inf
    if positions is None or longest <= positions.most:
        return
    lengths = form.load(path).text_lengths
    check_lengths(lengths + new, rows.made["counts"]["places"], positions, new=new)


def check_lengths(
    lengths: Sequence[int] | np.ndarray, places: Sequence[str], positions: Positions, *, new: int
) -> None:
    """Raises DataError for the first text that is too long. lengths: with the new tokens. places: of the first of
    them."""
    found = np.asarray(lengths)
    beyond = np.flatnonzero(found > positions.most)
    if len(beyond):
        row = int(beyond[0])
        where = places[row] if row < len(places) else f"row {row + 1:,} of those used"
        more = f" (and {len(beyond) - 1:,} more rows)" if len(beyond) > 1 else ""
        told = f", {new:,} of them new" if new else ""
        positions.check(f"{where}{more}{told}", int(found[row]), FEWER_NEW if new else FEWER_TOKENS)


def positions_notes(spec: RunSpec, config: Mapping[str, Any] | None) -> Iterator[str]:
    """What of a run may or must be longer than its model's positions, as far as settings tell. config: config.json."""
    positions = None if config is None else find_positions(config)
    if positions is None:
        return
    new = _new_tokens(spec)
    row = max(part.data.max_tokens if isinstance(part.data, ReadData) else 0 for part in spec.parts)
    sampled = max((own.evaluate.max_new_tokens for own in spec.by_set if own.evaluate is not None), default=0)
    limits = {
        f"data.max_tokens {row:,}" + (f" and max_new_tokens {new:,}" if new else ""): row + new,
        f"evaluate.max_new_tokens {sampled:,} and a prompt": sampled + 1,
    }
    for what, tokens in limits.items():
        if tokens > positions.most:
            yield f"{what} are more than the model's {positions.most:,} positions: longer rows will be refused"


def _new_tokens(spec: RunSpec) -> int:
    """What a training prompt may be continued by."""
    settings = spec.hyperparameters
    return settings.max_new_tokens if isinstance(settings, RolloutSettings) else 0
