"""Padding is not computed, and no text sees another: for our own forward and for transformers' models."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.outputs import forward_completions, forward_to_head
from workbench.models.packing import pack_rows
from workbench.models.probe import verdict_of

IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4], [8, 8, 1, 0, 6, 2, 2], [4, 1, 0, 0, 0, 0, 0], [6, 2, 3, 0, 0, 0, 0]])
LENGTHS = [6, 5, 2, 3]
MASK = torch.arange(7) < torch.tensor(LENGTHS)[:, None]


@pytest.fixture
def make_model(small_llama):
    """make_model(kind) -> a tiny model at random weights; "own" is our Llama."""

    def make(kind):
        import transformers

        if kind == "own":
            return small_llama()
        torch.manual_seed(0)
        shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        shape |= {"num_key_value_heads": 1, "head_dim": 8}
        if kind == "gpt2":
            shape = {"n_embd": 16, "n_layer": 2, "n_head": 2}
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=17, pad_token_id=0, bos_token_id=1, eos_token_id=2, **shape
        )
        return transformers.AutoModelForCausalLM.from_config(config).eval()

    return make


def logits(outputs):
    return outputs.hidden if outputs.weight is None else outputs.hidden @ outputs.weight.T


KINDS = ["own", "gpt2", "gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_padded_batch_equal_each_alone(make_model, kind):
    model = make_model(kind)
    found = logits(forward_to_head(model, IDS, MASK))
    assert found.shape[:2] == IDS.shape
    for row, length in enumerate(LENGTHS):
        alone = model(IDS[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(found[row, :length], alone, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["own", "gpt2", "gemma", "qwen3"])
def test_packed_texts_do_not_see_one_another(make_model, kind):
    model = make_model(kind)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 0, 1, 2, 3]])
    found = logits(forward_to_head(model, IDS[:2], None, positions))
    for row, start, end in ((0, 0, 3), (0, 3, 7), (1, 0, 2), (1, 2, 3), (1, 3, 7)):
        alone = model(IDS[row : row + 1, start:end]).logits[0]
        torch.testing.assert_close(found[row, start:end], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_window_as_wide_as_the_rows_allows_bins_that_are_wider(make_model):
    model = make_model("mistral")
    assert model.config._attn_implementation == "sdpa"
    model.config.sliding_window = max(LENGTHS)
    found = logits(forward_to_head(model, IDS, MASK))
    torch.testing.assert_close(found[1, :5], model(IDS[1:2, :5]).logits[0], rtol=0, atol=1e-5)


def test_a_model_that_may_mix_packed_texts_is_refused(make_model):
    with pytest.raises(ModelError, match="gemma2 does not keep their texts apart"):
        forward_to_head(make_model("gemma2"), IDS, None, torch.arange(7).repeat(4, 1))


@pytest.mark.parametrize("kind", ["own", "gpt2"])
def test_padding_is_not_computed(make_model, kind):
    model = make_model(kind)
    verdict_of(model)  # a model is probed when it is first used
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    forward_to_head(model, IDS, MASK)
    # transformers' bins: two, of 8 places each, for 16 tokens.
    assert seen == [16]


def test_every_token_of_a_packing_comes_back_to_its_place():
    packing = pack_rows(LENGTHS, 7)
    assert packing.source.shape == (2, 8)
    assert (IDS.flatten()[packing.source].flatten()[packing.taken][MASK] == IDS[MASK]).all()
    assert packing.positions.flatten()[packing.taken][MASK].tolist() == [i for n in LENGTHS for i in range(n)]


PROMPTS = [[3, 5], [8, 8, 1], [4], [6, 6, 6]]
COMPLETIONS = [(0, [7, 2, 9]), (1, [4]), (2, [6, 2]), (0, [1]), (1, [2, 3]), (0, []), (2, [5]), (0, [7, 1, 1, 9])]


def padded(rows, left):
    """ids, mask (B, longest + 1)."""
    width = max(map(len, rows)) + 1
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place], mask[index, place] = torch.tensor(row, dtype=torch.long), 1
    return ids, mask


def completion_inputs(prompts, completions, left=True):
    """What forward_completions takes, of lists."""
    owners = torch.tensor([owner for owner, _ in completions])
    return *padded(prompts, left), *padded([row for _, row in completions], False), owners


@torch.no_grad()
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("kind", ["own", "gpt2"])
def test_completions_are_predicted_as_behind_a_prompt_of_their_own(make_model, kind, left):
    """Prompts with 4, 2, 2 and no completions, in an order that sorting changes; one completion is empty."""
    model = make_model(kind)
    found = logits(forward_completions(model, *completion_inputs(PROMPTS, COMPLETIONS, left)))
    expected = []
    for owner, row in COMPLETIONS:
        alone = model(torch.tensor([PROMPTS[owner] + row])).logits[0]
        expected.append(alone[len(PROMPTS[owner]) - 1 : -1])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_a_prompt_is_computed_once_for_its_completions_and_not_at_all_without(make_model):
    model, seen = make_model("own"), []
    model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    forward_completions(model, *completion_inputs(PROMPTS, COMPLETIONS))
    assert seen == [sum(map(len, PROMPTS[:3])) + sum(max(len(row) - 1, 0) for _, row in COMPLETIONS)]


@torch.no_grad()
@pytest.mark.parametrize("longest", [1, 2, 4])
def test_the_last_token_of_a_completion_is_never_embedded(make_model, longest):
    """A token outside the vocabulary could not be."""
    model, completions = make_model("own"), [(owner, row[:longest]) for owner, row in COMPLETIONS]
    expected = forward_completions(model, *completion_inputs(PROMPTS, completions)).hidden
    outside = [(owner, [*row[:-1], *[99] * bool(row)]) for owner, row in completions]
    found = forward_completions(model, *completion_inputs(PROMPTS, outside)).hidden
    assert len(found) == sum(len(row) for _, row in completions)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_completions_without_a_token_give_no_vectors(make_model):
    inputs = completion_inputs(PROMPTS, [(1, []), (0, [])])
    assert forward_completions(make_model("own"), *inputs).hidden.shape[0] == 0


def test_a_completion_of_an_empty_prompt_is_refused(make_model):
    with pytest.raises(ModelError, match="completion 1: its prompt 1 is empty"):
        forward_completions(make_model("own"), *completion_inputs([[3], []], [(0, [1]), (1, [2])]))
