# ruff: noqa: E501 - a case of the table is one line
"""Models that a definition names by their place are refused while planning, before a start that is not finished."""

from __future__ import annotations

import copy
import json

import pytest

from tests.experiment.conftest import SFT
from tests.experiment.test_distill import DISTILL
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.plan_text import describe_plan
from workbench.models.named import tokens_of
from workbench.models.presets import make_preset
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings
from workbench.models.tokenizer import Tokenizer

GRPO = {
    "question": "Does a reward model help?",
    "trainer": "grpo",
    "start_from": "start",
    "data": {"task": "sort", "digits": 3, "rows": 32},
    "hyperparameters": {"steps": 2, "batch_prompts": 2, "group_size": 2, "max_new_tokens": 6},
}
ARTICLE = "a model is a Hugging Face folder of a causal language model"
CASES = {
    "teacher": (DISTILL, "teacher", {"path": "nowhere"}, f"teacher: nowhere: no such file or folder; {ARTICLE}"),
    "scorer": (DISTILL, "teacher", {"path": "scorer"}, "teacher: scorer: a LlamaForSequenceClassification, which scores"),
    "tokens": (DISTILL, "teacher", {"preset": "bytes"}, "teacher: found preset bytes, whose 258 tokens are not the 98 of start/main/seed0; allowed a teacher with"),
    "added": (DISTILL, "teacher", {"path": "preset", "add_tokens": ["<x>"]}, "teacher: found preset, whose 99 tokens are not"),
    "adapter": (SFT, "model", {"preset": "tiny", "adapter": "nowhere"}, "model: nowhere: no adapter; a peft folder holds"),
    "reward": (GRPO, "rewards", [{"model": "nowhere"}], "rewards: nowhere: no such folder, allowed the Hugging Face folder of"),
    "head": (GRPO, "rewards", [{"model": "preset"}], "rewards: preset: no classifier (LlamaForCausalLM), it has no score head"),
    "file": (GRPO, "rewards", [{"file": "nowhere.py"}], "rewards: nowhere.py: no such file, allowed a Python file"),
}  # fmt: skip


@pytest.fixture
def folders(lab, define, monkeypatch):
    """A folder with a language model, and one with a model that scores texts."""
    monkeypatch.chdir(lab)
    for name in ("preset", "scorer"):
        make_preset("tiny", lab / name, seed=0)
    config = lab / "scorer/config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"architectures": ["LlamaForSequenceClassification"]})
    )
    return lab


@pytest.mark.parametrize("case", CASES)
def test_what_is_named_by_its_place_is_refused_before_the_start_is_trained(case, folders, define):
    base, section, value, problem = CASES[case]
    changed = copy.deepcopy(base)
    (changed["hyperparameters"] if section == "rewards" else changed)[section] = value
    define("case", changed)
    experiment = load_experiment("case")
    found = describe_plan(experiment, folders / "runs", jobs=1, fresh=False)
    text = (folders / "experiments/case.yaml").read_text().splitlines()
    line = next(number for number, said in enumerate(text, 1) if said.strip().startswith(f"{section}:"))
    line += section == "teacher" and "path" in text[line] and "found" not in problem  # that of teacher.path
    assert f"cannot run: experiments/case.yaml:{line}: {problem}" in found.text
    assert found.exit_code == 2
    assert not (folders / "runs").exists()


def test_a_run_that_cannot_run_leaves_its_start_untrained(folders, define, command):
    define("case", DISTILL | {"teacher": {"path": "nowhere"}})
    done = command("run", "case")
    assert done.returncode == 2
    assert "teacher: nowhere: no such file or folder" in done.stderr
    assert not (folders / "runs/start/main").exists()


@pytest.mark.parametrize("teacher", [{"preset": "mini"}, {"path": "preset"}, "start"])
def test_a_teacher_with_the_tokens_of_the_student_is_planned(teacher, folders, define):
    define("case", DISTILL | {"teacher": teacher})
    assert describe_plan(load_experiment("case"), folders / "runs", jobs=1, fresh=False).exit_code == 0


@pytest.mark.parametrize("preset", ["tiny", "bytes"])
def test_the_tokens_of_a_preset_are_known_before_it_is_made(preset, tmp_path):
    for settings in (ModelSettings(preset=preset), ModelSettings(preset=preset, add_tokens=["<think>", "a"])):
        assert tokens_of(settings) == Tokenizer.load(resolve_model_folder(settings, tmp_path)).tokens
