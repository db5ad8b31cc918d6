"""Many starts of one experiment at once: one proceeds, the others name it within a second. Commands that share an
experiment, or whose experiments share runs, divide them, and none is made twice."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import signal
import time

import pytest
import yaml

from tests.commands import Command, warm_up
from tests.faults.labs import START, SWEEP, make_lab, outcomes
from tests.tracking.frames import assert_equal

pytestmark = [pytest.mark.slow, pytest.mark.multi]
STARTS = 50


def start_together(lab, barrier):
    """`workbench run start` of a process that is forked from a warm one, at the barrier before it tries the lock: its
    code, what it said, and the seconds since."""
    from workbench import cli
    from workbench.experiment.running import runner

    os.chdir(lab)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # these are fifty commands, not fifty processes of one job
        del os.environ[name]
    refuse, tried = runner.refuse_without_space, []

    def last_before_the_lock(*arguments):
        refuse(*arguments)
        barrier.wait(120)
        tried.append(time.monotonic())

    runner.refuse_without_space = last_before_the_lock
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = cli.main(["run", "start", "--set", "steps=60"])
    return code, said.getvalue(), time.monotonic() - tried[0]


@pytest.mark.alone
@pytest.mark.parametrize("held_by_a_dead_one", [False, True], ids=["free", "held by a dead process"])
def test_of_fifty_starts_one_proceeds_and_the_others_say_so_within_a_second(
    held_by_a_dead_one, in_processes, tmp_path, record_property
):
    warm_up()
    lab = make_lab(tmp_path)
    if held_by_a_dead_one:
        command = Command(lab, "run", "start", "--set", "steps=60")
        while not (lab / "runs/.locks/start+steps=60.lock").exists():
            time.sleep(0.02)
        command.send(signal.SIGKILL)
        command.end()
        assert command.orphans(30.0) == []
    barrier = multiprocessing.get_context("fork").Barrier(STARTS)
    ends = in_processes(STARTS, lambda _: start_together(lab, barrier))
    others = [(said, seconds) for code, said, seconds in ends if code == 5]
    assert sorted(code for code, _, _ in ends) == [0] + [5] * (STARTS - 1), [end for end in ends if end[0] != 5]
    named = {
        re.fullmatch(r"start\+steps=60 is already running: process (\d+) on .+ holds it\n", s)[1] for s, _ in others
    }
    assert len(named) == 1, "all name the same one"
    assert max(seconds for _, seconds in others) < 1.0
    [run] = (lab / "runs").glob("start+*/main/seed0")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    record_property("tries", STARTS)


def trained_by(runs):
    """Of each run, how often it was begun: every beginning announces itself in its log."""
    logs = {path.parent: path.read_text() for path in runs.glob("*/*/*/log.txt")}
    return {str(run.relative_to(runs)): len(re.findall(r"Trainer, \d+ steps", text)) for run, text in logs.items()}


def make_seeds(folder):
    """A lab whose sweep has four runs long enough to be divided, with both trackers."""
    lab = make_lab(folder)
    sweep = START | {"start_from": "start", "sweep": {"seeds": 4}, "track": SWEEP["track"]}
    del sweep["model"]
    sweep["hyperparameters"] = START["hyperparameters"] | {"steps": 40}
    sweep["evaluate"] = START["evaluate"] | {"every": 10}
    (lab / "experiments/seeds.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return lab


@pytest.fixture
def seeds(tmp_path):
    return make_seeds(tmp_path / "lab")


@pytest.fixture(scope="module")
def of_one_command(once):
    """What the runs come to where one command makes them all."""

    def make(folder):
        lab = make_seeds(folder / "lab")
        code, output = Command(lab, "run", "seeds").end()
        assert code == 0, output
        return outcomes(lab / "runs")

    return once("seeds", make)


@pytest.mark.long
def test_commands_that_share_an_experiment_divide_its_runs(seeds, of_one_command):
    commands = [Command(seeds, "run", "seeds", "--share", "--jobs", "1") for _ in range(3)]
    ends = [command.end() for command in commands]
    assert [code for code, _ in ends] == [0, 0, 0], ends
    assert outcomes(seeds / "runs") == of_one_command
    assert set(trained_by(seeds / "runs").values()) == {1}, "each run was begun once"
    for seed in range(4):
        assert_equal(seeds / f"runs/seeds/main/seed{seed}")
    assert (seeds / "runs/seeds/report/index.html").is_file()


@pytest.mark.long
def test_one_that_shares_goes_on_with_the_runs_of_one_that_was_killed(seeds, of_one_command):
    first, second = (Command(seeds, "run", "seeds", "--share", "--jobs", "1") for _ in range(2))
    deadline = time.monotonic() + 60
    while len(trained_by(seeds / "runs")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send(signal.SIGKILL)
    first.end()
    code, output = second.end()
    assert code == 0, output
    assert outcomes(seeds / "runs") == of_one_command
    for seed in range(4):
        assert_equal(seeds / f"runs/seeds/main/seed{seed}")


@pytest.mark.long
def test_experiments_that_share_a_start_make_it_once(seeds):
    commands = [Command(seeds, "run", name) for name in ("seeds", "sweep")]
    ends = [command.end() for command in commands]
    assert [code for code, _ in ends] == [0, 0], ends
    assert set(trained_by(seeds / "runs").values()) == {1}


def test_one_that_does_not_share_is_refused_beside_those_that_do(seeds):
    sharing = Command(seeds, "run", "seeds", "--share", "--jobs", "1")
    while not (seeds / "runs/.locks/seeds.lock").exists():
        time.sleep(0.02)
    code, output = Command(seeds, "run", "seeds").end()
    assert code == 5, output
    assert re.search(r"^seeds is already running: process \d+ on ", output, re.MULTILINE)
    assert sharing.end()[0] == 0
    assert Command(seeds, "run", "seeds", "--share", "--fresh").end()[0] == 2
