"""The law of costs: the FLOPs that a run records are those of the matrix products that it made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.flops import flop_counter
from tests.trainers import ONLINE

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
    counter = flop_counter()
    with counter:
        trainer.train_step()
    return float(counter.get_total_flops()), trainer.costs.flops


def long_rows(count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompts of 12 tokens, completions of 4 and 6."""
    return [([3 + (i + k) % 13 for k in range(12)], [4, 5, 6, 7 + i % 5], [8, 9, 10, 11, 12, 3]) for i in range(count)]


def of_transformers() -> Any:
    """A model of the same size whose forward is transformers': it computes a prompt with each of its completions."""
    import torch
    import transformers

    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3}
    config = transformers.Qwen3Config(**LARGE, **ids, head_dim=16, max_position_embeddings=64, tie_word_embeddings=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)


def packed_batch() -> dict[str, Any]:
    """Two rows of three texts each, laid end to end."""
    import torch

    ids = torch.tensor([[3 + k % 13 for k in range(60)]] * 2)
    positions = torch.tensor([[*range(18), *range(22), *range(20)]] * 2)
    return {"input_ids": ids, "labels": ids.clone(), "position_ids": positions}


def step_on(name: str, model: Any, batch: dict[str, Any], **settings: Any) -> Any:
    """A trainer about to make one step on that batch."""
    from workbench.trainer import get_trainer_class

    trainer_class = get_trainer_class(name)
    chosen = trainer_class.settings_class(**{"steps": 1, "device": "cpu", "precision": "float32"} | settings)
    return trainer_class(model, None, [batch], settings=chosen)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", ["pretrain", "sft", "dpo"])
def test_of_a_step_on_rows(small_llama: Callable, collate: Callable, name: str, lora: bool) -> None:
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = small_llama(**LARGE)
    if lora:
        add_lora(model, LoraSettings(rank=2, alpha=4), seed=0)
    counted, recorded = counted_and_recorded(step_on(name, model, collate(name, long_rows(6))))
    assert recorded == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("name", ["pretrain", "sft"])
def test_of_a_step_on_packed_rows(small_llama: Callable, name: str) -> None:
    counted, recorded = counted_and_recorded(step_on(name, small_llama(**LARGE), packed_batch()))
    assert recorded == pytest.approx(counted, rel=0.05)


def test_of_a_step_whose_reference_was_scored_before_the_run(small_llama: Callable, collate: Callable) -> None:
    import torch

    batch = collate("dpo", long_rows(6))
    scored_now, _ = counted_and_recorded(step_on("dpo", small_llama(**LARGE), dict(batch)))
    for side in ("chosen", "rejected"):
        batch[f"ref_{side}_logprobs"] = torch.full(batch[f"{side}_input_ids"].shape, -2.0)
    trainer = step_on("dpo", small_llama(**LARGE), batch, starts_from_reference=False)
    counted, recorded = counted_and_recorded(trainer)
    assert recorded == pytest.approx(counted, rel=0.05)
    assert trainer.costs.scored_tokens == 0
    assert counted < 0.8 * scored_now, "a reference pass is a quarter of a step"


def test_of_pairs_where_a_prompt_is_computed_with_each_completion(small_llama: Callable, collate: Callable) -> None:
    shared = step_on("dpo", small_llama(**LARGE), collate("dpo", long_rows(6)))
    apart = step_on("dpo", of_transformers(), collate("dpo", long_rows(6)))
    counted, recorded = counted_and_recorded(apart)
    counted_and_recorded(shared)
    assert recorded == pytest.approx(counted, rel=0.05)
    # 12 tokens of a prompt, completions of 4 and 6: the prompt is read twice, or once.
    assert apart.costs.trained_tokens == 6 * (2 * 12 + 4 + 6)
    assert shared.costs.trained_tokens == 6 * (12 + 4 + 6)


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"entropy_bonus": 0.1}),
        ("grpo", {"beta": 0.1}),
        ("grpo", {"dynamic_sampling": 2}),
        ("grpo", {"passes": 2, "minibatches": 2}),
        ("ppo", {"critic": "head"}),
        ("ppo", {"critic": "model", "entropy_bonus": 0.1}),
        ("ppo", {"critic": "head", "beta": 0.0}),
        ("online_dpo", {}),
    ],
)
def test_of_a_step_that_samples_its_own_data(
    small_llama: Callable, rollout_trainer: Callable, name: str, settings: dict[str, Any], lora: bool
) -> None:
    trainer = rollout_trainer(name, model=small_llama(**LARGE), lora=lora, steps=1, **settings)
    counted, recorded = counted_and_recorded(trainer)
    assert recorded == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("name", ONLINE)
def test_of_a_rollout_whose_prompts_are_computed_with_each_completion(rollout_trainer: Callable, name: str) -> None:
    counted, recorded = counted_and_recorded(rollout_trainer(name, model=of_transformers(), steps=1))
    assert recorded == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("kind", ["qwen3", "opt"])
def test_of_a_rollout_without_a_cache_every_step_computes_the_texts_anew(kind: str, rollout_trainer: Callable) -> None:
    from dataclasses import replace

    from workbench.models.probe import remember, verdict_of

    recorded = []
    for found in ({}, {"cache": False, "padded_cache": False}):
        model = of_family(kind)
        remember(model, replace(verdict_of(model), **found))
        trainer = rollout_trainer("grpo", model=model, steps=1)
        recorded.append(counted_and_recorded(trainer))
    (_, cached), (counted, anew) = recorded
    assert anew == pytest.approx(counted, rel=0.05)
    assert anew > 1.5 * cached


def test_completions_without_advantage_are_sampled_and_not_learned_from(rollout_trainer: Callable) -> None:
    # One prompt's completions differ in reward, the others' do not: GRPO computes that prompt's alone.
    def judge(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        return [i / 10 if prompt == prompts[0] else 1.0 for i, prompt in enumerate(prompts)]

    few, every = (rollout_trainer(reward_fn=judge, steps=1, entropy_bonus=bonus) for bonus in (0.0, 0.1))
    few.train_step()
    every.train_step()
    assert few.costs.generated_tokens == every.costs.generated_tokens
    assert few.costs.trained_tokens < every.costs.trained_tokens / 2


FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {"head_dim": 16, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {"n_inner": 160, "n_positions": 512},
    "gpt_neox": {},
    "opt": {"ffn_dim": 160, "word_embed_proj_dim": 64},
    "falcon": {"hidden_size": 128},  # its keys are of one head: at 64 attention weighs 5 %
    "bloom": {"n_layer": 3, "n_head": 4},
    "gemma2": {"head_dim": 16, "sliding_window": 8},
    "mistral": {"sliding_window": 8},
    "mamba": {},
}


def of_family(kind: str) -> Any:
    """A small model of that family."""
    import torch
    import transformers

    ids = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3, "tie_word_embeddings": False}
    config = transformers.AutoConfig.for_model(kind, **LARGE | ids | FAMILIES[kind])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)


def ragged_rows() -> list[tuple[list[int], list[int], list[int]]]:
    """Of 6 to 21 tokens, so that much of a batch is padding."""
    return [([3 + k % 13 for k in range(2 + 5 * i)], [4, 5, 6, 7], [8, 9, 3]) for i in range(4)]


CASES = [
    *((kind, "sft", {}) for kind in FAMILIES),
    *((kind, "dpo", {}) for kind in ("mixtral", "gpt2", "opt")),
    *((kind, "sft", {"micro_batch_rows": 1}) for kind in ("qwen3", "opt")),
    *((kind, "sft", {"gradient_checkpointing": True}) for kind in ("qwen3", "qwen3_moe", "gpt2", "opt")),
]


def slow_but_few(cases: list[Any]) -> list[Any]:
    """Those of mixtures and of GPT-2 are quick tests."""
    return [case if case[0] in ("mixtral", "gpt2") else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("kind", "name", "settings"), slow_but_few(CASES))
def test_of_every_family_that_trains(kind: str, name: str, settings: dict[str, Any], collate: Callable) -> None:
    trainer = step_on(name, of_family(kind), collate(name, ragged_rows()), **settings)
    counted, recorded = counted_and_recorded(trainer)
    assert recorded == pytest.approx(counted, rel=0.05)


def padded_batch() -> dict[str, Any]:
    """Rows of 3 to 31 tokens, padded to 36."""
    import torch

    mask = torch.arange(36) < torch.tensor([3, 20, 12, 31])[:, None]
    ids = ((3 + torch.arange(36) % 13) * mask).long()
    return {"input_ids": ids, "labels": ids.masked_fill(~mask, -100), "attention_mask": mask.long()}


def short_texts() -> dict[str, Any]:
    """Two rows of five short texts each, laid end to end."""
    import torch

    positions = torch.tensor([[p for n in row for p in range(n)] for row in ([8, 3, 5, 7, 6], [6, 6, 2, 8, 7])])
    return {"input_ids": 3 + positions % 13, "labels": 3 + positions % 13, "position_ids": positions}


LAID_OUT = [
    *((kind, True, None) for kind in ("llama", "gpt2", "qwen3", "mixtral")),
    *((kind, False, rows) for kind in ("gpt2", "qwen3", "gemma2", "mixtral") for rows in (None, 1)),
    ("llama", False, 1),
]


@pytest.mark.parametrize(("kind", "packed", "rows"), slow_but_few(LAID_OUT))
def test_of_attention_and_unfilled_places_of_rows_of_unlike_lengths(
    kind: str, packed: bool, rows: int | None, small_llama: Callable
) -> None:
    model = small_llama(**LARGE) if kind == "llama" else of_family(kind)
    batch = short_texts() if packed else padded_batch()
    counted, recorded = counted_and_recorded(step_on("sft", model, batch, micro_batch_rows=rows))
    assert recorded == pytest.approx(counted, rel=0.005)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("data", ["whole", "padded", "packed", "pairs", "long"])
def test_of_attention_of_small_models_of_our_own(
    data: str, width: int, precision: str, small_llama: Callable, collate: Callable
) -> None:
    size = {"hidden_size": width, "intermediate_size": 2 * width, "max_position_embeddings": 512}
    long = [([3] * (90 + 9 * i), [4] * (5 + 40 * i), [5] * 70) for i in range(4)]  # branches too long for the grid
    batch = {
        "whole": lambda: {name: part for name, part in padded_batch().items() if name != "attention_mask"},
        "padded": padded_batch,
        "packed": short_texts,
        "pairs": lambda: collate("dpo", ragged_rows()),
        "long": lambda: collate("dpo", long),
    }[data]()
    name = "dpo" if data in ("pairs", "long") else "sft"
    counted, recorded = counted_and_recorded(step_on(name, small_llama(**LARGE | size), batch, precision=precision))
    assert recorded == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_of_a_prompt_that_micro_batches_compute_again(
    name: str, small_llama: Callable, collate: Callable, rollout_trainer: Callable
) -> None:
    def make(**settings: Any) -> Any:
        model = small_llama(**LARGE)
        if name == "dpo":
            return step_on(name, model, collate(name, long_rows(6)), **settings)
        return rollout_trainer(name, model=model, steps=1, **settings)

    whole, cut = make(), make(micro_batch_rows=1)
    counted_and_recorded(whole)
    counted, recorded = counted_and_recorded(cut)
    assert recorded == pytest.approx(counted, rel=0.05)
    assert cut.costs.trained_tokens == whole.costs.trained_tokens


def test_layers_that_longer_rows_do_not_compute_as_short_ones_say_are_not_counted() -> None:
    import torch

    from workbench.models.flops import ModelFlops

    class Steep(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = torch.nn.Embedding(7, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 7)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            states = self.embed(input_ids)
            for _ in range(2 if input_ids.shape[1] > 64 else 1):
                states = self.mix(states)
            logits: torch.Tensor = self.head(states)
            return logits

    assert "Steep: 2 rows of 72 tokens compute" in ModelFlops.counted_of(Steep()).uncounted


@pytest.mark.parametrize("settings", [{}, pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_of_adapters_no_gradient_counts_of_what_nothing_is_trained_before(
    kind: str, settings: dict[str, Any], small_llama: Callable, collate: Callable
) -> None:
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = small_llama(**LARGE) if kind == "llama" else of_family(kind)
    add_lora(model, LoraSettings(rank=2, alpha=4), seed=0)
    counted, recorded = counted_and_recorded(step_on("sft", model, collate("sft", long_rows(6)), **settings))
    assert recorded == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize(("kind", "chunk"), [("mamba2", 48), ("xlstm", 64)])
def test_scans_in_chunks_are_charged_past_one_or_not_counted(kind: str, chunk: int) -> None:
    import transformers

    from tests.models.families import tiny_config
    from workbench.models.flops import ModelFlops

    config = tiny_config(kind)
    config.chunk_size = chunk
    flops = ModelFlops.counted_of(transformers.AutoModelForCausalLM.from_config(config), learns=False)
    assert "tokens compute" in flops.uncounted


def test_own_llama_is_counted_as_its_matrices(small_llama: Callable) -> None:
    from workbench.models.flops import ModelFlops

    model = small_llama(**LARGE)
    found, plain = ModelFlops.counted_of(model), ModelFlops.of_model(model)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name)
    assert found.counted is not None
    assert (found.counted.forward, found.counted.backward) == (2 * matrices, 4 * matrices)
    assert found.counted.pair == 4 * plain.num_layers * plain.width
    assert found.counted.backward_pair == 2 * found.counted.pair
    assert all(parameter.grad is None for parameter in model.parameters())


def test_windows_are_made_by_masks_and_held_by_caches() -> None:
    import torch

    from workbench.models.flops import pairs_in_rows, pairs_of_call, windows_of

    model = of_family("mistral")  # every layer sees 8 positions
    assert pairs_in_rows(windows_of(model), torch.tensor([3.0, 7.0, 8.0, 20.0])).tolist() == [6.0, 28.0, 64.0, 400.0]
    assert pairs_of_call(model, 1, 12, masked=False) == (8.0, 0.0)
    half = of_family("gemma2")  # one layer in two, here two of three
    share = half.config.layer_types.count("sliding_attention") / 3
    assert pairs_of_call(half, 10, 10, masked=False)[0] == pytest.approx(share * 100 + (1 - share) * 55)


@pytest.mark.parametrize(
    "kind", ["mistral", "gemma2", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt_oss", "llama4_text"))]
)
def test_of_small_models_with_windows(kind: str) -> None:
    from tests.models.families import tiny_model

    for batch in (padded_batch(), {"input_ids": padded_batch()["input_ids"], "labels": padded_batch()["labels"]}):
        counted, recorded = counted_and_recorded(step_on("sft", tiny_model(kind), batch))
        assert recorded == pytest.approx(counted, rel=0.05)


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral", "gpt2", "bert"])
def test_of_a_classifier_that_scores_padded_rows(kind: str) -> None:
    import torch
    import transformers
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from workbench.models.counted import own_kernels
    from workbench.models.flops import ModelFlops, Work

    ids = {"pad_token_id": 0, "eos_token_id": 3, "num_labels": 1}
    config = transformers.AutoConfig.for_model(kind, **LARGE | FAMILIES.get(kind, {}) | ids)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval().requires_grad_(False)
    lengths = torch.tensor([5, 9, 20])
    rows = torch.full((3, 20), 7).masked_fill(torch.arange(20) >= lengths[:, None], 0)
    counter = FlopCounterMode(display=False, custom_mapping=own_kernels())
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(input_ids=rows, attention_mask=(rows != 0).long())
    recorded = ModelFlops.of_classifier(model).forward(Work.of_scored(model, lengths, 20))
    assert recorded == pytest.approx(counter.get_total_flops(), rel=0.05)
