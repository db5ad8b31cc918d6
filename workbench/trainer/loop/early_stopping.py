"""Stopping on a held-out metric: pure bookkeeping, saved with the checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from workbench.errors import DefinitionError
from workbench.trainer.settings import EarlyStopping


@dataclass
class StoppingState:
    """The best value so far, the step it was seen at, and evaluations since."""

    best_value: float | None = None
    best_step: int = 0
    evaluations_since: int = 0


class Stopper:
    """Follows one metric over the evaluations of a run."""

    def __init__(self, settings: EarlyStopping) -> None:
        self.settings = settings
        self.state = StoppingState()

    def observe(self, step: int, metrics: dict[str, float]) -> bool:
        """Take in an evaluation; True when it is the best so far. Raises DefinitionError when the metric is not
        measured."""
        settings = self.settings
        if settings.metric not in metrics:
            measured = ", ".join(sorted(metrics)) or "nothing"
            raise DefinitionError(f"early_stopping.metric is {settings.metric}; this run measures {measured}")
        value, best = metrics[settings.metric], self.state.best_value
        sign = 1.0 if settings.mode == "max" else -1.0
        # NaN compares false, so it is never the best; the first finite value always is.
        if value == value and (best is None or sign * (value - best) > settings.min_change):
            self.state = StoppingState(value, step, 0)
            return True
        self.state.evaluations_since += 1
        return False

    def unmeasured(self, trainer: str) -> DefinitionError:
        """The error of a run that nothing measures."""
        return DefinitionError(
            f"{trainer}: early_stopping follows {self.settings.metric}, and nothing measures it; pass val_loader, or "
            "evaluators"
        )

    @property
    def should_stop(self) -> bool:
        return self.state.evaluations_since >= self.settings.patience

    def state_dict(self) -> dict[str, float | int | None]:
        return asdict(self.state)

    def load_state_dict(self, state: dict) -> None:
        self.state = StoppingState(**state)
