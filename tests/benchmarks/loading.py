"""How long it takes to read a thousand runs back: from JSONL the first time, from Parquet copies after that."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import yaml

from tests.benchmarks.measure import time_command
from tests.benchmarks.page import Result, Table

RUNS, ROWS, METRICS = 1_000, 1_000, 20
GOAL_SECONDS, GOAL_BYTES = 5.0, 1.5e9
REPEATS = 5
_LOAD = """
import resource, sys, time
started = time.perf_counter()
from analysis import load_runs
loaded = load_runs(sys.argv[1])
shape = (len(loaded.runs), *loaded.metrics.shape)
seconds = time.perf_counter() - started
with open(sys.argv[2], "w") as out:
    print(*shape, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=out)
"""


def run(*, quick: bool, repeats: int | None) -> Result:
    """A process each time, imports included. quick: a tenth of the runs, which decides nothing."""
    runs = RUNS // 10 if quick else RUNS
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "runs"
        write_runs(root, runs, ROWS, METRICS)
        first = _load(root, runs)
        again = [_load(root, runs) for _ in range(repeats or REPEATS)]
    seconds, memory = sorted(s for s, _ in again)[len(again) // 2], max(m for _, m in again)
    rows = [
        ["first time, from JSONL, copies written", f"{first[0]:.1f}", f"{first[1] / 1e9:.2f}"],
        [f"from the copies, median of {len(again)}", f"{seconds:.1f}", f"{memory / 1e9:.2f}"],
    ]
    return Result(
        "loading",
        goal=f"under {GOAL_SECONDS:g} s once consolidated, under {GOAL_BYTES / 1e9:g} GB",
        reached=seconds < GOAL_SECONDS and memory < GOAL_BYTES,
        tables=[Table(f"{runs} runs x {ROWS} rows x {METRICS} metrics", ["load_runs", "s", "peak memory (GB)"], rows)],
        values={"first": first, "again": again},
    )


def _load(root: Path, runs: int) -> tuple[float, float]:
    """(seconds, peak bytes) of one process that reads every run and every metric."""
    out = root.parent / "found.txt"
    time_command([sys.executable, "-c", _LOAD, str(root), str(out)])
    found_runs, found_rows, _, seconds, memory = map(float, out.read_text().split())
    assert (found_runs, found_rows) == (runs, runs * ROWS), "every row of every run"
    return seconds, memory


def write_runs(root: Path, runs: int, rows: int, metrics: int) -> None:
    """Finished runs of ten seeds a variant, with a definition of usual length."""
    rng = random.Random(0)
    names = [f"group{i % 4}/metric_{i}" for i in range(metrics)]
    provenance = json.dumps({"commit": "0" * 40, "packages": {f"package{i}": "1.0" for i in range(12)}}, indent=1)
    for number in range(runs):
        variant, seed = f"beta={number // 10}", number % 10
        folder = root / "many" / variant / f"seed{seed}"
        folder.mkdir(parents=True)
        definition = {"experiment": "many", "variant": variant, "seed": seed, "trainer": "dpo"}
        definition |= {"hyperparameters": {f"setting{i}": i / 7 for i in range(60)}}
        (folder / "definition.yaml").write_text(yaml.dump(definition, Dumper=yaml.CSafeDumper))
        (folder / "status.json").write_text(json.dumps({"state": "finished", "step": rows - 1}, indent=1))
        (folder / "provenance.json").write_text(provenance)
        lines = (json.dumps({"step": step} | {name: rng.random() for name in names}) for step in range(rows))
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
