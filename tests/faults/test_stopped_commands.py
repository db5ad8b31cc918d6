"""SIGTERM and Ctrl-C at any time of a command's life: its imports, stages, runs, trackers and report.

FAULT_TRIES: signals of each kind, at random times (`make faults` takes many, CI a few).
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time

import pytest

from tests.commands import Command
from tests.faults.labs import TRIES, make_lab, outcomes
from tests.test_interrupts import SignalWithin

pytestmark = [pytest.mark.slow, pytest.mark.multi]
SECONDS_TO_STOP = 10.0
SECONDS_AT_ONCE = 2.0
NUMBERS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM}


@pytest.fixture(scope="module")
def whole(once):
    """What a command that nobody stops leaves, how long it takes, and where."""

    def make(folder):
        lab = make_lab(folder / "lab")
        started = time.monotonic()
        code, output = Command(lab, "run", "sweep", cold=True).end()
        assert code == 0, output
        return outcomes(lab / "runs"), time.monotonic() - started, lab

    return once("sweep-from-a-cold-start", make)


def stop(command, number, seconds):
    """Its code, after what a user must see of every command that is stopped."""
    command.sleep_until(seconds)
    sent = time.monotonic()
    command.send(number)
    code, output = command.end()
    assert time.monotonic() - sent < SECONDS_TO_STOP
    # Before its work begins, and after its code is known, it ends as any program does: by the signal.
    if "Failed to import the site module" in output or ("<frozen runpy>" in output and "workbench/" not in output):
        code = -number  # Python had not begun with the program
        output = ""
    assert code in (0, 128 + number, -number), output
    assert "Traceback" not in output
    assert command.orphans() == []
    return code


def texts(runs):
    return {path: path.read_text() for path in [*runs.rglob("log.txt"), *runs.rglob("status.json")]}


@pytest.mark.long
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_signal_at_any_time_stops_in_order_and_the_same_command_ends_bit_identical(
    number, whole, tmp_path, record_property
):
    expected, seconds, _ = whole
    rng = random.Random(int(number))
    for index in range(TRIES):
        lab, delay = make_lab(tmp_path / str(index)), rng.uniform(0.0, seconds)
        code = stop(Command(lab, "run", "sweep", cold=index % 2 == 0), number, delay)
        written = texts(lab / "runs")
        assert not [path for path, text in written.items() if "Traceback" in text], f"stopped after {delay:.2f} s"
        states = {json.loads(text)["state"] for path, text in written.items() if path.name == "status.json"}
        assert states <= {"finished", "interrupted"}, f"stopped after {delay:.2f} s"
        assert code != 128 + number or not list((lab / "runs").rglob("*.partial"))
        again, output = Command(lab, "run", "sweep").end()
        assert again == 0, output
        assert outcomes(lab / "runs") == expected, f"stopped after {delay:.2f} s of {seconds:.2f}"
        assert not list((lab / "runs").rglob("*.partial"))
    record_property("tries", TRIES)


@pytest.mark.alone
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_second_signal_stops_at_once(number, whole, tmp_path, record_property):
    expected, seconds, _ = whole
    rng = random.Random(int(number))
    for index in range(TRIES):
        lab = make_lab(tmp_path / str(index))
        command = Command(lab, "run", "sweep")
        command.sleep_until(rng.uniform(0.2, 0.9) * seconds)
        command.send(number)
        time.sleep(rng.uniform(0.0, 0.3))
        sent = time.monotonic()
        command.send(number)
        code, output = command.end()
        assert time.monotonic() - sent < SECONDS_AT_ONCE
        assert code in (0, 128 + number, -number), output
        assert "Traceback" not in output
        assert command.orphans() == []
        again, output = Command(lab, "run", "sweep").end()
        assert again == 0, output
        assert outcomes(lab / "runs") == expected
    record_property("tries", TRIES)


COMMANDS = {
    "plan": ("plan", "sweep"),
    "data": ("data", "start"),
    "report": ("report", "sweep"),
    "compare": ("compare", "start", "sweep"),
    "sample": ("sample", "sweep/grpo/seed0", "sort 312: ", "--num", "200"),
    "status": ("status", "sweep"),
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_every_other_command_stops_too(arguments, whole, tmp_path, record_property):
    finished = shutil.copytree(whole[-1], tmp_path / "lab")
    started = time.monotonic()
    code, output = Command(finished, *arguments, cold=True).end()
    assert code == 0, output
    seconds = time.monotonic() - started
    rng = random.Random(arguments[0])
    for _ in range(TRIES):
        stop(Command(finished, *arguments, cold=True), rng.choice([*NUMBERS.values()]), rng.uniform(0.0, seconds))
        assert not list((finished / "runs").rglob("*.partial"))
    assert Command(finished, *arguments).end() == (code, output), "what it would have said is unchanged"
    record_property("tries", TRIES)


def test_a_signal_that_a_library_turns_into_an_error_is_no_traceback(call):
    assert call("run", "start")[0] == 0

    def before():
        import analysis.report.pages

        analysis.report.pages.describe = lambda study: SignalWithin(signal.SIGTERM).arrive()

    assert call("report", "start", before=before) == (143, "")
