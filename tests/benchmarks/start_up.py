"""How long a user waits: for help, for a plan, for a refusal, for the first training step, for a second call."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.record import Record

WORKBENCH = [sys.executable, "-m", "workbench.cli"]


def run(quick: bool, repeats: int) -> Record:
    """Medians of five."""
    times = 2 if quick else max(5, repeats)
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        small = ["--set", "seeds=1", "beta=[1]", "steps=2", "data.collect.pairs=256"]
        finished = [*WORKBENCH, "run", "dpo_beta_sweep", "--runs", str(runs / "again"), *small]
        subprocess.run(finished, check=True, capture_output=True)
        measured: list[tuple[str, Callable[[], float], float]] = [
            ("--help", lambda: _seconds([*WORKBENCH, "--help"]), 0.5),
            ("plan dpo_beta_sweep", lambda: _seconds([*WORKBENCH, "plan", "dpo_beta_sweep"]), 2),
            ("a definition error", lambda: _seconds([*WORKBENCH, "run", "dpo_beta_sweep", "--set", "bta=1"]), 2),
            ("command to first training step", lambda: _first_step(Path(tempfile.mkdtemp(dir=folder))), 3.5),
            ("a second call of a finished sweep", lambda: _seconds(finished), 5),
        ]
        rows = [
            (name, f"{statistics.median(measure() for _ in range(times)):.2f} s (to reach: {limit:g})")
            for name, measure, limit in measured
        ]
    return Record("start_up", f"Waiting for an answer, medians of {times}", rows)


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - started


def _first_step(runs: Path) -> float:
    """Until metrics.jsonl of sft_sort holds step 1; the evaluation before it included."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [*WORKBENCH, "run", "sft_sort", "--runs", str(runs)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    metrics = runs / "sft_sort/main/seed0/metrics.jsonl"
    while not (metrics.exists() and any(json.loads(line)["step"] >= 1 for line in _whole_lines(metrics))):
        assert process.poll() is None, "the run ended before its first step"
        time.sleep(0.01)
    seconds = time.perf_counter() - started
    process.terminate()
    process.wait()
    return seconds


def _whole_lines(path: Path) -> list[str]:
    return path.read_text().rpartition("\n")[0].splitlines()
