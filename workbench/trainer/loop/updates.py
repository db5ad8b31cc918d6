"""What one of the loader's batches gives to learn from, as a value: it is taken whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from workbench.errors import MethodError
from workbench.trainer.loop.batches import Batch
from workbench.trainer.records.costs import Costs


@dataclass(frozen=True)
class Updates:
    """What `_make_update_batches` returns; a bare iterable of batches stands for updates with nothing else to say.

    Making them leaves the trainer as it is. They count from the moment at which the trainer takes them, so that an
    interrupt before it, or a validation that needs their batches alone, throws all of them away.
    """

    batches: Sequence[Batch] = ()
    """Those of the optimiser steps to come, in order."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Entries of the first step's row beside the step's own; the same in every process, seconds apart."""
    completions: Sequence[dict[str, Any]] = ()
    """Rows of completions.jsonl, without their step; JSON values. Those of the main process are recorded."""
    costs: Costs = field(default_factory=Costs)
    """What this process spent on making them."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the method's own state that change with them, such as a coefficient that is moved once a rollout;
    JSON values, the same in every process."""

    earned: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """What the completions of each row of the data earned, over all processes, for a loader that draws by it."""

    @classmethod
    def of(cls, made: Updates | Iterable[Batch]) -> Updates:
        """What a hook returned, as updates; a generator is run to its end. Raises MethodError where it is neither."""
        if isinstance(made, Mapping) or not isinstance(made, Updates | Iterable):
            raise MethodError(
                f"_make_update_batches gave a {type(made).__name__}; allowed a list of batches, or Updates"
            )
        return replace(made, batches=list(made.batches)) if isinstance(made, Updates) else cls(list(made))

    def following(self, before: Updates) -> Updates:
        """These updates as they are taken after others, whose state goes on where these do not change it."""
        return replace(self, state={**before.state, **self.state})

    def rest(self, *, is_enough: bool = False) -> Updates:
        """What is left after a step on the first batch: the state, and the other batches unless that is enough."""
        return Updates([] if is_enough else self.batches[1:], state=self.state)

    def record(self) -> dict[str, Any]:
        """What a checkpoint holds of them beside the batches; JSON values."""
        return {"metrics": dict(self.metrics), "completions": list(self.completions), "state": dict(self.state)}
