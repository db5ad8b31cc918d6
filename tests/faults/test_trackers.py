"""Trackers that have no server, no answer, no place or no disk, that hang or are killed, under the real command:
training gives the same numbers, they hold it up for 15 s at most, the same command brings them up to date."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import time

import psutil
import pytest
import yaml

from tests.commands import Command
from tests.faults.labs import SWEEP, make_lab, outcomes
from tests.tracking.frames import assert_equal
from workbench.tracking.reader import read_json

pytestmark = [pytest.mark.slow, pytest.mark.multi, pytest.mark.long]
RUNS = ("sweep/dpo/seed0", "sweep/grpo/seed0")
KINDS = ("tensorboard", "wandb")
ONLINE = {"WANDB_MODE": "online", "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567"}
SECONDS_HELD_UP = 15.0


def follow_to_the_end(command, lab, meet=lambda command: None):
    """Its code, what it said, and the seconds from its last run's end to its own, without those that it writes its
    report in. meet: called as long as it trains."""
    while any((read_json(lab / "runs" / run / "status.json") or {}).get("state") != "finished" for run in RUNS):
        meet(command)
        time.sleep(0.02)
        assert command.is_running(), command.end()
    ended = time.monotonic()
    while not (lab / "runs/.locks/sweep~report.lock").exists() and command.is_running():
        time.sleep(0.02)
    seconds = time.monotonic() - ended
    code, output = command.end()
    return code, output, seconds + time.time() - (lab / "runs/sweep/report/index.html").stat().st_mtime


@pytest.fixture(scope="module")
def untracked(once):
    """What the runs come to without trackers."""

    def make(folder):
        lab = make_lab(folder / "lab")
        (lab / "experiments/sweep.yaml").write_text(yaml.safe_dump(SWEEP | {"track": []}, sort_keys=False))
        code, output = Command(lab, "run", "sweep").end()
        assert code == 0, output
        return outcomes(lab / "runs")

    return once("untracked", make)


@contextlib.contextmanager
def no_server(_lab):
    yield ONLINE | {"WANDB_BASE_URL": "http://127.0.0.1:9"}


@contextlib.contextmanager
def a_server_that_never_answers(_lab):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield ONLINE | {"WANDB_BASE_URL": f"http://127.0.0.1:{server.getsockname()[1]}"}


def places(lab):
    return [lab / "runs" / run / kind for run in RUNS for kind in KINDS]


@contextlib.contextmanager
def no_place(lab):
    for place in places(lab):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("a file where the folder should be")
    yield {}
    for place in places(lab):
        place.unlink()


@contextlib.contextmanager
def a_full_disk(lab):
    with contextlib.ExitStack() as mounted:
        for place in places(lab):
            place.mkdir(parents=True)
            command = ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(place)]
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip("no small disk can be mounted here")
            mounted.callback(subprocess.run, ["umount", "--lazy", str(place)], check=True)
            with contextlib.suppress(OSError):
                (place / "full").write_bytes(bytes(1 << 20))
        yield {}
    for place in places(lab):
        shutil.rmtree(place)


def send_to_trackers(number):
    def meet(command):
        for process in command.processes():
            with contextlib.suppress(psutil.Error):
                if re.search(r"tracking\.sinks\.follow|wandb-core", " ".join(process.cmdline())):
                    process.send_signal(number)

    return meet


@pytest.mark.parametrize("fault", [no_server, a_server_that_never_answers, no_place, a_full_disk])
def test_a_tracker_in_trouble_costs_training_nothing(fault, untracked, tmp_path):
    lab = make_lab(tmp_path)
    with fault(lab) as environment:
        code, output, seconds = follow_to_the_end(command := Command(lab, "run", "sweep", **environment), lab)
        assert code == 0, output
        assert seconds < SECONDS_HELD_UP
        assert "Traceback" not in output
        assert command.orphans() == []
        assert outcomes(lab / "runs") == untracked
    bring_up_to_date(lab, untracked)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hang", "are killed"])
def test_trackers_that_end_early_cost_training_nothing(number, untracked, tmp_path):
    lab = make_lab(tmp_path)
    command = Command(lab, "run", "sweep")
    code, output, seconds = follow_to_the_end(command, lab, send_to_trackers(number))
    assert code == 0, output
    assert seconds < SECONDS_HELD_UP
    assert command.orphans() == []
    assert ("did not finish in time" in output) == (number == signal.SIGSTOP)
    assert outcomes(lab / "runs") == untracked
    bring_up_to_date(lab, untracked)


def bring_up_to_date(lab, expected):
    """By the same command, once the trouble is over; W&B's offline files are what a later sync sends."""
    code, output = Command(lab, "run", "sweep").end()
    assert code == 0, output
    for run in RUNS:
        assert_equal(lab / "runs" / run)
    assert outcomes(lab / "runs") == expected
