"""How fast this machine trains: by the finished runs of a runs folder, else by a small matrix product timed now."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.running.run_folder import RunFolder

TRAINING_SHARE = 0.5
"""The share of a core's matrix product that training reaches beside runs on the others: 0.45 to 0.8, by the model's
width."""
SAMPLING_SHARE = 0.5
"""The share of the speed of training that sampling token by token reaches."""
PROBE_SIZE = 64
"""A size so small that no library divides the product over threads: it is one core's speed, also beside other work."""
PROBE_SECONDS = 0.05
MOST_READ = 200


@dataclass(frozen=True)
class Speed:
    """FLOP/s that a run's training reaches here, and how that is known."""

    flops_per_second: float
    source: str


@dataclass(frozen=True)
class _Finished:
    """What a finished run says of its speed."""

    trainer: str
    threads: int
    precision: str
    parameters: int
    flops_per_second: float


def measured_speed(runs: Path, spec: RunSpec, parameters: int | None = None) -> Speed:
    """The speed of finished runs in this folder, of the same trainer where there are any, and of a model about as
    large; else that of a matrix product timed now."""
    wanted = spec.hyperparameters.precision
    found = [run for run in _finished(runs) if run.threads == spec.threads]
    found = [run for run in found if wanted in ("fastest", run.precision)]
    own = [run for run in found if run.trainer == spec.trainer]
    near = _near(own, parameters) or _near(found, parameters)
    if near:
        trainers = "/".join(sorted({run.trainer for run in near}))
        rate = statistics.median(run.flops_per_second for run in near)
        return Speed(rate, f"the speed of {len(near)} finished {trainers} run{'s' * (len(near) > 1)} here")
    return Speed(
        TRAINING_SHARE * _core_flops_per_second() * spec.threads,
        f"{TRAINING_SHARE:.0%} of a matrix product timed now, for no run like these has finished here",
    )


def sampling_work(flops: float, generated: float, policy: int) -> float:
    """FLOPs of which each takes as long as one of training: those of sampled tokens count for more."""
    return flops + (1 / SAMPLING_SHARE - 1) * 2 * policy * generated


def _finished(runs: Path) -> list[_Finished]:
    statuses = [
        RunFolder(runs, "/".join(path.parent.relative_to(runs).parts)).status()
        for path in sorted(runs.glob("*/*/seed*/status.json"))[:MOST_READ]
    ]
    return [run for status in statuses if (run := _speed_of(status)) is not None]


def _speed_of(status: Mapping[str, Any]) -> _Finished | None:
    costs = status.get("costs") or {}
    flops, seconds, parameters = costs.get("flops"), costs.get("seconds"), status.get("num_parameters")
    if status.get("state") != "finished" or not flops or not seconds or not parameters:
        return None
    return _Finished(
        trainer=str((status.get("identity") or {}).get("trainer")),
        threads=int(status.get("threads") or 1),
        precision=str(status.get("precision")),
        parameters=int(parameters),
        flops_per_second=sampling_work(flops, costs.get("generated_tokens") or 0, int(parameters)) / seconds,
    )


def _near(found: list[_Finished], parameters: int | None) -> list[_Finished]:
    """Keeps the runs of models within four times of the size, or all where the size is not known."""
    if parameters is None:
        return found
    return [run for run in found if parameters / 4 <= run.parameters <= 4 * parameters]


def _core_flops_per_second() -> float:
    """The speed of a float32 matrix product on one core: the best of many short turns, which other work beside hardly
    slows."""
    import numpy as np

    a = np.full((PROBE_SIZE, PROBE_SIZE), 0.5, np.float32)
    out = np.empty_like(a)
    best, end = math.inf, time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(100):
            np.matmul(a, a, out=out)
        best = min(best, (time.perf_counter() - started) / 100)
    return 2 * PROBE_SIZE**3 / best
