"""A process that dies, raises, is stopped or hangs ends the others with code 7 in seconds and is named; the job started
again goes on to the same bits."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time

import pytest

from workbench.errors import RankError
from workbench.tracking.reader import read_rows
from workbench.trainer.machine import peers

STEPS = 6
WITHIN_SECONDS = 30.0
pytestmark = [pytest.mark.multi]


def digest(trainer):
    found = hashlib.sha256()
    for parameter in trainer.unwrapped_model.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()


@pytest.fixture
def job(sft, collate, make_rows):
    """job(folder, at=None) -> train(rank): two processes' SFT, `at(rank)` called in the forward of the fourth step."""

    def make(folder, at=None):
        def train(rank):
            batches = [collate("sft", make_rows(4, seed)) for seed in range(2 * STEPS)][rank::2]
            settings = {"steps": STEPS, "checkpoint_every": 2, "evaluate_every": 0}
            trainer = sft(batches=batches, arguments={"output_dir": folder}, **settings)
            if at is not None:
                seen = [0]

                def visit(*_):
                    seen[0] += 1
                    if seen[0] == 4:
                        at(rank)

                trainer.unwrapped_model.register_forward_hook(visit)
            trainer.resume()
            try:
                trainer.train()
            except RankError as error:
                print(error, flush=True)
                os._exit(error.exit_code)
            except ZeroDivisionError:
                os._exit(99)
            return trainer.step, digest(trainer)

        return train

    return make


def rows_of(folder):
    rows = read_rows(folder / "metrics.jsonl")
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def killed(rank):
    os.kill(os.getpid(), signal.SIGKILL)


def stopped(rank):
    # Stopped for good: what began it kills it when all is over.
    subprocess.Popen(["sh", "-c", f"sleep 15; kill -9 {os.getpid()}"], stdout=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGSTOP)


def raising(rank):
    raise ZeroDivisionError("a mistake of this process alone")


def hanging(rank):
    time.sleep(120)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(peers, "FIRST_MARKS", 2)
    monkeypatch.setattr(peers, "STALL_SECONDS", 4.0)
    monkeypatch.setattr(peers, "SILENCE_SECONDS", 5.0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    ("fault", "own_code", "said"),
    [
        (killed, -signal.SIGKILL, "does not answer"),
        (raising, 99, "ZeroDivisionError: a mistake of this process alone"),
        (hanging, 7, "stalled: no progress"),
        (stopped, -signal.SIGKILL, "does not answer"),
    ],
)
def test_the_job_ends_in_time_names_the_rank_and_goes_on_exactly(
    fault, own_code, said, victim, job, in_processes, tmp_path, capfd, quick
):
    whole = in_processes(2, job(tmp_path / "whole"))
    started = time.monotonic()
    codes = in_processes(2, job(tmp_path / "run", lambda rank: fault(rank) if rank == victim else None))
    assert time.monotonic() - started < WITHIN_SECONDS
    assert codes[1 - victim] == RankError.exit_code
    assert codes[victim] == own_code
    out = capfd.readouterr()
    assert f"rank {victim}" in out.out + out.err
    assert said in out.out + out.err
    assert in_processes(2, job(tmp_path / "run")) == whole
    rows, wanted = (rows_of(tmp_path / name) for name in ("run", "whole"))
    assert rows == wanted


@pytest.mark.slow
def test_with_its_own_limits_a_hanging_rank_ends_the_job_within_half_a_minute(job, in_processes, tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "FIRST_MARKS", 2)
    started = time.monotonic()
    codes = in_processes(2, job(tmp_path, lambda rank: hanging(rank) if rank == 1 else None))
    assert codes == [7, 7]
    assert time.monotonic() - started < WITHIN_SECONDS


def test_a_job_that_ends_well_says_nothing(job, in_processes, tmp_path, capfd):
    started = time.monotonic()
    results = in_processes(2, job(tmp_path))
    assert [step for step, _ in results] == [STEPS, STEPS]
    assert "rank" not in capfd.readouterr().err
    assert time.monotonic() - started < 20


def test_an_error_of_all_is_each_one_s_own(sft, collate, make_rows, in_processes, tmp_path):
    def train(rank):
        batches = [collate("sft", make_rows(4, seed)) for seed in range(4)]
        trainer = sft(batches=batches, steps=3, learning_rate=1e30, arguments={"output_dir": tmp_path})
        try:
            trainer.train()
        except Exception as error:
            return type(error).__name__
        return "finished"

    assert in_processes(2, train) == ["NonFiniteError", "NonFiniteError"]
