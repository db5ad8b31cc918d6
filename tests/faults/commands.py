"""The real command, with all the processes that it starts, and what must be equal of two folders of runs."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.experiment.conftest import command_environment
from workbench.tracking.reader import read_rows

TRIES = max(1, int(os.environ.get("FAULT_TRIES", "2")) // 3)
"""Of each kind of fault: a command takes seconds, where a trainer's step takes milliseconds."""
PR_SET_CHILD_SUBREAPER = 36
MODULE = (sys.executable, "-m", "workbench.cli")
SORT = {"task": "sort", "digits": 3}
EVALUATE = {**SORT, "prompts": 8, "every": 2, "max_new_tokens": 6}
START: dict[str, Any] = {
    "question": "How well does it sort?",
    "trainer": "sft",
    "model": {"preset": "tiny"},
    "data": {**SORT, "rows": 64},
    "hyperparameters": {"steps": 8, "batch_rows": 16, "learning_rate": 3e-3, "precision": "float32"},
    "evaluate": EVALUATE,
}
SWEEP: dict[str, Any] = {
    "question": "Does a reward help more than pairs?",
    "start_from": "start",
    "evaluate": EVALUATE,
    "hyperparameters": {"steps": 6, "learning_rate": 1e-3, "precision": "float32", "checkpoint_every": 2},
    "track": ["tensorboard", "wandb"],
    "arms": {
        "dpo": {
            "trainer": "dpo",
            "data": {"collect": {**SORT, "pairs": 32, "samples_per_prompt": 2, "no_correct": "reference",
                                 "held_out_pairs": 8}},
            "hyperparameters": {"beta": 0.5, "batch_pairs": 8},
        },
        "grpo": {
            "trainer": "grpo",
            "data": {**SORT, "rows": 64},
            "hyperparameters": {"batch_prompts": 4, "group_size": 4, "max_new_tokens": 6,
                                "rewards": [{"length": {"target": 4}}]},
        },
    },
}  # fmt: skip


def make_lab(folder: Path) -> Path:
    """experiments/start.yaml, and experiments/sweep.yaml, which begins from it: two methods, stages, both trackers."""
    (folder / "experiments").mkdir(parents=True)
    for name, definition in (("start", START), ("sweep", SWEEP)):
        (folder / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(definition, sort_keys=False))
    return folder


def define(lab: Path, name: str, definition: dict[str, Any] | str) -> None:
    """Write an experiment, as settings or as text."""
    text = definition if isinstance(definition, str) else yaml.safe_dump(definition, sort_keys=False)
    (lab / "experiments" / f"{name}.yaml").write_text(text)


class Command:
    """`workbench ...` in a lab, as it runs, in a session of its own: forked from this warm process, which spares it the
    seconds of imports, or a program of its own (`cold`)."""

    def __init__(
        self, lab: Path, *arguments: str, cold: bool = False, program: Sequence[str] = MODULE, **environment: str
    ) -> None:
        if not cold:
            warm_up()
        _keep_orphans()
        self._others = {process.pid for process in _descendants()}
        self._output = lab.with_name(f"{lab.name}-output-{uuid.uuid4().hex[:8]}.txt")
        self._started = time.monotonic()
        settings = {"WANDB_MODE": "offline"} | environment
        self._process: _Program | _Fork
        if cold:
            self._process = _Program(lab, [*program, *arguments], settings, self._output)
        else:
            self._process = _Fork(lab, arguments, settings, self._output)
        self.pid = self._process.pid

    def processes(self) -> list[psutil.Process]:
        """Itself and all that it started, in whichever session, as far as they live."""
        found = []
        for process in _descendants():
            with contextlib.suppress(psutil.Error):
                if process.pid not in self._others and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def sleep_until(self, seconds: float) -> None:
        """Counted from its start, or to its end."""
        self._process.wait(max(0.0, seconds - (time.monotonic() - self._started)))

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.code() is None

    def send(self, number: int) -> None:
        """A signal, as others send it: Ctrl-C to all of the foreground, anything else to the command alone."""
        if self.is_running():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if number == signal.SIGINT else os.kill)(self.pid, number)

    def kill_one(self, rng: random.Random) -> None:
        """One of the processes that it started, with SIGKILL: a run, a tracker, or what a tracker started."""
        others = [process for process in self.processes() if process.pid != self.pid]
        with contextlib.suppress(psutil.Error, IndexError):
            rng.choice(others).kill()

    def end(self, timeout: float = 120.0) -> tuple[int, str]:
        """Its code and all that it said."""
        self._process.wait(timeout)
        code = self._process.code()
        assert code is not None, f"still running after {timeout:g} s: {self._output.read_text()}"
        return code, self._output.read_text()

    def orphans(self, seconds: float = 3.0) -> list[str]:
        """What still runs so long after its end."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return [f"{process.pid}: {' '.join(process.cmdline())}" for process in left]


class _Program:
    """A new Python."""

    def __init__(self, lab: Path, command: Sequence[str], settings: dict[str, str], output: Path) -> None:
        with open(output, "wb") as file:
            self._process = subprocess.Popen(
                command,
                cwd=lab,
                env=command_environment() | settings,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def code(self) -> int | None:
        return self._process.poll()


class _Fork:
    """A fork of this process."""

    def __init__(self, lab: Path, arguments: Sequence[str], settings: dict[str, str], output: Path) -> None:
        output.touch()
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_be_the_command, args=(lab, arguments, settings, output))
        self._process.start()
        self.pid = self._process.pid or 0

    def wait(self, seconds: float) -> None:
        self._process.join(seconds)

    def code(self) -> int | None:
        return self._process.exitcode


def _be_the_command(lab: Path, arguments: Sequence[str], settings: dict[str, str], output: Path) -> None:
    from workbench import cli

    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
    os.chdir(lab)
    os.environ |= {"NO_COLOR": "1"} | settings
    try:
        cli.entry(arguments)
    except SystemExit as ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


def warm_up() -> None:
    """Import what a command imports, for all that are forked from here."""
    import peft  # noqa: F401
    import torch
    import torch._dynamo

    import analysis.report  # noqa: F401
    from workbench.experiment import runner  # noqa: F401

    torch.set_num_threads(1)


def _keep_orphans() -> None:
    """Whatever loses its parent becomes a child of this process, and so is seen."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def outcomes(runs: Path) -> dict[str, Any]:
    """Of every run: metrics less their clocks, completions, weights."""
    found = {}
    for run in sorted(path.parent for path in runs.glob("*/*/*/definition.yaml")):
        records = {name: read_rows(run / f"{name}.jsonl") for name in ("metrics", "completions")}
        metrics = [{k: v for k, v in row.items() if not k.startswith("time/")} for row in records["metrics"]]
        weights = run / "model/model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None
        found[str(run.relative_to(runs))] = (metrics, records["completions"], digest)
    return found
