"""What a model is probed for when it is loaded: the ways in which it may be run, and why it is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil

import pytest
import torch

from tests.models import families
from workbench.errors import DataError, ModelError
from workbench.models import load, verdict_cache
from workbench.models.adapters import add_lora
from workbench.models.load import load_model
from workbench.models.outputs import can_be_packed, forward_to_head, projects_everything
from workbench.models.probe import OWN, probe, verdict_of
from workbench.models.settings import LoraSettings

QUICK = ("bert", "falcon_h1", "gemma2", "gpt2", "lfm2", "llama", "mamba", "qwen3_next", "recurrent_gemma", "xlnet")
WRITTEN = families.written_rows()

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about families of old


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "workbench" / "verdicts"


@pytest.fixture
def saved(tiny_folder, tmp_path):
    """saved(kind) -> a folder with a tiny model of that family."""

    def save(kind, model=None):
        folder = tmp_path / kind
        (model or families.tiny_model(kind)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tiny_folder / name, folder / name)
        return folder

    return save


def assert_row_is_true(kind):
    [row] = families.rows_of([kind])
    assert families.table([row]).splitlines()[-1] == WRITTEN[kind]


@pytest.mark.parametrize("kind", QUICK)
def test_a_family_gives_the_numbers_of_transformers_by_the_ways_that_the_table_names(kind):
    assert_row_is_true(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in WRITTEN if kind not in QUICK])
def test_every_other_family_gives_the_numbers_of_transformers_by_the_ways_that_the_table_names(kind):
    assert_row_is_true(kind)


def test_every_family_that_transformers_has_stands_in_the_table_once_and_in_order():
    assert list(WRITTEN) == families.kinds()
    assert len(families.written_lines()) == len(WRITTEN)


def test_a_cap_is_found_where_logits_are_too_small_to_feel_it():
    model = families.tiny_model("gemma2")
    for parameter in model.parameters():
        parameter.data.mul_(1e-3)
    assert projects_everything(model)
    model.config.final_logit_softcapping = None
    assert probe(model).head


def test_nothing_is_trusted_of_a_model_in_which_no_token_sees_another():
    """A leak could not be seen while it begins at zero."""
    model = families.tiny_model("gpt2")
    for block in model.transformer.h:
        block.attn.c_proj.weight.data.zero_()
        block.attn.c_proj.bias.data.zero_()
    verdict = probe(model)
    assert (verdict.packed, verdict.cache, verdict.padded_cache) == (False, False, False)
    assert verdict.head


def test_a_model_that_sees_later_tokens_is_refused_by_name(saved):
    folder = saved("bert")
    config = json.loads((folder / "config.json").read_text()) | {"is_decoder": False}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"bert: bert: not a causal language model: a token's logits depend on"):
        load_model(folder)


def test_a_forward_that_changes_its_weights_is_refused_with_the_remedy():
    model = families.tiny_model("rwkv")
    model.config.rescale_every = 1
    with pytest.raises(ModelError, match=r"rwkv: its forward changes its own weights.* set rescale_every: 0"):
        probe(model)


def test_a_forward_without_a_gradient_is_refused():
    with pytest.raises(ModelError, match="reformer: its forward has no gradient: If you want to train"):
        probe(families.tiny_model("reformer"))


def test_damaged_weights_are_refused():
    model = families.tiny_model("gpt2")
    model.transformer.ln_f.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="gpt2: its logits are not finite"):
        verdict_of(model)


def test_a_probe_leaves_the_model_and_the_random_numbers_as_they_were():
    model = families.tiny_model("gpt2").train()
    model.transformer.h[0].eval()
    before, state = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    found = probe(model)
    assert found.packed
    assert found == probe(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "mamba"])
def test_half_precision_allows_nothing_that_float32_does_not(kind):
    model = families.tiny_model(kind)
    half, whole = probe(copy.deepcopy(model).to(torch.bfloat16)), probe(model)
    assert half.head == whole.head
    assert all(getattr(whole, name) for name, found in vars(half).items() if found)


def test_a_verdict_is_found_once_a_folder_and_again_where_it_is_damaged(saved, own_cache, monkeypatch):
    folder, probed = saved("gpt2"), []
    monkeypatch.setattr(verdict_cache, "probe", lambda model: probed.append(1) or probe(model))
    first = verdict_of(load_model(folder))
    assert verdict_of(load_model(folder)) == first
    [file] = own_cache.iterdir()
    whole = file.read_text()
    for number, damaged in enumerate((whole[:20], whole.replace('"packed": true', '"packed": false'), "[]"), start=2):
        file.write_text(damaged)
        assert verdict_of(load_model(folder)) == first
        assert len(probed) == number
    assert file.read_text() == whole


def _change(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resid_pdrop": 0.25}))


def test_a_folder_that_changes_while_it_is_loaded_gives_no_verdict(saved, own_cache, monkeypatch):
    folder, made = saved("gpt2"), load.load_by_transformers

    def then_changed(*given):
        model = made(*given)
        _change(folder)
        return model

    monkeypatch.setattr(load, "load_by_transformers", then_changed)
    with pytest.raises(DataError, match=r"config\.json was changed or replaced while it was in use"):
        load_model(folder)
    assert not own_cache.exists()


def test_the_verdict_of_a_folder_that_changes_while_it_is_probed_is_kept_for_what_was_probed(
    saved, own_cache, monkeypatch
):
    """Its key is taken, and found to be that of the model that was loaded, before the probe."""
    folder, probed = saved("gpt2"), []

    def then_changed(model):
        probed.append(model)
        if len(probed) == 1:
            _change(folder)
        return probe(model)

    before = (folder / "config.json").read_text()
    monkeypatch.setattr(verdict_cache, "probe", then_changed)
    load_model(folder)
    load_model(folder)
    assert len(probed) == 2, "the changed folder is another model"
    (folder / "config.json").write_text(before)
    load_model(folder)
    assert len(probed) == 2
    assert len(list(own_cache.iterdir())) == 2


def test_adapters_and_copies_share_the_verdict():
    model = families.tiny_model("gpt2")
    verdict = verdict_of(model)
    add_lora(model, LoraSettings(rank=2, alpha=4.0), seed=0)
    assert verdict_of(model) is verdict
    assert verdict_of(copy.deepcopy(model)) == verdict


def test_texts_longer_than_a_window_are_not_packed():
    """The mask of packed texts holds no window; the probe's texts are too short to show it."""
    model = families.tiny_model("starcoder2")
    model.config.sliding_window = 8
    assert can_be_packed(model, 8)
    assert not can_be_packed(model, 9)


def test_a_model_with_few_positions_is_probed_within_them():
    import transformers

    config = transformers.GPT2Config(vocab_size=17, n_positions=6, n_embd=16, n_layer=1, n_head=2)
    assert probe(transformers.GPT2LMHeadModel(config).eval()).head


def test_rows_are_run_one_by_one_where_a_model_mixes_them(monkeypatch):
    from workbench.models import outputs

    model = families.tiny_model("gpt2")
    mixing = dataclasses.replace(OWN, batch=False, packed=False)
    monkeypatch.setattr(outputs, "verdict_of", lambda _: mixing)
    ids, mask = torch.tensor([[0, 3, 5, 2], [4, 6, 0, 0]]), torch.tensor([[0, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        found = forward_to_head(model, ids, mask)
        logits = torch.nn.functional.linear(found.hidden, found.weight)
        torch.testing.assert_close(logits[0, 1:], model(ids[:1, 1:]).logits[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(logits[1, :2], model(ids[1:, :2]).logits[0], rtol=0, atol=1e-5)
    assert (found.hidden[0, 0] == 0).all()
