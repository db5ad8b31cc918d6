"""Copies of a run's files: the same values as the record, found out when they are not, and never in the way."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.tracking import parquet
from workbench.tracking.parquet import read_table, to_table

NUMBERS = st.one_of(
    st.none(),
    st.floats(allow_nan=False),
    st.integers(-(2**70), 2**70),
    st.booleans(),
    st.just(-0.0),
)
VALUES = st.one_of(NUMBERS, st.text(), st.lists(st.integers(), max_size=2))
NAMES = st.text("abc/_é\ud800", min_size=1, max_size=4)


def rows_of(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(st.dictionaries(NAMES, values, min_size=1, max_size=4), min_size=1, max_size=6)


def write(run: Path, rows: list[dict], name: str = "metrics") -> Path:
    run.mkdir(parents=True, exist_ok=True)
    path = run / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@given(rows=rows_of(VALUES))
@settings(max_examples=60, deadline=None)
def test_a_copy_holds_what_the_record_holds(tmp_path_factory: pytest.TempPathFactory, rows: list[dict]) -> None:
    for name in ("metrics", "losses"):
        run = tmp_path_factory.mktemp("run")
        path = write(run, rows, name)
        first = read_table(run, name, keep_copy=True)
        assert path.with_suffix(".parquet").is_file()
        again = read_table(run, name, keep_copy=True)
        assert first is not None
        assert again is not None
        # repr, for -0.0 equals 0.0 and is not the same value.
        assert repr(again.to_pydict()) == repr(first.to_pydict())
        assert again.schema == first.schema


@given(rows=rows_of(NUMBERS))
@settings(max_examples=60, deadline=None)
def test_metrics_are_the_record_s_numbers(rows: list[dict]) -> None:
    table = to_table(rows, numeric=True).to_pydict()
    for i, row in enumerate(rows):
        for name, column in table.items():
            value = row.get(json.loads(name) if name.startswith('"') else name)  # half a surrogate pair
            assert repr(column[i]) == repr(None if value is None else float(value))


def test_what_is_no_number_is_null_and_large_ones_survive() -> None:
    table = to_table([{"step": 1, "a": "text", "b": float("inf"), "c": 10**400}], numeric=True).to_pydict()
    assert table == {"step": [1], "a": [None], "b": [math.inf], "c": [None]}


def test_a_mapping_s_entries_are_columns_and_kinds_are_kept() -> None:
    rows = [
        {"split": "greedy", "rewards": {"sort": 1.0}, "ended": True, "num_tokens": 3, "meta": [1]},
        {"split": "sampled", "rewards": {"sort": 0.5, "length": 1}, "ended": None, "num_tokens": 4, "meta": None},
    ]
    table = to_table(rows)
    assert [str(field.type) for field in table.schema] == ["string", "double", "bool", "int64", "string", "int64"]
    assert table.column("rewards/length").to_pylist() == [None, 1]
    assert table.column("meta").to_pylist() == ["[1]", None]


def test_an_edit_of_the_record_is_seen_though_size_and_time_stay(tmp_path: Path) -> None:
    path = write(tmp_path, [{"step": 0, "loss": 1.5}])
    read_table(tmp_path, "metrics", keep_copy=True)
    before = path.stat()
    path.write_text(path.read_text().replace("1.5", "2.5"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    table = read_table(tmp_path, "metrics", keep_copy=False)
    assert table is not None
    assert table.column("loss").to_pylist() == [2.5]


def test_a_copy_of_another_version_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [{"step": 0, "loss": 1.5}])
    read_table(tmp_path, "metrics", keep_copy=True)
    old = (tmp_path / "metrics.parquet").read_bytes()
    monkeypatch.setattr(parquet, "VERSION", parquet.VERSION + 1)
    read_table(tmp_path, "metrics", keep_copy=True)
    assert (tmp_path / "metrics.parquet").read_bytes() != old


def test_no_flipped_bit_and_no_cut_changes_a_number(tmp_path: Path) -> None:
    rows = [{"step": i, "loss": 1.0 / (i + 1), "eval/x": None if i % 3 else float(i)} for i in range(60)]
    write(tmp_path, rows)
    good = read_table(tmp_path, "metrics", keep_copy=True)
    copy = tmp_path / "metrics.parquet"
    data = copy.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        torn = bytearray(data)
        torn[place] ^= 1 << bit
        copy.write_bytes(torn)
        assert read_table(tmp_path, "metrics", keep_copy=False).equals(good), (place, bit)
    for length in (0, 1, 8, len(data) // 2, len(data) - 1):
        copy.write_bytes(data[:length])
        assert read_table(tmp_path, "metrics", keep_copy=False).equals(good)
    read_table(tmp_path, "metrics", keep_copy=True)
    assert copy.read_bytes() == data, "a copy that is no good is replaced"


def test_the_copy_is_read_where_it_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [{"step": 0, "loss": 1.5}])
    read_table(tmp_path, "metrics", keep_copy=True)
    monkeypatch.setattr(parquet, "read_rows", lambda path: pytest.fail("the record was parsed again"))
    assert read_table(tmp_path, "metrics", keep_copy=True) is not None


def test_the_half_of_a_copy_that_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    (tmp_path / "metrics.parquet.1.partial").write_bytes(b"PAR1")
    read_table(tmp_path, "metrics", keep_copy=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "metrics.parquet"]


def test_a_copy_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 0, "loss": 1.5}])
    (tmp_path / "metrics.parquet").mkdir()
    table = read_table(tmp_path, "metrics", keep_copy=True)
    assert table is not None
    assert table.column("loss").to_pylist() == [1.5]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_run_that_goes_on_keeps_no_copy(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 0, "loss": 1.5}])
    read_table(tmp_path, "metrics", keep_copy=False)
    assert not (tmp_path / "metrics.parquet").exists()


def test_rollouts_are_not_copied_with_the_held_out_completions(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 0, "split": "train"}, {"step": 0, "split": "greedy"}], "completions")
    for _ in range(2):
        table = read_table(tmp_path, "completions", keep_copy=True)
        assert isinstance(table, pa.Table)
        assert table.column("split").to_pylist() == ["greedy"]


@pytest.mark.parametrize("content", [None, b"", b"\n", b"not json\n", b'{"step": 1', b"\xff\xfe\n"])
def test_nothing_to_read_is_no_table(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_bytes(content)
    assert read_table(tmp_path, "metrics", keep_copy=True) is None
