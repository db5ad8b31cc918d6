"""SIGKILL at random times of a real command and its real trackers: all of it, as power failing would; the command
alone; one that it started. The same command then ends with the same bits, and the trackers have each step once.

FAULT_TRIES: kills of each kind (`make faults` takes many, CI a few).
"""

from __future__ import annotations

import contextlib
import random
import signal
import time

import psutil
import pytest

from tests.commands import Command
from tests.faults.labs import TRIES, make_lab, outcomes
from tests.tracking.frames import assert_equal

pytestmark = [pytest.mark.slow, pytest.mark.multi, pytest.mark.long]
TRACKED = ("sweep/dpo/seed0", "sweep/grpo/seed0")
EARLIEST = 0.3
"""Of a command's time: before that it has read nothing but its own modules."""


@pytest.fixture(scope="module")
def whole(once):
    """What a command that nobody kills leaves, and how long it takes."""

    def make(folder):
        lab = make_lab(folder / "lab")
        started = time.monotonic()
        code, output = Command(lab, "run", "sweep").end()
        seconds = time.monotonic() - started
        assert code == 0, output
        for run in TRACKED:
            assert_equal(lab / "runs" / run)
        return outcomes(lab / "runs"), seconds

    return once("sweep", make)


def kill_all(command, _rng):
    """Every process of it: the command first, so that none of the others can do anything about it."""
    for process in sorted(command.processes(), key=lambda process: process.pid):
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_the_command(command, _rng):
    command.send(signal.SIGKILL)


def kill_one_that_it_started(command, rng):
    command.kill_one(rng)


@pytest.mark.parametrize("kill", [kill_all, kill_the_command, kill_one_that_it_started])
def test_killed_at_random_times_nothing_is_lost_and_the_trackers_have_each_step_once(
    kill, whole, tmp_path, record_property
):
    expected, seconds = whole
    rng = random.Random(kill.__name__)
    for index in range(TRIES):
        lab = make_lab(tmp_path / str(index))
        kills = rng.choice([1, 1, 2])  # now and then what goes on is killed as well
        for _ in range(kills):
            command = Command(lab, "run", "sweep")
            command.sleep_until(rng.uniform(EARLIEST, 1.0) * seconds)
            kill(command, rng)
            code, output = command.end()
            assert "Traceback" not in output
            assert command.orphans(30.0) == []  # a run whose command was killed writes its checkpoint yet
        code, output = Command(lab, "run", "sweep").end()
        assert code == 0, output
        assert outcomes(lab / "runs") == expected
        for run in TRACKED:
            assert_equal(lab / "runs" / run)
        assert not list((lab / "runs").rglob("*.partial"))
    record_property("tries", TRIES)
