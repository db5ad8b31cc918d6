"""Timing commands, and the facts of the machine that a number must be read with."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKBENCH = [str(Path(sys.executable).parent / "workbench")]
# Each side sets its own threads; a variable of the shell must not decide for one of them.
_UNSET = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")


class BenchmarkError(Exception):
    """A benchmark that measures nothing: a side failed, or the two did different work."""


@dataclass(frozen=True)
class Timing:
    """What a command took."""

    wall_seconds: float
    cpu_seconds: float
    """User and system, its children included."""
    others_seconds: float
    """What everything else on the machine took meanwhile: where it is not near 0, the wall times do not count."""
    began: float
    """time.time() when it was started."""


def environment() -> dict[str, str]:
    """This process's, without thread settings, and offline."""
    kept = {name: value for name, value in os.environ.items() if name not in _UNSET}
    return kept | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def time_command(command: list[str], *, code: int = 0, more_environment: dict[str, str] | None = None) -> Timing:
    """Run a command from the repository's root to its end. BenchmarkError where its exit code is not `code`."""
    before, busy, began, started = _children_seconds(), _busy_seconds(), time.time(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment() | (more_environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    wall = time.perf_counter() - started
    if done.returncode != code:
        tail = "\n".join(done.stdout.splitlines()[-30:])
        raise BenchmarkError(f"{' '.join(command)}: exit code {done.returncode}, expected {code}\n{tail}")
    own = _children_seconds() - before
    return Timing(wall, own, max(0.0, _busy_seconds() - busy - own), began)


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy_seconds() -> float:
    """Of all processors, since the start of the machine; 0 where the system does not tell."""
    if not (lines := _lines("/proc/stat")):
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, lines[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, str]:
    """Processor, cores, load of others, Python, commit, date."""
    model = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return {
        "processor": model[0] if model else platform.processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.2f}",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []
