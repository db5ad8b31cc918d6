"""The append-only store: whole rows only, truncation in place, failures told in one line."""

from __future__ import annotations

import math
import shutil

import pytest

from workbench.errors import StorageError
from workbench.tracking.reader import read_rows
from workbench.tracking.store import MetricStore


def write(path, rows):
    store = MetricStore(path)
    for row in rows:
        store.append(row)
    store.close()


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [{"step": 0, "text": 'ümlaut "quote" \n\r  end'}, {"step": 1, "nested": {"a": [1, 2.5]}}]
    write(tmp_path / "m.jsonl", rows)
    assert read_rows(tmp_path / "m.jsonl") == rows


@pytest.mark.parametrize("gone", ["renamed", "removed", "replaced"])
def test_a_file_that_is_gone_is_told_and_not_made_anew(tmp_path, gone):
    folder = tmp_path / "run"
    folder.mkdir()
    store = MetricStore(folder / "m.jsonl")
    store.append({"step": 0})
    folder.rename(tmp_path / "away")
    if gone == "removed":
        shutil.rmtree(tmp_path / "away")
    if gone == "replaced":
        folder.mkdir()
        (folder / "m.jsonl").write_text("")
    with pytest.raises(StorageError, match="No such file"):
        store.append({"step": 1})
    store.close()
    assert gone == "replaced" or not folder.exists()
    with pytest.raises(StorageError, match="No such file"):
        MetricStore(tmp_path / "never" / "m.jsonl")
    assert not (tmp_path / "never").exists()


def test_what_json_cannot_hold_becomes_null(tmp_path):
    row = {"step": 0, "a": math.nan, "b": math.inf, "c": -math.inf, "d": {"e": math.nan, "f": 1e308}}
    write(tmp_path / "m.jsonl", [row])
    assert read_rows(tmp_path / "m.jsonl") == [row | {"a": None, "b": None, "c": None, "d": {"e": None, "f": 1e308}}]


def test_a_tail_torn_at_any_byte_of_the_last_two_lines_never_survives_an_opening(tmp_path):
    path, rows = tmp_path / "m.jsonl", [{"step": step, "loss": 0.5 * step, "text": "é"} for step in range(4)]
    write(path, rows)
    whole = path.read_bytes()
    starts = [0, *(index + 1 for index, byte in enumerate(whole) if byte == 10)]
    for end in range(starts[2], len(whole) + 1):
        path.write_bytes(whole[:end])
        kept = rows[: whole[:end].count(b"\n")]
        assert read_rows(path) == kept
        write(path, [{"step": 99}])
        assert read_rows(path) == [*kept, {"step": 99}]


def test_a_last_line_of_garbage_is_cut(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\x00\n')
    write(path, [{"step": 2}])
    assert read_rows(path) == [{"step": 1}, {"step": 2}]


def test_truncation_keeps_rows_up_to_the_step(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, [{"step": step, "k": k} for step in range(3) for k in range(2)])
    store = MetricStore(path)
    store.truncate_after(1)
    store.append({"step": 2, "k": "new"})
    store.close()
    assert [(row["step"], row["k"]) for row in read_rows(path)] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, "new")]


@pytest.mark.parametrize("step", [-1, 5])
def test_truncation_before_all_or_after_all(tmp_path, step):
    path = tmp_path / "m.jsonl"
    write(path, [{"step": 0}, {"step": 1}])
    store = MetricStore(path)
    store.truncate_after(step)
    store.close()
    assert len(read_rows(path)) == (0 if step < 0 else 2)


def test_another_open_store_goes_on_after_a_truncation(tmp_path):
    path = tmp_path / "m.jsonl"
    first, second = MetricStore(path), MetricStore(path)
    first.append_many([{"step": 0}, {"step": 1}])
    second.truncate_after(0)
    first.append({"step": 1, "again": True})
    first.close()
    second.close()
    assert read_rows(path) == [{"step": 0}, {"step": 1, "again": True}]


def test_a_failing_disk_is_one_line_that_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"m.jsonl: cannot be written \(.*\); free some space or choose RUNS=folder"):
        MetricStore(tmp_path / "file" / "m.jsonl")
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    store = MetricStore(tmp_path / "full.jsonl")
    with pytest.raises(StorageError, match="No space left"):
        store.append({"step": 0})
    store.close()
