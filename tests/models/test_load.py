"""Folders in and out: other tools load what we save, and what cannot be used is refused in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.adapters import add_lora
from workbench.models.folder import model_fingerprint
from workbench.models.load import count_parameters, load_model, save_model
from workbench.models.presets import make_preset
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import LoraSettings, ModelSettings

IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4]])


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copied")


def by_transformers(folder):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.mark.parametrize("preset", ["tiny", "mini", "bench"])
@torch.no_grad()
def test_a_preset_loads_in_transformers_with_equal_logits(preset, tmp_path):
    make_preset(preset, tmp_path / preset, seed=3)
    theirs, tokenizer = by_transformers(tmp_path / preset)
    torch.testing.assert_close(load_model(tmp_path / preset)(IDS).logits, theirs(IDS).logits, rtol=0, atol=1e-5)
    assert tokenizer.decode(tokenizer("ab 12")["input_ids"]) == "ab 12"
    assert (tokenizer.eos_token_id, theirs.generation_config.eos_token_id) == (1, 1)


def test_a_presets_weights_depend_on_its_seed_alone(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_preset("tiny", tmp_path / name, seed)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    prints = [model_fingerprint(tmp_path / name) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


@torch.no_grad()
def test_a_trained_model_loads_in_transformers(copied, tmp_path):
    model = load_model(copied)
    for parameter in model.parameters():
        parameter.mul_(1.5)
    save_model(model, tmp_path / "out", source=copied)
    expected = model(IDS).logits
    theirs, tokenizer = by_transformers(tmp_path / "out")
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(load_model(tmp_path / "out")(IDS).logits, expected, rtol=0, atol=0)
    assert tokenizer.eos_token == "<eos>"
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's use of transformers
@torch.no_grad()
def test_merged_adapters_load_in_transformers_and_the_adapter_in_peft(copied, tmp_path):
    import peft

    model = load_model(copied)
    add_lora(model, LoraSettings(rank=4, alpha=8.0), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.1)
    expected = model(IDS).logits
    save_model(model, tmp_path / "out", source=copied)
    theirs, _ = by_transformers(tmp_path / "out")
    torch.testing.assert_close(theirs(IDS).logits, expected, rtol=0, atol=1e-5)
    base, _ = by_transformers(copied)
    assert (base(IDS).logits - expected).abs().max() > 1e-3
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "out" / "adapter")
    torch.testing.assert_close(adapted(IDS).logits, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_model_that_only_transformers_can_run_is_loaded_trained_and_saved(tmp_path, tiny_folder):
    import transformers

    config = transformers.GemmaConfig(
        vocab_size=98, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    transformers.GemmaForCausalLM(config).save_pretrained(tmp_path / "in")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny_folder / name, tmp_path / "in" / name)
    model = load_model(tmp_path / "in")
    assert type(model).__name__ == "GemmaForCausalLM"
    for parameter in model.parameters():
        parameter.mul_(1.5)
    save_model(model, tmp_path / "out", source=tmp_path / "in")
    torch.testing.assert_close(load_model(tmp_path / "out")(IDS).logits, model(IDS).logits, rtol=0, atol=1e-6)


def test_dtype_is_as_asked(copied):
    assert load_model(copied, dtype="bfloat16").lm_head.weight.dtype == torch.bfloat16


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json; a model is a Hugging Face folder"),
        (lambda f: (f / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda f: (f / "config.json").write_text('{"model_type": "llama"}'), "weights are missing, such as lm_head"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json: a JSON object is needed, found list"),
        (lambda f: change_config(f, is_causal=False), "is_causal is off in config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights; save it with model.save_pretrained"),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            "only pytorch_model.bin, a pickle, which is never loaded",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"torn"), "not readable as safetensors"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(copied, break_it, problem):
    break_it(copied)
    with pytest.raises(ModelError, match=problem):
        load_model(copied)


def change_weights(folder, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("model.norm.weight"), "1 weights are missing, such as model.norm.weight"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}),
            "has no place for 1 weights, such as model.layers.0.self_attn.q_proj.bias",
        ),
        (lambda t: t.update({"model.norm.weight": torch.zeros(3)}), r"has shape \(3,\); config.json asks for \(64,\)"),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused(copied, change, problem):
    change_weights(copied, change)
    with pytest.raises(ModelError, match=problem):
        load_model(copied)


def test_old_files_may_hold_rotary_tables_and_a_copy_of_the_tied_head(copied):
    before = load_model(copied).lm_head.weight.clone()
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8), "lm_head.weight": before.detach().clone()}
    change_weights(copied, lambda tensors: tensors.update(extra))
    assert torch.equal(load_model(copied).lm_head.weight, before)


def test_remote_code_is_never_run(copied):
    config = json.loads((copied / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"}}
    (copied / "config.json").write_text(json.dumps(config))
    (copied / "evil.py").write_text(f"open({str(copied / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"transformers cannot load it: .* code \(auto_map\) is never run"):
        load_model(copied)
    assert not (copied / "ran").exists()


def test_a_preset_is_made_once_under_the_cache(tmp_path):
    settings = ModelSettings(preset="tiny", seed=5)
    folder = resolve_model_folder(settings, tmp_path)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model_folder(settings, tmp_path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, f"{folder.name}.json"]


def test_two_processes_may_make_the_same_preset(tmp_path, in_processes):
    folders = in_processes(2, lambda rank: str(resolve_model_folder(ModelSettings(preset="tiny"), tmp_path)))
    assert folders[0] == folders[1]
    load_model(tmp_path / folders[0])
    assert len(list(tmp_path.iterdir())) == 2, "the model and its checksums"


def test_a_model_has_exactly_one_source():
    for settings in ({}, {"preset": "tiny", "path": "x"}):
        with pytest.raises(ValueError, match="exactly one of preset, path, name"):
            ModelSettings(**settings)


def test_parameters_are_counted_once(small_llama):
    model = small_llama()
    # embedding 17x16; a layer: q 16x16, k and v 16x8 each, o 16x16, three of 16x24, two norms; a last norm
    layer = 256 + 128 + 128 + 256 + 3 * 384 + 32
    assert count_parameters(model) == (17 * 16 + 2 * layer + 16, 0)
    model.model.norm.weight.requires_grad_(False)
    assert count_parameters(model)[1] == 16
