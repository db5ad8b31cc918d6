"""A trainer of one's own: the README's, from the command line, and settings that say too little."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest
import yaml

from tests.commands import ROOT, Command
from workbench.errors import DefinitionError
from workbench.experiment.definition import explain
from workbench.trainer import registry
from workbench.trainer.batch_format import PAIRS, PROMPTS, ROWS, BatchField, BatchFormat
from workbench.trainer.settings import TrainerSettings

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("### Your own trainer")[1].split("\n## ")[0]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
COMMANDS = """
import sys
from workbench import cli
for arguments in (["explain", "my"], ["plan", "own"], ["run", "own"]):
    try:
        code = cli.entry(arguments)
    except SystemExit as ended:
        code = ended.code
    if code:
        sys.exit(code)
"""


def write_readme_trainer(folder):
    shutil.copytree(ROOT / "workbench", folder / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "analysis", folder / "analysis", ignore=shutil.ignore_patterns("__pycache__"))
    for name, block in zip(("my_settings.py", "my_trainer.py"), BLOCKS, strict=True):
        (folder / "workbench/trainer" / name).write_text(block)
    definition = {
        "question": "Does it run?",
        "trainer": "my",
        "model": {"preset": "tiny"},
        "data": {"task": "sort", "digits": 3, "rows": 128},
        "hyperparameters": {"steps": 2, "batch_rows": 64, "precision": "float32"},
    }
    (folder / "experiments").mkdir()
    (folder / "experiments/own.yaml").write_text(yaml.safe_dump(definition))


@pytest.mark.slow
def test_the_readmes_trainer_is_explained_planned_and_trained(tmp_path):
    write_readme_trainer(tmp_path)
    program = (sys.executable, "-c", COMMANDS)
    said = Command(tmp_path, cold=True, program=program, PYTHONPATH=str(tmp_path)).completed()
    assert said.returncode == 0, said.stdout
    assert "64 rows per step" in said.stdout
    assert "Rows per optimiser step" in said.stdout
    status = json.loads((tmp_path / "runs/own/main/seed0/status.json").read_text())
    assert (status["state"], status["step"]) == ("finished", 2)


@pytest.mark.parametrize(
    ("own_batch", "field", "form"),
    [
        (ROWS, "batch_rows", "rows"),
        (ROWS.and_also(BatchField("weights", "B", "numbers", "of rows")), "batch_rows", "rows"),
        (PAIRS, "batch_pairs", "pairs"),
        (PROMPTS, "batch_prompts", "prompts"),
        (BatchFormat((BatchField("input_ids", "B L", "ids", "token ids"),)), "batch_rows", "rows"),
    ],
)
def test_settings_that_name_their_batch_have_its_form_and_its_size(own_batch, field, form):
    class Own(TrainerSettings):
        batch = own_batch

    assert Own.data_form == form
    assert Own().batch_rows_per_step() == 32
    assert Own.model_validate({field: 5}).batch_rows_per_step() == 5


def test_a_size_of_ones_own_stays_as_it_is_declared():
    class Own(TrainerSettings):
        batch = ROWS
        batch_rows: int = 7

    class More(Own):
        margin: float = 1.0

    assert (Own().batch_rows_per_step(), More(batch_rows=9).batch_rows_per_step()) == (7, 9)
    assert "batch_rows" not in TrainerSettings.model_fields


class Nothing(TrainerSettings):
    pass


class Misfit(TrainerSettings):
    batch = PAIRS
    data_form = "rows"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (Nothing, r"own_settings.py: Nothing: nothing tells the size of a batch; write `batch = ROWS` in the class"),
        (Misfit, "data_form is 'rows', but the batch is of pairs; leave data_form out"),
    ],
)
def test_settings_without_a_batch_are_refused_with_what_to_write(own, message, monkeypatch):
    monkeypatch.setattr(registry, "_find", lambda name, kind: own)
    with pytest.raises(DefinitionError, match=message):
        registry.get_settings_class("own")


def test_settings_without_a_docstring_are_explained(monkeypatch):
    class Own(TrainerSettings):
        batch = ROWS
        margin: float = 1.0

    monkeypatch.setattr(explain, "get_settings_class", lambda name: Own)
    told = explain.explain_trainer("own")
    assert told.startswith("own: a trainer whose settings have no docstring\n")
    assert "batch_rows" in told
    assert "margin" in told


def test_files_without_the_class_they_are_named_for_are_told(monkeypatch):
    monkeypatch.setattr(registry, "trainer_names", lambda: ["own"])
    with pytest.raises(DefinitionError, match=r"trainer own has no workbench/trainer/own_settings.py; .*OwnSettings"):
        registry.get_settings_class("own")
    monkeypatch.setitem(sys.modules, "workbench.trainer.own_settings", registry)
    with pytest.raises(DefinitionError, match=r"own_settings.py defines no class OwnSettings\(TrainerSettings\)"):
        registry.get_settings_class("own")
