"""A field of a model folder's files deleted, giant or of another type: it loads right, or is refused in one line."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from workbench.errors import WorkbenchError
from workbench.models.adapters import add_lora
from workbench.models.folder import model_fingerprint
from workbench.models.load import load_model, save_model
from workbench.models.settings import LoraSettings
from workbench.models.tokenizer import Tokenizer

GONE = object()
VALUES = (GONE, None, "text", 10**400, 10**9, -1, 2.5, [], [1], {}, True, float("nan"))
IDS = torch.tensor([[3, 5, 2, 7]])


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copied")


def each_change(path, names=None):
    """Writes the file with one of its fields changed, one after the other; puts it back at the end."""
    text = path.read_text()
    raw = json.loads(text)
    for name in names or raw:
        for value in VALUES:
            changed = {key: item for key, item in raw.items() if key != name}
            path.write_text(json.dumps(changed if value is GONE else changed | {name: value}))
            yield name, value
    path.write_text(text)


def refused(use):
    """Whether it was refused, in one line."""
    try:
        use()
    except WorkbenchError as error:
        told = str(error)
    else:
        return False
    assert "\n" not in told
    return True


def logits(folder):
    model_fingerprint(folder)
    with torch.no_grad():
        return load_model(folder).eval()(IDS).logits


@pytest.mark.slow
def test_a_changed_configuration_gives_the_numbers_of_transformers_or_is_refused(copied):
    import transformers

    names = ("vocab_size", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "head_dim")
    found = 0
    for name, value in each_change(copied / "config.json", names):
        if not refused(lambda: logits(copied)):
            theirs = transformers.AutoModelForCausalLM.from_pretrained(copied, dtype=torch.float32)
            with torch.no_grad():
                ours = logits(copied)
                assert torch.allclose(theirs.eval()(IDS).logits, ours, rtol=0, atol=1e-5), (name, value)
            found += 1
    assert found


@pytest.mark.slow
def test_a_changed_adapter_configuration_is_refused_or_loads(copied, tmp_path):
    model = load_model(copied)
    add_lora(model, LoraSettings(rank=2, save="adapter", targets=["q_proj"]), seed=0)
    save_model(model, tmp_path / "adapter", copied)
    answers = [refused(lambda: load_model(tmp_path / "adapter"))
               for _ in each_change(tmp_path / "adapter" / "adapter_config.json")]  # fmt: skip
    assert any(answers)
    assert not all(answers)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_bias", True), ("layer_replication", [[0, 1], [0, 1]]), ("bias", "all"), ("trainable_token_indices", [1]),
        ("init_lora_weights", "pissa"), ("alora_invocation_tokens", [1]), ("rank_pattern", {"(a+)+$": 2}), ("new", 1),
        ("target_parameters", ["x"]), ("r", 10**9), ("use_qalora", True),
    ],
)  # fmt: skip
def test_what_of_an_adapter_cannot_be_merged_is_refused_by_name(name, value, copied, tmp_path):
    model = load_model(copied)
    add_lora(model, LoraSettings(rank=2, save="adapter", targets=["q_proj"]), seed=0)
    save_model(model, tmp_path / "adapter", copied)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(WorkbenchError, match="a rank of" if name == "r" else name):
        load_model(tmp_path / "adapter")


def test_a_changed_tokenizer_configuration_is_refused_or_loads(copied):
    for _ in each_change(copied / "tokenizer_config.json"):
        refused(lambda: Tokenizer.load(copied).encode("a1"))


def test_a_damaged_template_of_special_tokens_and_a_giant_id_are_refused(copied):
    path = copied / "tokenizer.json"
    raw = json.loads(path.read_text())
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": [],
                "special_tokens": {}}  # fmt: skip
    path.write_text(json.dumps(raw | {"post_processor": template}))
    with pytest.raises(WorkbenchError, match="post_processor adds '<s>', which its special_tokens lack"):
        Tokenizer.load(copied)
    raw["model"]["vocab"]["a"] = 10**9
    path.write_text(json.dumps(raw))
    with pytest.raises(WorkbenchError, match="an id of 1,000,000,000 in a vocabulary of 98"):
        Tokenizer.load(copied)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_what_is_no_file_in_the_place_of_one_is_refused_at_once(name, kind, copied):
    (copied / name).unlink()
    if kind == "FIFO":
        os.mkfifo(copied / name)
    elif kind == "folder":
        (copied / name).mkdir()
    else:
        (copied / name).symlink_to("/dev/zero")
    with pytest.raises(WorkbenchError, match=f"found a {kind}, allowed a regular file"):
        model_fingerprint(copied)
    assert name.startswith("token") or refused(lambda: load_model(copied))


def test_a_whole_model_beside_an_adapter_is_refused(copied):
    # transformers would load the adapter and the base that it names, and not the weights of the folder.
    (copied / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "other"}))
    (copied / "adapter_model.safetensors").write_bytes((copied / "model.safetensors").read_bytes())
    with pytest.raises(WorkbenchError, match="a whole model, and an adapter of another"):
        load_model(copied)
