"""How long a person waits: for the first step, a plan, an error, help, a sweep that is finished already."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measure import ROOT, WORKBENCH, BenchmarkError, environment, time_command
from tests.benchmarks.page import Result, Table

REPEATS = 5
POLL_SECONDS = 0.005
FIRST_STEP_LIMIT = 120.0
# As many runs as the whole sweep; their length does not matter to a second call.
SHORT_RUNS = ("dpo_beta_sweep", "--set", "steps=2", "data.collect.pairs=256")
FEW_RUNS = (*SHORT_RUNS, "seeds=1", "beta=[0.3,3]")
DEFINITION_ERROR = 2


def run(*, quick: bool, repeats: int | None) -> Result:
    """Medians. quick: fewer repeats, and the second call is of two runs, not fifteen."""
    del repeats  # medians of five by the figures' own definition
    times = 2 if quick else REPEATS
    cases: list[tuple[str, float, Callable[[], float]]] = [
        ("run sft_sort: to the first step, step-0 evaluation included", 3.5, _first_step),
        ("plan dpo_beta_sweep", 2.0, lambda: _command("plan", "dpo_beta_sweep", runs=True)),
        ("run with an error in the definition", 2.0, _definition_error),
        ("--help", 0.5, lambda: _command("--help")),
    ]
    measured = [(name, goal, [case() for _ in range(times)]) for name, goal, case in cases]
    with tempfile.TemporaryDirectory() as folder:
        name, goal, again = _finished_sweep(Path(folder), quick)
        measured.append((name, goal, [again() for _ in range(times)]))
    medians = [(name, goal, statistics.median(found)) for name, goal, found in measured]
    rows = [
        [name, f"{median:.2f}", f"{min(found):.2f}", f"{max(found):.2f}", f"{goal:g}", "yes" if median < goal else "no"]
        for (name, goal, median), (_, _, found) in zip(medians, measured, strict=True)
    ]
    head = ["command", "median (s)", "least", "most", "goal (s)", "reached"]
    return Result(
        "start_up",
        goal="each command within its goal",
        reached=all(median < goal for _, goal, median in medians),
        tables=[Table(f"Waiting, {times} times each", head, rows)],
        values={"seconds": {name: found for name, _, found in measured}},
    )


def _command(*arguments: str, runs: bool = False) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return time_command([*WORKBENCH, *arguments, *(["--runs", folder] if runs else [])]).wall_seconds


def _definition_error() -> float:
    command = [*WORKBENCH, "run", "dpo_beta_sweep", "--set", "beta=-1"]
    return time_command(command, code=DEFINITION_ERROR).wall_seconds


def _first_step() -> float:
    """From starting the command until metrics.jsonl holds a row of step 1."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "sft_sort" / "main" / "seed0" / "metrics.jsonl"
        log = Path(folder) / "output.txt"
        started = time.perf_counter()
        with log.open("w") as output:
            process = subprocess.Popen(
                [*WORKBENCH, "run", "sft_sort", "--runs", folder], cwd=ROOT, env=environment(),
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                while not _has_step(metrics):
                    if process.poll() is not None or time.perf_counter() - started > FIRST_STEP_LIMIT:
                        raise BenchmarkError(f"run sft_sort made no step:\n{log.read_text()[-2000:]}")
                    time.sleep(POLL_SECONDS)
                return time.perf_counter() - started
            finally:
                process.terminate()
                process.wait()


def _has_step(metrics: Path) -> bool:
    # Row 0 holds the step-0 evaluation; a second whole line is the first step.
    return metrics.is_file() and metrics.read_bytes().count(b"\n") >= 2


def _finished_sweep(runs: Path, quick: bool) -> tuple[str, float, Callable[[], float]]:
    """Train once, then the same command again: it must make no step."""
    command = [*WORKBENCH, "run", *(FEW_RUNS if quick else SHORT_RUNS), "--runs", str(runs)]
    time_command(command)

    def again() -> float:
        before = _records(runs)
        seconds = time_command(command).wall_seconds
        if _records(runs) != before:
            raise BenchmarkError(f"{' '.join(command)} trained what was finished")
        return seconds

    return "run dpo_beta_sweep once more, finished already", 5.0, again


def _records(runs: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every record of steps."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in runs.glob("*/*/seed*/metrics.jsonl")}
