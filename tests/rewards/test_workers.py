"""Own rewards in processes beside this one: in order, in time, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from workbench.errors import DefinitionError, RewardError
from workbench.rewards.reward import Sample
from workbench.rewards.workers import WorkerPool

pytestmark = pytest.mark.multi
ROOT = Path(__file__).parents[2]
LONG = 60.0


def samples(*completions) -> list[Sample]:
    return [Sample(f"prompt {index}", text, None, 1, True, 8) for index, text in enumerate(completions)]


def pool_of(function, workers=2, timeout_seconds=None) -> WorkerPool:
    return WorkerPool("mine", lambda: function, workers, timeout_seconds)


def by_text(found):
    return [float(sample.completion) for sample in found]


def wait_until(done) -> bool:
    until = time.monotonic() + 10
    while not done() and time.monotonic() < until:
        time.sleep(0.02)
    return done()


def test_values_come_in_the_order_of_the_samples_whoever_was_first():
    def slow_at_first(found):
        time.sleep(0.3 if found[0].completion == "0" else 0.0)
        return by_text(found)

    pool = pool_of(slow_at_first, workers=3)
    assert pool(samples(*map(str, range(20)))) == list(range(20))
    assert pool(samples("7")) == [7.0]
    assert pool([]) == []


@pytest.mark.alone
def test_processes_stay_between_calls_and_wait_side_by_side():
    pool = pool_of(lambda found: [float(os.getpid())] if time.sleep(0.4) is None else [], workers=4)
    begun = time.monotonic()
    pids = set(pool(samples(*"abcd")))
    assert time.monotonic() - begun < 1.2
    assert len(pids) == 4
    assert os.getpid() not in pids
    assert set(pool(samples(*"abcd"))) == pids


@pytest.mark.parametrize(
    ("function", "message"),
    [(lambda found: [1 / 0], r"raised ZeroDivisionError: division by zero \(test_workers.py:\d+\)"),
     (lambda found: [float("nan")], "found nan"), (lambda found: [], "found 0 numbers for 1 samples"),
     (lambda found: sys.exit(3), "raised SystemExit: 3"),
     (lambda found: os._exit(3), "its process ended with exit code 3"),
     (lambda found: os.kill(os.getpid(), signal.SIGKILL), "its process ended with signal 9")],
)  # fmt: skip
def test_a_failure_names_the_sample_and_ends_the_processes(children, function, message):
    pool = pool_of(lambda found: function(found) if found[0].completion == "bad" else [0.0])
    before = children()
    with pytest.raises(RewardError, match=f"reward mine: {message}.*prompt 'prompt 3', completion 'bad'"):
        pool(samples("a", "b", "c", "bad", "d"))
    assert before
    assert not any(psutil.pid_exists(pid) for pid in before)


def processes() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.fixture
def children():
    """children() -> the processes below this one that were not there before the test."""
    before = processes()
    return lambda: sorted(processes() - before)


def test_a_completion_over_the_limit_stops_the_run_and_what_it_started():
    def hangs(found):
        if found[0].completion == "bad":
            subprocess.run(["sleep", str(LONG)], check=False)
        return [1.0]

    pool = pool_of(hangs, timeout_seconds=0.5)
    begun = time.monotonic()
    with pytest.raises(
        RewardError, match=r"reward mine: it took longer than timeout_seconds \(0.5 s\); prompt 'prompt 1'"
    ):
        pool(samples("a", "bad", "c"))
    assert time.monotonic() - begun < 5
    assert wait_until(lambda: not sleeping())
    assert pool(samples("a")) == [1.0]


def sleeping() -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", str(LONG)]]


def test_the_limit_is_of_one_completion_not_of_all():
    pool = pool_of(lambda found: [1.0] if time.sleep(0.2) is None else [], timeout_seconds=1.0)
    assert pool(samples(*"abcdefghijkl")) == [1.0] * 12


def test_a_function_that_cannot_be_loaded_stops_before_anything_is_scored(children):
    def fails():
        raise DefinitionError("no such function")

    with pytest.raises(DefinitionError, match="no such function"):
        WorkerPool("mine", fails, 2, None)
    with pytest.raises(DefinitionError, match="reward mine: its process ended while it was loaded"):
        WorkerPool("mine", lambda: os._exit(1), 1, None)
    assert children() == []


def test_an_interrupt_ends_what_is_under_way_and_the_next_call_starts_afresh(children):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    pool = pool_of(lambda found: [1.0] if time.sleep(1.0) is None else [], workers=2)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(Stop):
            pool(samples(*"abcd"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert children() == []
    assert pool(samples("a")) == [1.0]


def test_a_pool_that_is_let_go_leaves_no_process(children):
    pool = pool_of(by_text)
    assert len(children()) == 3, "a keeper and its two workers"
    del pool
    assert children() == []


def test_torch_computes_in_a_fork_of_a_process_that_computed_on_many_threads(torch):
    def product(found):
        return [float((torch.ones(600, 600) @ torch.ones(600, 600)).sum() > 0)]

    torch.set_num_threads(2)
    try:
        product(None)
        assert pool_of(product, timeout_seconds=20.0)(samples("a", "b")) == [1.0, 1.0]
    finally:
        torch.set_num_threads(1)


PARENT = """
import os, subprocess, sys, time
from workbench.rewards.reward import Sample
from workbench.rewards.workers import WorkerPool

def hangs(found):
    os.write(1, b"%d\\n" % os.getpid())  # whole: two processes share the pipe
    subprocess.run(["sleep", "61.5"])

pool = WorkerPool("mine", lambda: hangs, 2, None)
pool([Sample("p", "c", None, 1, True, 8)] * 2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_end_of_the_parent_ends_the_processes_and_what_they_started(tmp_path, number):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        # What runs in the background of a script ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    found = psutil.Process(parent.pid)
    assert wait_until(lambda: len(found.children(recursive=True)) == 5)
    all_of_them = found.children(recursive=True)
    assert {process.pid for process in all_of_them} > set(pids)
    parent.send_signal(number)
    parent.wait(10)
    parent.stdout.close()
    assert wait_until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in all_of_them))
