"""The law of costs for sampling: what is charged is what is computed, padding and rows that have ended among it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.flops import flop_counter
from workbench.generation.costs import sampling_flops
from workbench.generation.generate import generate
from workbench.generation.sampling import SamplingSettings
from workbench.models.flops import ModelFlops, Work
from workbench.models.probe import remember, verdict_of

VOCABULARY = 98
LIMIT = 12
RAGGED = [[3 + (place + row) % 90 for place in range(size)] for row, size in enumerate((2, 60, 5, 33, 2, 11))]
MORE = {
    "qwen3": {"head_dim": 8},
    "gpt2": {"n_positions": 128},
    "mistral": {"sliding_window": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mamba": {"state_size": 8},
}


def of_family(kind: str, width: int) -> Any:
    """A small model of transformers."""
    import transformers

    size = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"num_hidden_layers": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 128, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(kind, **size | more | {"bos_token_id": None} | MORE[kind])
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def counted(model: Any, group: int) -> tuple[float, list[list[int]]]:
    """FLOPs that torch counted while the ragged prompts were continued, and each one's completions in tokens. One token
    in eight ends a completion."""
    verdict_of(model)  # the probe's passes are no sampling
    with flop_counter() as counter:
        found = generate(
            model,
            RAGGED,
            list(range(len(RAGGED))),
            settings=SamplingSettings(),
            max_new_tokens=LIMIT,
            eos_ids=list(range(0, VOCABULARY, 8)),
            num_samples=group,
        )
    lengths = [[len(each.completion_ids) for each in own] for own in found]
    assert len({length for own in lengths for length in own}) > 2
    return float(counter.get_total_flops()), lengths


CASES = [(kind, width, group) for kind in ("llama", "recomputed", "qwen3") for width in (32, 64) for group in (1, 4)]
CASES += [(kind, 32, 4) for kind in MORE if kind != "qwen3"]


@pytest.mark.parametrize(("kind", "width", "group"), CASES)
def test_sampling_is_charged_for_padding_and_for_rows_that_have_ended(
    kind: str, width: int, group: int, small_llama: Any
) -> None:
    if kind == "llama":
        size = {"hidden_size": width, "intermediate_size": 2 * width, "vocab_size": VOCABULARY}
        model = small_llama(**size, max_position_embeddings=128)
    else:
        model = of_family("qwen3" if kind == "recomputed" else kind, width)
    if kind == "recomputed":
        remember(model, replace(verdict_of(model), cache=False, padded_cache=False))
    computed, lengths = counted(model, group)
    charged = sampling_flops(ModelFlops.counted_of(model, learns=False), model, RAGGED, lengths, LIMIT)
    assert charged == pytest.approx(computed, rel=0.02)


def test_a_rollout_by_hand(small_llama: Any) -> None:
    flops = ModelFlops(num_trained=100, num_frozen=10, num_layers=2, width=8)
    # Prompts of 2 and 3 tokens are laid out as two rows of 3. Of three completions each, tokens 1, 3, 3 and 1, 1, 2:
    # after the first token three of six rows run on and three are dropped; the second prompt's last is padded to the
    # two rows that the first still has. After the second token two rows run on and one is dropped.
    prefill = Work(6, 2 * 6, 2, 5, beyond=2 * 3)
    first, second = Work(3, 2 * 2 * 3 + 3 * 1, 3, 3), Work(2, 1 * 2 * 3 + 2 * 2, 2, 2)
    expected = flops.forward(Work.total([prefill, first, second]))
    assert sampling_flops(flops, small_llama(), [[5, 6], [5, 6, 7]], [[1, 3, 3], [1, 1, 2]], 3) == expected
    assert sampling_flops(flops, small_llama(), [], [], 3) == 0


@pytest.mark.parametrize("kind", ["openai-gpt", "gemma4_text"])
def test_sampling_is_charged_for_every_text_that_it_computes(kind: str) -> None:
    """openai-gpt has no cache, and computes the whole text for each token; gemma4's layers differ in head_dim."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from tests.models.families import tiny_model

    model = tiny_model(kind)
    charged = sampling_flops(ModelFlops.counted_of(model), model, [[3, 5, 22, 7, 11, 9]], [[8] * 3], 8)
    counter = flop_counter()
    with counter, sdpa_kernel(SDPBackend.MATH):
        generate(model, [[3, 5, 22, 7, 11, 9]], [0], settings=None, max_new_tokens=8, eos_ids=[], num_samples=3)
    assert charged == pytest.approx(counter.get_total_flops(), rel=0.05)
