"""What checkpoints cost runs of the shipped comparison: its five runs' own clocks, at least two checkpoints each."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import time_command
from tests.benchmarks.page import Result, Table

NAME, EVERY, SEED = "sft_dpo_grpo", 100, 1
GOAL = 0.02


def run(*, quick: bool, repeats: int | None) -> Result:
    """The real command, one run at a time. quick: a tenth of the budget, which decides nothing."""
    settings = [f"checkpoint_every={EVERY // 10 if quick else EVERY}", f"seeds=[{SEED}]"]
    settings += ["budget.flops=2.0e11"] if quick else []
    rows, shares, found = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "workbench.cli",
            "run",
            NAME,
            "--jobs",
            "1",
            "--runs",
            folder,
            "--set",
            *settings,
        ]
        time_command(command)
        for path in sorted(Path(folder).glob(f"{NAME}*/*/*/status.json")):
            status = json.loads(path.read_text())
            arm, written, seconds = (
                path.parents[1].name,
                status["checkpoints"]["written"],
                status["checkpoints"]["seconds"],
            )
            share = seconds / status["seconds"]
            shares.append(share)
            found[arm] = [written, seconds, status["seconds"], share]
            rows.append(
                [arm, str(written), f"{1e3 * seconds / written:.0f}", f"{status['seconds']:.1f}", f"{share:.2%}"]
            )
    return Result(
        "checkpoints",
        goal=f"under {GOAL:.0%} of a run's time, with two checkpoints or more",
        reached=max(shares) < GOAL and all(written >= 2 for written, *_ in found.values()),
        tables=[
            Table(
                f"{NAME}, seed {SEED}, a checkpoint every {EVERY} steps and at the end",
                ["arm", "checkpoints", "ms each", "run (s)", "share of the run"],
                rows,
            )
        ],
        values={"arms": found},
    )
