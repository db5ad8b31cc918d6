"""The stated formula, by hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from workbench.models.adapters import add_lora
from workbench.models.flops import ModelFlops, Work
from workbench.models.settings import LoraSettings

LAYER = 256 + 128 + 128 + 256 + 3 * 384 + 32
TIED = 17 * 16 + 2 * LAYER + 16


def test_parameters_that_multiply_each_token(small_llama):
    assert ModelFlops.of_model(small_llama()) == ModelFlops(TIED, 0, 2, 16, num_head=17 * 16, head_is_trained=True)
    # Untied: the head counts, the input embedding does not.
    assert ModelFlops.of_model(small_llama(tie_word_embeddings=False)).num_trained == TIED


def test_an_adapter_is_trained_and_the_rest_frozen(small_llama):
    model = small_llama()
    add_lora(model, LoraSettings(rank=2), seed=0)
    assert ModelFlops.of_model(model) == ModelFlops(928, TIED, num_layers=2, width=16, num_head=17 * 16)


def test_the_formula_by_hand():
    flops = ModelFlops(num_trained=100, num_frozen=10, num_layers=2, width=8)
    work = Work.of_rows(torch.tensor([3]))  # 3 tokens that attend to 1, 2 and 3 positions
    assert work == Work(tokens=3, context=6, projected=3, read=3)
    assert flops.forward(work) == 2 * 110 * 3 + 4 * 2 * 8 * 6
    assert flops.backward(work) == (2 * 10 + 4 * 100) * 3 + 8 * 2 * 8 * 6
    assert flops.training(work) == flops.forward(work) + flops.backward(work)
    with_head = replace(flops, num_head=30, head_is_trained=True)
    assert with_head.training(work, recomputed=True) - flops.training(work) == 2 * 80 * 3 + 4 * 2 * 8 * 6


def test_the_head_counts_where_something_is_projected():
    trained = ModelFlops(num_trained=100, num_frozen=0, num_head=30, head_is_trained=True)
    frozen = ModelFlops(num_trained=70, num_frozen=30, num_head=30)
    work = Work(tokens=10, context=0, projected=4, read=10)
    assert trained.forward(work) == frozen.forward(work) == 2 * (70 * 10 + 30 * 4)
    assert trained.backward(work) == 4 * (70 * 10 + 30 * 4)
    assert frozen.backward(work) == 4 * 70 * 10 + 2 * 30 * 4
    assert trained.forward(work.without_head()) == 2 * 70 * 10
    assert trained.forward(work.projected_again()) == 2 * (70 * 10 + 30 * 8)
    everywhere = replace(trained, projects_all=True)
    assert everywhere.forward(work) == 2 * 100 * 10
    assert everywhere.forward(work.without_head()) == trained.forward(work.without_head())


def test_a_prompt_counts_once_where_it_is_computed_once(small_llama):
    prompts, lengths, prompt_index = torch.tensor([2, 5, 9]), torch.tensor([3, 1, 4, 0]), torch.tensor([0, 0, 1, 2])
    shared = Work.of_completions(small_llama(), prompts, lengths, prompt_index)
    # The third prompt has no completion to predict. Each of the others goes on in one text, and the two stand side by
    # side as rows of 8 positions, which look back at 1 to 8 of them; plain products compute those ahead as well.
    assert shared == Work(tokens=2 + 5 + 2 + 0 + 3, context=2 * 36, projected=8, read=2 + 5 + 8, beyond=2 * 28)


def test_texts_that_are_too_long_for_a_grid_attend_one_by_one(small_llama):
    prompts, lengths, prompt_index = torch.tensor([600, 70]), torch.tensor([3, 5, 4]), torch.tensor([0, 0, 1])
    found = Work.of_completions(small_llama(), prompts, lengths, prompt_index)
    # The first completion's two tokens follow their prompt; the second's four see it and themselves, behind a mask.
    assert found.context == 602 * 603 / 2 + 4 * 604 + 73 * 74 / 2
    assert found.beyond == 73 * 72 / 2, "no text of more than 512 tokens is computed by plain products"


def test_a_forward_that_is_not_our_own_computes_a_prompt_with_each_completion():
    prompts, lengths, prompt_index = torch.tensor([2, 5]), torch.tensor([3, 1, 4]), torch.tensor([0, 0, 1])
    apart = Work.of_completions(torch.nn.Linear(1, 1), prompts, lengths, prompt_index)
    # It is not known to keep texts apart when they are laid end to end: rows stand side by side, with their padding.
    assert apart == Work(tokens=3 * 9, context=3 * 45, projected=8, read=5 + 3 + 9, rows=3, beyond=3 * 36)


def test_a_model_that_is_no_language_model_is_counted_too():
    assert ModelFlops.of_model(torch.nn.Linear(3, 4)) == ModelFlops(16, 0)
