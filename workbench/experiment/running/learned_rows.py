"""What a run learns from, as its process reads it: the rows of each source, and a loader of them in the run's order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from workbench.data.batches import BatchLoader
from workbench.data.mix import MixedSet, MixLoader, Source
from workbench.data.pass_rates import PassRateLoader
from workbench.data.sets import RowSet, TokenSet
from workbench.data.settings import MixData
from workbench.data.taught import TaughtSet
from workbench.errors import DataError
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.running.prepared import PreparedRun, PreparedSource
from workbench.experiment.stages.data import ROWS_FILE, load_difficulty
from workbench.experiment.stages.reference_logprobs import REFERENCE_FILE
from workbench.experiment.stages.teacher_logprobs import TEACHER_FILE
from workbench.tracking.words import plural


def open_rows(source: PreparedSource) -> Any:
    """The rows of a source, or of a run with one."""
    scored = source.reference.folder / REFERENCE_FILE if source.reference is not None else None
    rows = source.spec.form.load(source.data.folder / ROWS_FILE, scored)
    if source.taught is None:
        return rows
    assert isinstance(rows, RowSet), "a teacher's log-probabilities are stored of rows"
    return TaughtSet.load(rows, source.taught.folder / TEACHER_FILE)


def loader_of(prepared: PreparedRun, sets: Sequence[TokenSet], rank: int, world_size: int) -> BatchLoader:
    """The rows of all sources, in the order that the seed decides."""
    spec, settings, data = prepared.spec, prepared.spec.hyperparameters, prepared.spec.data
    batch_rows = settings.batch_rows_per_step()
    if not isinstance(data, MixData):
        return BatchLoader(sets[0], batch_rows, spec.seed, rank=rank, world_size=world_size)
    sources = [
        Source(source.label, rows, source.loss_weight, _difficulty(data, made, rows))
        for source, made, rows in zip(data.mix, prepared.sources, sets, strict=True)
    ]
    for source in sources:
        if source.difficulty is not None and len(source.rows) < data.num_bands:
            where, found = place_of(spec, "data.curriculum.bands"), plural(len(source.rows), "row")
            raise DataError(f"{where}: found {data.num_bands}, and source {source.name} has {found}; allowed up to it")
    common: Any = {"steps_per_batch": settings.updates_per_rollout, "rank": rank, "world_size": world_size}
    shares, curriculum = partial(data.drawn, list(map(len, sets))), data.curriculum
    if curriculum is not None and curriculum.pass_rate is not None:
        return PassRateLoader(MixedSet(sources), batch_rows, spec.seed, shares, curriculum, **common)
    return MixLoader(MixedSet(sources, data.num_bands), batch_rows, spec.seed, shares, **common)


def _difficulty(data: MixData, source: PreparedSource, rows: TokenSet) -> np.ndarray | None:
    """(rows,) how hard each row of a source is by its curriculum; None where there is none."""
    if data.curriculum is None or data.curriculum.pass_rate is not None:
        return None
    return rows.text_lengths if data.curriculum.column is None else load_difficulty(source.data.folder)


def place_of(spec: RunSpec, field: str) -> str:
    """Where a field of the curriculum is written, or the curriculum itself, with the field's name."""
    where = next((spec.origins[name] for name in (field, "data.curriculum") if name in spec.origins), spec.key)
    return f"{where}: {field}"
