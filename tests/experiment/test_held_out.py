"""Held-out rows are cut by the same rule as training rows, and a run says so."""

from __future__ import annotations

import json

import pytest


def test_a_run_says_what_was_cut_of_its_held_out_rows(lab, command, define, definitions):
    for name, answers in (("train", ["1", "2"]), ("test", ["1", "1234567"])):
        rows = ({"prompt": "sort 21: ", "completion": answer} for answer in answers)
        (lab / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    changes = {
        "data": {"path": "train.jsonl", "max_tokens": 14},
        "evaluate": {"path": "test.jsonl", "prompts": 2, "sampling": None, "max_new_tokens": 2},
        "hyperparameters": {"steps": 1, "batch_rows": 2},
    }
    define("cut", definitions["start"] | changes)
    assert command("run", "cut").returncode == 0
    [status] = (lab / "runs/cut").rglob("status.json")
    assert [note for note in json.loads(status.read_text())["notes"] if note.startswith("held-out rows: ")] == [
        "held-out rows: 2 rows used; 1 truncated (2 tokens of 1 prompt, 1 token of 1 completion lost)"
    ]


ROWS = {"train": ["1", "12"], "test": ["2"]}


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["sft", "dpo"])
def test_a_data_sets_other_split_is_held_out(lab, command, define, trainer):
    """Its prompts for a trainer of rows, its pairs for one of pairs; the record names both splits."""
    for split, answers in ROWS.items():
        rows = ({"prompt": "sort 21: ", "completion": a, "chosen": a, "rejected": f"{a}3"} for a in answers)
        (lab / "mine").mkdir(exist_ok=True)
        (lab / f"mine/{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    definition = {
        "question": "Does it run?",
        "trainer": trainer,
        "model": {"preset": "tiny"},
        "data": {"dataset": "mine"},
        "hyperparameters": {"steps": 1, "precision": "float32"},
        "evaluate": {"split": "test", "sampling": None, "max_new_tokens": 2},
    }
    define("split", definition)
    done = command("run", "split")
    assert done.returncode == 0, done.stderr
    [metrics] = (lab / "runs/split").rglob("metrics.jsonl")
    row = json.loads(metrics.read_text().splitlines()[-1])
    assert row["eval/num_pairs" if trainer == "dpo" else "eval/num_prompts"] == 1
    [provenance] = (lab / "runs/split").rglob("provenance.json")
    assert list(json.loads(provenance.read_text())["data"]) == ["mine (train)", "mine (test)"]
    assert "mine, split test" in command("data", "split", "--split", "held_out").stdout


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"path": "mine.jsonl"}, "evaluate.split: found without data.dataset, allowed with one"),
        ({"dataset": "mine"}, "evaluate.split: found train, the split that is trained on, allowed another one"),
    ],
)
def test_a_held_out_split_is_another_one_of_a_data_set(command, define, definitions, data, problem):
    define("split", definitions["start"] | {"data": data, "evaluate": {"split": "train"}})
    done = command("plan", "split")
    assert done.returncode == 2
    assert problem in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "row", "columns"),
    [
        ("sft", {"problem": "sort 21: ", "solution": "12"}, {"prompt": "problem", "completion": "solution"}),
        ("dpo", {"problem": "sort 21: ", "chosen": "12", "rejected": "21"}, {"prompt": "problem"}),
    ],
)
def test_prompts_with_answers_are_held_out_under_every_trainer_and_have_no_loss(
    lab, command, define, trainer, row, columns
):
    (lab / "train.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    (lab / "test.jsonl").write_text(json.dumps({"prompt": "sort 31: ", "answer": 13}) + "\n")
    definition = {
        "question": "Does it run?",
        "trainer": trainer,
        "model": {"preset": "tiny"},
        "data": {"path": "train.jsonl", "columns": columns},
        "hyperparameters": {"steps": 1, "precision": "float32"},
        "evaluate": {"path": "test.jsonl", "verifier": "number", "sampling": None, "max_new_tokens": 2},
    }
    define("asked", definition)
    assert command("plan", "asked").returncode == 0
    done = command("run", "asked")
    assert done.returncode == 0, done.stderr
    [metrics] = (lab / "runs/asked").rglob("metrics.jsonl")
    measured = json.loads(metrics.read_text().splitlines()[-1])
    assert (measured["eval/num_prompts"], "eval/loss" in measured) == (1, False)
    shown = command("data", "asked", "--split", "held_out")
    assert (shown.returncode, "prompts with answers" in shown.stdout) == (0, True), shown.stderr
