"""Every family of models: loaded, trained, sampled and saved so that transformers gives the same logits."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from workbench.generation.generate import generate
from workbench.models.adapters import add_lora
from workbench.models.load import load_model, save_model
from workbench.models.outputs import forward_to_head
from workbench.models.passes import input_embedding, output_head
from workbench.models.settings import LoraSettings
from workbench.models.tokenizer import Tokenizer
from workbench.objectives.logprobs import projected_logprobs
from workbench.trainer import get_trainer_class

VOCABULARY = 98  # the character tokenizer's
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
IDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
FAMILIES = {
    "llama": ("LlamaConfig", {"tie_word_embeddings": False}),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"sliding_window": None}),
    "mistral-window": ("MistralConfig", {"sliding_window": 4}),
    "gemma": ("GemmaConfig", {}),
    "gemma2": ("Gemma2Config", {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gemma3": ("Gemma3TextConfig", {"query_pre_attn_scalar": 8, "sliding_window": 4}),
    "gpt2": ("GPT2Config", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
}


def make_folder(family, folder, tokenizer):
    import transformers

    kind, changes = FAMILIES[family]
    shape = {"vocab_size": VOCABULARY} if family == "gpt2" else SMALL | HEADS
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**shape, **IDS, **changes))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def folder_of(tiny_folder, tmp_path_factory):
    made = {}

    def get(family):
        if family not in made:
            made[family] = make_folder(family, tmp_path_factory.mktemp(family) / "model", tiny_folder)
        return made[family]

    return get


def logits_by_transformers(folder, ids):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    with torch.no_grad():
        return model(ids).logits


def is_tied(model):
    return output_head(model).weight is input_embedding(model).weight


ROWS = torch.tensor([[3, 5, 2, 7, 11, 9, 4], [8, 6, 30, 2, 12, 13, 14]])


LORA = LoraSettings(rank=2, alpha=4.0)
WAYS = [
    pytest.param("sft", None, id="sft-full"),
    pytest.param("dpo", LORA, id="dpo-lora"),
    pytest.param("sft", LORA, id="sft-lora", marks=pytest.mark.slow),
    pytest.param("dpo", None, id="dpo-full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("trainer", "lora"), WAYS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_of_training_is_saved_as_transformers_reads_it(
    family, trainer, lora, folder_of, collate, make_rows, tmp_path
):
    source = folder_of(family)
    model = load_model(source)
    before, tied = model(ROWS).logits.detach(), is_tied(model)
    if lora is not None:
        add_lora(model, lora, seed=0)
    cls = get_trainer_class(trainer)
    settings = cls.settings_class(steps=2, learning_rate=0.05, precision="float32", device="cpu")
    cls(model, None, [collate(trainer, make_rows(3))], settings=settings).train()
    save_model(model, tmp_path / "out", source)
    with torch.no_grad():
        expected = model.eval()(ROWS).logits
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(logits_by_transformers(tmp_path / "out", ROWS), expected, rtol=0, atol=1e-5)
    again = load_model(tmp_path / "out").eval()
    torch.testing.assert_close(again(ROWS).logits, expected, rtol=0, atol=1e-5)
    assert is_tied(again) == tied


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_on_either_side_gives_the_same_logprobs(family, folder_of):
    model = load_model(folder_of(family)).eval()
    text = torch.tensor([3, 5, 2, 7, 11, 9])
    found = []
    for before, after in ((0, 0), (0, 3), (3, 0)):
        row = torch.nn.functional.pad(text, (before, after))
        mask = torch.nn.functional.pad(torch.ones(6, dtype=torch.long), (before, after))
        outputs = forward_to_head(model, torch.stack([row, row]), torch.stack([mask, mask]))
        place = slice(before, before + 5)
        found.append(projected_logprobs(outputs.hidden[0, place], outputs.weight, text[1:], bias=outputs.bias))
    for padded in found[1:]:
        torch.testing.assert_close(padded, found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_sampling_greedily_takes_the_likeliest_token_of_the_whole_text(family, folder_of):
    model = load_model(folder_of(family)).eval()
    prompts = [[3, 5, 2, 7, 11, 9], [8, 6]]
    made = generate(model, prompts, [0, 1], settings=None, max_new_tokens=4, eos_ids=[])
    for prompt, [sample] in zip(prompts, made, strict=True):
        text = list(prompt)
        for token in sample.completion_ids:
            logits = model(torch.tensor([text])).logits[0, -1]
            assert logits.max() - logits[token] < 1e-4
            text.append(token)


def test_sampling_ends_at_every_eos_that_generation_config_lists(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("qwen2"), tmp_path / "model")
    model, prompt = load_model(folder), [[3, 5, 2]]
    [[free]] = generate(model, prompt, [0], settings=None, max_new_tokens=3, eos_ids=[])
    last = free.completion_ids[-1]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 96, last]}))
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.eos_ids == (1, 96, last)
    [[sample]] = generate(model, prompt, [0], settings=None, max_new_tokens=9, eos_ids=tokenizer.eos_ids)
    assert sample.ended
    assert sample.completion_ids == free.completion_ids[: free.completion_ids.index(last) + 1]
