"""Runs that diverge for real, by the command: exit code, status, and the account in the report."""

from __future__ import annotations

import csv
import json

import pytest

from tests.experiment.conftest import SFT

pytestmark = pytest.mark.slow
EXPLODING = {"learning_rate": 1e30, "max_grad_norm": None, "steps": 30}


def status(lab, name, arm):
    return json.loads((lab / "runs" / name / arm / "seed0" / "status.json").read_text())


def test_what_diverges_is_stopped_or_skipped_as_declared_and_told(lab, define, command):
    own = SFT["hyperparameters"]
    arms = {
        "calm": {"hyperparameters": own},
        "stops": {"hyperparameters": own | EXPLODING},
        "skips": {"hyperparameters": own | EXPLODING | {"non_finite": "skip"}},
        "returns": {"hyperparameters": own | EXPLODING | {"non_finite": "rollback", "checkpoint_every": 2}},
    }
    define("wild", {name: value for name, value in SFT.items() if name != "hyperparameters"} | {"arms": arms})
    done = command("run", "wild")
    assert done.returncode == 6, done.stderr
    assert "Traceback" not in done.stderr
    calm, stops, skips, returns = (status(lab, "wild", arm) for arm in arms)
    assert (calm["state"], calm["incidents"]) == ("finished", [])
    assert {found["state"] for found in (stops, skips, returns)} == {"failed"}
    assert {found["exit_code"] for found in (stops, skips, returns)} == {6}
    [stop] = stops["incidents"]
    assert stop["action"] == "stop"
    assert stop["step"] == stops["step"] + 1 <= stops["num_steps"] == 30
    assert stop["what"] == stops["message"]
    assert [entry["action"] for entry in skips["incidents"]] == ["skip"] * 20 + ["stop"]
    steps = [entry["step"] for entry in skips["incidents"]]
    assert steps == list(range(steps[0], steps[0] + 21))
    assert [entry["action"].split()[0] for entry in returns["incidents"]] == ["rollback"] * 3 + ["stop"]
    report = lab / "runs" / "wild" / "report"
    with open(report / "incidents.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["action"].split()[0]) for row in rows] == [
        ("stops", "stop"), *[("skips", "skip")] * 20, ("skips", "stop"), *[("returns", "rollback")] * 3,
        ("returns", "stop"),
    ]  # fmt: skip
    page = (report / "index.html").read_text()
    assert (
        "3 of 4 runs had steps in trouble (20 skipped, 3 rolled back and 3 ended the run): "
        "the section Runs says which and when." in page
    )
    assert "after training at calm, the only one of 4 settings with a final value, from" in page
    assert "best of 4" not in page
    assert "20 steps in a row were skipped before it" in page
    assert stop["at"][11:19] in (report / "report.md").read_text()


def test_a_bad_row_of_data_is_a_spike_that_is_skipped(lab, define, command):
    """Rows that all say the same, and among them one of other letters, met once in each of two epochs."""
    rows = [{"prompt": "12=", "completion": "21"}] * 600 + [{"prompt": "98=", "completion": "0404"}]
    (lab / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SFT["hyperparameters"] | {"steps": 200, "batch_rows": 6, "spikes": {"window": 16}}
    define("spiky", SFT | {"data": {"path": "rows.jsonl"}, "hyperparameters": settings})
    done = command("run", "spiky")
    assert done.returncode == 0, done.stderr
    found = status(lab, "spiky", "main")
    skipped = [entry for entry in found["incidents"] if entry["action"] == "skip"]
    assert 1 <= len(skipped) <= 2
    assert all("standard deviations above" in entry["what"] for entry in skipped)
    assert f"step {skipped[0]['step']}: {skipped[0]['what']}: skip" in done.stderr + log(lab)
    assert "had steps in trouble" in (lab / "runs" / "spiky" / "report" / "index.html").read_text()


def log(lab):
    return (lab / "runs" / "spiky" / "main" / "seed0" / "log.txt").read_text()


def test_a_run_that_ends_in_harm_says_so_on_the_terminal_in_status_and_first_in_the_report(lab, define, command):
    hot = {**SFT["hyperparameters"], "learning_rate": 10.0, "steps": 8}
    define("hot", SFT | {"hyperparameters": hot, "evaluate": {"task": "sort", "digits": 4, "prompts": 8, "every": 4}})
    done = command("run", "hot")
    assert done.returncode == 0, done.stderr
    [harm] = [text for text in status(lab, "hot", "main")["harms"] if text.startswith("held-out loss is ")]
    lines = done.stderr.splitlines()
    assert f"main/seed0: ended badly: {harm}" in lines
    assert any(line.startswith("main/seed0: warning: step 4: held-out loss is ") for line in lines)
    assert lines[-1].startswith("1/1 run, 1 of them ended badly, ")
    assert f"ended badly: {harm}" in command("status", "hot").stdout
    told = (lab / "runs" / "hot" / "report" / "report.md").read_text().replace("\\", "")
    first = next(line for line in told.splitlines() if line.startswith("> **"))
    every = "; ".join(status(lab, "hot", "main")["harms"])
    assert first == f"> **Note.** 1 of 1 run ended badly (seed 0): {every}.", "one run is one box"
    assert told.count("ended badly (") == 1
    assert "**Qualified, for 1 of 1 run ended badly: " in told
