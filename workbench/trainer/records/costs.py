"""What a run has spent, cumulative: the axes of every matched comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from workbench.errors import DefinitionError
from workbench.trainer.settings import Budget


@dataclass
class Costs:
    """Tokens exclude padding; FLOPs by the formula of models/flops.py, NaN where a part of them could not be counted;
    seconds exclude evaluation."""

    generated_tokens: int = 0
    trained_tokens: int = 0
    scored_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Costs:
        """The mirror of as_json."""
        known: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
        return cls(**known)

    def as_json(self) -> dict[str, Any]:
        """The costs by name; None where one was not counted."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}

    def __add__(self, other: Costs) -> Costs:
        total = replace(self)
        total.add(other)
        return total

    def add(self, other: Costs) -> None:
        """Charge what another stage or process spent."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def row(self) -> dict[str, float]:
        """The cost fields of a metrics row; no FLOPs where they could not be counted."""
        row = {
            "cost/generated_tokens": self.generated_tokens,
            "cost/trained_tokens": self.trained_tokens,
            "cost/scored_tokens": self.scored_tokens,
            "cost/flops": self.flops,
            "time/seconds": self.seconds,
        }
        return {name: value for name, value in row.items() if not math.isnan(value)}

    def spent(self, budget: Budget, uncounted: str = "") -> str | None:
        """Which limit of the budget is reached, in words; None while there is some left. Raises DefinitionError for a
        budget of FLOPs where they could not be counted. uncounted: why, as far as it is known."""
        if math.isnan(self.flops):
            refuse_uncounted(budget, uncounted)
        for name, limit, used in (
            ("flops", budget.flops, self.flops),
            ("tokens", budget.tokens, self.trained_tokens),
            ("seconds", budget.seconds, self.seconds),
        ):
            if limit is not None and used >= limit:
                return f"budget: {name} {used:.4g} of {limit:.4g}"
        return None


def refuse_uncounted(budget: Budget | None, reason: str) -> None:
    """Raises DefinitionError for a budget of FLOPs in a run whose FLOPs cannot be counted. reason: why, where it is
    known."""
    if budget is not None and budget.flops is not None:
        told = "budget.flops: a part of the run's FLOPs could not be counted" + (f": {reason}" if reason else "")
        raise DefinitionError(f"{told}; give the budget in tokens or seconds")
