"""What a run has spent, cumulative: the axes of every matched comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from workbench.trainer.settings import Budget


@dataclass
class Costs:
    """Tokens exclude padding; FLOPs by the formula of models/flops.py; seconds exclude evaluation."""

    generated_tokens: int = 0
    trained_tokens: int = 0
    scored_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0

    def add(self, other: Costs) -> None:
        """Charge what another stage or process spent."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def row(self) -> dict[str, float]:
        """The cost fields of a metrics row."""
        return {
            "cost/generated_tokens": self.generated_tokens,
            "cost/trained_tokens": self.trained_tokens,
            "cost/scored_tokens": self.scored_tokens,
            "cost/flops": self.flops,
            "time/seconds": self.seconds,
        }

    def spent(self, budget: Budget) -> str | None:
        """Which limit of the budget is reached, in words; None while there is some left."""
        for name, limit, used in (
            ("flops", budget.flops, self.flops),
            ("tokens", budget.tokens, self.trained_tokens),
            ("seconds", budget.seconds, self.seconds),
        ):
            if limit is not None and used >= limit:
                return f"budget: {name} {used:.4g} of {limit:.4g}"
        return None
