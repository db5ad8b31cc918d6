"""The stage cache: killed before every single write, written by many at once, poisoned - never a partial hit."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal

import pytest
import yaml

from tests.faults.conftest import at_write, kill
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.running.prepare import Preparer
from workbench.experiment.stages.cache import MANIFEST, Stage, StageCache

pytestmark = pytest.mark.multi
TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STAGE, OTHER = Stage("data", 1, {"file": "abc", "rows": 3}), Stage("data", 1, {"file": "abd", "rows": 3})
CONTENT = {"rows.bin": bytes(range(64)), "text.jsonl": b'{"a": 1}\n'}
DPO = {
    "question": "How tightly?", "trainer": "dpo", "model": {"preset": "tiny"},
    "data": {"collect": {"task": "sort", "digits": 3, "pairs": 8, "samples_per_prompt": 2, "no_correct": "reference",
                         "held_out_pairs": 4}},
    "hyperparameters": {"steps": 1, "batch_pairs": 4, "precision": "float32"},
    "evaluate": {"task": "sort", "digits": 3, "prompts": 2},
}  # fmt: skip


def make(folder):
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)
    return {"rows": 3, "costs": {"flops": 1.5}}


def is_whole(cache, stage=STAGE):
    found = cache.find(stage)
    assert (
        found is None
        or {path.name: path.read_bytes() for path in found.folder.iterdir() if path.name != MANIFEST} == CONTENT
    )
    assert found is None or found.made == {"rows": 3, "costs": {"flops": 1.5}}
    return found is not None


def damage(folder):
    (folder / "rows.bin").write_bytes(b"damaged")


@pytest.mark.slow
@pytest.mark.parametrize("before", [lambda folder: None, damage], ids=["absent", "damaged"])
def test_killed_before_every_write_of_a_stage_it_is_made_anew(before, in_processes, tmp_path, record_property):
    def victim(runs, number):
        if before is damage:
            damage(StageCache(runs).get(STAGE, make).folder)
        count = at_write(runs / "stages", number, kill)
        StageCache(runs).get(STAGE, make)
        return count()

    [writes] = in_processes(1, lambda _: victim(tmp_path / "whole", 0))
    assert writes >= 9, "two files and stage.json are opened, synced with their folder, and renamed"
    for number in range(1, writes + 1):
        runs = tmp_path / str(number)
        [ended] = in_processes(1, lambda _, runs=runs, number=number: victim(runs, number))
        assert ended == -signal.SIGKILL
        made_before = is_whole(StageCache(runs))
        assert not made_before or number == writes, f"killed before write {number} of {writes}"
        StageCache(runs).get(STAGE, make)
        assert is_whole(StageCache(runs))
        assert [path.name for path in (runs / "stages").iterdir()] == [STAGE.folder_name]
    record_property("tries", writes)


class Silent:
    def say(self, text):
        pass

    def progress(self, label, done, total):
        pass


def prepare(lab):
    """Every stage of a run by its real makers; the digest of all their files, less the clocks."""
    spec = load_experiment("stages", folder=lab / "experiments").runs[0]
    prepared = Preparer(lab / "runs", Silent(), jobs=1).prepare(spec, "float32")
    stages = (
        prepared.sources[0].data,
        prepared.sources[0].reference,
        prepared.held_out_pairs,
        prepared.held_out_reference,
        prepared.sources[0].collected,
    )
    digest = {}
    for stage in stages:
        for path in sorted(stage.folder.iterdir()):
            if path.name != MANIFEST:
                digest[f"{stage.folder.name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digest


def lab_in(folder):
    (folder / "experiments").mkdir(parents=True)
    (folder / "experiments/stages.yaml").write_text(yaml.safe_dump(DPO))
    return folder


@pytest.mark.slow
def test_real_stages_killed_while_they_are_made_come_out_the_same(torch, in_processes, tmp_path, record_property):
    def victim(lab, number):
        count = at_write(lab / "runs/stages", number, kill)
        return prepare(lab), count()

    [(whole, writes)] = in_processes(1, lambda _: victim(lab_in(tmp_path / "whole"), 0))
    assert len({name.split("-")[0] for name in whole}) == 3, "collected pairs, token ids, reference log-probabilities"
    rng = random.Random(0)
    for index in range(4 * TRIES):
        lab, number = lab_in(tmp_path / str(index)), rng.randint(1, writes)
        [ended] = in_processes(1, lambda _, lab=lab, number=number: victim(lab, number))
        assert ended == -signal.SIGKILL
        [again] = in_processes(1, lambda _, lab=lab: prepare(lab))
        assert again == whole, f"killed before write {number} of {writes}"
    record_property("tries", 4 * TRIES)


@pytest.mark.parametrize("number", [2, 8])
def test_writers_at_once_make_it_once_and_all_find_it(number, in_processes, tmp_path):
    def work(_):
        def logged(folder):
            with open(tmp_path / "log", "a") as file:
                file.write("made\n")
            return make(folder)

        StageCache(tmp_path).get(STAGE, logged)
        return is_whole(StageCache(tmp_path))

    damage(StageCache(tmp_path).get(STAGE, make).folder)
    assert in_processes(number, work) == [True] * number
    assert (tmp_path / "log").read_text() == "made\n"


@pytest.mark.parametrize("number", [2, 8])
def test_where_the_first_of_the_writers_is_killed_another_makes_it(number, in_processes, tmp_path):
    def work(_):
        def first_dies(folder):
            make(folder)
            if not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                kill()
            return make(folder)

        StageCache(tmp_path).get(STAGE, first_dies)
        return is_whole(StageCache(tmp_path))

    assert sorted(in_processes(number, work), key=int) == [-signal.SIGKILL, *[True] * (number - 1)]


def swap(root):
    for stage in (STAGE, OTHER):
        (root / stage.folder_name).rename(root / f"was-{stage.folder_name}")
    (root / f"was-{STAGE.folder_name}").rename(root / OTHER.folder_name)
    (root / f"was-{OTHER.folder_name}").rename(root / STAGE.folder_name)


def edit(root, change):
    path = root / STAGE.folder_name / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def link_out(root):
    file = root / STAGE.folder_name / "rows.bin"
    file.rename(root.parent / "outside.bin")
    file.symlink_to(root.parent / "outside.bin")


def be_a_link(root):
    (root / STAGE.folder_name).rename(root.parent / "outside")
    damage(root.parent / "outside")
    (root / STAGE.folder_name).symlink_to(root.parent / "outside")


def be_a_file(root):
    shutil.rmtree(root / STAGE.folder_name)
    (root / STAGE.folder_name).write_text("no folder")


POISONS = {
    "a file added": lambda root: (root / STAGE.folder_name / "more.bin").write_bytes(b"x"),
    "a folder added": lambda root: (root / STAGE.folder_name / "more").mkdir(),
    "swapped with another": swap,
    "stage.json of another": lambda root: shutil.copy(
        root / OTHER.folder_name / MANIFEST, root / STAGE.folder_name / MANIFEST
    ),
    "a link out of the folder": link_out,
    "itself a link": be_a_link,
    "a file": be_a_file,
    "an older version": lambda root: edit(root, lambda manifest: manifest.update(version=0)),
    "one of before it bore a checksum": lambda root: edit(root, lambda manifest: manifest.pop("sha256")),
    "other costs": lambda root: edit(root, lambda manifest: manifest["made"]["costs"].update(flops=2.5)),
    "a file that it does not name": lambda root: edit(root, lambda manifest: manifest["files"].popitem()),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_a_poisoned_entry_is_no_hit_and_made_anew(poison, tmp_path):
    def make_other(folder):
        make(folder)
        (folder / "rows.bin").write_bytes(b"other rows")
        return {"rows": 9}

    StageCache(tmp_path).get(STAGE, make)
    StageCache(tmp_path).get(OTHER, make_other)
    poison(tmp_path / "stages")
    assert StageCache(tmp_path).find(STAGE) is None
    assert StageCache(tmp_path).get(STAGE, make)
    assert is_whole(StageCache(tmp_path))
    assert not (tmp_path / "stages" / STAGE.folder_name).is_symlink()
