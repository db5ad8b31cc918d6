"""Work in forked processes: the same results whatever their number, and no error lost."""

from __future__ import annotations

import os
import signal

import pytest

from workbench.errors import DataError, RankError
from workbench.experiment.running.processes import RunProcess, fork_map


def square(_state: None, item: int) -> int:
    return item * item


@pytest.mark.parametrize("jobs", [1, 2, 3, 9])
def test_results_come_in_the_order_of_the_items_whatever_the_number_of_processes(jobs):
    seen: list[int] = []
    assert fork_map(lambda: None, square, list(range(7)), jobs=jobs, threads=1, on_result=seen.append) == [
        0, 1, 4, 9, 16, 25, 36,
    ]  # fmt: skip
    assert sorted(seen) == [0, 1, 4, 9, 16, 25, 36]


def test_setup_runs_once_in_each_process(tmp_path):
    def setup() -> None:
        with open(tmp_path / "log", "a") as file:
            file.write("x")

    fork_map(setup, square, list(range(10)), jobs=2, threads=1)
    assert (tmp_path / "log").read_text() == "xx"


def test_a_users_error_is_raised_as_it_was():
    def fail(_state: None, item: int) -> int:
        raise DataError(f"row {item} is bad")

    with pytest.raises(DataError, match=r"^row 0 is bad$"):
        fork_map(lambda: None, fail, [0], jobs=2, threads=1)


def test_our_own_mistake_shows_where_it_was_made():
    def fail(_state: None, item: int) -> int:
        return item // 0

    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        fork_map(lambda: None, fail, [1, 2], jobs=2, threads=1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_one_line_that_names_the_signal(number):
    def die(_state: None, _item: int) -> int:
        os.kill(os.getpid(), number)
        return 0

    with pytest.raises(RankError, match=f"^a worker process was killed by {number.name}; the same command") as error:
        fork_map(lambda: None, die, [1, 2], jobs=2, threads=1)
    assert error.value.exit_code == 7
    assert "\n" not in str(error.value)


def test_a_run_process_gives_the_errors_exit_code_and_logs_its_words(tmp_path):
    def fail() -> None:
        raise DataError("file.jsonl:3: bad")

    process = RunProcess(fail, 1, tmp_path / "log.txt")
    process.join()
    assert process.exit_code() == 2
    assert (tmp_path / "log.txt").read_text() == "file.jsonl:3: bad\n"


def test_an_unexpected_error_is_exit_code_1_with_its_traceback_in_the_log(tmp_path):
    process = RunProcess(lambda: 1 // 0, 1, tmp_path / "log.txt")  # type: ignore[arg-type, return-value]
    process.join()
    assert process.exit_code() == 1
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()


def test_a_run_process_has_its_own_threads(tmp_path):
    import torch

    def say() -> None:
        print(torch.get_num_threads())

    process = RunProcess(say, 2, tmp_path / "log.txt")
    process.join()
    assert (tmp_path / "log.txt").read_text() == "2\n"


def test_workers_that_end_early_with_code_0_left_their_items_undone():
    with pytest.raises(RankError, match="exit code 0 and left 2 of 3 undone"):
        fork_map(lambda: None, lambda _, item: os._exit(0) if item else item, [0, 1, 2], jobs=1, threads=1)
