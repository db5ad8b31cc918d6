"""Reading run folders: whole lines whatever a crash left, and following a file that grows."""

from __future__ import annotations

import json

import pytest

from workbench.experiment.running.run_folder import RunFolder
from workbench.tracking.reader import (
    Tail,
    find_runs,
    read_completions,
    read_held_out,
    read_json,
    read_rows,
    read_run,
    sealed,
    sealed_text,
    swept_values,
)
from workbench.tracking.store import MetricStore


def lines(*rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_absent_files_are_empty(tmp_path):
    assert read_rows(tmp_path / "no.jsonl") == []
    assert read_json(tmp_path / "no.json") is None
    assert Tail(tmp_path / "no.jsonl").new_rows() == []
    assert read_run(tmp_path).status == {}


def test_every_whole_line_is_read_at_any_cut(tmp_path):
    path, whole = tmp_path / "m.jsonl", lines({"step": 0}, {"step": 1, "text": "é\n"}, {"step": 2})
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        assert len(read_rows(path)) == whole[:end].count(b"\n")


def test_a_torn_line_in_the_middle_costs_only_itself(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(lines({"step": 0}) + b'{"step": 1, "lo\n[1]\n' + lines({"step": 2}))
    assert read_rows(path) == [{"step": 0}, {"step": 2}]


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"null"])
def test_a_torn_json_is_absent(tmp_path, content):
    (tmp_path / "status.json").write_bytes(content)
    assert read_json(tmp_path / "status.json") is None


def test_a_run_tells_of_itself_and_runs_are_found(tmp_path):
    run = tmp_path / "exp" / "base" / "seed0"
    run.mkdir(parents=True)
    (run / "definition.yaml").write_text("trainer: sft\n")
    (run / "status.json").write_text('{"state": "done"}')
    assert find_runs(tmp_path) == [run]
    assert (read_run(run).definition, read_run(run).status) == ({"trainer": "sft"}, {"state": "done"})
    (run / "definition.yaml").write_text("{torn")
    assert read_run(run).definition == {}


def test_a_tail_gives_each_row_once_and_waits_for_whole_lines(tmp_path):
    path, tail = tmp_path / "m.jsonl", Tail(tmp_path / "m.jsonl")
    whole = lines({"step": 0}, {"step": 1}, {"step": 2})
    seen = []
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        seen += [row["step"] for row in tail.new_rows()]
        assert not tail.restarted
    assert seen == [0, 1, 2]


def test_a_tail_restarts_when_the_file_was_cut(tmp_path):
    path = tmp_path / "m.jsonl"
    store, tail = MetricStore(path), Tail(path)
    store.append_many([{"step": step} for step in range(4)])
    assert len(tail.new_rows()) == 4
    store.truncate_after(1)
    assert [row["step"] for row in tail.new_rows()] == [0, 1]
    assert tail.restarted
    store.append({"step": 2})
    assert [row["step"] for row in tail.new_rows()] == [2]
    assert not tail.restarted
    store.close()


def test_a_tail_restarts_when_the_file_was_cut_and_has_grown_past_the_old_end(tmp_path):
    path = tmp_path / "m.jsonl"
    store, tail = MetricStore(path), Tail(path)
    store.append_many([{"step": 0, "time": 1.0}, {"step": 1, "time": 2.0}])
    tail.new_rows()
    store.truncate_after(0)
    store.append_many([{"step": 1, "time": 7.0}, {"step": 2, "time": 8.0}])
    store.close()
    assert [row["time"] for row in tail.new_rows()] == [1.0, 7.0, 8.0]
    assert tail.restarted


def test_a_tail_restarts_when_the_file_was_replaced(tmp_path):
    path, tail = tmp_path / "m.jsonl", Tail(tmp_path / "m.jsonl")
    path.write_bytes(lines({"step": 0}, {"step": 1}))
    tail.new_rows()
    path.unlink()
    assert tail.new_rows() == []
    path.write_bytes(lines({"step": 5}))
    assert tail.new_rows() == [{"step": 5}]
    assert tail.restarted


def test_rollouts_of_training_are_never_among_held_out_completions(tmp_path):
    path = tmp_path / "completions.jsonl"
    said = {"step": 0, "split": "greedy", "completion": '{"split": "train"}', "exact_match": 1.0}
    rollouts = [{"step": 1, "split": "train", "completion": "x", "reward": 1.0}]
    path.write_bytes(lines(said, *rollouts) + b'{"split":"train","written":"by another hand"}\n' + b'{"step": 2, "spl')
    assert read_held_out(path) == [said]
    assert read_completions(tmp_path)["completion"].tolist() == ['{"split": "train"}']
    assert read_completions(tmp_path, rollouts=True)["split"].tolist() == ["train", "train"]
    assert read_held_out(tmp_path / "no.jsonl") == []


def test_a_tail_keeps_only_what_is_asked_for(tmp_path):
    path, tail = tmp_path / "m.jsonl", Tail(tmp_path / "m.jsonl")
    path.write_bytes(lines({"step": 0}, {"step": 1}, {"step": 2}))
    assert tail.new_rows(lambda row: row["step"] != 1) == [{"step": 0}, {"step": 2}]
    assert tail.new_rows() == []


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 50_000, "a: &x [*x]\n", "!!python/object/apply:os.system ['x']"]
)
def test_a_hostile_definition_is_an_empty_one(tmp_path, text):
    (tmp_path / "definition.yaml").write_text(text)
    assert "x" not in read_run(tmp_path).definition


@pytest.mark.parametrize("name", ["definition.yaml", "status.json", "provenance.json"])
def test_no_single_bit_and_no_cut_of_a_run_s_records_is_believed(name, tmp_path):
    run = RunFolder(tmp_path, "x/main/seed0")
    run.path.mkdir(parents=True)
    (run.path / "definition.yaml").write_text(
        sealed_text("experiment: x\nseed: 0\nquestion: Höher?\n"), encoding="utf-8"
    )
    (run.path / "provenance.json").write_text(json.dumps(sealed({"commit": "abc", "dirty": True}), indent=1))
    run.write_status(state="finished", seconds=1.5)
    whole, good = read_run(run.path), (run.path / name).read_bytes()
    part = name.split(".")[0]
    assert getattr(whole, part)
    flipped = [
        good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :]
        for place in range(len(good))
        for bit in range(8)
    ]
    believed = 0
    for bad in [*flipped, *(good[:end] for end in range(len(good)))]:
        (run.path / name).write_bytes(bad)
        found = getattr(read_run(run.path), part)
        assert found in ({}, getattr(whole, part)), bad
        believed += found != {}
    assert believed < len(good), "nearly every damage is found"


def test_records_that_bear_no_checksum_are_taken_as_they_are(tmp_path):
    (tmp_path / "definition.yaml").write_text("experiment: x\n")
    (tmp_path / "status.json").write_text('{"state": "finished"}')
    found = read_run(tmp_path)
    assert (found.definition, found.status) == ({"experiment": "x"}, {"state": "finished"})


def test_swept_values_stand_where_every_run_has_them_and_in_older_records_beside():
    start = {"experiment": "sft", "variant": "main", "seed": 3}
    record = {"start_from": start, "data": {"collect": {"pairs": 8}}, "hyperparameters": {"beta": 0.1, "spikes": None}}
    axes = ["beta", "data.collect.pairs", "spikes.sigmas", "start_from"]
    found = {"beta": 0.1, "data.collect.pairs": 8, "spikes.sigmas": None, "start_from": "sft/main"}
    assert swept_values(record | {"axes": axes}) == found
    assert swept_values(record | {"point": {"beta": 0.1}}) == {"beta": 0.1}
    assert swept_values({}) == swept_values({"point": 3, "axes": None}) == {}
