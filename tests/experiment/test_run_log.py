"""log.txt: all that a run and its child processes print, without secrets, whole whatever ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from workbench.experiment.running.processes import RunProcess

pytestmark = pytest.mark.multi
SECRET = "canary-log-93b1c7"


def logged(tmp_path, target):
    """What log.txt holds, and the seconds from the process's end to that of its log."""
    process = RunProcess(target, 1, tmp_path / "log.txt")
    process._process.join()
    ended = time.monotonic()
    process.join()
    return (tmp_path / "log.txt").read_text(), time.monotonic() - ended


def test_descriptors_and_child_processes_are_heard_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_TOKEN", SECRET)

    def target():
        print("printed", SECRET)
        os.write(1, SECRET[:5].encode())
        time.sleep(0.3)
        os.write(1, SECRET[5:].encode() + b" written\n")
        subprocess.run(f"echo {SECRET} told; echo {SECRET} complained >&2", shell=True, check=True)

    log, _ = logged(tmp_path, target)
    assert log == "printed ***\n*** written\n*** told\n*** complained\n"


def test_a_secret_of_several_lines_is_hidden_line_by_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_PRIVATE_KEY", "-----BEGIN-----\nMIIEpAIBAAKCAQEA\nqYzx0123456789\n")
    log, _ = logged(tmp_path, lambda: print(os.environ["MY_PRIVATE_KEY"]))
    assert "MIIE" not in log
    assert "qYzx" not in log


def test_a_kill_loses_nothing_that_was_printed(tmp_path):
    def target():
        os.write(1, b"x" * 60_000 + b"\nlast words")
        os.kill(os.getpid(), signal.SIGKILL)

    assert logged(tmp_path, target)[0] == "x" * 60_000 + "\nlast words"


@pytest.mark.alone
def test_a_process_left_behind_that_holds_the_other_end_delays_nothing(tmp_path):
    left = tmp_path / "pid"

    def target():
        process = subprocess.Popen(["sleep", "60"], start_new_session=True)
        left.write_text(str(process.pid))
        print("done")

    try:
        log, seconds = logged(tmp_path, target)
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)
    assert log == "done\n"
    assert seconds < 2


def test_a_line_without_end_is_written_in_parts(tmp_path):
    assert logged(tmp_path, lambda: os.write(1, b"y" * 500_000))[0] == "y" * 500_000
