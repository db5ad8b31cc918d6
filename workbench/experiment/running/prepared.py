"""A run that can train at once: where everything is that it needs, and what it must hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.data.counts import Counts
from workbench.data.epochs import batches_of_epochs
from workbench.data.settings import MixData
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.identity import Identity
from workbench.experiment.stages.cache import StageResult
from workbench.rewards.settings import RewardSettings


@dataclass(frozen=True)
class PreparedSource:
    """The training data of a run, or that of one source of its mix."""

    spec: RunSpec
    """The run as this source alone would make it."""
    data: StageResult
    collected: StageResult | None = None
    """The pairs that the data was made of."""
    reference: StageResult | None = None
    """Per-token log-probabilities of the training pairs."""
    taught: StageResult | None = None
    """The teacher's log-probabilities of the training rows, where they are stored."""
    rewards: tuple[RewardSettings, ...] = ()
    """What judges completions of its prompts, the reward models of runs by their folders."""

    @property
    def counts(self) -> Counts:
        """What became of its rows."""
        return Counts(**self.data.made["counts"])

    @property
    def stages(self) -> dict[str, StageResult]:
        """The stages that it rests on, by name."""
        found = {
            "collect": self.collected,
            "data": self.data,
            "ref_logprobs": self.reference,
            "teacher_logprobs": self.taught,
        }
        return {name: stage for name, stage in found.items() if stage is not None}


@dataclass(frozen=True)
class PreparedRun:
    """A run that can train at once."""

    spec: RunSpec
    identity: Identity
    precision: str
    model_folder: Path
    sources: tuple[PreparedSource, ...]
    """The training data: one, or those of a mix in their order."""
    teacher_folder: Path | None = None
    """The model that is learned from, where there is one."""
    held_out_pairs: StageResult | None = None
    """The pairs that the deciding set has."""
    held_out_reference: StageResult | None = None
    other_pairs: Mapping[str, tuple[StageResult, StageResult | None]] = field(default_factory=dict)
    """The pairs of the other held-out sets, and their log-probabilities under the start, by the set's name."""
    inherited: dict[str, dict[str, float]] = field(default_factory=dict)
    """Costs by stage that this run is charged."""
    notes: tuple[str, ...] = ()
    data_files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by path; of a data set, what decides its rows."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What became of the rows of data and held_out_pairs, as Counts."""
    scores_again: bool = False
    """Whether a finished run of it is scored again, with nothing trained."""
    opened: dict[str, str] = field(default_factory=dict)
    """What the run's process will read, by path, and the contents that its identity was taken of: Inputs.verified."""

    @property
    def by_set(self) -> tuple[PreparedRun, ...]:
        """The run as it is measured on each of its held-out sets alone, the deciding one first."""
        first, *others = self.spec.by_set
        found = [replace(self, spec=first, other_pairs={})]
        for own in others:
            pairs, reference = self.other_pairs.get(str(own.set_name), (None, None))
            found.append(replace(self, spec=own, held_out_pairs=pairs, held_out_reference=reference, other_pairs={}))
        return tuple(found)

    @property
    def stages(self) -> dict[str, str]:
        """Fingerprint by name of every stage this run rests on."""
        return {name: stage.stage.fingerprint for name, stage in self._stages.items()}

    @property
    def stage_names(self) -> set[str]:
        """What kinds of stages it rests on."""
        return {stage.stage.name for stage in self._stages.values()}

    @property
    def inputs(self) -> dict[str, str]:
        """All that the run's process reads, its stages among it: what was opened by path, and its contents."""
        return self.opened | {path: sha for stage in self._stages.values() for path, sha in stage.hashes.items()}

    @property
    def _stages(self) -> dict[str, StageResult]:
        found = {
            named(name, source): stage
            for source, prepared in self.by_name.items()
            for name, stage in prepared.stages.items()
        }
        held_out = {"held_out_pairs": self.held_out_pairs, "held_out_ref_logprobs": self.held_out_reference}
        for own, (pairs, reference) in self.other_pairs.items():
            held_out |= {f"held_out_pairs of {own}": pairs, f"held_out_ref_logprobs of {own}": reference}
        return found | {name: stage for name, stage in held_out.items() if stage is not None}

    @property
    def by_name(self) -> dict[str, PreparedSource]:
        """The sources of a mix by name; of other data the one by an empty name."""
        names = self.spec.data.names if isinstance(self.spec.data, MixData) else ("",)
        return dict(zip(names, self.sources, strict=True))

    @property
    def num_rows(self) -> int:
        """Rows of the training data, of all sources together."""
        return sum(source.counts.rows for source in self.sources)

    @property
    def num_steps(self) -> int:
        """Its optimiser steps."""
        settings = self.spec.hyperparameters
        if settings.steps is not None:
            return settings.steps
        rows = settings.batch_rows_per_step()
        return batches_of_epochs(settings.epochs, self.num_rows, rows) * settings.updates_per_rollout


def named(what: str, source: str) -> str:
    """What stands in records for something of a source; of the one source of a run, its own name."""
    return f"{what}/{source}" if source else what
