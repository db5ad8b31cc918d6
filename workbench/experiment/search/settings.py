"""What a definition says of a search (`sweep.search`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from workbench.config import PositiveInt, Seed, Settings, fingerprint
from workbench.trainer.settings import Budget

Sampler = Literal["random", "sobol", "tpe"]
WholeNumber = Annotated[int, Field(ge=-(10**9), le=10**9)]
DIGITS = 4
"""Significant digits of a value that is drawn: a variant's name then says exactly what it was trained with."""
MAX_TRIALS = 1_000
FINE = 20 * MAX_TRIALS
"""Places along a narrow range that find each of its values: those below a power of ten lie ten times as close."""


class Dimension(Settings):
    """The values that one setting may take: one of log, linear, int, choice."""

    log: tuple[PositiveFloat, PositiveFloat] | None = None
    """Any number between two, even in its logarithm, such as [1.0e-5, 1.0e-2]."""
    linear: tuple[float, float] | None = None
    """Any number between two, even in itself."""
    int_: Annotated[tuple[WholeNumber, WholeNumber] | None, Field(alias="int")] = None
    """Any whole number from the first to the second."""
    choice: Annotated[list[Any], Field(min_length=2, max_length=1_000)] | None = None
    """One of these values, none nearer to another."""

    @model_validator(mode="after")
    def _one_kind_in_order(self) -> Dimension:
        ranges = {"log": self.log, "linear": self.linear, "int": self.int_}
        given = [name for name, value in (ranges | {"choice": self.choice}).items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"found {' and '.join(given) or 'nothing'}, allowed one of log, linear, int, choice")
        for name, bounds in ranges.items():
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}: found {list(bounds)}, allowed a lower number and a higher one")
        if self.choice is not None and len({fingerprint(value) for value in self.choice}) < len(self.choice):
            raise ValueError(f"choice: found {self.choice}, allowed each value once")
        return self

    @property
    def size(self) -> float:
        """How many values may be drawn; infinity where a range of real numbers has more than a search has trials."""
        if self.choice is not None:
            return len(self.choice)
        if self.int_ is not None:
            return self.int_[1] - self.int_[0] + 1
        return _num_rounded(*(self.log or self.linear or (0.0, 1.0)))

    @property
    def text(self) -> str:
        """The dimension in words, such as "log 0.01 to 10"."""
        if self.choice is not None:
            return f"one of {self.choice}"
        name, (low, high) = next((n, b) for n, b in self._ranges().items() if b is not None)
        return f"{name} {low:g} to {high:g}"

    @property
    def said(self) -> dict[str, Any]:
        """The one kind that it is of, with its values."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def at(self, unit: float) -> Any:
        """The value at a place between 0 and 1, with at most DIGITS significant digits."""
        if self.choice is not None:
            return self.choice[min(int(unit * len(self.choice)), len(self.choice) - 1)]
        if self.int_ is not None:
            low, high = self.int_
            return min(low + int(unit * (high - low + 1)), high)
        if self.log is not None:
            first, last = math.log(self.log[0]), math.log(self.log[1])
            return self.rounded(math.exp(first + unit * (last - first)))
        assert self.linear is not None, "a dimension has one kind"
        return self.rounded(self.linear[0] + unit * (self.linear[1] - self.linear[0]))

    def rounded(self, value: float) -> float:
        """The value with DIGITS significant digits, within the range."""
        return _rounded(value, *(self.log or self.linear or (-math.inf, math.inf)))

    def holds(self, value: Any) -> bool:
        """Whether it may take the value."""
        if self.choice is not None:
            return any(value == option and type(value) is type(option) for option in self.choice)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = next(bounds for bounds in self._ranges().values() if bounds is not None)
        return low <= value <= high and (self.int_ is None or isinstance(value, int))

    def _ranges(self) -> dict[str, tuple[float, float] | None]:
        return {"log": self.log, "linear": self.linear, "int": self.int_}


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


@cache
def _num_rounded(low: float, high: float) -> float:
    """How many values a range has once they are rounded; infinity where there are more than trials."""
    coarsest = 10.0 ** (math.floor(math.log10(max(abs(low), abs(high)))) + 1 - DIGITS)
    if high - low > MAX_TRIALS * coarsest:
        return math.inf
    return len({_rounded(low + (high - low) * place / FINE, low, high) for place in range(FINE + 1)})


@dataclass(frozen=True)
class Pause:
    """Where a search pauses a run: at its first evaluation with so many steps, tokens or FLOPs."""

    by: str
    limit: float

    def __call__(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of metrics is that of such an evaluation, or of a later one."""
        column = {"steps": "step", "tokens": "cost/trained_tokens", "flops": "cost/flops"}[self.by]
        return any(name.startswith("eval/") for name in row) and row.get(column, 0) >= self.limit


class Halving(Settings):
    """Trials are judged on their way, and only the best of them go on. A run keeps the schedule of its whole length, is
    paused at an evaluation, and goes on from its checkpoint: one that comes to its end is as if it was never paused."""

    rule: Literal["successive", "asha"] = "successive"
    """successive: all trials of a rung are judged together. asha: each as soon as it is among the best so far."""
    by: Literal["steps", "tokens", "flops"] = "steps"
    """What a rung is counted in, as in a budget."""
    first: Annotated[float, Field(gt=0)]
    """Where trials are judged first; each further rung is `factor` times as far, and the last is the whole run."""
    factor: Annotated[int, Field(ge=2, le=1_000)] = 3
    """Of so many trials one goes on."""

    def rungs(self, whole: float) -> tuple[Pause | None, ...]:
        """Where the trials of runs of this length are judged; None: at their end."""
        limits, limit = [], self.first
        while limit < whole:
            limits.append(limit)
            limit *= self.factor
        return (*(Pause(self.by, found) for found in limits), None)


class Confirm(Settings):
    """The best trials trained again on seeds that the search has not seen; the report claims from these alone."""

    top: PositiveInt = 2
    """How many of the best settings, of each arm."""
    seeds: Annotated[int, Field(ge=2, le=1_000)] = 5
    """On how many fresh seeds each."""


class SearchSettings(Settings):
    """Settings that are chosen one after another instead of a grid; every trial is trained with all of `sweep.seeds`,
    and judged by the mean over them of the deciding measure. Each arm is searched apart, with as many trials."""

    sampler: Sampler = "random"
    """How settings are chosen: at random, evenly by a scrambled Sobol sequence, or by what the trials so far gave
    (tpe, of Optuna: the extra "search")."""
    trials: Annotated[int, Field(gt=0, le=MAX_TRIALS)] = 16
    """Settings that are tried, of each arm."""
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    """What is searched: by hyperparameter, or by dotted path as in `grid`. arms.NAME.setting is for that arm alone."""
    seed: Seed = 0
    """Decides which settings are drawn."""
    budget: Budget | None = None
    """What the search of an arm may spend: no trial is begun once its runs have spent that. What trials share, such as
    collected pairs, does not count."""
    halving: Halving | None = None
    """Judge trials on their way and let only the best go on; absent: every trial is trained to its end."""
    confirm: Confirm | None = None
    """Train the best again on fresh seeds. Without it the report claims nothing."""

    @property
    def num_first(self) -> int:
        """How many trials of an arm say something of its space: a quarter of them, and four at least."""
        return max(4, self.trials // 4)
