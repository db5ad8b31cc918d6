"""Checkpoints: damage is found, a partial one is never seen, rotation keeps what a resume needs."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from workbench.errors import CheckpointError, StorageError
from workbench.trainer import checkpoint

TENSORS = {"model": {"w": torch.arange(6.0).view(2, 3)}, "optimizer": {"0.step": torch.tensor(3.0)}}
STATE = {"version": 1, "progress": {"step": 4}, "loss": float("nan")}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "step_00000004"
    checkpoint.write(folder, TENSORS, STATE)
    return folder


def test_it_comes_back_exactly(folder):
    tensors, state = checkpoint.read(folder)
    assert {name: set(group) for name, group in tensors.items()} == {"model": {"w"}, "optimizer": {"0.step"}}
    assert torch.equal(tensors["model"]["w"], TENSORS["model"]["w"])
    assert state["progress"] == {"step": 4}
    assert state["loss"] != state["loss"]


def test_any_flipped_bit_in_any_file_is_found(folder):
    """Every bit of the small files, and a spread of the tensors'."""
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for bit in range(0, 8 * len(good), 1 if path.name == "manifest.json" else 5):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            assert checkpoint.find_damage(folder), f"{path.name} bit {bit}"
        path.write_bytes(good)
    assert checkpoint.find_damage(folder) is None


def test_any_truncation_of_any_file_is_found(folder):
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for length in range(len(good)):
            os.truncate(path, length)
            assert checkpoint.find_damage(folder), f"{path.name} cut at {length}"
            path.write_bytes(good)
        path.unlink()
        assert checkpoint.find_damage(folder)
        path.write_bytes(good)


def test_a_damaged_one_is_refused_with_the_file_named(folder):
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step_00000004 is not a valid checkpoint: model.safetensors"):
        checkpoint.read(folder)


def test_what_changes_between_its_check_and_its_use_is_refused(folder, monkeypatch):
    found = checkpoint.find_damage

    def then_changed(where):
        reason = found(where)
        other = where.with_name("other")
        checkpoint.write(other, {"model": {"w": torch.zeros(2, 3)}}, STATE)
        shutil.copy(other / "model.safetensors", where)
        return reason

    monkeypatch.setattr(checkpoint, "find_damage", then_changed)
    with pytest.raises(CheckpointError, match=r"model.safetensors was changed while it was read"):
        checkpoint.read(folder)


def test_a_file_that_the_manifest_does_not_list_is_not_loaded(folder):
    (folder / "extra.safetensors").write_bytes(b"anything")
    assert set(checkpoint.read(folder)[0]) == {"model", "optimizer"}


def test_only_safetensors_and_json_are_written(folder):
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    assert set(json.loads((folder / "manifest.json").read_text())) == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_the_newest_valid_one_is_found_and_none_is_an_error(tmp_path):
    assert checkpoint.newest_valid(tmp_path / "absent") is None
    for step in (2, 4):
        checkpoint.write(checkpoint.step_folder(tmp_path, step), TENSORS, STATE)
    shutil.copytree(tmp_path / "step_00000004", tmp_path / "step_00000009.partial")
    assert checkpoint.newest_valid(tmp_path).name == "step_00000004"
    (tmp_path / "step_00000004" / "state.json").unlink()
    assert checkpoint.newest_valid(tmp_path).name == "step_00000002"
    (tmp_path / "step_00000002" / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no valid checkpoint \(step_00000004: .*step_00000002: .*FRESH=1"):
        checkpoint.newest_valid(tmp_path)


def test_a_failing_write_leaves_the_old_one(folder, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"could not be written \(No space left on device\)"):
        checkpoint.write(folder, TENSORS, {"progress": {"step": 5}})
    assert checkpoint.read(folder)[1]["progress"] == {"step": 4}
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]


@pytest.fixture
def steps(tmp_path):
    """steps(written, damaged) -> the steps left after rotate(newest=..., keep=..., always=...)."""

    def rotated(written, newest, keep, always=(), damaged=()):
        for step in written:
            checkpoint.write(checkpoint.step_folder(tmp_path, step), TENSORS, STATE)
        for step in damaged:
            (checkpoint.step_folder(tmp_path, step) / "state.json").write_text("{}")
        kept = {checkpoint.step_folder(tmp_path, step) for step in always}
        checkpoint.rotate(checkpoint.step_folder(tmp_path, newest), keep, kept)
        return [int(path.name[5:]) for path in sorted(tmp_path.iterdir())]

    return rotated


def test_rotation_keeps_the_k_newest(steps):
    assert steps([1, 2, 3, 4], newest=4, keep=2) == [3, 4]


def test_rotation_keeps_the_best_that_is_the_oldest_besides_the_k_newest(steps):
    assert steps([1, 2, 3, 4], newest=4, keep=2, always=[1]) == [1, 3, 4]


def test_rotation_keeps_the_newest_valid_one_even_where_the_best_is_valid(steps):
    assert steps([1, 2, 3, 4], newest=4, keep=2, always=[1], damaged=[3, 4]) == [1, 2, 3, 4]


def test_rotation_drops_steps_of_a_history_that_was_left(steps):
    assert steps([1, 2, 8], newest=2, keep=1) == [2]


def test_a_delete_that_fails_is_tried_again(steps, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)
    assert steps([1, 2], newest=2, keep=1) == [1, 2]
    monkeypatch.undo()
    assert steps([3], newest=3, keep=1) == [3]
