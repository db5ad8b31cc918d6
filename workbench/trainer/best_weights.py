"""The weights that a run leaves: early stopping's best, or the averaged ones."""

from __future__ import annotations

import torch

from workbench.trainer.early_stopping import Stopper
from workbench.trainer.ema import AveragedWeights
from workbench.trainer.output_folder import OutputFolder
from workbench.trainer.training_state import load_model_tensors, model_tensors


class BestWeights:
    """Follows the evaluations; without a folder, whose checkpoints hold them, it keeps the best weights itself."""

    def __init__(self, stopper: Stopper | None, ema: AveragedWeights | None, folder: OutputFolder) -> None:
        self._stopper, self._ema, self._folder = stopper, ema, folder
        self._kept: dict[str, torch.Tensor] = {}

    def observe(self, step: int, held_out: dict[str, float], model: torch.nn.Module) -> bool:
        """Let early stopping see an evaluation; whether it is the best so far."""
        if not self._stopper or not held_out:
            return False
        improved = self._stopper.observe(step, held_out)
        if improved and self._folder.path is None:
            weights = self._ema.shadow if self._ema else model_tensors(model)
            self._kept = {name: value.detach().clone() for name, value in weights.items()}
        return improved

    def restore(self, step: int, model: torch.nn.Module) -> bool:
        """Put them into the model at the run's end; whether they are an earlier step's."""
        best = self._stopper.state if self._stopper else None
        weights = self._ema.shadow if self._ema else None
        is_earlier = best is not None and best.best_value is not None and best.best_step != step
        if best is not None and is_earlier:
            group = "ema" if self._ema else "model"
            weights = self._folder.read_tensors(best.best_step, group) if self._folder.path else self._kept
        if weights is not None:
            load_model_tensors(model, weights)
            if self._ema:
                self._ema.load(weights)
        return is_earlier
