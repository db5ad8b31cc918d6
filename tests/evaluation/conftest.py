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
def speaker(torch, tokenizer, bigram_model) -> Callable[[Mapping[str, Mapping[str, float]]], Any]:
    """make({"a": {"b": 0.5, "<eos>": 0.5}}) -> a Llama that goes on from a with b or ends; from any other, it ends."""

    def make(table: Mapping[str, Mapping[str, float]]) -> Any:
        size = tokenizer.vocab_size
        probabilities = torch.zeros(size, size)
        probabilities[:, tokenizer.eos_ids[0]] = 1.0
        for text, choices in table.items():
            row = probabilities[tokenizer.token_id(text)]
            row.zero_()
            for choice, probability in choices.items():
                row[tokenizer.token_id(choice)] = probability
        return bigram_model(probabilities.tolist())

    return make
