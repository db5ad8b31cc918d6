"""What a definition calls a model becomes a folder: conversions, adapters on a base, added tokens, each made once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from workbench.errors import ModelError
from workbench.models.adapters import add_lora
from workbench.models.chat_templates import KNOWN
from workbench.models.folder import settings_identity
from workbench.models.load import load_model, save_model
from workbench.models.presets import make_preset
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import LoraSettings, ModelSettings
from workbench.models.tokenizer import Tokenizer

IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4]])
PEFT_WARNING = "ignore:.*is_gradient_checkpointing:FutureWarning"


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "copied")


def train_adapter(model, **settings):
    add_lora(model, LoraSettings(**{"rank": 4, "alpha": 8.0} | settings), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return model.eval()


@pytest.fixture
def adapter(copied, tmp_path):
    """(folder of an adapter alone, the logits of the model it was saved from)."""
    model = train_adapter(load_model(copied), save="adapter", rank_stabilised=True)
    save_model(model, tmp_path / "adapter", copied)
    with torch.no_grad():
        return tmp_path / "adapter", model(IDS).logits


def logits(folder):
    with torch.no_grad():
        return load_model(folder).eval()(IDS).logits


def test_an_adapter_alone_loads_as_the_model_it_was_saved_from(adapter):
    folder, expected = adapter
    assert not (folder / "model.safetensors").exists()
    torch.testing.assert_close(logits(folder), expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_peft_loads_the_adapter_alone_and_merges_to_the_same_logits(adapter, copied):
    import peft
    import transformers

    folder, expected = adapter
    base = transformers.AutoModelForCausalLM.from_pretrained(copied, dtype=torch.float32, local_files_only=True)
    theirs = peft.PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs.merge_and_unload()(IDS).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["named by path and adapter", "named by the adapter alone"])
def test_a_model_is_given_as_an_adapter_on_its_base(kind, adapter, copied, tmp_path):
    folder, expected = adapter
    (folder / "base.json").unlink()  # as peft itself saves one
    settings = ModelSettings(path=str(folder))
    if kind == "named by path and adapter":
        settings = ModelSettings(path=str(copied), adapter=str(folder))
    resolved = resolve_model_folder(settings, tmp_path)
    torch.testing.assert_close(logits(resolved), expected, rtol=0, atol=1e-5)
    assert not (resolved / "model.safetensors").exists()
    assert Tokenizer.load(resolved).fingerprint == Tokenizer.load(copied).fingerprint


def test_an_adapter_trained_on_an_adapter_is_saved_and_loaded(adapter, tmp_path):
    folder, before = adapter
    model = train_adapter(load_model(folder), save="adapter", rank=2)
    with torch.no_grad():
        expected = model(IDS).logits
    save_model(model, tmp_path / "second", folder)
    torch.testing.assert_close(logits(tmp_path / "second"), expected, rtol=0, atol=1e-5)
    assert (expected - before).abs().max() > 1e-3


def test_an_adapter_is_given_a_chat_template(adapter, tmp_path):
    folder, expected = adapter
    for named in ({"path": str(folder)}, {"path": str(tmp_path / "copied"), "adapter": str(folder)}):
        settings = ModelSettings(**named, chat_template="zephyr")
        resolved = resolve_model_folder(settings, tmp_path / "cache")
        torch.testing.assert_close(logits(resolved), expected, rtol=0, atol=1e-5)
        assert Tokenizer.load(resolved).chat_template == KNOWN["zephyr"].text
        model = train_adapter(load_model(resolved), save="adapter", rank=2)
        save_model(model, tmp_path / "next", resolved)
        assert Tokenizer.load(tmp_path / "next").chat_template == KNOWN["zephyr"].text


def test_a_base_that_changed_or_went_is_refused(adapter, copied, tmp_path):
    folder, _ = adapter
    make_preset("tiny", tmp_path / "other", seed=5)
    shutil.copyfile(tmp_path / "other" / "model.safetensors", copied / "model.safetensors")
    with pytest.raises(ModelError, match="copied has changed since the adapter was trained"):
        load_model(folder)
    shutil.rmtree(copied)
    with pytest.raises(ModelError, match=r"no model folder here; name it: model: .path: base, adapter"):
        load_model(folder)


def test_a_chain_of_adapters_is_found_where_its_folders_were_moved_together(tiny_folder, tmp_path):
    runs, expected = tmp_path / "runs", {}
    shutil.copytree(tiny_folder, runs / "base" / "model")
    for seed, (name, start) in enumerate((("sft", "base"), ("dpo", "sft"))):
        source = runs / start / "model"
        model = train_adapter(load_model(source), save="adapter", rank=2 + seed)
        (runs / name).mkdir()
        save_model(model, runs / name / "model", source)
        expected[name] = logits(runs / name / "model")
    moved = runs.rename(tmp_path / "moved")
    for name, before in expected.items():
        assert torch.equal(logits(moved / name / "model"), before)
    # Another base in the old place is not taken for the one beside it; the right one is, wherever it lies.
    make_preset("tiny", runs / "sft" / "model", seed=7)
    assert torch.equal(logits(moved / "dpo" / "model"), expected["dpo"])
    moved.joinpath("dpo").rename(tmp_path / "dpo")
    with pytest.raises(ModelError, match="has changed since the adapter was trained"):
        load_model(tmp_path / "dpo" / "model")
    shutil.rmtree(runs)
    moved.rename(runs)
    assert torch.equal(logits(tmp_path / "dpo" / "model"), expected["dpo"])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_adapters_that_stand_on_one_another_in_a_circle_are_refused(length, adapter, tmp_path):
    source, _ = adapter
    folders = [tmp_path / f"circle{number}" for number in range(length)]
    for folder, base in zip(folders, [*folders[1:], folders[0]], strict=True):
        shutil.copytree(source, folder)
        (folder / "base.json").unlink()
        edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
    settings = ModelSettings(path=str(folders[0]))
    for use in (lambda: load_model(folders[0]), lambda: resolve_model_folder(settings, tmp_path),
                lambda: settings_identity(settings)):  # fmt: skip
        with pytest.raises(ModelError, match="an adapter whose base leads back to"):
            use()


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_a_chain_of_adapters_that_peft_saved_is_laid_over_its_base(copied, adapter, tmp_path):
    first, _ = adapter
    for name in ("base.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (first / name).unlink()
    second = shutil.copytree(first, tmp_path / "second")
    edit(second / "adapter_config.json", base_model_name_or_path=str(first))
    folder = resolve_model_folder(ModelSettings(path=str(second)), tmp_path)
    base, once, twice = (
        logits(f) for f in (copied, resolve_model_folder(ModelSettings(path=str(first)), tmp_path), folder)
    )
    assert (once - base).abs().max() > 1e-3
    assert (twice - once).abs().max() > 1e-3
    assert settings_identity(ModelSettings(path=str(second))) != settings_identity(ModelSettings(path=str(first)))


def test_an_adapter_of_another_shape_is_refused(adapter, tmp_path):
    folder, _ = adapter
    make_preset("mini", tmp_path / "mini", seed=0)
    resolved = resolve_model_folder(ModelSettings(path=str(tmp_path / "mini"), adapter=str(folder)), tmp_path)
    with pytest.raises(ModelError, match=r"not an adapter of this base: .*size mismatch") as error:
        load_model(resolved)
    assert "\n" not in str(error.value)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter; a peft folder holds adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"torn"), "not readable as safetensors"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "not readable as"),
        (lambda f: edit(f / "adapter_config.json", peft_type="IA3"), "only LoRA on a model's own layers"),
        (lambda f: edit(f / "adapter_config.json", modules_to_save=["lm_head"]), "modules_to_save .'lm_head'."),
        (lambda f: edit(f / "adapter_config.json", target_modules=["q_proj"]), "weights have no place, such as"),
        (lambda f: edit(f / "adapter_config.json", target_modules=["nothing"]), "not an adapter of this base"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(break_it, problem, adapter):
    folder, _ = adapter
    break_it(folder)
    with pytest.raises(ModelError, match=problem) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
def test_added_tokens_are_special_and_their_rows_are_the_mean(tied, tmp_path):
    import transformers

    make_preset("tiny" if tied else "bench", tmp_path / "in", seed=0)
    before = load_model(tmp_path / "in")
    settings = ModelSettings(path=str(tmp_path / "in"), add_tokens=["<think>", "</think>"])
    folder = resolve_model_folder(settings, tmp_path)
    assert resolve_model_folder(settings, tmp_path) == folder
    model, old, tokenizer = load_model(folder), before.get_input_embeddings().weight, Tokenizer.load(folder)
    ids = [tokenizer.token_id("<think>"), tokenizer.token_id("</think>")]
    assert ids == [98, 99]
    assert tokenizer.encode("a<think>b") == [*tokenizer.encode("a"), 98, *tokenizer.encode("b")]
    assert tokenizer.decode([98]) == ""
    rows = max(100, len(old))  # bench has 512 rows, of which 98 were used
    for table, was in ((model.get_input_embeddings(), old), (model.get_output_embeddings(), before.lm_head.weight)):
        assert table.weight.shape == (rows, old.shape[1])
        assert torch.equal(table.weight[:98], was[:98])
        torch.testing.assert_close(table.weight[98:100], was[:98].mean(0).expand(2, -1))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == rows
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert theirs("a<think>b", add_special_tokens=False)["input_ids"] == tokenizer.encode("a<think>b")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(IDS + 90).logits, model.eval()(IDS + 90).logits, rtol=0, atol=1e-5)


def test_a_token_without_a_row_is_refused_where_it_is_used_and_given_one_when_asked(copied, tmp_path):
    edit(copied / "config.json", vocab_size=97)
    from safetensors.torch import load_file, save_file

    tensors = load_file(copied / "model.safetensors")
    save_file({**tensors, "model.embed_tokens.weight": tensors["model.embed_tokens.weight"][:97].clone()},
              copied / "model.safetensors")  # fmt: skip
    tokenizer = Tokenizer.load(copied)
    last = tokenizer.token_text(97)
    assert tokenizer.encode("a")
    with pytest.raises(ModelError, match=r"\(id 97\), but the model has only 97 rows: .*model.add_tokens"):
        tokenizer.encode(f"a{last}")
    folder = resolve_model_folder(ModelSettings(path=str(copied), add_tokens=[last]), tmp_path)
    assert Tokenizer.load(folder).encode(f"a{last}")[-1] == 97
    assert len(load_model(folder).lm_head.weight) == 98


def test_what_is_added_counts_in_the_identity(copied, adapter):
    folder, _ = adapter
    plain = {"path": str(copied)}
    identities = [
        settings_identity(ModelSettings(**plain, **more))
        for more in ({}, {"add_tokens": ["<a>"]}, {"add_tokens": ["<b>"]}, {"adapter": str(folder)})
    ]
    assert len({json.dumps(identity) for identity in identities}) == 4


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda f: None, "no such file or folder"),
        (lambda f: f.write_text("x"), "a file that is no .gguf"),
        (lambda f: f.mkdir(), "no config.json"),
        (lambda f: (f.mkdir(), [(f / f"{n}.gguf").touch() for n in "ab"]), "2 GGUF files; name one of them: a.gguf"),
    ],
)
def test_a_path_that_is_no_model_is_refused(make, problem, tmp_path):
    make(tmp_path / "m")
    with pytest.raises(ModelError, match=problem):
        resolve_model_folder(ModelSettings(path=str(tmp_path / "m")), tmp_path)


def test_quantised_folders_are_refused(copied):
    edit(copied / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match=r"quantised \(gptq\); name the full ones"):
        load_model(copied)


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_an_adapter_that_peft_saved_is_laid_over_its_base(copied, tmp_path):
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(copied, dtype=torch.float32, local_files_only=True)
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        expected = theirs(IDS).logits
    for settings in (
        ModelSettings(path=str(tmp_path / "theirs")),
        ModelSettings(path=str(copied), adapter=str(tmp_path / "theirs")),
    ):
        folder = resolve_model_folder(settings, tmp_path)
        torch.testing.assert_close(logits(folder), expected, rtol=0, atol=1e-5)
