"""A run that can train at once: where everything is that it needs, and what it must hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.identity import Identity
from workbench.experiment.stages.cache import StageResult
from workbench.rewards.settings import RewardSettings


@dataclass(frozen=True)
class PreparedRun:
    """A run that can train at once."""

    spec: RunSpec
    identity: Identity
    precision: str
    model_folder: Path
    data: StageResult
    teacher_folder: Path | None = None
    """The model that is learned from, where there is one."""
    reference: StageResult | None = None
    """Per-token log-probabilities of the training pairs."""
    taught: StageResult | None = None
    """The teacher's log-probabilities of the training rows, where they are stored."""
    held_out_pairs: StageResult | None = None
    held_out_reference: StageResult | None = None
    inherited: dict[str, dict[str, float]] = field(default_factory=dict)
    """Costs by stage that this run is charged."""
    collected: StageResult | None = None
    notes: tuple[str, ...] = ()
    data_files: dict[str, str] = field(default_factory=dict)
    """SHA-256 by path; of a data set, what decides its rows."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What became of the rows of data and held_out_pairs, as Counts."""
    rewards: tuple[RewardSettings, ...] = ()
    """What judges completions, the reward models of runs by their folders."""
    opened: dict[str, str] = field(default_factory=dict)
    """What the run's process will read, by path, and the contents that its identity was taken of: Inputs.verified."""

    @property
    def stages(self) -> dict[str, str]:
        """Fingerprint by name of every stage this run rests on."""
        return {name: stage.stage.fingerprint for name, stage in self._stages.items()}

    @property
    def inputs(self) -> dict[str, str]:
        """All that the run's process reads, its stages among it: what was opened by path, and its contents."""
        return self.opened | {path: sha for stage in self._stages.values() for path, sha in stage.hashes.items()}

    @property
    def _stages(self) -> dict[str, StageResult]:
        found = {
            "collect": self.collected,
            "data": self.data,
            "ref_logprobs": self.reference,
            "teacher_logprobs": self.taught,
            "held_out_pairs": self.held_out_pairs,
            "held_out_ref_logprobs": self.held_out_reference,
        }
        return {name: stage for name, stage in found.items() if stage is not None}
