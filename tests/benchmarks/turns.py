"""Sides that take turns: each a process of its own, made ready once, then a few steps at a time while others wait.

So all sides and the machine's peak are measured within the same minute, over and over, and what else the machine does
strikes them alike. A side's end is `Turns`, ours is `take_turns`; they speak in lines over its stdin and stdout.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import ROOT, BenchmarkError, environment
from tests.benchmarks.workload import Workload

MAX_STEPS = 400
"""Of one turn."""
# Threads that wait spin only shortly: on two cores, one stray process would otherwise stall a side many times over.
SPIN = {"GOMP_SPINCOUNT": "1000"}


@dataclass(frozen=True)
class Side:
    """One way of doing a workload."""

    name: str
    module: str
    """Of tests.benchmarks.sides."""
    option: str = ""
    """What the module is told besides the workload."""


OURS = Side("workbench", "ours")
TRL = Side("TRL", "peer_trl")
LOOP = Side("plain loop", "loop")
PEAK = Side("matmul peak", "peak")


@dataclass
class Measured:
    """What a side did."""

    first: list[float]
    """What it found in the steps of its warm-up (losses, or token ids): the sides' must agree."""
    units: list[float] = field(default_factory=list)
    """By turn: tokens done, real ones only (of the peak: floating-point operations)."""
    seconds: list[float] = field(default_factory=list)
    """By turn."""
    facts: dict[str, Any] = field(default_factory=dict)
    """peak_bytes, versions, and what the side found out about itself."""

    @property
    def rates(self) -> list[float]:
        """Units a second by turn."""
        return [units / seconds for units, seconds in zip(self.units, self.seconds, strict=True)]

    @property
    def rate(self) -> float:
        """The median of the turns."""
        return statistics.median(self.rates)

    @property
    def peak_mib(self) -> float:
        """The largest resident memory of its process."""
        return self.facts["peak_bytes"] / 2**20


class Turns:
    """A side's end. Call `boundary` before each step: it times the one that ended, and waits when the turn is over."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # whatever a library prints must not get between the lines
        self.facts: dict[str, Any] = {}
        self.warming_up = True
        self._left = 0
        self._began = 0.0
        self._seconds, self._units = 0.0, 0.0
        self._found: list[float] = []

    def boundary(self, units: float = 0.0, found: Sequence[float] = ()) -> None:
        """units, found: of the step that ended. SystemExit when no turn is left."""
        now = time.perf_counter()
        if self._left:
            self._seconds += now - self._began
            self._units += units
            self._found += found if self.warming_up else []
            self._left -= 1
            if not self._left:
                self._say({"seconds": self._seconds, "units": self._units, "found": self._found})
                self._seconds, self._units, self._found = 0.0, 0.0, []
                self.warming_up = False
        if not self._left:
            self._left = int(sys.stdin.readline() or 0)
            if not self._left:
                self._say({"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, **self.facts})
                sys.exit(0)
        self._began = time.perf_counter()

    def _say(self, value: dict[str, Any]) -> None:
        print(json.dumps(value), file=self._out, flush=True)


class _Process:
    """Our end of a side."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.side, self._errors = side, folder / f"{side.module}{side.option}.txt"
        command = [sys.executable, "-m", f"tests.benchmarks.sides.{side.module}", str(folder), side.option]
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment() | SPIN, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def turn(self, steps: int) -> dict[str, Any]:
        """Let it do so many steps (0: end) and hear what it found."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: the empty line below says so
        if not (line := self.process.stdout.readline()):
            tail = "\n".join(self._errors.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise BenchmarkError(f"{self.side.name}: ended with code {self.process.wait()}\n{tail}")
        return json.loads(line)


def take_turns(sides: Sequence[Side], workload: Workload, *, rounds: int, turn_seconds: float) -> dict[str, Measured]:
    """By a side's name. A turn is as many steps as the slowest side does in turn_seconds, the same for all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.save(folder)
        processes: list[_Process] = []
        try:
            measured, step_seconds = {}, 0.0
            for side in sides:
                processes.append(_Process(side, folder))
                warm_up = processes[-1].turn(workload.warm_up)
                measured[side.name] = Measured(warm_up["found"])
                step_seconds = max(step_seconds, warm_up["seconds"] / workload.warm_up)
            most = (workload.num_batches - workload.warm_up) // rounds
            steps = max(1, min(MAX_STEPS, most, round(turn_seconds / step_seconds)))
            for process in processes * rounds:
                done = process.turn(steps)
                measured[process.side.name].units.append(done["units"])
                measured[process.side.name].seconds.append(done["seconds"])
            for process in processes:
                measured[process.side.name].facts = process.turn(0)
            return measured
        finally:
            for process in processes:
                process.process.kill()
                process.process.communicate()


def check_agree(measured: dict[str, Measured], names: Sequence[str], within: float) -> None:
    """BenchmarkError where the losses of the first steps differ: then the sides do different work."""
    first = measured[names[0]]
    for name in names[1:]:
        pairs = list(zip(first.first, measured[name].first, strict=True))
        if not all(abs(a - b) <= within for a, b in pairs):
            shown = ", ".join(f"{a:.5f} and {b:.5f}" for a, b in pairs)
            raise BenchmarkError(f"not the same work: {names[0]} and {name} have losses {shown} (within {within:g})")
