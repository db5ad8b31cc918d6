"""4-bit frozen weights: the layers compute with the dequantised weights, in every mode, and adapters on them train."""

from __future__ import annotations

import shutil

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.adapters import adapters_off, add_lora
from workbench.models.flops import ModelFlops
from workbench.models.load import count_parameters, load_model, save_model
from workbench.models.quantised import plain_weight
from workbench.models.settings import LoraSettings
from workbench.trainer import get_trainer_class

# bitsandbytes and peft, on being loaded
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
LORA = LoraSettings(rank=2, alpha=4.0, quantise="nf4")
IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4], [9, 8, 7, 6, 5, 4, 3]])


@pytest.fixture
def quantised(tiny_folder):
    pytest.importorskip("bitsandbytes")
    return load_model(tiny_folder, lora=LORA)


def test_without_bitsandbytes_it_is_refused_with_the_extra_to_install(tiny_folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"needs bitsandbytes: .*workbench\[quantise\]"):
        load_model(tiny_folder, lora=LORA)


def dequantised(model, folder, tmp_path):
    """The model with plain weights of the same values."""
    shutil.copytree(folder, tmp_path / "plain")
    save_model(model, tmp_path / "saved", tmp_path / "plain")
    return load_model(tmp_path / "saved")


@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_are_those_of_the_dequantised_weights(training, quantised, tiny_folder, tmp_path):
    plain = dequantised(quantised, tiny_folder, tmp_path).train(training)
    model = quantised.train(training)
    grads = []
    for one in (plain, model):
        inputs = one.get_input_embeddings().weight
        inputs.grad = None
        logits = one(IDS).logits
        logits.square().sum().backward()
        grads.append((logits.detach(), inputs.grad.clone()))
    torch.testing.assert_close(grads[1][0], grads[0][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(grads[1][1], grads[0][1], rtol=1e-4, atol=1e-4)


def test_every_linear_layer_but_the_head_is_held_in_half_a_byte_a_weight(quantised, tiny_folder):
    plain = load_model(tiny_folder)
    for name, layer in plain.named_modules():
        if isinstance(layer, torch.nn.Linear):
            other = quantised.get_submodule(name)
            packed = name != "lm_head"
            assert other.weight.dtype == (torch.uint8 if packed else torch.float32), name
            assert other.weight.numel() * (2 if packed else 1) == layer.weight.numel()
            assert plain_weight(other).shape == layer.weight.shape
    assert sum(count_parameters(quantised)) == sum(count_parameters(plain))
    add_lora(quantised, LORA, seed=0)
    add_lora(plain, LORA, seed=0)
    assert ModelFlops.of_model(quantised) == ModelFlops.of_model(plain)


@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_adapters_on_it_train_and_merge_into_the_dequantised_weights(
    trainer, quantised, tiny_folder, tmp_path, collate, make_rows
):
    add_lora(quantised, LORA, seed=0)
    before = quantised.eval()(IDS).logits.detach()
    frozen = {name: p.detach().clone() for name, p in quantised.named_parameters() if not p.requires_grad}
    cls = get_trainer_class(trainer)
    settings = cls.settings_class(steps=3, learning_rate=0.02, precision="float32", device="cpu")
    cls(quantised, None, [collate(trainer, make_rows(4))], settings=settings).train()
    with torch.no_grad():
        after = quantised.eval()(IDS).logits
        with adapters_off(quantised):
            assert torch.equal(quantised(IDS).logits, before)
    assert (after - before).abs().max() > 1e-2
    assert all(torch.equal(frozen[n], p) for n, p in quantised.named_parameters() if n in frozen)
    save_model(quantised, tmp_path / "out", tiny_folder)
    merged = load_model(tmp_path / "out").eval()
    assert merged.lm_head.weight.dtype == torch.float32
    torch.testing.assert_close(merged(IDS).logits, after, rtol=0, atol=1e-5)


def test_the_same_folder_is_quantised_to_the_same_numbers(quantised, tiny_folder):
    again = load_model(tiny_folder, lora=LORA)
    assert torch.equal(again.eval()(IDS).logits, quantised.eval()(IDS).logits)


@pytest.mark.gpu
def test_on_a_gpu_it_computes_with_the_same_dequantised_weights(tiny_folder):
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_cpu, on_gpu = (load_model(tiny_folder, device=device, lora=LORA).eval() for device in ("cpu", "cuda"))
    torch.testing.assert_close(on_gpu(IDS.cuda()).logits.cpu(), on_cpu(IDS).logits, rtol=0, atol=1e-3)
