"""What is drawn by the step: the shares of sources, and rows from easy to hard."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, NonNegativeFloat, model_validator

from workbench.config import NonNegativeInt, PositiveInt, Settings

Rate = Annotated[float, Field(ge=0, le=1)]
ROUNDING = 1e-12
"""Sums of rewards that differ by no more are one."""


class SharesAt(Settings):
    """The weights of a mix at one step."""

    step: NonNegativeInt
    """Steps made before."""
    weights: list[NonNegativeFloat]
    """One for each source."""


class PassRate(Settings):
    """Difficulty by the share of a prompt's completions that pass, as its own rollouts measure it: passed/sampled at
    first, then memory x rate + (1 - memory) x passed/sampled."""

    within: tuple[Rate, Rate] | None = None
    """Draw only prompts with a rate from the first to the last of these, both included; where they are too few, those
    nearest to it as well. None: bands of equal width, drawn by hardest_from or schedule."""
    passes_at: float = 1.0
    """The reward from which on a completion passes."""
    prior: Rate = 0.5
    """The rate of a prompt that was not measured yet."""
    memory: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The part of a prompt's former rate in its new one."""
    forget_after: PositiveInt | None = 100
    """Steps after which a rate counts as not measured, so that what was too hard for the model is tried again; none:
    never. They are counted by the batches drawn, each as the updates that are made of it, so that a step that draws
    several, by dynamic_sampling, counts several times."""

    def passes(self, reward: float) -> bool:
        """Whether a completion with this reward passes. Weighted rewards that add up to passes_at may do so in floats
        only to a few units in the last place, and another order of adding gives others."""
        return reward >= self.passes_at or math.isclose(reward, self.passes_at, rel_tol=ROUNDING, abs_tol=ROUNDING)

    @model_validator(mode="after")
    def _prior_is_drawn(self) -> PassRate:
        if self.within is not None:
            low, high = self.within
            if low > high:
                raise ValueError(f"within: found [{low:g}, {high:g}], allowed the lower rate first")
            if not low <= self.prior <= high:
                raise ValueError(
                    f"prior: found {self.prior:g}, allowed rates within [{low:g}, {high:g}], or no prompt would be "
                    "measured"
                )
        return self


class Curriculum(Settings):
    """Rows from easy to hard: each source is divided into bands of difficulty, and the bands drawn by the step. Exactly
    one of hardest_from, schedule, pass_rate.within."""

    column: str | None = None
    """The rows' own column with their difficulty, a number, of files and data sets; none: their length in tokens."""
    pass_rate: PassRate | None = None
    """Difficulty as the model's own rollouts measure it, of prompts that are sampled, in the place of column or length;
    {} takes its defaults."""
    bands: Annotated[int, Field(ge=2, le=100)] = 3
    """Parts of equal size, from the easiest rows to the hardest; of pass rates, parts of equal width."""
    hardest_from: PositiveInt | None = None
    """The step from which only the hardest band is drawn: up to it each band gives way to the next in a line."""
    schedule: Annotated[list[SharesAt], Field(min_length=1)] | None = None
    """Weights of the bands at some steps, as those of sources in a mix."""

    @model_validator(mode="after")
    def _by_step(self) -> Curriculum:
        if self.pass_rate is not None and self.column is not None:
            raise ValueError("curriculum: found column and pass_rate, allowed one of them")
        within = self.pass_rate is not None and self.pass_rate.within is not None
        if within and "bands" in self.model_fields_set:
            raise ValueError("curriculum: found bands and pass_rate.within, allowed one of them")
        if sum((self.hardest_from is not None, self.schedule is not None, within)) != 1:
            ways = "hardest_from, schedule" + (", pass_rate.within" if self.pass_rate is not None else "")
            raise ValueError(f"curriculum needs exactly one of {ways}")
        check_schedule(self.schedule or (), self.bands, "bands")
        return self

    @property
    def num_bands(self) -> int:
        """Bands of each source: within has one of its own, and one on either side."""
        return self.bands if self.pass_rate is None else len(self.rates)

    def shares(self, step: int) -> list[float]:
        """The share of each band after so many steps; of pass_rate.within, those of rates above it, within it and below
        it."""
        if self.schedule is not None:
            return between(self.schedule, step)
        if self.hardest_from is None:
            return [0.0, 1.0, 0.0]
        place = min(step / self.hardest_from, 1.0) * (self.bands - 1)
        return [max(0.0, 1.0 - abs(place - band)) for band in range(self.bands)]

    @property
    def rates(self) -> list[tuple[float, float]]:
        """(bands,) the lowest and the highest pass rate of each, the easiest first. A band that no rate can be in, such
        as that above [0.5, 1], has its lowest above its highest, so that every rate is outside."""
        assert self.pass_rate is not None, "rates divide prompts whose difficulty is a pass rate"
        if self.pass_rate.within is not None:
            low, high = self.pass_rate.within
            return [(math.nextafter(high, 2.0), 1.0), (low, high), (0.0, math.nextafter(low, -1.0))]
        edges = [band / self.bands for band in range(self.bands, -1, -1)]
        ends = [1.0, *(math.nextafter(edge, 0.0) for edge in edges[1:-1])]
        return list(zip(edges[1:], ends, strict=True))


def check_schedule(points: Sequence[SharesAt], number: int, of: str) -> None:
    for index, point in enumerate(points):
        check_weights(f"schedule[{index}].weights", point.weights, number, of)
    steps = [point.step for point in points]
    if steps != sorted(set(steps)):
        raise ValueError(f"schedule: found steps {steps}, allowed each step once, in their order")


def check_weights(name: str, weights: Sequence[float], number: int, of: str) -> None:
    if len(weights) != number:
        raise ValueError(f"{name}: found {len(weights)} for {number} {of}, allowed one for each")
    if math.isinf(sum(weights)):
        raise ValueError(f"{name}: found {list(weights)}, which add up to no finite number, allowed smaller ones")
    if not sum(weights):
        raise ValueError(f"{name}: found {list(weights)}, which add up to nothing, allowed one at least above 0")


def between(points: Sequence[SharesAt], step: int) -> list[float]:
    """The weights at a step, each list made to add up to 1 before they are laid between one another."""
    shares = [[weight / sum(point.weights) for weight in point.weights] for point in points]
    place = bisect.bisect_right([point.step for point in points], step)
    if place in (0, len(points)):
        return shares[max(place - 1, 0)]
    (before, behind), (first, last) = points[place - 1 : place + 1], shares[place - 1 : place + 1]
    way = (step - before.step) / (behind.step - before.step)
    return [a + (b - a) * way for a, b in zip(first, last, strict=True)]
