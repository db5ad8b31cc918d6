"""The command line's own manners: what it refuses, in one line, at once, with nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.experiment.run_folder import RunFolder
from workbench.locks import hold

ROOT = Path(__file__).parents[1]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workbench.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "secret.yaml").write_text("question: x\n")
    (tmp_path / "experiments/link.yaml").symlink_to(tmp_path / "secret.yaml")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "", ".", "..", "x" * 300, "a\nb", "a\x00b"[:1] + "\x01", "link"]
)
def test_a_name_that_leads_out_of_the_experiments_is_refused_and_nothing_is_written(empty, name):
    before = sorted(path for path in empty.rglob("*"))
    done = run(empty, "run", name)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("command line: NAME: found ")
    assert sorted(path for path in empty.rglob("*")) == before


def test_export_of_what_was_never_run_says_what_to_do(tmp_path):
    (tmp_path / "runs").mkdir()
    done = run(ROOT, "export", "sft_sort", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"))
    assert (done.returncode, "make exp NAME=sft_sort" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x", "/etc", "..", ""])
def test_compare_refuses_names_that_are_no_experiments(empty, name):
    done = run(empty, "compare", name)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert not (empty / "runs").exists()


@pytest.mark.alone
def test_all_problems_of_a_definition_are_told_at_once_within_two_seconds(tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/bad.yaml").write_text(
        "question: x\ntrainer: dop\nmodel: {preset: tiny}\ndata: {task: sort, digit: 3}\nsweep: {seeds: 0}\n"
    )
    started = time.monotonic()
    done = run(tmp_path, "run", "bad")
    assert time.monotonic() - started < 2
    assert done.returncode == 2
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        f"experiments/bad.yaml:{n}" for n in (2, 4, 5)
    ]
    assert not (tmp_path / "runs").exists()


def test_the_schema_is_printed(empty):
    assert json.loads(run(empty, "schema").stdout)["title"] == "Definition"


def test_a_report_of_nothing_says_what_to_do():
    done = run(ROOT, "report", "sft_sort", "--runs", "no-such-folder")
    assert (done.returncode, "make exp NAME=sft_sort" in done.stderr) == (2, True)


def test_status_of_what_was_never_run_is_not_started(tmp_path):
    done = run(ROOT, "status", "dpo_beta_sweep", "--runs", str(tmp_path))
    assert done.returncode == 0
    assert {line.split(maxsplit=1)[1] for line in done.stdout.splitlines()} == {"not started"}
    assert len(done.stdout.splitlines()) == 16


def test_status_tells_a_run_that_died_in_silence_from_one_that_runs(tmp_path):
    key = "dpo_beta_sweep/beta=1/seed0"
    RunFolder(tmp_path, key).path.mkdir(parents=True)
    RunFolder(tmp_path, key).write_status(state="running")

    def told():
        lines = run(ROOT, "status", "dpo_beta_sweep", "--runs", str(tmp_path)).stdout.splitlines()
        return next(line.split()[1] for line in lines if line.startswith(key))

    with hold(tmp_path, key):
        assert told() == "running"
    assert told() == "died"


def test_plan_writes_nothing(tmp_path):
    done = run(ROOT, "plan", "dpo_beta_sweep", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert "16 of 16 runs to train" in done.stdout
    assert "128 pairs per step" in done.stdout
    assert "two variants of 3 seeds: 8.14 seed standard deviations" in done.stdout
    assert not (tmp_path / "runs").exists()
