"""Our own forward runs a config.json as transformers reads it, whatever it leaves out, or leaves it to transformers."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.models.llama import Llama
from workbench.models.llama_config import FAMILY, LlamaConfig, unsupported_reason, with_defaults

IDS = torch.arange(24)[None] * 7 % 17
SHAPE = {"vocab_size": 17, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
ROPE = st.fixed_dictionaries(
    {},
    optional={
        "rope_type": st.sampled_from(["default", "linear", "llama3", "dynamic", "yarn"]),
        "type": st.sampled_from(["linear", "llama3"]),
        "rope_theta": st.sampled_from([10_000.0, 500]),
        "factor": st.sampled_from([1.0, 2.0, 8]),
        "low_freq_factor": st.sampled_from([1.0, 2.0]),
        "high_freq_factor": st.sampled_from([2.0, 4.0]),
        "original_max_position_embeddings": st.sampled_from([8, 16]),
    },
)
CONFIGS = st.fixed_dictionaries(
    {"model_type": st.sampled_from(FAMILY), **{name: st.just(value) for name, value in SHAPE.items()}},
    optional={
        "num_key_value_heads": st.sampled_from([1, 2, 4, None]),
        "head_dim": st.sampled_from([4, 6, None]),
        "max_position_embeddings": st.sampled_from([24, 32]),
        "rms_norm_eps": st.sampled_from([1e-6, 1e-5]),
        "attention_bias": st.booleans(),
        "mlp_bias": st.booleans(),
        "tie_word_embeddings": st.booleans(),
        "sliding_window": st.sampled_from([None, 8, 24, 32, 64]),
        "use_sliding_window": st.booleans(),
        "max_window_layers": st.sampled_from([0, 1]),
        "layer_types": st.sampled_from([None, ["full_attention"] * 2, ["full_attention", "sliding_attention"]]),
        "rope_theta": st.sampled_from([10_000.0, 500]),
        "rope_scaling": st.none() | ROPE,
        "rope_parameters": st.none() | ROPE,
        "original_max_position_embeddings": st.just(8),
    },
)


def own_and_theirs(raw):
    import transformers

    torch.manual_seed(0)
    own = Llama(LlamaConfig.from_dict(raw))
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[raw["model_type"]](**raw))
    for parameter in own.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    theirs.load_state_dict(own.state_dict(), strict=True)
    return own.eval(), theirs.eval()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(raw=CONFIGS)
def test_a_configuration_is_run_as_transformers_runs_it_or_left_to_it(raw):
    if unsupported_reason(raw) is not None:
        return
    own, theirs = own_and_theirs(raw)
    with torch.no_grad():
        torch.testing.assert_close(own(IDS).logits, theirs(IDS).logits, rtol=0, atol=2e-5)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}},
        {"rope_parameters": LLAMA3, "max_position_embeddings": 32},
        {"rope_scaling": LLAMA3, "rope_theta": 500.0},
        {"model_type": "qwen2", "num_key_value_heads": None, "attention_bias": True},
        {"model_type": "mistral", "sliding_window": None, "num_key_value_heads": 4, "mlp_bias": True},
        {"model_type": "qwen3", "num_key_value_heads": 2},
    ],
)
def test_what_our_forward_takes_it_runs_as_transformers_does(changes):
    raw = {"model_type": "llama", "max_position_embeddings": 32, **SHAPE, **changes}
    assert unsupported_reason(raw) is None
    own, theirs = own_and_theirs(raw)
    with torch.no_grad():
        torch.testing.assert_close(own(IDS).logits, theirs(IDS).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mistral", "num_key_value_heads": 4}, "attention is limited to a sliding window"),
        ({"model_type": "mistral", "num_key_value_heads": 4, "sliding_window": 64, "max_position_embeddings": 64},
         "attention is limited to a sliding window"),
        ({"vocab_size": 10**400}, "vocab_size is 10000"),
        ({"vocab_size": "98"}, "vocab_size is 98"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope: low_freq_factor is None"),
        ({"rope_parameters": 3}, "its rotary settings are no mapping"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings is None"),
        ({"per_layer_config": {"0": {}}}, r"its layers differ \(per_layer_config\)"),
    ],
)  # fmt: skip
def test_what_is_not_as_transformers_documents_it_is_left_to_it(changes, reason):
    found = unsupported_reason({"model_type": "llama", **SHAPE, **changes})
    assert found is not None
    assert re.match(reason, found)


@pytest.mark.parametrize("kind", FAMILY)
def test_what_a_file_leaves_out_is_what_transformers_class_has(kind):
    import transformers

    theirs = transformers.CONFIG_MAPPING[kind]
    for name, value in with_defaults({"model_type": kind}).items():
        field = theirs.__dataclass_fields__.get(name)
        if field is not None and name != "model_type":
            assert value == field.default, name
