"""What a run writes beside weights: rows of metrics, of completions, and what trackers make of them. No torch.

Bytes a row are those of finished runs on built-in tasks, whatever stands in them but text.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from workbench.experiment.definition.schema import RunSpec
from workbench.trainer.online.settings import RolloutSettings

COMPLETION_ROW = 180
LOSS_ROW = 85


def record_bytes(spec: RunSpec, steps: float, lengths: Sequence[float], characters_per_token: float) -> float:
    """Bytes of every file of rows. lengths: tokens of training rows, of prompts alone where those are what is trained
    on."""
    settings = spec.hyperparameters
    written = steps * spec.form.record_bytes * (1 + len(spec.track))  # a tracker holds about as much
    text = statistics.fmean(lengths) * characters_per_token
    if isinstance(settings, RolloutSettings):
        completion = settings.max_new_tokens / 2 * characters_per_token
        rollouts = steps / settings.updates_per_rollout * settings.logged_prompts * settings.group_size
        written += rollouts * (COMPLETION_ROW + text + completion)
    if spec.evaluate is None:
        return written
    evaluations = 2 + (steps / spec.evaluate.every if spec.evaluate.every else 0)
    row = 0.0
    if spec.evaluate.task is not None or spec.evaluate.path is not None:
        row += (1 + (spec.evaluate.sampling is not None)) * (COMPLETION_ROW + text)
    if spec.form.has_row_loss:
        row += LOSS_ROW
    return written + evaluations * spec.evaluate.prompts * row
