"""The law of costs: the FLOPs that a run records are those of the matrix products that it made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

LARGE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 400,
}
"""Wide enough for its matrices to outweigh attention, of which the formula counts what the causal mask lets through."""


def counted_and_recorded(trainer: Any) -> tuple[float, float]:
    """FLOPs that torch counted in one step, rollouts and reference included; and what the step was charged."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def of_linear(inputs: Any, *_: Any, out_shape: Any, **__: Any) -> int:
        return 2 * math.prod(inputs) * out_shape[-1]

    # Sampling's linear layers reach the counter whole, not as the products that it knows.
    sampling = (torch.ops.aten.linear, torch.ops.mkldnn._linear_pointwise)
    counter = FlopCounterMode(display=False, custom_mapping=dict.fromkeys(sampling, of_linear))
    with counter:
        trainer._train_step()
    return float(counter.get_total_flops()), trainer.costs.flops


def long_rows(count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompts of 12 tokens, completions of 4 and 6."""
    return [([3 + (i + k) % 13 for k in range(12)], [4, 5, 6, 7 + i % 5], [8, 9, 10, 11, 12, 3]) for i in range(count)]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_of_a_step_on_rows(small_llama: Callable, collate: Callable, name: str, lora: bool) -> None:
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings
    from workbench.trainer import get_trainer_class

    model = small_llama(**LARGE)
    if lora:
        add_lora(model, LoraSettings(rank=2, alpha=4), seed=0)
    trainer_class = get_trainer_class(name)
    settings = trainer_class.settings_class(steps=1, device="cpu", precision="float32")
    trainer = trainer_class(model, None, [collate(name, long_rows(6))], settings=settings)
    counted, recorded = counted_and_recorded(trainer)
    assert recorded == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"entropy_bonus": 0.1}),
        ("grpo", {"beta": 0.1}),
        ("ppo", {"critic": "head"}),
        ("ppo", {"critic": "model", "entropy_bonus": 0.1}),
        ("ppo", {"critic": "head", "beta": 0.1}),
        ("online_dpo", {}),
    ],
)
def test_of_a_step_that_samples_its_own_data(
    small_llama: Callable, rollout_trainer: Callable, name: str, settings: dict[str, Any]
) -> None:
    trainer = rollout_trainer(name, model=small_llama(**LARGE), steps=1, **settings)
    counted, recorded = counted_and_recorded(trainer)
    assert recorded == pytest.approx(counted, rel=0.06)
