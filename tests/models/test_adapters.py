"""LoRA: starts as the base, off is the base, merged is the whole."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.adapters import adapters_off, add_lora, has_adapter, merged_tensors
from workbench.models.settings import LoraSettings

IDS = torch.tensor([[3, 5, 2, 7], [1, 9, 4, 4]])


@pytest.fixture
def adapted(small_llama):
    def make(**settings):
        model = small_llama()
        add_lora(model, LoraSettings(**{"rank": 2, "alpha": 4.0} | settings), seed=0)
        return model.eval()

    return make


def move(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@torch.no_grad()
def test_a_new_adapter_changes_no_output(adapted, small_llama):
    assert torch.equal(adapted()(IDS).logits, small_llama()(IDS).logits)


@torch.no_grad()
def test_switched_off_it_is_the_base_and_then_on_again(adapted, small_llama):
    model = adapted()
    move(model)
    moved = model(IDS).logits
    with adapters_off(model):
        assert torch.equal(model(IDS).logits, small_llama()(IDS).logits)
    assert torch.equal(model(IDS).logits, moved)
    assert not torch.equal(moved, small_llama()(IDS).logits)


def test_switching_off_survives_an_error_and_leaves_gradients_alone(adapted):
    model = adapted()
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    with pytest.raises(RuntimeError, match="inside"), adapters_off(model):
        raise RuntimeError("inside")
    move(model)
    with torch.no_grad(), adapters_off(model):
        base = model(IDS).logits
    assert not torch.equal(model(IDS).logits, base)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trainable


def test_only_the_adapter_is_trained(adapted):
    model = adapted()
    assert has_adapter(model)
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())
    # rank 2 on q and o (16 + 16), k and v (16 + 8), gate, up and down (16 + 24), in two layers
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * 2 * (2 * 32 + 2 * 24 + 3 * 40)


@torch.no_grad()
def test_merged_weights_give_the_adapted_logits(adapted, small_llama):
    model, plain = adapted(), small_llama()
    move(model)
    tensors = merged_tensors(model)
    assert tensors.keys() == dict(plain.named_parameters()).keys()
    for name, parameter in plain.named_parameters():
        parameter.copy_(tensors[name])
    torch.testing.assert_close(plain(IDS).logits, model(IDS).logits, rtol=0, atol=2e-4)


def test_the_update_is_scaled_by_alpha_over_rank(adapted):
    model = adapted(rank=2, alpha=6.0)
    move(model)
    layer = model.model.layers[0].self_attn.q_proj
    expected = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(merged_tensors(model)[name], layer.base_layer.weight + expected)


def test_its_first_weights_depend_on_the_seed_alone(small_llama):
    states = []
    for noise in (0, 1):
        model = small_llama()
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        add_lora(model, LoraSettings(rank=2), seed=5)
        assert torch.equal(torch.get_rng_state(), before)
        states.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*states)


def test_targets_are_linear_layers_by_name(adapted):
    model = adapted(targets=["q_proj", "layers.1.mlp.up_proj"])
    layers = {name.split(".lora_")[0] for name, _ in model.named_parameters() if "lora_" in name}
    assert layers == {
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    }


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens", "norm"])
def test_a_target_that_cannot_be_adapted_is_refused_with_those_that_can(adapted, target):
    with pytest.raises(
        ModelError, match=rf"{target} is no linear layer that can be adapted; there are down_proj, gate"
    ):
        adapted(targets=["v_proj", target])


def test_an_adapter_alone_would_not_be_the_model_that_was_trained_in_4_bits():
    with pytest.raises(ValueError, match="use save: merged"):
        LoraSettings(quantise="nf4", save="adapter")
