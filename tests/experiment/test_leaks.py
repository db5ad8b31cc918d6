"""A run knows which of its held-out prompts it was trained on, by itself or by a run that it begins from."""

from __future__ import annotations

import json

import pytest

SUMS = [f"{a}+{b}=" for a in range(4) for b in range(4)]


def _write(path, *rows: dict) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _status(lab, name) -> dict:
    [path] = (lab / f"runs/{name}").rglob("status.json")
    return json.loads(path.read_text())


def test_sums_that_were_trained_on_are_named_through_a_chain_of_starts(lab, command, define, definitions):
    _write(lab / "train.jsonl", *({"prompt": text, "completion": "1"} for text in [*SUMS, SUMS[0]]))
    _write(lab / "test.jsonl", *({"prompt": f"{text} ", "completion": "1"} for text in SUMS))
    _write(lab / "other.jsonl", *({"prompt": f"9{text}", "completion": "1"} for text in SUMS))
    first = definitions["start"] | {
        "data": {"path": "train.jsonl"},
        "evaluate": {"path": "test.jsonl", "prompts": 10, "sampling": None, "max_new_tokens": 2},
        "hyperparameters": {"steps": 1, "batch_rows": 2, "precision": "float32"},
    }
    define("first", first)
    second = first | {"start_from": "first", "data": {"path": "other.jsonl"}}
    define("second", {name: value for name, value in second.items() if name != "model"})
    done = command("run", "second")
    assert done.returncode == 0, done.stderr
    said = "10 of 10 held-out prompts (100 %) stand in the training data{}, none of them to the letter"
    for name, of in (("first", ""), ("second", " of first/main/seed0")):
        [found] = _status(lab, name)["overlaps"]
        assert (found["items"], found["exact"], found["folded"], found["share"]) == (10, 0, 10, 1.0)
        assert found["text"] == said.format(of)
    assert "training data: 1 row has the prompt of a row before" in _status(lab, "first")["notes"]
    report = (lab / "runs/second/report/report.md").read_text()
    assert "**Qualified, for 10 of 10 held-out prompts (100 %) stand in the training data of first/main/seed0" in report
    assert (
        f"  shared      {said.format(' of first/main/seed0')}"
        in command("data", "second", "--split", "held_out").stdout
    )
    assert "  repeated    1 row has the prompt of a row before" in command("data", "first").stdout


@pytest.mark.slow
def test_pairs_are_counted_by_their_prompts(lab, command, define, definitions):
    pairs = [{"prompt": text, "chosen": "1", "rejected": "2"} for text in SUMS]
    _write(lab / "train.jsonl", *pairs[:8])
    _write(lab / "test.jsonl", *pairs[4:])
    settings = {"steps": 1, "batch_pairs": 2, "precision": "float32"}
    define("pairs", {"question": "Do they leak?", "trainer": "dpo", "model": {"preset": "tiny"},
                     "data": {"path": "train.jsonl"}, "evaluate": {"pairs": "test.jsonl"},
                     "hyperparameters": settings})  # fmt: skip
    assert command("run", "pairs").returncode == 0
    [found] = _status(lab, "pairs")["overlaps"]
    assert found["text"] == "4 of 12 held-out pairs (33.3 %) stand in the training data"


@pytest.mark.slow
def test_a_tasks_own_held_out_prompts_are_never_trained_on(lab, command):
    """Collected pairs and their start among them."""
    done = command("run", "sweep", "--set", "sweep.seeds=1", "beta=0.1")
    assert done.returncode == 0, done.stderr
    for path in (lab / "runs").rglob("status.json"):
        assert json.loads(path.read_text())["overlaps"] == []
