"""What a trainer leaves on the disk, and takes up again: its model, and checkpoints of all its parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from workbench.disk import make_folder
from workbench.models.save import save_from_memory
from workbench.trainer import checkpoint
from workbench.trainer.hooks import TrainerHooks
from workbench.trainer.loop.sources import ObservingLoader
from workbench.trainer.machine import distributed
from workbench.trainer.records.snapshot import Origin, OwnState, Part, Snapshot
from workbench.trainer.records.surroundings import differences, surroundings_of


class SavedTrainer(TrainerHooks):
    """The part of BaseTrainer that writes and reads folders."""

    tokenizer: Any

    def parts(self) -> dict[str, Part]:
        """All that has state, by name, in the order in which a resume puts it back."""
        own = OwnState(self._get_extra_checkpoint_state, self._load_extra_checkpoint_state)
        loader = self.feed.loader
        return {
            "feed": self.feed,  # first, for it may refuse
            **({"loader": loader} if isinstance(loader, ObservingLoader) else {}),
            "reference": self.reference,  # before the weights: a copy of the start is taken while the start is there
            "extra": own,
            "model": self.network,
            **self.descent.parts(),
            "guard": self.guard,
            "examination": self.examination,
            "health": self.health,
            "gradient": self.gradient,
            "state": self.state,
        }

    def save_model(self, path: Path | str) -> None:
        """Write the result as it is now, and the tokenizer where one was given, as a Hugging Face folder at `path`."""
        if self.is_main:
            save_from_memory(self.result, Path(path), self.tokenizer)
        distributed.barrier()

    def save_checkpoint(self, path: Path | str) -> None:
        """Write everything a resume needs to the folder `path`, atomically."""
        tensors, state = self._snapshot().take()
        if self.is_main:
            make_folder(Path(path).parent)
            checkpoint.write(Path(path), tensors, state)
        distributed.barrier()

    def load_checkpoint(self, path: Path | str, *, inexact: bool = False) -> None:
        """Continue from a checkpoint folder. Raises CheckpointError when it is damaged or of other settings; of other
        libraries, threads or data, unless inexact says to go on: then `inexact` and `warnings` tell of it."""
        changed = self._snapshot().restore(*checkpoint.read(Path(path)), inexact=inexact)
        self.state.mark_inexact(changed)

    def load_weights(self, path: Path | str, step: int) -> list[str]:
        """Loads only what evaluating depends on from a checkpoint of that step: the trainer can evaluate then, and
        cannot train on. Returns what was another while it trained, in words."""
        tensors, state = checkpoint.read(Path(path))
        self.network.load_state_dict(tensors.get("model", {}))
        if self.descent.ema:
            self.descent.ema.load_state_dict(tensors["ema"])
        self.state.step = step
        return differences(state.get("surroundings") or {}, surroundings_of(self.device, self.train_loader))

    def resume(self, *, inexact: bool = False) -> bool:
        """Continue from output_dir's newest valid checkpoint, if there is one; whether there was."""
        self.records.recover()
        distributed.barrier()
        folder = self.records.newest()
        if folder is not None:
            self.load_checkpoint(folder, inexact=inexact)
        return folder is not None

    def _snapshot(self) -> Snapshot:
        name, precision = type(self).__name__, self.precision.name
        return Snapshot(self.parts(), Origin(name, self.settings, precision, self.device, self.train_loader))

    def _save(self) -> None:
        if self.output_dir is not None:
            started = time.perf_counter()
            self.records.write(self.step, *self._snapshot().take(), self.examination.best_step)
            distributed.barrier()
            self.records.save_seconds.append(time.perf_counter() - started)
