"""Our own Llama against transformers', on the same weights."""

from __future__ import annotations

import pytest
import torch

from workbench.models import attention
from workbench.models.llama import KVCache, Llama
from workbench.models.llama_config import LlamaConfig, unsupported_reason
from workbench.models.outputs import forward_to_head

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
SHAPES = {
    "grouped, tied": {},
    "untied": {"tie_word_embeddings": False},
    "one head for all": {"num_key_value_heads": 1},
    "plain heads": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 8},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama3 rotation": {"rope_parameters": LLAMA3},
    "linear rotation": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0}},
    "old names": {"rope_parameters": None, "rope_theta": 5_000.0, "rope_scaling": None},
}
IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4], [8, 8, 1, 0, 6, 2, 2]])


@pytest.fixture
def pair(small_llama, small_config):
    """pair(**config) -> our model and transformers' with the same weights."""

    def make(**changes):
        import transformers

        own = small_llama(**changes)
        config = transformers.LlamaConfig(**{k: v for k, v in (small_config | changes).items() if k != "model_type"})
        theirs = transformers.LlamaForCausalLM(config).eval()
        missing = theirs.load_state_dict(own.state_dict(), strict=True)
        assert not missing.unexpected_keys
        return own, theirs

    return make


def close(first, second):
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_logits_equal_transformers(pair, shape):
    own, theirs = pair(**SHAPES[shape])
    close(own(IDS).logits, theirs(IDS).logits)


def test_gradients_equal_transformers(pair):
    own, theirs = pair(tie_word_embeddings=True)
    for model in (own, theirs):
        model(IDS).logits.log_softmax(-1)[..., 3].sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("left", [True, False])
@torch.no_grad()
def test_a_padded_row_equals_the_row_alone(pair, left):
    own, theirs = pair(rope_parameters=LLAMA3)
    mask = torch.ones_like(IDS)
    real = slice(2, None) if left else slice(None, -2)
    mask[1] = 0
    mask[1, real] = 1
    alone = own(IDS[1:, real]).logits[0]
    close(own(IDS, attention_mask=mask).logits[1, real], alone)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    close(theirs(IDS, attention_mask=mask, position_ids=positions).logits[1, real], alone)
    assert own(IDS, attention_mask=mask).logits.isfinite().all()
    assert own(IDS, attention_mask=torch.zeros_like(IDS)).logits.isfinite().all()


@torch.no_grad()
def test_a_right_padded_row_needs_no_mask(small_llama):
    own = small_llama()
    close(own(IDS).logits[:, :4], own(IDS[:, :4]).logits)


FAMILY = {
    "mistral": {"head_dim": 6},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 6},
}


@pytest.mark.parametrize("kind", FAMILY)
def test_the_familys_other_members_equal_transformers(small_config, kind):
    """With biases and norms that do something: made at random, they would be 0 and 1."""
    import transformers

    raw = {k: v for k, v in small_config.items() if k not in ("attention_bias", "mlp_bias", "model_type", "head_dim")}
    config = transformers.AutoConfig.for_model(kind, **raw | FAMILY[kind])
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert unsupported_reason(config.to_dict()) is None
    own = Llama(LlamaConfig.from_dict(config.to_dict()))
    own.load_state_dict(theirs.state_dict(), strict=True)
    for model in (own, theirs):
        model(IDS).logits.log_softmax(-1)[..., 3].sum().backward()
    close(own(IDS).logits, theirs(IDS).logits)
    expected = dict(theirs.named_parameters())
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[3, 4], [2, 2, 1, 2], [7]])
def test_texts_end_to_end_equal_each_alone(small_llama, lengths):
    own = small_llama(num_key_value_heads=2)
    packed = own(IDS[:1], texts=[(length,) for length in lengths]).logits[0]
    for text, found in zip(IDS[0].split(lengths), packed.split(lengths), strict=True):
        close(found, own(text[None]).logits[0])


@torch.no_grad()
@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_half_precision_attention_by_matmul_equals_the_fused_kernel(num_kv_heads):
    """Both within bfloat16's rounding of the exact values, grouped heads included."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 9, 8), (2, num_kv_heads, 9, 8), (2, num_kv_heads, 9, 8)]
    q, k, v = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    found = attention.attend(q, k, v, None, is_causal=True).double()
    exact = attention.attend(q.double(), k.double(), v.double(), None, is_causal=True)
    assert ((found - exact).norm() / exact.norm()).item() <= 2**-7


@torch.no_grad()
def test_layers_computed_again_give_the_same_gradient(small_llama):
    gradients = {}
    for again in (False, True):
        model = small_llama()
        if again:
            model.gradient_checkpointing_enable()
        with torch.enable_grad():
            model(IDS).logits.square().sum().backward()
        gradients[again] = [parameter.grad for parameter in model.parameters()]
    for plain, found in zip(gradients[False], gradients[True], strict=True):
        assert torch.equal(plain, found)


@pytest.mark.parametrize("capacity", [0, 3, 100])
@pytest.mark.parametrize("prefill", [1, 4])
@torch.no_grad()
def test_a_cache_filled_step_by_step_equals_the_whole(small_llama, capacity, prefill):
    own, cache = small_llama(rope_parameters=LLAMA3), KVCache(capacity)
    parts = [own(IDS[:, :prefill], past_key_values=cache).logits]
    parts += [own(IDS[:, i : i + 1], past_key_values=cache).logits for i in range(prefill, 6)]
    assert (cache.get_seq_length(), cache.num_rows) == (6, 2)
    close(torch.cat(parts, 1), own(IDS[:, :6]).logits)


@torch.no_grad()
def test_a_cache_continues_with_several_tokens_at_once(small_llama):
    own, cache = small_llama(), KVCache()
    parts = [own(IDS[:, :3], past_key_values=cache).logits, own(IDS[:, 3:], past_key_values=cache).logits]
    close(torch.cat(parts, 1), own(IDS).logits)


@torch.no_grad()
def test_a_left_padded_cache_equals_the_rows_alone(small_llama):
    own, cache = small_llama(), KVCache()
    mask = torch.ones_like(IDS)
    mask[1, :2] = 0
    parts = [own(IDS[:, :4], attention_mask=mask[:, :4], past_key_values=cache).logits]
    parts += [own(IDS[:, i : i + 1], attention_mask=mask[:, : i + 1], past_key_values=cache).logits for i in (4, 5, 6)]
    close(torch.cat(parts, 1)[1, 2:], own(IDS[1:, 2:]).logits[0])


@torch.no_grad()
def test_cached_rows_are_repeated_for_a_group_and_dropped_when_finished(small_llama):
    own, cache = small_llama(), KVCache(8)
    own(IDS[:, :5], past_key_values=cache)
    cache.repeat_rows(2)
    assert cache.num_rows == 4
    cache.select_rows(torch.tensor([1, 2]))  # one of each
    close(own(IDS[:, 5:6], past_key_values=cache).logits[:, 0], own(IDS[:, :6]).logits[:, -1])


@torch.no_grad()
def test_a_row_may_be_longer_than_the_rotary_table(small_llama):
    own = small_llama()
    own(IDS)
    long = torch.arange(150)[None] % 17
    fresh = small_llama()
    close(own(long).logits, fresh(long).logits)


def test_tables_made_while_sampling_serve_training(small_llama):
    own = small_llama()
    with torch.inference_mode():
        own(IDS)
    own(IDS).logits.sum().backward()
    assert own.model.norm.weight.grad is not None


def test_the_head_is_left_to_the_loss_where_it_asks(small_llama):
    own = small_llama()
    output = own(IDS, project=False)
    assert output.logits is None
    close(output.hidden_states @ own.output_weight.T, own(IDS).logits)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
@torch.no_grad()
def test_head_inputs_give_the_models_own_logits(pair, architecture):
    """Linear heads apart; soft-capped logits as they are; left padding does not shift absolute positions."""
    import transformers

    tiny = {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    if architecture == "llama":
        model = pair()[1]
    elif architecture == "gpt2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=17, n_embd=16, n_layer=2, n_head=2))
    else:
        config = transformers.Gemma2Config(**tiny, intermediate_size=16, num_key_value_heads=1, head_dim=8)
        model = transformers.Gemma2ForCausalLM(config)
    model.eval()
    found = forward_to_head(model, IDS)
    logits = found.hidden if found.weight is None else found.hidden @ found.weight.T
    close(logits, model(IDS).logits)
    mask = torch.ones_like(IDS)
    mask[1, :2] = 0
    padded = forward_to_head(model, IDS, mask)
    logits = padded.hidden if padded.weight is None else padded.hidden @ padded.weight.T
    close(logits[1, 2:], model(IDS[1:, 2:]).logits[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"model_type": "gemma"}, "model_type is 'gemma'"),
        ({"model_type": "mistral", "sliding_window": 4}, "attention is limited to a sliding window"),
        ({"model_type": "mistral", "sliding_window": 1 << 20}, None),
        ({"model_type": "qwen2", "use_sliding_window": True}, "attention is limited to a sliding window"),
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4}, None),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "attention is limited to a sliding window"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "rope_type is 'dynamic'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout is not 0"),
        ({"quantization_config": {"bits": 4}}, "the weights are quantised"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
    ],
)
def test_what_our_forward_cannot_run_is_named(small_config, changes, reason):
    assert unsupported_reason(small_config | changes) == reason


def test_a_tied_head_stays_tied_under_dtype_and_copy(small_llama):
    import copy

    for model in (small_llama().to(torch.float64), copy.deepcopy(small_llama())):
        assert isinstance(model, Llama)
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_config_is_kept_as_it_was_read(small_config):
    config = LlamaConfig.from_dict(small_config | {"something": 1})
    assert config.to_dict() == small_config | {"something": 1}
    assert config.get("something") == 1


@torch.no_grad()
@pytest.mark.parametrize("texts", [[(2, 3, 2)], [(1, 2, 1, 3)], [(1, 1, 1), (1, 1, 1), (1,)], [(2, 1), (1, 2, 1)]])
def test_each_branch_sees_its_stem_and_itself(small_llama, texts):
    """A stem computed once for its branches gives what each gives behind a stem of its own."""
    own = small_llama(num_key_value_heads=2)
    found = own(IDS[:1], texts=texts).logits[0]
    start = 0
    for stem, *branches in texts:
        end = start + stem
        for branch in branches:
            alone = own(torch.cat((IDS[:1, start : start + stem], IDS[:1, end : end + branch]), 1)).logits[0, stem:]
            close(found[end : end + branch], alone)
            end += branch
        start = end


def test_positions_of_branches_go_on_from_their_stem():
    assert attention.positions_of([(2, 3, 1), (2,)]).tolist() == [0, 1, 2, 3, 4, 2, 0, 1]
