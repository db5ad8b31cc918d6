"""A real Llama that says what a table tells it to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer(tiny_folder) -> Any:
    """A token a character, and <pad> and <eos>."""
    from workbench.models.tokenizer import Tokenizer

    return Tokenizer.load(tiny_folder)


@pytest.fixture(scope="session")
def speaker(torch, tokenizer) -> Callable[[Mapping[str, Mapping[str, float]]], Any]:
    """make({"a": {"b": 0.5, "<eos>": 0.5}}) -> a Llama that goes on from a with b or ends; from any other, it ends.

    Attention and MLP are zero and embeddings one-hot, so that the head alone decides, by the last token.
    """

    def make(table: Mapping[str, Mapping[str, float]]) -> Any:
        from workbench.models.llama import Llama
        from workbench.models.llama_config import LlamaConfig

        size = tokenizer.vocab_size
        config = {
            "model_type": "llama", "vocab_size": size, "hidden_size": size, "intermediate_size": 2,
            "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-12, "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        }  # fmt: skip
        model = Llama(LlamaConfig.from_dict(config))
        probabilities = torch.zeros(size, size)
        probabilities[:, tokenizer.eos_ids[0]] = 1.0
        for text, choices in table.items():
            row = probabilities[tokenizer.token_id(text)]
            row.zero_()
            for choice, probability in choices.items():
                row[tokenizer.token_id(choice)] = probability
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)
            model.model.embed_tokens.weight.copy_(torch.eye(size))
            model.lm_head.weight.copy_(probabilities.log().clamp(min=-200.0).T / size**0.5)
        return model

    return make
