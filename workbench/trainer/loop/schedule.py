"""Learning-rate schedules as pure functions: the factor on the peak rate at a step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from workbench.trainer.settings import TrainerSettings

Factor = Callable[[int, int, float, TrainerSettings], float]


def _constant(_step: int, _num_steps: int, _progress: float, _settings: TrainerSettings) -> float:
    return 1.0


def _linear(_step: int, _num_steps: int, progress: float, _settings: TrainerSettings) -> float:
    return 1.0 - progress


def _cosine(_step: int, _num_steps: int, progress: float, _settings: TrainerSettings) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _range_test(step: int, num_steps: int, _progress: float, settings: TrainerSettings) -> float:
    """Exponential from the floor to the peak at the last step, for a range test (Smith 2015, arXiv 1506.01186).

    Smith's rate rises linearly; an exponential one, now usual, spends as many steps on each power of ten.
    """
    floor = settings.min_learning_rate_ratio
    factor = floor ** (1.0 - step / max(1, num_steps - 1))
    return (factor - floor) / (1.0 - floor)


def _warmup_stable_decay(step: int, num_steps: int, _progress: float, settings: TrainerSettings) -> float:
    """Flat until the last decay_fraction of all steps, then linear to zero (Hu et al. 2024, arXiv 2404.06395)."""
    decay_steps = max(1, round(settings.decay_fraction * num_steps))
    return min(1.0, (num_steps - step) / decay_steps)


_SHAPES: dict[str, Factor] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "warmup_stable_decay": _warmup_stable_decay,
    "range_test": _range_test,
}


def learning_rate_factor(step: int, num_steps: int, settings: TrainerSettings) -> float:
    """Factor on the peak learning rate for the update after `step` finished steps (0-based).

    Warm-up climbs linearly and reaches 1 at step warmup_steps - 1; the shape then runs over the rest, down to the
    floor min_learning_rate_ratio at num_steps. range_test alone rises, from that floor to 1.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, num_steps - settings.warmup_steps)
    shape = _SHAPES[settings.schedule](step, num_steps, min(1.0, progress), settings)
    return settings.min_learning_rate_ratio + (1.0 - settings.min_learning_rate_ratio) * shape


def configure_scheduler(
    optimizer: torch.optim.Optimizer, num_steps: int, settings: TrainerSettings
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule as a torch scheduler over the optimiser's own peak rates; stepped once after each step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, num_steps, settings))
