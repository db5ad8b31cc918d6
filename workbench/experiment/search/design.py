"""Settings that are drawn from a space before any result is known: at random, or evenly by a Sobol sequence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from workbench.config import fingerprint
from workbench.experiment.search.settings import Dimension, Sampler, SearchSettings

Space = Mapping[str, Dimension]
Setting = dict[str, Any]
PATIENCE = 200
"""Draws for each setting that is wanted, after which a space of few settings gives no more."""


def size_of(space: Space) -> float:
    """How many settings a space holds; infinity where one of its dimensions is a range of real numbers."""
    return math.prod(dimension.size for dimension in space.values())


def drawn(space: Space, settings: SearchSettings) -> list[Setting]:
    """The settings that are drawn before any result is known: all trials, or the quarter that tpe learns from, and four
    at least."""
    first = settings.num_first if settings.sampler == "tpe" else settings.trials
    return design(space, settings.sampler, min(first, settings.trials), settings.seed)


def design(space: Space, sampler: Sampler, number: int, seed: int) -> list[Setting]:
    """The first settings of a design, no two alike: a longer one begins with a shorter one's. tpe begins with Sobol's.
    Fewer than `number` where the space holds fewer."""
    if not space:
        return [{}]
    found: dict[str, Setting] = {}
    units = _random(len(space), seed) if sampler == "random" else _sobol(len(space), seed)
    for _ in range(PATIENCE * number):
        unit = next(units)
        drawn = {name: dimension.at(place) for (name, dimension), place in zip(space.items(), unit, strict=True)}
        found.setdefault(fingerprint(drawn), drawn)
        if len(found) >= min(number, size_of(space)):
            break
    return list(found.values())[:number]


def _random(dimensions: int, seed: int) -> Iterator[list[float]]:
    generator = np.random.default_rng(seed)
    while True:
        yield generator.random(dimensions).tolist()


def _sobol(dimensions: int, seed: int) -> Iterator[list[float]]:
    from torch.quasirandom import SobolEngine

    engine = SobolEngine(dimensions, scramble=True, seed=seed)
    while True:
        yield engine.draw(1)[0].tolist()
