"""A model that is loaded is the folder's: no weight made at random, none left out, none of another copy."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.errors import ModelError
from workbench.models.folder import model_fingerprint
from workbench.models.load import load_model, save_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings

IDS = torch.tensor([[3, 5, 2, 7, 1, 9, 4]])
SMALL = {"vocab_size": 98, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "pad_token_id": 0}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
EXPERTS = {"moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
FAMILIES = {
    "gemma2": {"query_pre_attn_scalar": 8},
    "apertus": {},
    "mixtral": {"num_local_experts": 3},
    "glm4_moe": {**EXPERTS, "first_k_dense_replace": 1},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "global_head_dim": 8, "num_global_key_value_heads": 2},
}


@pytest.fixture(scope="module")
def folder_of(tiny_folder, tmp_path_factory):
    """folder_of(family): a tiny model of it as its library saves it, every weight and buffer drawn at random."""
    made = {}

    def get(family):
        import transformers

        if family not in made:
            config = transformers.AutoConfig.for_model(family, **SMALL, **HEADS, **FAMILIES[family])
            with torch.random.fork_rng():
                torch.manual_seed(0)
                model = transformers.AutoModelForCausalLM.from_config(config)
                state = {name for name, _ in model.named_parameters()} | set(model.state_dict())
                for name, weight in (*model.named_parameters(), *model.named_buffers()):
                    if name in state and weight.is_floating_point():
                        weight.data.add_(torch.rand_like(weight) * 0.1)
            made[family] = tmp_path_factory.mktemp(family) / "model"
            model.save_pretrained(made[family])
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(tiny_folder / name, made[family] / name)
        return made[family]

    return get


@pytest.fixture
def copy_of(folder_of, tmp_path):
    return lambda family: shutil.copytree(folder_of(family), tmp_path / family)


def logits(folder):
    with torch.no_grad():
        return load_model(folder).eval()(IDS).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_has_every_weight_and_buffer_of_the_one_it_was_saved_from(family, folder_of, tmp_path):
    folder = folder_of(family)
    save_model(load_model(folder), tmp_path / "out", folder)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(logits(tmp_path / "out"), logits(folder), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens_leave_every_other_weight_and_buffer(family, folder_of, tmp_path):
    folder = folder_of(family)
    made = resolve_model_folder(ModelSettings(path=str(folder), add_tokens=["<think>"]), tmp_path)
    torch.testing.assert_close(logits(made)[..., :98], logits(folder), rtol=0, atol=1e-6)


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("family", "change", "problem"),
    [
        ("gemma2", lambda t: t.pop("model.norm.weight"), "1 weights are missing, such as model.norm.weight"),
        ("apertus", lambda t: t.pop("model.layers.1.mlp.act_fn.beta"), "1 weights are missing, such as .*act_fn.beta"),
        (
            "gemma2",
            lambda t: t.update({"model.extra": torch.zeros(1)}),
            "have no place in the model of .*: *model.extra|as model.extra",
        ),
        ("gemma2", lambda t: t.update({"model.norm.weight": torch.zeros(3)}), "another shape .* as model.norm"),
        ("gemma2", lambda t: t.update({"lm_head.weight": torch.zeros(98, 16)}), "ties lm_head.weight to model.embed"),
    ],
)
def test_a_folder_that_lacks_a_weight_or_has_a_stale_one_is_refused(family, change, problem, copy_of):
    folder = copy_of(family)
    change_weights(folder, change)
    with pytest.raises(ModelError, match=problem) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_another_head_beside_a_tied_embedding_is_refused(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    change_weights(folder, lambda t: t.update({"lm_head.weight": 1.5 * t["model.embed_tokens.weight"]}))
    with pytest.raises(ModelError, match=r"ties lm_head.weight to model.embed_tokens.weight"):
        load_model(folder)


def test_weights_that_are_whole_numbers_are_refused(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    change_weights(folder, lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))
    with pytest.raises(ModelError, match=r"model.norm.weight is of torch.int8"):
        load_model(folder)


@pytest.fixture(params=["own forward", "transformers"])
def sharded(request, tiny_folder, copy_of, tmp_path):
    """A folder whose weights lie in two files under an index, for either forward."""
    own = request.param == "own forward"
    folder = shutil.copytree(tiny_folder, tmp_path / "sharded") if own else copy_of("gemma2")
    shard(folder)
    return folder


def shard(folder, scale=1.0, count=2):
    tensors = load_file(folder / "model.safetensors")
    places = {}
    for number in range(count):
        name = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {key: scale * tensors[key] for key in sorted(tensors)[number::count]}
        save_file(part, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def edit_index(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def test_weights_are_read_by_their_index(sharded):
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(sharded, dtype=torch.float32, local_files_only=True)
    with torch.no_grad():
        torch.testing.assert_close(logits(sharded), theirs.eval()(IDS).logits, rtol=0, atol=1e-5)


FIRST, SECOND = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))
STALE = "model-00001-of-00003.safetensors"


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (
            lambda f: shutil.copyfile(f / FIRST, f / STALE),
            f"{STALE} is of another copy of .* than model.*index",
        ),
        (
            lambda f: shutil.copyfile(f / FIRST, f / "model.safetensors"),
            "is of another copy of the weights than mod",
        ),
        (lambda f: (f / SECOND).unlink(), f"said to be in {SECOND}, which is not there"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), f"{FIRST} is one of several files, and model.*index"),
        (lambda f: shutil.copyfile(f / FIRST, f / SECOND), f"is in {SECOND}, which lacks it"),
        (lambda f: edit_index(f, lambda m: m.update({"model.norm.weight": f"../{FIRST}"})), "which is not there"),
        (lambda f: edit_index(f, lambda m: m.update({"model.norm.weight": 3})), "does not name a file for each weight"),
        (lambda f: edit_index(f, lambda m: m.update({"more": FIRST})), f"more is in {FIRST}, which lacks it"),
        (lambda f: ((f / SECOND).unlink(), (f / SECOND).mkdir()), f"{SECOND}: found a folder, allowed a regular file"),
    ],
)
def test_shards_that_are_not_those_of_the_index_are_refused(sharded, break_it, problem):
    break_it(sharded)
    with pytest.raises(Exception, match=problem) as error:
        load_model(sharded)
    assert type(error.value).__module__ == "workbench.errors"


def test_the_index_counts_in_the_fingerprint(sharded):
    before = model_fingerprint(sharded)
    path = sharded / "model.safetensors.index.json"
    path.write_text(path.read_text().replace('"metadata": {}', '"metadata": {"total_size": 1}'))
    assert model_fingerprint(sharded) != before
