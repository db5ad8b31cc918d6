"""A prompt shared by its completions gives what rows of their own give: log-probabilities and gradients."""

from __future__ import annotations

import pytest
import torch

from workbench.models import attention
from workbench.models.attention import TextPlan
from workbench.models.outputs import forward_completions, forward_to_head, hidden_size
from workbench.objectives.logprobs import projected_logprobs

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
RAGGED = [(2, 5), (0, 3), (1, 7), (0, 1), (2, 2), (1, 4), (1, 0), (0, 6), (2, 9), (0, 5), (2, 1), (1, 3)]
BY_PROMPT = sorted(RAGGED)
EVEN = [(owner, 4) for owner in range(3) for _ in range(8)]
ONE_EACH = [(2, 4), (0, 6), (1, 1)]
ONE_TOKEN = [(2, 1), (0, 1), (2, 1), (1, 0)]
UNEQUAL = [(0, 3), (1, 2), (1, 5), *[(2, length) for length in (1, 2, 3, 4, 5, 6, 7, 8)]]


def batch(completions, *, prompts=(3, 6, 9), left=True, seed=0):
    """What forward_completions takes: completions are (prompt, length)."""
    generator = torch.Generator().manual_seed(seed)
    width, longest = max(prompts) + 2, max(length for _, length in completions) + 1
    prompt_ids = torch.randint(1, 17, (len(prompts), width), generator=generator)
    steps, ends = torch.arange(width), torch.tensor(prompts)[:, None]
    prompt_mask = steps >= width - ends if left else steps < ends
    ids = torch.randint(1, 17, (len(completions), longest), generator=generator)
    mask = torch.arange(longest) < torch.tensor([length for _, length in completions])[:, None]
    return prompt_ids, prompt_mask, ids, mask, torch.tensor([owner for owner, _ in completions])


def scored(model, inputs):
    outputs = forward_completions(model, *inputs)
    return projected_logprobs(outputs.hidden, outputs.weight, inputs[2][inputs[3]], bias=outputs.bias)


def each_alone(model, inputs):
    """Each completion behind a prompt of its own, one row at a time and by the model's plain call."""
    prompt_ids, prompt_mask, ids, mask, owners = inputs
    found = []
    for row, owner in enumerate(owners.tolist()):
        prompt, completion = prompt_ids[owner][prompt_mask[owner]], ids[row][mask[row]]
        if len(completion):
            logits = model(torch.cat((prompt, completion))[None]).logits[0, len(prompt) - 1 : -1]
            found.append(logits.log_softmax(-1).gather(1, completion[:, None])[:, 0])
    return torch.cat(found)


def gradients(model, logprobs):
    weights = torch.linspace(-1, 1, len(logprobs), dtype=logprobs.dtype)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([part.flatten() for part in torch.autograd.grad((weights * logprobs).sum(), learned)])


def assert_the_same(model, inputs, tolerance):
    found, expected = scored(model, inputs), each_alone(model, inputs)
    assert (found - expected).abs().max() <= tolerance
    found, expected = gradients(model, found), gradients(model, expected)
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("completions", [RAGGED, BY_PROMPT, EVEN, ONE_EACH, ONE_TOKEN, UNEQUAL])
def test_shared_prompts_equal_separate_rows(small_llama, monkeypatch, completions, left, dtype, grid):
    if not grid:
        monkeypatch.setattr(attention, "GRID_BRANCH", -1)
    assert_the_same(small_llama(dtype), batch(completions, left=left), TOLERANCE[dtype])


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_shared_prompts_equal_separate_rows_for_any_grouping_of_heads(small_llama, kv_heads):
    assert_the_same(small_llama("float64", num_key_value_heads=kv_heads), batch(RAGGED), TOLERANCE["float64"])


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("lengths", [(4, 3), (4, 3, 2, 3), (1, 1, 1)])
def test_one_prompts_completions_equal_separate_rows(small_llama, kv_heads, lengths):
    """Where nothing is padded or repeated, tensors are views that other shapes are copies of."""
    inputs = batch([(0, length) for length in lengths], prompts=(5,))
    assert_the_same(small_llama("float64", num_key_value_heads=kv_heads), inputs, TOLERANCE["float64"])


def test_shared_prompts_equal_separate_rows_under_gradient_checkpointing(small_llama):
    model = small_llama("float64")
    model.gradient_checkpointing_enable()
    assert_the_same(model, batch(RAGGED), TOLERANCE["float64"])


def test_shared_prompts_equal_separate_rows_with_an_adapter(small_llama):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = small_llama("float64")
    peft.inject_adapter_in_model(config, model)
    model.double()
    assert {name.split(".")[-2] for name, value in model.named_parameters() if value.requires_grad} == {"default"}
    assert_the_same(model, batch(RAGGED), TOLERANCE["float64"])


@torch.no_grad()
def test_half_precision_branches_err_no_more_than_rows_of_their_own(small_llama):
    """Root mean square against float64, of ten models; a tenth is what ten models leave to chance."""
    inputs, found, alone = batch(RAGGED, prompts=(9, 12, 4)), [], []
    for seed in range(10):
        model = small_llama("bfloat16", seed=seed)
        exact = scored(small_llama("float64", seed=seed).to(torch.bfloat16).double(), inputs)
        found.append(scored(model, inputs) - exact)
        alone.append(each_alone(model, inputs) - exact)
    assert torch.cat(found).norm() <= 1.1 * torch.cat(alone).norm()


def test_long_branches_and_wasteful_grids_are_attended_to_shape_by_shape():
    cpu = torch.device("cpu")
    assert TextPlan([(4, 3, 2), (5, 1, 6)], cpu).grid is not None
    assert TextPlan([(4, 3, attention.GRID_BRANCH + 1)], cpu).grid is None
    assert TextPlan([(attention.GRID_STEM + 1, 3, 2)], cpu).grid is None
    assert TextPlan([(40, *[4] * 30), *[(1, 1, 1)] * 30], cpu).grid is None, "mostly padding"
    assert TextPlan([(7,), (7,)], cpu).grid is None, "one call as they lie"


@torch.no_grad()
def test_hidden_is_what_the_predicting_positions_have_after_the_final_norm(small_llama):
    model, inputs = small_llama(), batch(ONE_EACH)
    outputs = forward_completions(model, *inputs, states=True)
    assert outputs.hidden.shape == (11, hidden_size(model))
    logits = []
    for row, owner in enumerate(inputs[4].tolist()):
        prompt, completion = inputs[0][owner][inputs[1][owner]], inputs[2][row][inputs[3][row]]
        logits.append(model(torch.cat((prompt, completion))[None]).logits[0, len(prompt) - 1 : -1])
    torch.testing.assert_close(outputs.hidden @ outputs.weight.T, torch.cat(logits), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "gemma", "gemma2"])
def test_a_value_head_gets_states_of_any_family(kind):
    """Gemma 2 caps its logits, so a loss is given these; a value head must be given what comes before them."""
    import transformers

    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape |= {"num_key_value_heads": 1, "head_dim": 8}
    if kind == "gpt2":
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.AutoConfig.for_model(kind, vocab_size=17, **ends, **shape)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    inputs = batch(ONE_EACH)
    hidden = forward_completions(model, *inputs, states=True).hidden
    assert hidden.shape == (11, hidden_size(model)) == (11, 16)
    alone = torch.cat((inputs[0][2][inputs[1][2]], inputs[2][0][inputs[3][0]]))[None]
    expected = model.base_model(alone).last_hidden_state[0, 8:12]
    torch.testing.assert_close(hidden[:4], expected, rtol=0, atol=1e-5)
    assert forward_to_head(model, alone, states=True).hidden.shape == (1, 13, 16)
