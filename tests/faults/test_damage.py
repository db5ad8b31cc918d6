"""Bits that flip and files that are cut, in what trainers, makers and runs really leave: found before any use."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import run
from tests.faults.test_stages_killed import Silent
from tests.trainers import ONLINE, TRAINERS
from workbench.errors import CheckpointError, ModelError, WorkbenchError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.plan_text import describe_plan
from workbench.experiment.planning.status import standings, status_text
from workbench.experiment.running.prepare import Preparer
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.sample import find_model
from workbench.models.resolve import resolve_model_folder
from workbench.models.settings import ModelSettings
from workbench.tracking.parquet import TABLES, read_table
from workbench.tracking.reader import read_run
from workbench.trainer import checkpoint

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
FLIPS, CUTS = 20 * TRIES, 8 * TRIES
"""Of each product."""
pytestmark = [pytest.mark.slow, pytest.mark.multi]
CHECKPOINTS: dict[str, dict[str, Any]] = {name: {} for name in TRAINERS} | {
    "pretrain": {"ema_decay": 0.9},
    "dpo-lora": {},
    "ppo": {"critic": "model", "kl_stop": None},
}
START = {
    "question": "How well does it sort?", "trainer": "sft", "model": {"preset": "tiny"},
    "data": {"task": "sort", "digits": 3, "rows": 64},
    "hyperparameters": {"steps": 6, "batch_rows": 8, "precision": "float32", "checkpoint_every": 2,
                        "keep_checkpoints": 3},
    "evaluate": {"task": "sort", "digits": 3, "prompts": 4, "max_new_tokens": 6},
}  # fmt: skip
ON = {
    "question": "How tightly?", "trainer": "dpo", "start_from": "start",
    "data": {"collect": {"task": "sort", "digits": 3, "pairs": 16, "samples_per_prompt": 2, "no_correct": "reference"}},
    "hyperparameters": {"steps": 2, "batch_pairs": 8, "precision": "float32"},
    "evaluate": {"task": "sort", "digits": 3, "prompts": 4, "max_new_tokens": 6},
}  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """One, done to a file and undone."""

    path: Path
    good: bytes
    bad: bytes
    what: str

    def __enter__(self) -> str:
        self.path.write_bytes(self.bad)
        return self.what

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.good)


def damages(paths: list[Path], rng: random.Random, flips: int = FLIPS, cuts: int = CUTS):
    """Random single bits and random ends, in files drawn at random."""
    files = {path: path.read_bytes() for path in paths}
    full = [path for path in files if files[path]]
    for number in range(flips + cuts):
        path = rng.choice(full)
        good = files[path]
        place = rng.randrange(len(good))
        if number < flips:
            bad = bytearray(good)
            bad[place] ^= 1 << rng.randrange(8)
            yield Damage(path, good, bytes(bad), f"{path.name}: a bit of byte {place} of {len(good)}")
        else:
            yield Damage(path, good, good[:place], f"{path.name} cut at {place} of {len(good)}")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("variant", CHECKPOINTS)
def test_no_damage_of_a_trainer_s_checkpoint_is_loaded(variant, make_trainer, tmp_path, record_property):
    def build():
        every = {"steps": 4, "checkpoint_every": 1, "keep_checkpoints": 3}
        return make_trainer(variant, tmp_path, **every, **CHECKPOINTS[variant])

    build().train()
    folders = list(checkpoint.steps_newest_first(tmp_path / "checkpoints"))
    # Until one in the middle of its rollouts is the newest.
    while variant in ONLINE and not list(folders[0].glob("feed*")):
        shutil.rmtree(folders.pop(0))
    newest, older, *_ = folders
    trainer, tries = build(), 0
    for damage in damages(files_of(newest), random.Random(variant), 2 * FLIPS, 2 * CUTS):
        with damage as what:
            assert checkpoint.newest_valid(tmp_path / "checkpoints") == older, what
            with pytest.raises(CheckpointError, match="is not a valid checkpoint"):
                trainer.load_checkpoint(newest)
        tries += 1
    assert checkpoint.newest_valid(tmp_path / "checkpoints") == newest
    record_property("tries", tries)


@pytest.fixture(scope="module")
def finished(once):
    """A lab with a finished start, a finished run on it, and its stages."""

    def make(lab):
        (lab / "experiments").mkdir()
        for name, definition in (("start", START), ("on", ON)):
            (lab / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(definition))
        done = run(lab, "run", "on")
        assert done.returncode == 0, done.stderr
        return lab

    return once("start-and-on", make)


@pytest.fixture
def lab(finished, tmp_path):
    """A copy of it, to be broken."""
    return shutil.copytree(finished, tmp_path / "lab")


def spec_of(lab: Path, name: str) -> Any:
    return load_experiment(name, folder=lab / "experiments").runs[0]


def test_no_damage_of_a_stage_is_a_hit(lab, record_property, torch):
    spec, tries = spec_of(lab, "on"), 0
    prepared = Preparer(lab / "runs", Silent(), jobs=1).prepare(spec, "float32")
    for result in (prepared.sources[0].data, prepared.sources[0].collected, prepared.sources[0].reference):
        for damage in damages(files_of(result.folder), random.Random(result.stage.name)):
            with damage as what:
                assert Preparer(lab / "runs", Silent(), jobs=1).stages.cache.find(result.stage) is None, what
            tries += 1
        assert Preparer(lab / "runs", Silent(), jobs=1).stages.cache.find(result.stage) == result
    record_property("tries", tries)


def test_a_damaged_stage_is_made_anew_to_the_same_bytes(lab, torch):
    spec = spec_of(lab, "on")
    prepared = Preparer(lab / "runs", Silent(), jobs=1).prepare(spec, "float32")
    for result in (prepared.sources[0].data, prepared.sources[0].collected, prepared.sources[0].reference):
        for path in (path for path in files_of(result.folder) if path.name != "stage.json"):
            good = path.read_bytes()
            path.write_bytes(good[: len(good) // 2])
            Preparer(lab / "runs", Silent(), jobs=1).prepare(spec, "float32")
            assert path.read_bytes() == good


def test_a_damaged_model_that_was_made_is_made_anew(tmp_path, record_property, torch):
    settings = ModelSettings(preset="tiny")
    folder = resolve_model_folder(settings, tmp_path)
    good = {path: path.read_bytes() for path in files_of(folder)}
    tries = 0
    for damage in damages([*good, tmp_path / f"{folder.name}.json"], random.Random(0), FLIPS // 2, CUTS // 2):
        damage.path.write_bytes(damage.bad)
        assert resolve_model_folder(settings, tmp_path) == folder
        assert {path: path.read_bytes() for path in files_of(folder)} == good, damage.what
        tries += 1
    record_property("tries", tries)


def test_no_damage_of_a_run_s_model_is_begun_from(lab, record_property):
    folder, tries = RunFolder(lab / "runs", "start/main/seed0"), 0
    paths = files_of(folder.model)
    assert {path.name for path in paths} >= {"config.json", "tokenizer.json", "tokenizer_config.json"}
    rng, on = random.Random(0), spec_of(lab, "on")
    # Each file by itself: of all bytes, nearly all are the weights'.
    for path in paths:
        for damage in damages([path], rng, FLIPS // 2, CUTS // 2):
            with damage, pytest.raises(ModelError, match="is damaged"):
                Preparer(lab / "runs", Silent(), jobs=1).models.folder(on)
            with damage, pytest.raises(ModelError, match="is damaged"):
                find_model(lab / "runs", "start/main/seed0")
            tries += 2
        path.rename(path.with_name("away"))
        with pytest.raises(ModelError):
            Preparer(lab / "runs", Silent(), jobs=1).models.folder(on)
        path.with_name("away").rename(path)
    folder.verify_model()
    assert find_model(lab / "runs", "start/main/seed0")[0] == folder.model
    record_property("tries", tries)


def test_no_damage_of_a_parquet_copy_is_read(lab, record_property):
    tries = 0
    for key in ("start/main/seed0", "on/main/seed0"):
        for name in TABLES:
            good = read_table(lab / "runs" / key, name, keep_copy=True)
            if good is None:
                continue
            for damage in damages([lab / "runs" / key / f"{name}.parquet"], random.Random(name)):
                with damage as what:
                    assert read_table(lab / "runs" / key, name, keep_copy=False).equals(good), what
                tries += 1
    assert tries >= 4 * (FLIPS + CUTS)
    record_property("tries", tries)


@pytest.mark.long
@pytest.mark.parametrize("name", ["status.json", "provenance.json", "definition.yaml", "../../plan.json"])
def test_a_damaged_record_of_a_run_is_no_traceback_and_never_believed(name, lab, record_property):
    """What plans, reports and begins from a run meets them; what is no longer known to hold is made anew."""
    from analysis.report.pages import write_report

    path, rng, tries = (lab / "runs/on/main/seed0" / name).resolve(), random.Random(name), 0
    whole = RunFolder(lab / "runs", "on/main/seed0").status()
    record = read_run(lab / "runs/on/main/seed0")
    experiment = load_experiment("on", folder=lab / "experiments")
    for number, damage in enumerate(damages([path], rng)):
        with damage as what:
            status = RunFolder(lab / "runs", "on/main/seed0").status()
            assert status in ({}, whole), what
            found = read_run(record.folder)
            for part in ("definition", "status", "provenance"):
                assert getattr(found, part) in ({}, getattr(record, part)), what
            plan = describe_plan(experiment, lab / "runs", jobs=1, fresh=False).text
            assert ("nothing to train" in plan) == (status == whole), what
            assert status_text(standings(experiment, lab / "runs"))
            if number % 8 == 0:
                with contextlib.suppress(WorkbenchError):
                    write_report(lab / "runs/on")
        tries += 1
    record_property("tries", tries)


@pytest.mark.parametrize("name", ["metrics.jsonl", "completions.jsonl", "losses.jsonl"])
@pytest.mark.parametrize("content", [b"", b'{"step": 0', b"\0" * 64])
def test_a_report_of_a_run_whose_records_are_empty_is_written(name, content, lab):
    from analysis.report.pages import write_report

    run_folder = lab / "runs/start/main/seed0"
    for copy in run_folder.glob("*.parquet"):
        copy.unlink()
    (run_folder / name).write_bytes(content)
    assert write_report(lab / "runs/start").is_file()


def test_a_run_whose_status_is_torn_is_made_anew_by_the_same_command(lab):
    status = lab / "runs/on/main/seed0/status.json"
    weights = lab / "runs/on/main/seed0/model/model.safetensors"
    good = weights.read_bytes()
    os.truncate(status, 100)
    done = run(lab, "run", "on")
    assert done.returncode == 0, done.stderr
    assert "its status.json, which says of what it is, is damaged; the old one is now" in done.stderr
    assert "Traceback" not in done.stderr
    assert weights.read_bytes() == good


def as_interrupted(lab: Path, damaged: int) -> bytes:
    """Let the start's last checkpoints be damaged and its end be forgotten; the weights that it had."""
    folder = RunFolder(lab / "runs", "start/main/seed0")
    weights = (folder.model / "model.safetensors").read_bytes()
    shutil.rmtree(folder.model)
    folder.write_status(state="interrupted")
    for step in sorted((folder.path / "checkpoints").iterdir())[-damaged:]:
        data = bytearray((step / "model.safetensors").read_bytes())
        data[len(data) // 3] ^= 4
        (step / "model.safetensors").write_bytes(data)
    return weights


def test_at_the_command_a_damaged_newest_checkpoint_falls_back_to_the_same_bits(lab):
    weights = as_interrupted(lab, damaged=1)
    done = run(lab, "run", "start")
    assert done.returncode == 0, done.stderr
    assert (lab / "runs/start/main/seed0/model/model.safetensors").read_bytes() == weights


def test_at_the_command_no_valid_checkpoint_is_one_line_exit_3_and_nothing_deleted(lab):
    as_interrupted(lab, damaged=3)
    steps = lab / "runs/start/main/seed0/checkpoints"
    before = {path: path.read_bytes() for path in files_of(steps)}
    done = run(lab, "run", "start")
    assert done.returncode == 3, done.stderr
    told = [line for line in done.stderr.splitlines() if "no valid checkpoint" in line]
    assert len(told) == 1
    assert "FRESH=1 trains anew" in told[0]
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in files_of(steps)} == before
