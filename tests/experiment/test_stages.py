"""A stage is made once, published whole, verified before it is used."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from workbench.errors import StorageError
from workbench.experiment.stages.cache import Stage, StageCache

STAGE = Stage("data", 1, {"file": "abc", "rows": 3})


def make(folder: Path) -> dict:
    (folder / "rows.bin").write_bytes(bytes(range(64)))
    return {"rows": 3}


def refuse(_folder: Path) -> dict:
    raise AssertionError("made a second time")


def test_a_stage_is_made_once_and_found_by_another_cache(tmp_path):
    first = StageCache(tmp_path).get(STAGE, make)
    second = StageCache(tmp_path).get(STAGE, refuse)
    assert (second.folder, second.made) == (first.folder, {"rows": 3})
    assert second.folder.name == f"data-v1-{STAGE.fingerprint}"


@pytest.mark.parametrize("other", [Stage("data", 2, STAGE.key), Stage("other", 1, STAGE.key), Stage("data", 1, {})])
def test_name_version_and_key_all_tell_stages_apart(tmp_path, other):
    cache = StageCache(tmp_path)
    cache.get(STAGE, make)
    assert cache.find(other) is None


@pytest.mark.parametrize("byte", [0, 31, 63])
def test_a_flipped_bit_is_found_and_the_stage_made_anew(tmp_path, byte):
    folder = StageCache(tmp_path).get(STAGE, make).folder
    data = bytearray((folder / "rows.bin").read_bytes())
    data[byte] ^= 1
    (folder / "rows.bin").write_bytes(data)
    said: list[str] = []
    result = StageCache(tmp_path).get(STAGE, make, said.append)
    assert said == [f"{folder.name} is damaged and is made anew"]
    assert (result.folder / "rows.bin").read_bytes() == bytes(range(64))


@pytest.mark.parametrize("damage", ["rows.bin", "stage.json"])
def test_a_missing_file_is_no_hit(tmp_path, damage):
    folder = StageCache(tmp_path).get(STAGE, make).folder
    (folder / damage).unlink()
    assert StageCache(tmp_path).find(STAGE) is None


def test_a_maker_that_dies_half_way_leaves_no_hit(tmp_path):
    def die(folder: Path) -> dict:
        (folder / "rows.bin").write_bytes(b"half")
        os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=lambda: StageCache(tmp_path).get(STAGE, die))
    process.start()
    process.join()
    assert StageCache(tmp_path).find(STAGE) is None
    assert (StageCache(tmp_path).get(STAGE, make).folder / "rows.bin").read_bytes() == bytes(range(64))


def test_a_maker_that_raises_leaves_no_hit(tmp_path):
    def fail(folder: Path) -> dict:
        (folder / "rows.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space left on device"):
        StageCache(tmp_path).get(STAGE, fail)
    assert StageCache(tmp_path).find(STAGE) is None
    assert list((tmp_path / "stages").iterdir()) == []


def test_two_processes_make_one_stage_once(tmp_path):
    log = tmp_path / "log"

    def work() -> None:
        def slow(folder: Path) -> dict:
            with open(log, "a") as file:
                file.write("made\n")
            return make(folder)

        StageCache(tmp_path).get(STAGE, slow)

    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert log.read_text() == "made\n"
