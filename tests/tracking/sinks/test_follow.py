"""Trackers that fail, hang or lose their parent, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from workbench.tracking.reader import RunRecord
from workbench.tracking.sinks.follow import Followers, follow, replay
from workbench.tracking.sinks.replay import Replay, is_complete, needs_replay
from workbench.tracking.sinks.sink import Row, Sink
from workbench.tracking.sinks.tensorboard import TensorBoardSink


class ListSink(Sink):
    """Keeps what it is handed in lists that outlive it."""

    opened: list[ListSink]
    breaks_at: int | None = None

    def __init__(self, run: RunRecord) -> None:
        self.folder = run.folder
        self.steps: list[int] = []
        self.completions: list[tuple[int, int]] = []
        self.ends: list[str] = []
        type(self).opened.append(self)

    def write(self, row: Row, completions: Sequence[Row]) -> None:
        if row["step"] == self.breaks_at:
            raise RuntimeError("tracker\nbroke")
        self.steps.append(row["step"])
        self.completions += [(row["step"], completion["step"]) for completion in completions]

    def flush(self) -> None:
        pass

    def finish(self, status: Row) -> None:
        (self.folder / "tensorboard").mkdir(exist_ok=True)
        self.ends.append(status["state"])

    def abandon(self) -> None:
        self.ends.append("abandoned")


@pytest.fixture
def sink() -> type[ListSink]:
    return type("FreshListSink", (ListSink,), {"opened": []})


def _follow_to_the_end(run: Any, sink: type[ListSink]) -> None:
    stop = threading.Event()
    stop.set()
    follow([run.folder], stop.wait, "tensorboard", sink)


def test_rows_come_once_and_evaluations_with_their_completions(
    make_run: Callable[..., Any], sink: type[ListSink]
) -> None:
    run = make_run().train(3)
    followed = Replay(run.folder, "tensorboard", sink)
    followed.poll()
    followed.poll()
    run.train(10).end()
    followed.poll()
    (opened,) = sink.opened
    assert opened.steps == list(range(11))
    assert opened.completions == [(0, 0)] * 4 + [(5, 5)] * 4 + [(10, 10)] * 4
    assert opened.ends == ["finished"]
    assert is_complete(run.folder, "tensorboard")


def test_a_cut_starts_the_replay_anew(make_run: Callable[..., Any], sink: type[ListSink]) -> None:
    run = make_run().train(8)
    followed = Replay(run.folder, "tensorboard", sink)
    followed.poll()
    run.cut(5).train(9).end()
    followed.poll()
    first, second = sink.opened
    assert first.ends == ["abandoned"]
    assert second.steps == list(range(10))
    assert second.ends == ["finished"]


def test_an_interrupted_run_that_goes_on_is_replayed_anew(make_run: Callable[..., Any], sink: type[ListSink]) -> None:
    run = make_run().train(5).end("interrupted")
    followed = Replay(run.folder, "tensorboard", sink)
    followed.poll()
    assert not needs_replay(run.folder) or not is_complete(run.folder, "wandb")
    run.status("running")
    run.train(9)
    assert not is_complete(run.folder, "tensorboard")
    followed.poll()
    run.end()
    followed.poll()
    assert [opened.steps for opened in sink.opened] == [list(range(6)), list(range(10))]
    assert sink.opened[1].ends == ["finished"]


def test_a_complete_replay_is_not_made_again(make_run: Callable[..., Any], sink: type[ListSink]) -> None:
    run = make_run(track=["tensorboard"]).train(5).end()
    assert needs_replay(run.folder)
    _follow_to_the_end(run, sink)
    assert not needs_replay(run.folder)
    _follow_to_the_end(run, sink)
    assert len(sink.opened) == 1


def test_other_numbers_at_the_same_steps_need_a_replay(make_run: Callable[..., Any], sink: type[ListSink]) -> None:
    run = make_run(track=["tensorboard"]).train(5).end()
    _follow_to_the_end(run, sink)
    path = run.folder / "metrics.jsonl"
    path.write_text(path.read_text().replace("0.333", "0.334"))
    assert needs_replay(run.folder)


def test_a_run_whose_process_died_is_closed_but_not_complete(
    make_run: Callable[..., Any], sink: type[ListSink]
) -> None:
    run = make_run().train(5)
    _follow_to_the_end(run, sink)
    assert sink.opened[0].ends == ["running"]
    assert not is_complete(run.folder, "tensorboard")
    assert not needs_replay(run.folder), "it has not ended: it will be resumed"


def test_of_two_that_follow_a_run_one_writes_and_the_other_takes_over_where_it_died(
    make_run: Callable[..., Any], sink: type[ListSink]
) -> None:
    run = make_run().train(5)
    dead, other = (Replay(run.folder, "tensorboard", sink) for _ in range(2))
    dead.poll()
    run.end()
    for _ in range(2):
        other.poll()
    assert len(sink.opened) == 1, "it is the first one's"
    dead._lock.close()  # as the kernel does when its process dies
    other.poll()
    assert [opened.ends for opened in sink.opened] == [[], ["finished"]]
    assert sink.opened[1].steps == list(range(6))
    assert is_complete(run.folder, "tensorboard")


def test_a_run_without_trackers_opens_none(make_run: Callable[..., Any], sink: type[ListSink]) -> None:
    run = make_run(track=[]).train(5).end()
    _follow_to_the_end(run, sink)
    assert sink.opened == []
    assert not needs_replay(run.folder)


def test_a_sink_that_raises_is_dropped_with_one_line(make_run: Callable[..., Any], sink: type[ListSink]) -> None:
    sink.breaks_at = 4
    runs = [make_run(seed=0).train(3), make_run(seed=1).train(9).end()]
    stop = threading.Event()
    stop.set()
    follow([run.folder for run in runs], stop.wait, "tensorboard", sink)
    assert sink.opened[0].ends == ["running"], "the other run's replay goes on"
    assert sink.opened[1].steps == [0, 1, 2, 3]
    assert runs[0].log() == ""
    (line,) = runs[1].log().splitlines()
    assert line.endswith("tensorboard dropped after 4 rows: RuntimeError: tracker broke")


def test_a_hanging_tracker_is_killed_in_time_and_the_other_finishes(make_run: Callable[..., Any]) -> None:
    run = make_run().train(5)
    followers = Followers(poll_seconds=0.1)
    followers.start([run.folder])
    processes = followers._processes
    process = processes["wandb"]
    process.send_signal(signal.SIGSTOP)
    run.end()
    started = time.monotonic()
    assert followers.finish(2.0) == ("wandb",)
    assert time.monotonic() - started < 3.0
    assert process.returncode == -signal.SIGKILL
    assert is_complete(run.folder, "tensorboard")
    assert "wandb killed: it had not finished 2 s after training ended" in run.log()


def test_ctrl_c_and_a_low_priority_are_for_training_only(make_run: Callable[..., Any]) -> None:
    run = make_run().train(5)
    followers = Followers(["tensorboard"], poll_seconds=0.1)
    followers.start([run.folder])
    process = psutil.Process(followers._processes["tensorboard"].pid)
    _wait_for(lambda: list((run.folder / "tensorboard").glob("*")))
    assert os.getsid(process.pid) == process.pid
    assert process.nice() >= min(19, psutil.Process().nice() + 10)
    process.send_signal(signal.SIGINT)
    run.end()
    assert followers.finish(10.0) == ()
    assert is_complete(run.folder, "tensorboard")


@pytest.mark.skipif(sys.platform != "linux", reason="death with the parent is asked of Linux")
@pytest.mark.parametrize("hangs", [False, True])
def test_trackers_die_with_their_parent(make_run: Callable[..., Any], tmp_path: Path, hangs: bool) -> None:
    run = make_run().train(5)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom workbench.tracking.sinks.follow import Followers\n"
        "followers = Followers(['tensorboard'], 0.1)\nfollowers.start([Path(sys.argv[1])])\n"
        "print(followers._processes['tensorboard'].pid, flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    with parent, parent.stdout:
        tracker = psutil.Process(int(parent.stdout.readline()))
        _wait_for(lambda: list((run.folder / "tensorboard").glob("*")))
        if hangs:
            tracker.suspend()
        parent.kill()
    _wait_for(lambda: not tracker.is_running() or tracker.status() == psutil.STATUS_ZOMBIE, 5.0)


def test_nothing_is_left_in_the_temporary_folder(
    make_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    run = make_run().train(5).end()
    assert replay([run.folder], 60.0) == ()
    assert not needs_replay(run.folder)
    assert list(place.iterdir()) == []


def test_finish_without_runs_is_nothing() -> None:
    followers = Followers()
    followers.start([])
    assert followers.finish() == ()


def test_run_folders_may_come_after_the_start(make_run: Callable[..., Any], tmp_path: Path) -> None:
    with Followers(["tensorboard"], poll_seconds=0.1) as followers:
        followers.start([tmp_path / "runs/dpo_beta/beta=0.1/seed0"])
        run = make_run().train(5).end()
    assert is_complete(run.folder, "tensorboard")


def test_a_full_disk_of_the_tracker_is_its_own(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorBoardSink, "write", full)
    run = make_run().train(5).end()
    Replay(run.folder, "tensorboard", TensorBoardSink).poll()
    assert "No space left on device" in run.log()


def _wait_for(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)
