"""Masks from lengths, positions, joined and packed rows."""

from __future__ import annotations

import torch

from workbench.objectives.masking import join_prompt_completion, length_mask, packed_mask, position_ids


def test_a_length_mask_is_true_at_the_first_positions():
    assert length_mask(torch.tensor([0, 2, 3]), 3).int().tolist() == [[0, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_positions_count_along_the_real_tokens():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_prompt_and_completion_are_joined_without_a_gap_wherever_the_padding_stood():
    prompts, prompt_mask = torch.tensor([[0, 7, 8], [5, 6, 0]]), torch.tensor([[0, 1, 1], [1, 1, 0]])
    completions, completion_mask = torch.tensor([[1, 2, 0], [3, 0, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    ids, lengths, completion = join_prompt_completion(prompts, prompt_mask, completions, completion_mask, pad_id=9)
    assert ids.tolist() == [[7, 8, 1, 2], [5, 6, 3, 9]]
    assert lengths.tolist() == [4, 3]
    assert completion.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]


def test_the_pad_id_in_a_text_is_a_token_like_any_other():
    ids, mask = torch.tensor([[0, 4, 0]]), torch.tensor([[1, 1, 1]])
    joined, lengths, _ = join_prompt_completion(ids, mask, torch.tensor([[0]]), torch.tensor([[1]]), pad_id=0)
    assert (joined.tolist(), lengths.tolist()) == ([[0, 4, 0, 0]], [4])


def test_packed_texts_do_not_see_one_another():
    allowed = packed_mask(torch.tensor([[0, 1, 0, 1, 2]]))[0, 0].int().tolist()
    assert allowed == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]
