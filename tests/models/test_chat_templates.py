"""Chat templates that a definition gives a model."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.data.chat import render_chat
from workbench.errors import ModelError
from workbench.models.chat_templates import KNOWN
from workbench.models.folder import settings_identity
from workbench.models.give_template import replaces_template, template_problem
from workbench.models.load import load_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer

TURNS = (("user", "a b"), ("assistant", "c"), ("user", "d"))
WRITTEN = {
    "chatml": "<|im_start|>user\na b<|im_end|>\n<|im_start|>assistant\nc<|im_end|>\n<|im_start|>user\nd<|im_end|>\n"
    "<|im_start|>assistant\n",
    "gemma": "<start_of_turn>user\na b<end_of_turn>\n<start_of_turn>model\nc<end_of_turn>\n<start_of_turn>user\nd"
    "<end_of_turn>\n<start_of_turn>model\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\na b<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nc<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nd<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "zephyr": "<|user|>\na b<eos>\n<|assistant|>\nc<eos>\n<|user|>\nd<eos>\n<|assistant|>\n",
}
OWN = "{% for m in messages %}{{ m.content }}|{% endfor %}"


@pytest.fixture
def base(tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "base")
    return tmp_path / "base"


def given(base, template, **more):
    return ModelSettings(path=str(base), chat_template=template, **more)


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_template_writes_what_its_family_does_here_and_in_transformers(base, tmp_path, name):
    import transformers

    settings = given(base, name, add_tokens=list(KNOWN[name].tokens))
    folder = resolve_model_folder(settings, tmp_path / "cache")
    tokenizer = Tokenizer.load(folder)
    assert render_chat(tokenizer, TURNS, generation_prompt=True) == WRITTEN[name]
    messages = [{"role": role, "content": content} for role, content in TURNS]
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == WRITTEN[name]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode(WRITTEN[name]) == ids
    load_model(folder)


@pytest.mark.parametrize("name", [name for name in KNOWN if KNOWN[name].tokens])
def test_a_template_whose_marks_are_no_tokens_is_refused_with_the_remedy(base, tmp_path, name):
    with pytest.raises(ModelError) as error:
        resolve_model_folder(given(base, name), tmp_path / "cache")
    [line] = str(error.value).splitlines()
    assert f"model.chat_template {name} needs the token {KNOWN[name].tokens[0]}, which its tokenizer lacks" in line
    assert f"model.add_tokens: {json.dumps(list(KNOWN[name].tokens))}, or take zephyr" in line
    assert template_problem(given(base, name)) == line, "before anything is made"
    assert "needs the token" in str(template_problem(ModelSettings(preset="tiny", chat_template=name)))
    more = list(KNOWN[name].tokens)
    for settings in (
        given(base, name, add_tokens=more),
        ModelSettings(preset="tiny", chat_template=name, add_tokens=more),
    ):
        assert template_problem(settings) is None


def test_a_template_that_ends_turns_with_an_end_that_the_tokenizer_does_not_name_is_refused(base, tmp_path):
    """transformers would write nothing there, and config.json alone names an end."""
    path = base / "tokenizer_config.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "eos_token"})
    )
    assert Tokenizer.load(base).eos_ids == (1,)
    with pytest.raises(ModelError, match="chat_template zephyr writes the eos_token, which its tokenizer"):
        resolve_model_folder(given(base, "zephyr"), tmp_path / "cache")


def test_a_file_replaces_the_models_own_template_wherever_that_stood(base, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text(OWN)
    folder = resolve_model_folder(given(base, str(template)), tmp_path / "cache")
    assert not replaces_template(folder)
    for place in ("file", "field"):
        if place == "file":
            (base / "chat_template.jinja").write_text("another")
        else:
            (base / "chat_template.jinja").unlink()
            config = json.loads((base / "tokenizer_config.json").read_text()) | {"chat_template": "another"}
            (base / "tokenizer_config.json").write_text(json.dumps(config))
        folder = resolve_model_folder(given(base, str(template)), tmp_path / "cache")
        assert replaces_template(folder)
        assert Tokenizer.load(folder).chat_template == OWN
        assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
        assert Tokenizer.load(base).chat_template == "another", "the model's own folder is as it was"
        assert render_chat(Tokenizer.load(folder), TURNS) == "a b|c|d|"
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": OWN}))
    assert not replaces_template(resolve_model_folder(given(base, str(template)), tmp_path / "cache"))


def test_a_templates_text_is_part_of_the_models_identity_and_its_place_is_not(base, tmp_path):
    first, second = tmp_path / "first.jinja", tmp_path / "second.jinja"
    first.write_text(OWN)
    second.write_text(OWN, encoding="utf-8-sig")  # whose mark would be written in every prompt
    plain = settings_identity(ModelSettings(path=str(base)))
    before = settings_identity(given(base, str(first)))
    assert before == settings_identity(given(base, str(second))) != plain
    made = resolve_model_folder(given(base, str(first)), tmp_path / "cache")
    second.write_text(OWN + " ")
    assert settings_identity(given(base, str(second))) != before
    assert resolve_model_folder(given(base, str(first)), tmp_path / "cache") == made
    assert resolve_model_folder(given(base, str(second)), tmp_path / "cache") != made
    assert made.joinpath("model.safetensors").is_symlink(), "the weights are not copied"


def test_a_preset_with_a_template_may_be_moved_with_the_runs(tmp_path):
    settings = ModelSettings(preset="tiny", chat_template="zephyr")
    folder = resolve_model_folder(settings, tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "moved")
    load_model(tmp_path / "moved" / folder.name)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: None, "found .*chatlm, allowed chatml, gemma, llama3, zephyr, or a file"),
        (lambda path: path.write_bytes(b"\xff"), "not readable as text"),
        (lambda path: path.mkdir(), "found a folder, allowed a regular file"),
        (lambda path: path.write_text(" \n"), "it is empty; write a template"),
    ],
)
def test_a_template_that_cannot_be_read_is_one_line(base, tmp_path, make, told):
    path = tmp_path / "chatlm"
    make(path)
    for use in (settings_identity, lambda settings: resolve_model_folder(settings, tmp_path / "cache")):
        with pytest.raises(ModelError, match=f"model.chat_template: .*{told}") as error:
            use(given(base, str(path)))
        assert len(str(error.value).splitlines()) == 1


def test_a_misspelt_name_is_told_the_near_one(base):
    with pytest.raises(ModelError, match=r"found chatlm, allowed .*, did you mean chatml\?"):
        settings_identity(given(base, "chatlm"))
