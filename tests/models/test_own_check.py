"""What our own Llama is held against when a folder is loaded: transformers' class of that very folder."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

from workbench.errors import DataError
from workbench.models import llama, llama_config, llama_decoder, own_check, weights
from workbench.models.llama import Llama
from workbench.models.load import load_model
from workbench.models.presets import make_preset
from workbench.models.probe import OWN, verdict_of

IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4]])
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    "llama3 rotation": {"rope_parameters": LLAMA3},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3": {"model_type": "qwen3", "head_dim": 8},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "workbench" / "verdicts"


@pytest.fixture
def folder(tmp_path):
    """The preset tiny, as a folder."""
    make_preset("tiny", tmp_path / "model", 0)
    return tmp_path / "model"


@pytest.fixture
def compared(monkeypatch):
    """How often our own forward was tried."""
    tried, difference = [], own_check._difference
    monkeypatch.setattr(own_check, "_difference", lambda *given: tried.append(1) or difference(*given))
    return tried


def save_family(tiny, folder, changes):
    import transformers

    raw = json.loads((tiny / "config.json").read_text()) | changes
    config = transformers.AutoConfig.for_model(**raw)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tiny / name, folder / name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_that_our_own_forward_takes_gives_the_numbers_of_transformers_every_way(folder, tmp_path, family):
    save_family(folder, tmp_path / "saved", FAMILIES[family])
    for dtype in ("float32", "bfloat16"):
        assert isinstance(load_model(tmp_path / "saved", dtype=dtype), Llama)


def wrong_norm(monkeypatch):
    right = llama.RMSNorm.__init__
    monkeypatch.setattr(llama.RMSNorm, "__init__", lambda self, size, eps: right(self, size, 1.1 * eps))


def wrong_angle(monkeypatch):
    right = llama.rope_frequencies
    monkeypatch.setattr(llama, "rope_frequencies", lambda *given: (1 + 2e-5) * right(*given))


def wrong_gate(monkeypatch):
    def forward(self, x):
        return self.down_proj(torch.nn.functional.silu(self.up_proj(x)) * self.gate_proj(x))

    monkeypatch.setattr(llama.MLP, "forward", forward)


def wrong_packing(monkeypatch):
    """Texts of one row see one another."""
    monkeypatch.setattr(llama, "attend_texts", lambda q, k, v, texts: llama.attend(q, k, v, None, is_causal=True))


def wrong_mask(monkeypatch):
    """Padding on the left is attended to."""
    right = llama._allowed
    monkeypatch.setattr(llama, "_allowed", lambda mask, *given: right(torch.ones_like(mask), *given))


def wrong_decoder(monkeypatch):
    right = llama_decoder.LlamaDecoder._to_rows
    monkeypatch.setattr(llama_decoder.LlamaDecoder, "_to_rows", lambda self, x, heads: 1.01 * right(self, x, heads))


def wrong_reading(monkeypatch):
    def read(model, folder):
        weights.load_weights(model, folder)
        model.model.norm.weight.data[3] += 1e-6

    monkeypatch.setattr(own_check, "load_weights", read)


FAULTS = {
    wrong_norm: "gives other numbers (one text)",
    wrong_angle: "gives other numbers (far positions)",
    wrong_gate: "gives other numbers (one text)",
    wrong_packing: "gives other numbers (rows padded on the right)",
    wrong_mask: "gives other numbers (a mask)",
    wrong_decoder: "gives other numbers (sampling)",
    wrong_reading: "reads a weight otherwise (model.norm.weight)",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_where_our_own_forward_is_wrong_transformers_runs_the_model_and_that_is_said(folder, monkeypatch, fault):
    with monkeypatch.context() as patched:
        fault(patched)
        model = load_model(folder).eval()
        assert isinstance(load_model(folder), type(model))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert FAULTS[fault] in verdict_of(model).slower_ways()["forward"]


def test_a_window_that_our_own_forward_overlooks_is_found(folder, tmp_path, monkeypatch):
    save_family(folder, tmp_path / "saved", {"model_type": "mistral", "sliding_window": 2048})
    monkeypatch.setattr(llama_config, "_slides", lambda raw: False)
    model = load_model(tmp_path / "saved")
    assert "limits attention to a window" in verdict_of(model).slower_ways()["forward"]


def test_a_folder_is_tried_once_whatever_its_weights_and_again_where_the_finding_is_damaged(
    folder, tmp_path, own_cache, compared
):
    make_preset("tiny", tmp_path / "other", 1)
    expected = dict(load_model(folder).named_parameters())
    load_model(tmp_path / "other")
    assert len(compared) == 1
    [file] = own_cache.iterdir()
    whole = file.read_text()
    for damaged in ("", "[]", whole[:20], whole.replace('""', '"of another"')):
        file.write_text(damaged)
        model = load_model(folder)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.named_parameters())
        assert verdict_of(model) == OWN
    assert len(compared) == 5
    assert file.read_text() == whole


def test_a_folder_is_tried_again_under_another_configuration_type_or_code(folder, compared, monkeypatch):
    load_model(folder)
    load_model(folder, dtype="bfloat16")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 1e-5}))
    load_model(folder)
    monkeypatch.setattr(own_check, "_own_code", lambda: "another")
    load_model(folder)
    assert len(compared) == 4


def test_a_home_that_cannot_be_written_to_means_another_try(folder, own_cache, compared):
    own_cache.parent.parent.mkdir()
    own_cache.parent.write_text("a file in its place")
    for _ in range(2):
        assert isinstance(load_model(folder), Llama)
    assert len(compared) == 2


def test_a_try_leaves_weights_and_random_numbers_as_a_kept_finding_does(folder):
    torch.manual_seed(3)
    tried = load_model(folder)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    kept = load_model(folder)
    assert torch.equal(torch.get_rng_state(), state)
    assert tried.training == kept.training
    for (name, one), (_, other) in zip(tried.named_parameters(), kept.named_parameters(), strict=True):
        assert torch.equal(one, other), name
        assert one.requires_grad == other.requires_grad
    (folder / "model.safetensors").write_bytes(bytes(8))
    assert torch.equal(tried(IDS).logits, kept(IDS).logits), "no page of the file is held"


def test_a_folder_that_changes_while_it_is_tried_keeps_no_finding(folder, own_cache, monkeypatch):
    def change(*given):
        found = compare(*given)
        path = folder / "config.json"
        path.write_text(path.read_text() + "\n")
        return found

    compare = own_check.compare
    monkeypatch.setattr(own_check, "compare", change)
    with pytest.raises(DataError, match=r"config.json was changed or replaced while it was in use"):
        load_model(folder)
    assert not own_cache.exists()


def test_transformers_is_not_imported_at_the_second_load(folder, monkeypatch):
    load_model(folder)
    monkeypatch.setitem(sys.modules, "transformers", None)  # whoever imports it fails
    assert isinstance(load_model(folder), Llama)
