"""What a trainer's `_compute_loss` returns: sums and their units, so that the base can divide once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench.errors import DefinitionError

if TYPE_CHECKING:
    import torch

    from workbench.tracking.values import Value


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss: its *sum* over this micro-batch and the number of units (tokens, pairs) summed."""

    loss_sum: torch.Tensor
    """Scalar, float32, with gradient."""
    num_units: float
    """How many tokens, pairs or rows the sum is over."""
    weight: float = 1.0
    """The term's weight in the total."""


@dataclass(frozen=True)
class LossResult:
    """Every term by name, and metrics as poolable values (never means of means)."""

    terms: dict[str, LossTerm]
    metrics: dict[str, Value] = field(default_factory=dict)

    @classmethod
    def from_mean(cls, loss: torch.Tensor, num_rows: int) -> LossResult:
        """A bare scalar taken as the mean over the micro-batch's rows. DefinitionError where it is none."""
        shape = getattr(loss, "shape", None)
        if shape is None or len(shape):
            found = type(loss).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
            raise DefinitionError(
                f"_compute_loss gave a {found}; allowed a LossResult, or a scalar tensor, the mean over the rows"
            )
        return cls({"loss": LossTerm(loss * num_rows, num_rows)})
