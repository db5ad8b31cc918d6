"""How tokens are drawn."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from workbench.config import NonNegativeInt, Settings

VERSION = 3
"""Raised by hand when the same settings and seed give other tokens; part of fingerprints."""


class SamplingSettings(Settings):
    """Sampling from the model's distribution; top_k 0 and top_p 1 leave it whole."""

    temperature: PositiveFloat = 1.0
    """Logits are divided by it."""
    top_k: NonNegativeInt = 0
    """Draws among the k likeliest tokens; 0: among all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Draws among the likeliest tokens that together reach this probability."""
