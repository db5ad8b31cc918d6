"""Rows that are cut and answers that never end are told before a run is made, by a plan and in a run's first lines."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.data.counts import Counts
from workbench.experiment.planning.data_warnings import NO_END, cut_warnings

CUT = (
    "training data: data.max_tokens is 8: 2 of 3 rows are cut (2 rows lose 24 tokens of the completion, its end among "
    "them)"
)


@pytest.fixture
def own(lab, define, tiny_folder):
    """A model in a folder of the lab, and an experiment on three rows."""
    folder = shutil.copytree(tiny_folder, lab / "own")
    texts = ("cdefghijklmnopqrstuvwxyz", "cd", "cdefghijkl")
    (lab / "rows.jsonl").write_text("".join(json.dumps({"prompt": "ab", "completion": t}) + "\n" for t in texts))
    hyperparameters = {"steps": 1, "batch_rows": 2, "precision": "float32"}
    define("own", {"question": "?", "trainer": "sft", "model": {"path": "own"}, "data": {"path": "rows.jsonl"},
                   "hyperparameters": hyperparameters})  # fmt: skip
    return folder


def take_end(folder):
    for name in ("tokenizer_config.json", "config.json", "generation_config.json", "special_tokens_map.json"):
        path = folder / name
        if path.exists():
            found = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in found.items() if k not in ("eos_token", "eos_token_id")}))


def test_rows_that_are_cut_are_counted_in_a_plan_and_in_a_runs_first_lines(own, command):
    planned = command("plan", "own", "--set", "data.max_tokens=8")
    assert CUT in planned.stdout, planned.stdout + planned.stderr
    ran = command("run", "own", "--set", "data.max_tokens=8")
    assert f"warning: {CUT}" in (said := ran.stdout + ran.stderr), said
    assert said.index(CUT) < said.index("finished")


def test_a_model_without_an_end_is_told_by_plan_data_and_run(lab, own, command):
    take_end(own)
    for arguments in (("plan", "own"), ("data", "own"), ("run", "own")):
        done = command(*arguments)
        assert done.returncode == 0, done.stderr
        assert NO_END in done.stdout + done.stderr, arguments
    notes = json.loads((lab / "runs/own/main/seed0/status.json").read_text())["notes"]
    assert f"training data: {NO_END}" in notes


def test_a_model_with_an_end_and_rows_that_fit_are_told_nothing(own, command):
    assert "warning" not in command("plan", "own").stdout


def test_guessed_lengths_of_a_model_that_is_not_here_warn_too(own, command):
    planned = command("plan", "own", "--set", "data.max_tokens=8", "model={preset: tiny}")
    assert "data.max_tokens is 8: about 2 of 3 rows are longer" in planned.stdout, planned.stdout + planned.stderr


def test_counts_of_a_sample_say_of_how_many_rows():
    counts = Counts(rows=199, truncated=1, dropped=1, cut={"prompt": {"rows": 1, "tokens": 3}})
    assert list(cut_warnings("training data", 9, counts, rows=5_000)) == [
        "training data: data.max_tokens is 9: 1 of 200 rows looked at, of 5,000, is cut (1 row loses 3 tokens of the "
        "prompt); 1 of 200 rows looked at, of 5,000, left out with nothing to learn from; raise data.max_tokens to "
        "keep them whole"
    ]
