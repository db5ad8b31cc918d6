"""Held-out rows are cut by the same rule as training rows, and a run says so."""

from __future__ import annotations

import json


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
        "held-out rows: 2 rows used; 1 truncated (2 tokens of 1 prompts, 1 tokens of 1 completions lost)"
    ]
