"""What a trainer leaves in its output folder: one metrics row a step, and checkpoints when they are due."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.disk import make_folder, writing
from workbench.tracking.reader import WARNINGS
from workbench.tracking.store import MetricStore, has_row_ending_at
from workbench.trainer import checkpoint
from workbench.trainer.settings import TrainerSettings

COMPLETIONS = "completions.jsonl"
RECORDS = ("metrics.jsonl", COMPLETIONS, "pairs.jsonl", "losses.jsonl", WARNINGS)


class OutputFolder:
    """The folder of a run. Only the main process writes to it; without a path nothing is written or found."""

    def __init__(self, path: Path | str | None, settings: TrainerSettings, writes: bool) -> None:
        self.path = None if path is None else Path(path)
        self._settings = settings
        self._writes = writes and self.path is not None
        self._metrics: MetricStore | None = None
        self._checkpointed_at = time.monotonic()
        self.saved_step: int | None = None
        """The step of the checkpoint that was written last."""
        self.save_seconds: list[float] = []
        """The seconds that each checkpoint took to write."""
        self._is_own = False

    # Rows.

    def open_records(self, last_step: int) -> None:
        """Drop every recorded row after last_step, so that going on from there leaves no gap and no duplicate."""
        self.close()
        self._is_own = True
        self._checkpointed_at = time.monotonic()
        if not self._writes or self.path is None:
            return
        make_folder(self.path)
        for name in RECORDS:
            if name == RECORDS[0] or (self.path / name).exists():
                store = MetricStore(self.path / name)
                store.truncate_after(last_step)
                store.close()
        self._metrics = MetricStore(self.path / RECORDS[0])

    def holds_another_run(self) -> bool:
        """Whether there are records here that neither a resume asked for nor this run wrote."""
        path = self.path / RECORDS[0] if self.path is not None and not self._is_own else None
        return path is not None and path.exists() and path.stat().st_size > 0

    def append(self, row: dict[str, Any]) -> None:
        """Record one step's metrics."""
        if self._metrics:
            self._metrics.append(row)

    def append_completions(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Record what a step learned from, beside what evaluators record."""
        self._append_to(COMPLETIONS, step, rows)

    def append_warning(self, step: int, text: str) -> None:
        """Record what was warned of after a step, so that whoever follows the run can show it at once."""
        self._append_to(WARNINGS, step, [{"warning": text}])

    def _append_to(self, name: str, step: int, rows: Sequence[dict[str, Any]]) -> None:
        if self._writes and self.path is not None and rows:
            store = MetricStore(self.path / name)
            try:
                store.append_many([{"step": step, **row} for row in rows])
            finally:
                store.close()

    def close(self) -> None:
        """Let go of metrics.jsonl."""
        if self._metrics:
            self._metrics.close()
        self._metrics = None

    # Checkpoints.

    def is_overdue(self) -> bool:
        """Whether checkpoint_seconds have passed since the last one."""
        seconds = self._settings.checkpoint_seconds
        return bool(self.path and seconds) and time.monotonic() - self._checkpointed_at >= seconds

    def is_due(self, step: int) -> bool:
        """Whether a step is one of those that checkpoint_every names."""
        every = self._settings.checkpoint_every
        if step == 0:
            return self._settings.rolls_back
        return bool(every) and step % every == 0

    def rollback_step(self, step: int) -> int:
        """The newest regular checkpoint at `step`: never one that an interrupt or the clock has made, so that a run
        that was interrupted rolls back to where the uninterrupted one does."""
        every = self._settings.checkpoint_every
        return step // every * every if every else 0

    def write(self, step: int, tensors: checkpoint.Tensors, state: dict[str, Any], best_step: int | None) -> None:
        """Write the checkpoint of `step`, then delete what need not be kept."""
        self._checkpointed_at, self.saved_step = time.monotonic(), step
        if not self._writes:
            return
        if self._metrics:
            self._metrics.check()
        checkpoint.write(self._folder(step), tensors, {**state, "records": self._sync_records()})
        kept = {best_step} if best_step is not None else set()
        if self._settings.rolls_back:
            kept.add(self.rollback_step(step))
        checkpoint.rotate(
            self._folder(step), self._settings.keep_checkpoints, {self._folder(kept_step) for kept_step in kept}
        )

    def recover(self) -> None:
        """Mend what a kill in the middle of writing a checkpoint has left."""
        if self._writes and self.path is not None:
            with writing(self.path):
                checkpoint.recover(self.path / "checkpoints")

    def newest(self) -> Path | None:
        """The newest valid checkpoint up to which every record is whole: what a crash has cut off them is done again.
        None where there is none, or the records end before it. Raises CheckpointError when there are some and none is
        valid.
        """
        self._is_own = True
        if self.path is None or checkpoint.newest_valid(self.path / "checkpoints") is None:
            return None
        folders = checkpoint.steps_newest_first(self.path / "checkpoints")
        return next((f for f in folders if checkpoint.find_damage(f) is None and self._records_reach(f)), None)

    def _sync_records(self) -> dict[str, int]:
        """Force the records onto the disk before the checkpoint that counts on them; how long each is."""
        assert self.path is not None, "what writes has a folder"
        sizes = {}
        with writing(self.path):
            for path in (self.path / name for name in RECORDS if (self.path / name).exists()):
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
                sizes[path.name] = path.stat().st_size
        return sizes

    def _records_reach(self, folder: Path) -> bool:
        """Whether every record is at least as long as when the checkpoint was written, and a row ends there."""
        assert self.path is not None, "there is a checkpoint"
        sizes: dict[str, int] = json.loads((folder / "state.json").read_text()).get("records", {})
        return all(has_row_ending_at(self.path / name, size) for name, size in sizes.items())

    def read_tensors(self, step: int, group: str) -> dict[str, torch.Tensor]:
        """One group of the checkpoint of a step: "model" or "ema". Raises CheckpointError when it is not there or
        damaged."""
        return checkpoint.read(self._folder(step))[0][group]

    def checkpoint_of(self, step: int) -> Path | None:
        """The checkpoint of a step, if it is there and whole."""
        folder = self._folder(step) if self.path else None
        return folder if folder is not None and checkpoint.find_damage(folder) is None else None

    def _folder(self, step: int) -> Path:
        assert self.path is not None
        return checkpoint.step_folder(self.path / "checkpoints", step)
