"""Every kind of input, changed or replaced between the plan and its use, or while it is read: the run that would learn
from it is refused by name, and nothing is kept under an identity that it does not have."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import DataError, WorkbenchError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.running import held_out, run, start_models
from workbench.experiment.running.prepare import Preparer
from workbench.experiment.running.run import execute
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.stages import collect, reference_logprobs
from workbench.experiment.stages.data import Reading
from workbench.inputs import Inputs
from workbench.models.presets import make_preset
from workbench.permissions import Permissions

ROWS = [{"prompt": f"say {n}: ", "completion": str(n % 7)} for n in range(32)]
PAIRS = [{"prompt": f"say {n}: ", "chosen": str(n % 7), "rejected": "x"} for n in range(32)]
FAST = {"steps": 2, "learning_rate": 1e-3, "precision": "float32"}
SFT = {
    "question": "q", "trainer": "sft", "model": {"path": "base"}, "data": {"path": "rows.jsonl"},
    "hyperparameters": FAST | {"batch_rows": 8},
    "evaluate": {"path": "held.jsonl", "verifier": "exact", "prompts": 8, "max_new_tokens": 4},
}  # fmt: skip
DPO = {
    "question": "q", "trainer": "dpo", "model": {"path": "base"}, "data": {"path": "pairs.jsonl"},
    "hyperparameters": FAST | {"batch_pairs": 8},
    "evaluate": {"pairs": "held_pairs.jsonl"},
}  # fmt: skip
COLLECT = DPO | {
    "data": {"collect": {"task": "sort", "digits": 3, "pairs": 8, "samples_per_prompt": 2, "no_correct": "reference"}},
    "evaluate": {"task": "sort", "digits": 3, "prompts": 4, "max_new_tokens": 4},
}
GRPO = {
    "question": "q", "trainer": "grpo", "model": {"path": "base"},
    "data": {"task": "sort", "digits": 3, "rows": 16},
    "hyperparameters": FAST | {"batch_prompts": 2, "group_size": 2, "max_new_tokens": 3,
                               "rewards": [{"file": "score.py", "function": "score"}]},
}  # fmt: skip
DEFINITIONS = {"sft": SFT, "dpo": DPO, "pairs": COLLECT, "grpo": GRPO}
SCORE = "def score(completions, **_):\n    return [float(len(text)) for text in completions]\n"


class Silent:
    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


@pytest.fixture
def made(lab, define, monkeypatch, torch):
    """made(name) -> the run of that definition; every file that it names is in the lab."""
    monkeypatch.chdir(lab)
    torch.set_num_threads(1)
    make_preset("tiny", lab / "base", 0)
    for name, rows in (("rows", ROWS), ("held", ROWS[:8]), ("pairs", PAIRS), ("held_pairs", PAIRS[:8])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("score.py").write_text(SCORE)
    for name, definition in DEFINITIONS.items():
        define(name, definition)
    return lambda name: load_experiment(name).runs[0]


def prepare(spec: Any) -> Any:
    return Preparer(Path("runs"), Silent(), 1).prepare(spec, "float32")


def edit(path: Path) -> None:
    """Another content of the same length, as an editor or a copy would write it."""
    data = bytearray(path.read_bytes())
    place = data.rindex(b"1") if path.suffix in (".jsonl", ".py", ".json") and b"1" in data else len(data) - 6
    data[place] ^= 1
    path.write_bytes(data)


def replace(path: Path) -> None:
    """Another file of the same content and age under the name."""
    other = path.with_name("other")
    shutil.copy2(path, other)
    edit(other)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


def stage_file(prepared: Any, name: str) -> Path:
    held = prepared if hasattr(prepared, name) else prepared.sources[0]
    return next(path for path in getattr(held, name).folder.iterdir() if path.name != "stage.json")


def at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, act: Any) -> None:
    """From now on act() comes right after every call of it."""
    function = getattr(place, name)

    def then(*arguments: Any, **options: Any) -> Any:
        result = function(*arguments, **options)
        act()
        return result

    monkeypatch.setattr(place, name, then)


BETWEEN = {
    "sft": ("base/model.safetensors", "base/config.json", "base/tokenizer.json", "held.jsonl", "data"),
    "dpo": ("reference", "held_out_pairs", "held_out_reference"),
    "grpo": ("score.py",),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_changes_before_the_run_reads_it_is_refused_by_name(made, name, record_property):
    prepared, tries = prepare(made(name)), 0
    for what in BETWEEN[name]:
        path = Path(what) if "." in what else stage_file(prepared, what)
        good = path.read_bytes()
        for change in (edit, replace, Path.unlink):
            change(path)
            told = f"{path.name} was (changed|taken away)|{path.name}: no such file"
            with pytest.raises(WorkbenchError, match=told):
                execute(prepared, Path("runs"), {}, Permissions(reward_code=True))
            status = RunFolder(Path("runs"), prepared.spec.key).status()
            assert (status["state"], path.name in status["message"]) == ("failed", True)
            assert not Path("runs", prepared.spec.key, "metrics.jsonl").exists()
            path.write_bytes(good)
            tries += 1
    if name == "sft":
        execute(prepared, Path("runs"), {})  # what was put back is what was planned
        assert RunFolder(Path("runs"), prepared.spec.key).is_finished()
    record_property("tries", tries)


@pytest.mark.parametrize(("name", "what"), [("sft", "base/model.safetensors"), ("sft", "held.jsonl"), ("sft", "data")])
def test_what_changes_while_the_run_reads_it_is_refused_by_name(made, name, what, monkeypatch):
    prepared = prepare(made(name))
    path = Path(what) if "." in what else stage_file(prepared, what)
    place = {"model": (run, "load_model"), "held": (held_out, "encode_prompts"), "rows": (run, "open_rows")}[path.stem]
    at(monkeypatch, *place, lambda: edit(path))
    with pytest.raises(DataError, match=f"{path.name} was changed or replaced while it was in use"):
        execute(prepared, Path("runs"), {})


@pytest.mark.parametrize("change", [edit, replace, Path.unlink])
def test_a_chat_template_that_changes_while_a_run_is_prepared_is_refused_by_name(made, define, monkeypatch, change):
    path = Path("turns.jinja")
    path.write_text("{% for m in messages %}{{ m.content }}<eos>{% endfor %}<1>")
    define("sft", SFT | {"model": {"path": "base", "chat_template": str(path)}})
    at(monkeypatch, start_models, "resolve_model_folder", lambda: change(path) if path.exists() else None)
    with pytest.raises(WorkbenchError, match=r"turns\.jinja"):
        prepare(load_experiment("sft").runs[0])
    assert not Path("runs/sft").exists()


def test_a_start_or_stage_that_is_taken_away_is_one_line_of_one_run(made, define, monkeypatch):
    base, spec = made("sft"), {**SFT, "start_from": "sft", "model": None}
    define("more", {name: value for name, value in spec.items() if value is not None})
    execute(prepare(base), Path("runs"), {})
    more = load_experiment("more").runs[0]
    prepared = prepare(more)
    shutil.rmtree(prepared.sources[0].data.folder)
    with pytest.raises(DataError, match="was taken away after it was identified; nothing is kept of it"):
        execute(prepared, Path("runs"), {})
    prepared = prepare(more)
    at(monkeypatch, run, "build_trainer", lambda: shutil.rmtree("runs/sft"))
    with pytest.raises(DataError, match="was taken away"):
        execute(prepared, Path("runs"), {})
    with pytest.raises(WorkbenchError, match="sft/main/seed0"):
        prepare(more)


def test_a_file_added_to_a_model_s_folder_is_a_change(made):
    prepared = prepare(made("sft"))
    Path("base/added_tokens.txt").write_text("{}")
    with pytest.raises(DataError, match="base was changed"):
        execute(prepared, Path("runs"), {})


@pytest.mark.parametrize("name", ["base/tokenizer.json", "base/config.json"])
def test_a_saved_model_takes_nothing_of_another_than_the_run_began_with(made, name, monkeypatch):
    prepared = prepare(made("sft"))
    finish = run._finish
    monkeypatch.setattr(run, "_finish", lambda *arguments: (edit(Path(name)), finish(*arguments)))
    with pytest.raises(DataError, match=Path(name).name):
        execute(prepared, Path("runs"), {})
    assert not RunFolder(Path("runs"), prepared.spec.key).is_finished()


READ = [
    ("sft", "rows.jsonl", edit, (Reading, "tokenise")), ("sft", "rows.jsonl", replace, (Reading, "tokenise")),
    ("dpo", "held_pairs.jsonl", Path.unlink, (Reading, "tokenise")),
    ("dpo", "base/model.safetensors", edit, (reference_logprobs, "score_reference")),
    ("pairs", "base/model.safetensors", replace, (collect, "collect_pairs")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "what", "change", "place"), READ)
def test_no_stage_is_kept_of_what_changed_while_it_was_made(made, name, what, change, place, monkeypatch):
    path, before = Path(what), {"held_pairs.jsonl": 1}
    at(monkeypatch, place[0], place[1], lambda: change(path) if path.exists() else None)
    with pytest.raises(DataError, match=f"{path.name} was (changed|replaced|taken away)"):
        prepare(made(name))
    stem = {"tokenise": "data", "score_reference": "ref_logprobs", "collect_pairs": "collect"}[place[1]]
    assert len(list(Path("runs/stages").glob(f"{stem}-*"))) == before.get(what, 0)


def test_own_code_is_run_as_it_was_read_whatever_its_file_holds_later(tmp_path):
    from workbench.rewards.own_code import load_function

    path = tmp_path / "score.py"
    path.write_text("def score():\n    return 1\n")
    code = path.read_bytes()
    path.write_text("raise ValueError\n")
    assert load_function(str(path), "score", code)() == 1


def test_a_model_that_was_loaded_does_not_follow_its_file(tmp_path, torch):
    """transformers gives weights that are the file's own pages."""
    from workbench.models.by_transformers import load_by_transformers
    from workbench.models.weights import check_weights

    make_preset("tiny", tmp_path / "m", 0)
    folder = tmp_path / "m"
    raw = json.loads((folder / "config.json").read_text())
    model = load_by_transformers(folder, raw, check_weights(folder), torch.float32)
    before = [parameter.clone() for parameter in model.parameters()]
    weights = folder / "model.safetensors"
    with open(weights, "r+b") as file:
        file.seek(weights.stat().st_size // 2)
        file.write(b"\0" * (weights.stat().st_size // 2))
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def write(path: Path, text: str) -> None:
    """After the clock of files has moved on, which is as coarse as the kernel's ticks."""
    time.sleep(0.02)
    path.write_text(text)


def test_a_change_that_is_undone_is_seen(tmp_path):
    path, link = tmp_path / "rows", tmp_path / "link"
    write(path, "one")
    link.symlink_to(path)
    of_the_file, of_the_link = Inputs([path]), Inputs([link])
    time.sleep(0.02)
    link.unlink()
    link.symlink_to(path)
    with pytest.raises(DataError, match="link was changed or replaced while it was in use"):
        of_the_link.check()
    of_the_file.check()
    write(path, "two")
    write(path, "one")
    with pytest.raises(DataError, match="rows was changed or replaced while it was in use"):
        of_the_file.check()


def test_what_failed_for_a_change_is_told_as_the_change(tmp_path):
    path = tmp_path / "rows"
    write(path, "one")

    def read() -> None:
        with Inputs([path]).unchanged():
            write(path, "tw")
            raise ValueError("torn")

    with pytest.raises(DataError, match="rows was changed"):
        read()
