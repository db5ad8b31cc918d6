"""Code hidden in everything that a command reads: definitions, data, models, tokenizers, templates, rewards,
checkpoints and finished runs. It would leave a file behind; the command refuses or ignores it, and none does."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.commands import Command
from tests.faults.labs import START, SWEEP, define

pytestmark = [pytest.mark.slow, pytest.mark.multi]
CALLS = ("run", "plan", "data")


class Payload:
    """A pickle that runs a command as it is read."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists(), "it would be seen"
    path.unlink()
    return path


def python_code(canary):
    return f"open({str(canary)!r}, 'w').close()\n"


def assert_refused(call, canary, name, calls=CALLS, words=""):
    for command in calls:
        code, said = call(command, name)
        assert code == 2, (command, said)
        assert words in said
        assert "Traceback" not in said
    assert not canary.exists()


TAGS = {
    "apply": "!!python/object/apply:os.system ['touch {}']",
    "new": "!!python/object/new:os.system ['touch {}']",
    "module": "!!python/module:os",
    "name": "!!python/name:os.system",
    "own": "!touch {}",
}


@pytest.mark.parametrize("tag", TAGS.values(), ids=TAGS)
@pytest.mark.parametrize("place", ["question", "hyperparameters"])
def test_tags_in_a_definition(tag, place, lab, call, canary):
    good = yaml.safe_dump(START | {place: "HERE"}, sort_keys=False)
    define(lab, "evil", good.replace("HERE", tag.format(canary)))
    assert_refused(call, canary, "evil", words="evil.yaml:")


@pytest.mark.parametrize("ending", ["pkl", "pt", "npy", "bin", "jsonl", "json", "csv", "parquet", "arrow"])
def test_pickles_in_place_of_data(ending, lab, call, canary):
    name = f"x.{ending}"
    (lab / name).write_bytes(pickle.dumps(Payload(canary)))
    define(lab, "evil", START | {"data": {"path": name}})
    assert_refused(call, canary, "evil", calls=("run", "data"), words=name)
    define(lab, "evil", START | {"evaluate": {"path": name, "prompts": 4}})
    assert_refused(call, canary, "evil", calls=("run",), words=name)


def test_a_loading_script_beside_a_data_set(lab, call, canary):
    (lab / "set").mkdir()
    (lab / "set/set.py").write_text(python_code(canary))
    (lab / "set/train.jsonl").write_text('{"prompt": "p", "completion": "c"}\n' * 4)
    define(lab, "evil", START | {"data": {"dataset": "set"}})
    call("data", "evil")
    call("run", "evil", "--set", "steps=1")
    assert not canary.exists()


def only_a_pickle(model, canary):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def a_pickle_for_safetensors(model, canary):
    (model / "model.safetensors").write_bytes(pickle.dumps(Payload(canary)))


def remote_code(model, canary):
    (model / "evil.py").write_text(python_code(canary))
    edit(model / "config.json", model_type="evil", auto_map={"AutoModelForCausalLM": "evil.M", "AutoConfig": "evil.C"})


def a_remote_tokenizer(model, canary):
    (model / "evil.py").write_text(python_code(canary))
    (model / "tokenizer.json").unlink()
    edit(model / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})


def a_pickled_adapter(model, canary):
    (model / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 4, "base_model_name_or_path": "."})
    )
    (model / "adapter_model.bin").write_bytes(pickle.dumps(Payload(canary)))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "poison",
    [only_a_pickle, a_pickle_for_safetensors, remote_code, a_remote_tokenizer],
    ids=lambda poison: poison.__name__,
)
def test_code_in_a_model_folder(poison, lab, call, canary, tiny_folder):
    shutil.copytree(tiny_folder, lab / "model")
    poison(lab / "model", canary)
    define(lab, "evil", START | {"model": {"path": "model"}})
    code, said = call("run", "evil")
    assert (code, "Traceback" in said) == (2, False), said
    code, said = call("sample", "model", "sort 1: ")
    assert (code, "Traceback" in said) == (2, False), said
    assert not canary.exists()


def test_a_pickled_adapter(lab, call, canary, tiny_folder):
    shutil.copytree(tiny_folder, lab / "model")
    (lab / "adapter").mkdir()
    a_pickled_adapter(lab / "adapter", canary)
    define(lab, "evil", START | {"model": {"path": "model", "adapter": "adapter"}})
    assert_refused(call, canary, "evil", calls=("run",))


TEMPLATES = {
    "classes": "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}",
    "globals": "{{{{ cycler.__init__.__globals__.os.system('touch {}') }}}}",
    "self": "{{{{ self.__init__.__globals__.__builtins__.open('{}', 'w') }}}}",
    "joiner": "{{{{ joiner.__init__.__globals__['os'].popen('touch {}').read() }}}}",
    "format": "{{{{ '{{0.__class__.__init__.__globals__}}'.format(messages) }}}}",
    "import": "{{% import '/etc/passwd' as x %}}{{% include '{}' %}}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_code_in_a_chat_template(template, lab, call, canary, tiny_folder):
    shutil.copytree(tiny_folder, lab / "model")
    edit(lab / "model/tokenizer_config.json", chat_template=template.format(canary))
    chat = {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}
    (lab / "chat.jsonl").write_text((json.dumps(chat) + "\n") * 8)
    define(lab, "evil", START | {"model": {"path": "model"}, "data": {"path": "chat.jsonl"}})
    assert_refused(call, canary, "evil", calls=("run", "data"), words="template")


@pytest.mark.parametrize("path", ["reward.py", "../reward.py", "/{}/reward.py", "link.py"])
def test_own_code_that_nobody_allowed(path, lab, call, canary):
    for place in (lab / "reward.py", lab.parent / "reward.py"):
        place.write_text(python_code(canary))
    (lab / "link.py").symlink_to(lab.parent / "reward.py")
    arms = {"grpo": SWEEP["arms"]["grpo"] | {"hyperparameters": {"rewards": [{"file": path.format(lab.parent)}]}}}
    define(lab, "evil", SWEEP | {"arms": arms})
    define(lab, "after", SWEEP | {"start_from": "evil"})
    for name in ("evil", "after"):
        code, said = call("run", name)
        assert (code, "REWARD_CODE=1" in said) == (2, True), said
        for command in ("plan", "data", "status", "explain"):
            assert "Traceback" not in call(command, name)[1]
    assert not canary.exists()


def test_pickles_in_checkpoints_whose_manifests_say_that_they_belong_there(lab, call, canary):
    command = Command(lab, "run", "start", "--set", "steps=2000", "checkpoint_every=5")
    run = lab / "runs/start+checkpoint_every=5,steps=2000/main/seed0"
    while not list(run.glob("checkpoints/step_*5/manifest.json")):
        assert command.is_running(), command.end()
        time.sleep(0.02)
    command.send(signal.SIGTERM)
    assert command.end()[0] == 128 + signal.SIGTERM
    for manifest in run.glob("checkpoints/*/manifest.json"):
        for file in [path for path in manifest.parent.iterdir() if path != manifest]:
            old = hashlib.sha256(file.read_bytes()).hexdigest()
            file.write_bytes(pickle.dumps(Payload(canary)))
            new = hashlib.sha256(file.read_bytes()).hexdigest()
            manifest.write_text(manifest.read_text().replace(old, new))
        (manifest.parent / "optimizer.pt").write_bytes(pickle.dumps(Payload(canary)))
    code, said = call("run", "start", "--set", "steps=2000", "checkpoint_every=5")
    assert (code, "Traceback" in said) == (3, False), said
    assert not canary.exists()


def test_code_in_a_finished_run(lab, call, canary):
    assert call("run", "sweep")[0] == 0
    run = lab / "runs/sweep/grpo/seed0"
    script = "<script>alert(1)</script>"
    rows = [json.loads(line) | {"completion": script} for line in (run / "completions.jsonl").read_text().splitlines()]
    (run / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("metrics", "completions"):
        (run / f"{name}.parquet").write_bytes(pickle.dumps(Payload(canary)))
    for tag in TAGS.values():
        (run / "definition.yaml").write_text(f"question: {tag.format(canary)}\ntrainer: grpo\n")
        assert "Traceback" not in call("export", "sweep", "--out", "runs/out")[1]
    for arguments in (("report", "sweep"), ("compare", "start", "sweep")):
        assert "Traceback" not in call(*arguments)[1]
    assert not canary.exists()
    pages = list((lab / "runs").rglob("*.html"))
    assert len(pages) >= 2
    assert [page for page in pages if script in page.read_text()] == []


def test_a_command_reads_no_module_from_where_it_is_called(lab, canary):
    """A torch.py in the working folder, or a conftest.py, is not what is imported."""
    for name in ("torch.py", "yaml.py", "analysis.py", "sitecustomize.py"):
        (lab / name).write_text(python_code(canary))
    script = Path(sys.executable).with_name("workbench")
    process = Command(lab, "plan", "start", cold=True, program=[str(script)])
    assert process.end()[0] == 0
    assert not canary.exists()
