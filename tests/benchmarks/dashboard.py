"""How long `make dashboard` takes to be ready: the page, every run's scalars, and the table of hyperparameters."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import yaml

from tests.benchmarks.measure import ROOT, BenchmarkError, environment
from tests.benchmarks.page import Result, Table
from workbench.tracking.dashboard import HOST, free_port
from workbench.tracking.reader import read_run
from workbench.tracking.sinks import tensorboard

VARIANTS, SEEDS, STEPS, METRICS = 40, 5, 200, 20
GOAL_SECONDS, LIMIT_SECONDS = 5.0, 60.0
REPEATS = 5
STATUSES = ("STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_FAILURE", "STATUS_RUNNING")
GROUPS = {"startIndex": 0, "sliceSize": 1000, "colParams": [], "allowedStatuses": STATUSES}


def run(*, quick: bool, repeats: int | None) -> Result:
    """quick: a tenth of the runs, which decides nothing."""
    variants = VARIANTS // 10 if quick else VARIANTS
    with tempfile.TemporaryDirectory() as folder:
        write_runs(Path(folder), variants)
        found = [_ready(Path(folder), variants) for _ in range(repeats or REPEATS)]
    names = ("the page answers", f"scalars of all {variants * SEEDS} runs", f"all {variants} variants under HParams")
    columns = list(zip(*found, strict=True))
    rows = [
        [name, f"{statistics.median(values):.2f}", f"{max(values):.2f}"]
        for name, values in zip(names, columns, strict=True)
    ]
    return Result(
        "dashboard",
        goal=f"ready within {GOAL_SECONDS:g} s",
        reached=statistics.median(columns[-1]) < GOAL_SECONDS,
        tables=[Table(f"Seconds after the start, {len(found)} starts", ["ready", "median", "most"], rows)],
        values={"seconds": found},
    )


def _ready(runs: Path, variants: int) -> tuple[float, float, float]:
    port = free_port()
    started = time.perf_counter()
    command = [sys.executable, "-m", "workbench.cli", "dashboard", "--runs", str(runs), "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    base = f"http://{HOST}:{port}"

    def when(ready: object) -> float:
        while not ready():  # type: ignore[operator]
            if process.poll() is not None or time.perf_counter() - started > LIMIT_SECONDS:
                raise BenchmarkError(f"TensorBoard was not ready after {LIMIT_SECONDS:g} s")
            time.sleep(0.02)
        return time.perf_counter() - started

    try:
        return (
            when(lambda: _get(f"{base}/") is not None),
            when(lambda: len(json.loads(_get(f"{base}/data/plugin/scalars/tags") or "{}")) >= variants * SEEDS),
            when(lambda: len(_groups(base)) >= variants),
        )
    finally:
        process.terminate()
        process.wait()


def _groups(base: str) -> list[object]:
    answer = _get(f"{base}/data/plugin/hparams/session_groups", json.dumps(GROUPS).encode())
    return list(json.loads(answer or "{}").get("sessionGroups", []))


def _get(url: str, data: bytes | None = None) -> str | None:
    try:
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"} if data else {})
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            return str(answer.read().decode())
    except OSError:
        return None


def write_runs(root: Path, variants: int) -> None:
    """Runs as the trackers leave them, with the empty folders of a real one."""
    rng = random.Random(0)
    for variant in range(variants):
        for seed in range(SEEDS):
            folder = root / "many" / f"beta={variant}" / f"seed{seed}"
            for part in ("checkpoints", "model", "tensorboard"):
                (folder / part).mkdir(parents=True)
            hyperparameters = {f"setting{i}": i / 3 for i in range(30)} | {"beta": variant}
            definition = {"experiment": "many", "variant": f"beta={variant}", "seed": seed, "trainer": "dpo"}
            (folder / "definition.yaml").write_text(yaml.safe_dump(definition | {"hyperparameters": hyperparameters}))
            rows = [
                {"step": step, "eval/exact_match_sampled": rng.random(), "time/seconds": 0.1 * step}
                | {f"group{i % 4}/metric_{i}": rng.random() for i in range(METRICS - 2)}
                for step in range(STEPS)
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            sink = tensorboard.TensorBoardSink(read_run(folder))
            for row in rows:
                sink.write(row, [])
            sink.flush()
            sink.finish({"state": "finished"}) if (variant, seed) == (variants - 1, SEEDS - 1) else sink.abandon()
