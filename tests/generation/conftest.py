"""Ragged prompts, and models whose next-token distribution is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest


@pytest.fixture(scope="session")
def ragged_prompts(torch) -> list[list[int]]:
    """64 prompts of 1 to 20 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 21, (64,), generator=generator).tolist()
    return [torch.randint(1, 17, (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="session")
def bigram_model(torch) -> Callable[[Sequence[Sequence[float]]], Any]:
    """make(probabilities) -> a real Llama whose next token depends on the last one alone, as the rows (V, V) say.

    One layer whose attention and MLP are zero; one-hot embeddings, which the norm scales by sqrt(V); the head holds the
    logarithms of the probabilities over sqrt(V).
    """

    def make(probabilities: Sequence[Sequence[float]]) -> Any:
        from workbench.models.llama import Llama
        from workbench.models.llama_config import LlamaConfig

        size = len(probabilities)
        config = {
            "model_type": "llama", "vocab_size": size, "hidden_size": size, "intermediate_size": 2,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-12, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        }  # fmt: skip
        model = Llama(LlamaConfig.from_dict(config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.copy_(torch.tensor(probabilities).log().clamp(min=-100.0).T / size**0.5)
        return model

    return make


@pytest.fixture(scope="session")
def own(small_llama):
    return small_llama().eval()


@pytest.fixture(scope="session")
def theirs(torch, own, small_config):
    """transformers' Llama with the same weights."""
    import transformers

    settings = {name: value for name, value in small_config.items() if name not in ("architectures", "model_type")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings))
    model.load_state_dict(own.state_dict())
    return model.eval()


@pytest.fixture(scope="session")
def gpt2(torch):
    """Learned positions: a left-padded row is wrong unless its positions are given."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=17, n_positions=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5
    )
    return transformers.GPT2LMHeadModel(config).eval()
