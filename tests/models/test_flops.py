"""The stated formula, by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from workbench.models.adapters import add_lora
from workbench.models.flops import ModelFlops
from workbench.models.settings import LoraSettings

LAYER = 256 + 128 + 128 + 256 + 3 * 384 + 32
TIED = 17 * 16 + 2 * LAYER + 16


def test_parameters_that_multiply_each_token(small_llama):
    assert ModelFlops.of_model(small_llama()) == ModelFlops(TIED, 0, num_layers=2, width=16, num_head=17 * 16)
    # Untied: the head counts, the input embedding does not.
    assert ModelFlops.of_model(small_llama(tie_word_embeddings=False)).num_trained == TIED


def test_an_adapter_is_trained_and_the_rest_frozen(small_llama):
    model = small_llama()
    add_lora(model, LoraSettings(rank=2), seed=0)
    assert ModelFlops.of_model(model) == ModelFlops(928, TIED, num_layers=2, width=16, num_head=17 * 16)


def test_the_formula_by_hand():
    flops = ModelFlops(num_trained=100, num_frozen=10, num_layers=2, width=8)
    # 3 tokens that attend to 1, 2 and 3 positions
    assert flops.forward(3, 6) == 2 * 110 * 3 + 4 * 2 * 8 * 6
    assert flops.backward(3, 6) == (2 * 10 + 4 * 100) * 3 + 8 * 2 * 8 * 6
    assert flops.training(3, 6) == flops.forward(3, 6) + flops.backward(3, 6)
    with_head = replace(flops, num_head=30)
    assert with_head.training(3, 6, recomputed=True) - flops.training(3, 6) == 2 * 80 * 3 + 4 * 2 * 8 * 6


def test_a_prompts_completions_share_its_prefill_and_their_last_tokens_are_not_read():
    flops = ModelFlops(num_trained=100, num_frozen=10, num_layers=2, width=8)
    # Two tokens of the prompt attend to 1 and 2 positions; of a completion of 3 the first two are read, at 3 and 4.
    assert flops.generation(2, [1, 3]) == flops.forward(2 + 2, 1 + 2 + 3 + 4)


def test_a_model_that_is_no_language_model_is_counted_too():
    assert ModelFlops.of_model(torch.nn.Linear(3, 4)) == ModelFlops(16, 0)
