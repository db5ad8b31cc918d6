"""The whole of dpo_beta_sweep, from the command to the report, against the same work looped over with TRL 1.16."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.record import Record

FULL: dict[str, Any] = {
    "prompts": 512, "sft_steps": 100, "sft_every": 50, "dpo_steps": 60, "dpo_every": 20, "pairs": 7680,
    "held_out_pairs": 512, "betas": [0.1, 0.3, 1, 3, 10], "seeds": 3,
}  # fmt: skip
QUICK = FULL | {"dpo_steps": 20, "pairs": 2560, "betas": [0.3, 3], "seeds": 1}
ALIKE = 0.12
"""Mean sampled exact match of one beta may differ by so much between the two sides: seeds and drawn samples differ."""


def run(quick: bool, repeats: int) -> Record:
    """Both sides in turn; medians of the wall times."""
    setting = QUICK if quick else FULL
    ours: list[float] = []
    theirs: list[float] = []
    phases: dict[str, float] = {}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            seconds, own_results = _ours(Path(folder), setting)
            ours.append(seconds)
            seconds, found = _theirs(Path(folder), setting)
            theirs.append(seconds)
            phases = found["seconds"]
            _check_alike(own_results, found["results"])
    ratio = statistics.median(theirs) / statistics.median(ours)
    rows = [
        ("workbench, two runs side by side, with its report", f"{statistics.median(ours):.1f} s"),
        ("TRL 1.16, one process of two threads", f"{statistics.median(theirs):.1f} s"),
        *((f"  of which {phase}", f"{seconds:.1f} s") for phase, seconds in phases.items()),
        ("ratio", f"{ratio:.2f} (to reach: 2)"),
    ]
    runs = len(setting["betas"]) * setting["seeds"]
    return Record("sweep", f"dpo_beta_sweep: a start, collected pairs, {runs} runs, their evaluations", rows)


def _ours(folder: Path, setting: dict[str, Any]) -> tuple[float, dict[str, list[float]]]:
    overrides = [
        f"beta={json.dumps(setting['betas'])}", f"seeds={setting['seeds']}", f"steps={setting['dpo_steps']}",
        f"data.collect.pairs={setting['pairs']}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "workbench.cli", "run", "dpo_beta_sweep", "--runs", str(folder / "runs")]
    started = time.perf_counter()
    subprocess.run([*command, "--set", *overrides], check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    results: dict[str, list[float]] = {}
    for path in sorted((folder / "runs").glob("dpo_beta_sweep*/*/seed*")):
        last = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        results.setdefault(path.parent.name.removeprefix("beta="), []).append(last["eval/exact_match_sampled"])
    return seconds, results


def _theirs(folder: Path, setting: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    out, model = folder / "trl.json", folder / "runs/stages/model-v1-tiny-seed0"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-m", "tests.benchmarks.trl_sweep", str(model), json.dumps(setting), str(out)]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started, json.loads(out.read_text())


def _check_alike(ours: dict[str, list[float]], theirs: dict[str, list[dict[str, float]]]) -> None:
    """It must be the same work: the same exact match by beta, as far as seeds tell."""
    for beta, values in ours.items():
        own, other = statistics.fmean(values), statistics.fmean(run["sampled"] for run in theirs[beta])
        print(f"  beta {beta}: sampled exact match {own:.3f} here, {other:.3f} with TRL", file=sys.stderr)
        assert abs(own - other) < ALIKE, f"beta {beta}: {own:.3f} against {other:.3f}: this is not the same work"
