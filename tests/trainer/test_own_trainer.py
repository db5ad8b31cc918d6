"""A trainer of one's own: that of docs/own_trainer.md, from the command line, and settings that say too little."""

from __future__ import annotations

import importlib
import re
import sys
from types import ModuleType

import pytest
import yaml

import workbench.trainer
from tests.commands import ROOT, Command
from tests.documents import blocks
from tests.faults.labs import outcomes
from workbench.errors import DefinitionError
from workbench.experiment.definition import explain
from workbench.tracking.reader import read_rows
from workbench.trainer import registry
from workbench.trainer.batch_format import PAIRS, PROMPTS, ROWS, BatchField, BatchFormat
from workbench.trainer.dpo_settings import DPOSettings
from workbench.trainer.settings import TrainerSettings

PAGE = ROOT / "docs/own_trainer.md"
SETTINGS, TRAINER = blocks(PAGE, "python")
(DEFINITION,) = blocks(PAGE, "yaml")
STOP_ONCE = """
import os
import pathlib


def _stop_after_a_step(self, batch):
    if self.step == 1 and not pathlib.Path("stopped").exists():
        pathlib.Path("stopped").touch()
        os.kill(os.getpid(), 15)
    return ""


RrhfTrainer._get_extra_log_info = _stop_after_a_step
"""
SMALL = "steps=2 seeds=1 batch_pairs=16 precision=float32 evaluate.prompts=8 evaluate.every=0 data.collect.pairs=32 "
SMALL += "data.collect.no_correct=reference"
COMMANDS = """
import sys
from workbench import cli
runs = (["run", *RUN], ["run", *RUN], ["run", "--runs=whole", *RUN])
for arguments in (["schema"], ["explain", "rrhf"], ["plan", *RUN], *runs):
    print("code", cli.main(arguments))
"""


@pytest.fixture
def rrhf(monkeypatch):
    """The page's trainer class, found by its name as if its files were there."""
    from workbench.trainer import get_trainer_class

    names = [*registry.trainer_names(), "rrhf"]
    monkeypatch.setattr(registry, "trainer_names", lambda: names)
    for kind, block in (("settings", SETTINGS), ("trainer", TRAINER)):
        module = ModuleType(f"workbench.trainer.rrhf_{kind}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(block, module.__name__, "exec"), vars(module))
    return get_trainer_class("rrhf")


def write_files_of_the_page(folder):
    (folder / "methods").mkdir()
    (folder / "methods/rrhf_settings.py").write_text(SETTINGS)
    (folder / "methods/rrhf_trainer.py").write_text(TRAINER + STOP_ONCE)
    (folder / "experiments").mkdir()
    (folder / "experiments/rrhf_sort.yaml").write_text(DEFINITION)
    start = yaml.safe_load((ROOT / "experiments/sft_sort.yaml").read_text())
    start["hyperparameters"]["steps"] = 1
    start["evaluate"]["prompts"] = 8
    (folder / "experiments/sft_sort.yaml").write_text(yaml.safe_dump(start))


@pytest.mark.slow
@pytest.mark.multi
def test_a_method_in_a_folder_of_its_own_is_explained_planned_trained_stopped_resumed_and_reported(tmp_path):
    write_files_of_the_page(tmp_path)
    program = (sys.executable, "-c", COMMANDS.replace("RUN", repr(["rrhf_sort", f"--settings={SMALL}"])))
    said = Command(tmp_path, cold=True, program=program, WORKBENCH_TRAINERS="methods").completed().stdout
    assert re.findall(r"^code (\d+)$", said, re.MULTILINE) == ["0", "0", "0", "143", "0", "0"], said
    assert "rrhf_hyperparameters" in said, "the schema has it"
    assert re.search(r"learns from +pairs of a better and a worse completion", said)
    assert "Weight of the ranking beside the likelihood." in said
    assert "16 pairs per step" in said
    assert "scoring" not in said, "no reference is read"
    resumed, whole = outcomes(tmp_path / "runs"), outcomes(tmp_path / "whole")
    assert resumed == whole
    (folder,) = (tmp_path / "runs").glob("rrhf_sort+*")
    assert {"loss/nll", "loss/ranking", "margin"} <= set(read_rows(folder / "main/seed0/metrics.jsonl")[-1])
    page = (folder / "report/index.html").read_text()
    assert "max(0, m(rejected) − m(chosen))" in page, "the methods side by side have its formula"
    assert "margin a token over steps" in page


def test_a_rejected_completion_costs_what_it_stands_above_the_chosen_one(rrhf, torch):
    found = sys.modules[rrhf.__module__].rank_losses(torch.tensor([0.5, -0.25]))
    assert found.tolist() == [0.0, 0.25]


def trained(rrhf, model, batch, **settings):
    chosen = {"steps": 1, "precision": "float32", "device": "cpu", "max_grad_norm": None} | settings
    trainer = rrhf(model, None, [batch], settings=chosen)
    gradients = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})
    )
    return trainer.train(), gradients


def assert_equal(torch, found, expected):
    (row, gradients), (loss, wanted) = found, expected
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    together = [torch.cat([part[name].flatten() for name in wanted]) for part in (gradients, wanted)]
    assert ((together[0] - together[1]).norm() / together[1].norm()).item() <= 1e-5


def test_the_gradient_of_two_terms_does_not_depend_on_micro_batches(rrhf, torch, small_llama, collate, make_rows):
    batch = collate("dpo", make_rows(5))
    row, gradients = trained(rrhf, small_llama(), batch)
    assert_equal(torch, trained(rrhf, small_llama(), batch, micro_batch_rows=2), (row["loss"], gradients))


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

    assert Own.data_form.name == form
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
    monkeypatch.setattr(registry, "find", lambda *asked: own)
    with pytest.raises(DefinitionError, match=message):
        registry.get_settings_class("own")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("data_form", 3, "DataForm"), ("batch", "PAIRS", "BatchFormat"), ("method", "X", "Method")],
)
def test_settings_that_describe_themselves_by_another_kind_of_value_are_refused(name, value, allowed):
    with pytest.raises(DefinitionError, match=f"Own: {name} is {value!r}, allowed a {allowed}$"):
        type("Own", (TrainerSettings,), {name: value, "__module__": __name__})


@pytest.mark.parametrize("name", ["method", "batch", "described", "updates_per_rollout"])
def test_settings_with_a_name_that_the_base_uses_are_refused(name):
    with pytest.raises(DefinitionError, match=f"Own: {name} is a name of TrainerSettings; give the setting another"):
        type("Own", (TrainerSettings,), {"__annotations__": {name: int}, name: 3, "__module__": __name__})


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


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"dpo_trainer.py": ""}, r"methods/dpo_trainer.py: the workbench has dpo_trainer.py itself; choose another"),
        ({"own_trainer.py": ""}, r"trainer own has no .*methods/own_settings.py; it defines a class OwnSettings"),
        ({"own_trainer.py": "", "own_settings.py": "x ="}, r"own_settings.py cannot be imported: SyntaxError: invalid"),
        ({"own_trainer.py": "", "own_settings.py": "import nothing_such"}, r"imported: ModuleNotFoundError: No module"),
        ({}, r"WORKBENCH_TRAINERS: found .*methods, allowed a folder"),
    ],
)
def test_files_that_are_no_method_are_told_in_one_line(files, said, tmp_path, monkeypatch):
    folder = tmp_path / "methods"
    for name, text in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setenv("WORKBENCH_TRAINERS", str(folder))
    monkeypatch.setattr(workbench.trainer, "__path__", [*workbench.trainer.__path__, str(folder)])
    importlib.invalidate_caches()
    with pytest.raises(DefinitionError, match=said) as told:
        registry.get_settings_class("own")
    assert "\n" not in str(told.value)


def test_a_method_that_says_nothing_of_itself_has_its_docstring_s_first_line():
    class MarginSettings(DPOSettings):
        """Pairs with a margin.

        More of it.
        """

    told = MarginSettings.described()
    assert (told.name, told.formula, told.learns_from) == ("Margin", "Pairs with a margin.", "pairs")
    assert (told.reference, told.samples, told.conventions) == ("the start, frozen", False, {})
