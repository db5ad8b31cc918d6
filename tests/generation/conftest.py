"""Ragged prompts."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def ragged_prompts(torch) -> list[list[int]]:
    """64 prompts of 1 to 20 tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 21, (64,), generator=generator).tolist()
    return [torch.randint(1, 17, (length,), generator=generator).tolist() for length in lengths]


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
