"""One run folder handed to one tracker, row by row, and the mark that says how far it got."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from workbench.errors import AlreadyRunningError
from workbench.locks import hold_file
from workbench.tracking.reader import RunRecord, Tail, is_held_out, read_json, read_run
from workbench.tracking.sinks.rollouts import RolloutFilter
from workbench.tracking.sinks.sink import ENDED, Row, Sink, log_line
from workbench.tracking.words import plural

KINDS = {"tensorboard": "TensorBoardSink", "wandb": "WandbSink"}
"""Trackers by the name they have in `track`; each is a module of this folder."""

OpenSink = Callable[[RunRecord], Sink]
_WATCHED = ("definition.yaml", "metrics.jsonl", "completions.jsonl", "status.json")


def sink_class(kind: str) -> OpenSink:
    """The sink of a tracker."""
    return getattr(importlib.import_module(f"workbench.tracking.sinks.{kind}"), KINDS[kind])


def tracked(run: RunRecord) -> tuple[str, ...]:
    """The trackers that a run asks for."""
    return tuple(kind for kind in run.definition.get("track") or () if kind in KINDS)


def needs_replay(run: Path) -> bool:
    """Whether a run that has ended lacks a tracker's complete replay of the rows it holds now."""
    record = read_run(run)
    if record.status.get("state") not in ENDED:
        return False
    return any(not is_complete(run, kind) for kind in tracked(record))


def is_complete(run: Path, kind: str) -> bool:
    """Whether the tracker's mark is that of the present files."""
    return read_json(_mark(run, kind)) == _fingerprint(run)


def _mark(run: Path, kind: str) -> Path:
    return run / kind / "replayed.json"


def _fingerprint(run: Path) -> Row:
    """What a complete replay has seen: row counts, the run's outcome, and a hash of the rows themselves."""
    found: Row = {"state": (read_json(run / "status.json") or {}).get("state")}
    for name in ("metrics", "completions"):
        try:
            data = (run / f"{name}.jsonl").read_bytes()
        except OSError:
            data = b""
        found[f"{name}_rows"] = data.count(b"\n")
        found[f"{name}_sha256"] = hashlib.sha256(data[: data.rfind(b"\n") + 1]).hexdigest()
    return found


class Replay:
    """Follows one run for one tracker. Nothing that the tracker raises leaves it: a tracker that fails is dropped.

    Of several commands that follow one run, the first to begin writes; another takes over where that one died."""

    def __init__(self, folder: Path, kind: str, open_sink: OpenSink) -> None:
        self.folder = folder
        self.kind = kind
        self.failed = False
        self._open_sink = open_sink
        self._sink: Sink | None = None
        self._lock = contextlib.ExitStack()
        self._is_ours, self._is_anothers = False, False
        self._tails = self._fresh_tails()
        self._waiting: dict[int, list[Row]] = {}
        self._evaluated: set[int] = set()
        self._seen: object = None
        self._last_step = 0
        self._rows_written = 0

    def poll(self) -> None:
        """Hand over what is new, and finish once the run has ended. Costs four stats when nothing is."""
        if not self.failed:
            self._guarded(self._poll)

    def close(self) -> None:
        """Finish whatever the run's state is: its process is gone."""
        if self._sink is not None and not self.failed:
            self._guarded(lambda: self._finish(None))

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:
            sink, self.failed, self._sink = self._sink, True, None
            after = plural(self._rows_written, "row")
            log_line(self.folder, f"{self.kind} dropped after {after}: {type(error).__name__}: {error}")
            if sink is not None:
                with contextlib.suppress(Exception):
                    sink.abandon()
            self._let_go()

    def _poll(self) -> None:
        seen = [_signature(self.folder / name) for name in _WATCHED]
        if seen[0] is None or (seen == self._seen and not (self._is_anothers and self._take())):
            return
        # The status and the fingerprint first: what they speak of is then surely among the rows read next.
        ended = (read_json(self.folder / "status.json") or {}).get("state") in ENDED
        fingerprint = _fingerprint(self.folder) if ended else None
        if self._sink is not None:
            self._continue()
        elif not ended or fingerprint != read_json(_mark(self.folder, self.kind)):
            self._start(ended)
        if self._sink is not None:
            if fingerprint:
                self._finish(fingerprint)
            else:
                self._sink.flush()
        self._seen = seen

    def _start(self, ended: bool) -> None:
        """Open the sink when there is a row to write, or when the run ended without any."""
        run = read_run(self.folder)
        if self.kind not in tracked(run) or not self._take():
            return
        self._tails = self._fresh_tails()
        rows, completions = self._new_rows()
        if not (rows or ended):
            self._let_go()
            return
        self._waiting, self._evaluated, self._last_step, self._rows_written = {}, set(), 0, 0
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _mark(self.folder, self.kind).unlink()
        self._sink = self._open_sink(run)
        self._write(rows, completions)

    def _take(self) -> bool:
        """Whether the tracker's files are ours to write, from now on."""
        if not self._is_ours:
            try:
                self._lock.enter_context(hold_file(self.folder / f".{self.kind}.lock", f"{self.kind} of {self.folder}"))
                self._is_ours = True
            except AlreadyRunningError:
                pass
        self._is_anothers = not self._is_ours
        return self._is_ours

    def _let_go(self) -> None:
        self._lock.close()
        self._is_ours = False

    def _continue(self) -> None:
        rows, completions = self._new_rows()
        if any(tail.restarted for tail in self._tails):
            assert self._sink is not None, "only an open replay goes on"
            self._sink.abandon()
            self._sink = None
            self._start(ended=False)
        else:
            self._write(rows, completions)

    def _write(self, rows: Sequence[Row], completions: Sequence[Row]) -> None:
        """Each row with its completions, which are on the disk before it (late ones join the next)."""
        assert self._sink is not None, "rows are written to an open replay"
        for completion in completions:
            step = completion.get("step", 0)
            self._waiting.setdefault(step if isinstance(step, int) else 0, []).append(completion)
        for row in rows:
            if not isinstance(row.get("step"), int):
                continue
            step = self._last_step = row["step"]
            if any(name.startswith("eval/") for name in row):
                self._evaluated.add(step)
            self._sink.write(row, self._completions_until(step))
            self._rows_written += 1

    def _completions_until(self, step: int) -> list[Row]:
        """Waiting completions so far: rollouts, and those of evaluations that have their row."""
        due: list[Row] = []
        for waiting in sorted(waiting for waiting in self._waiting if waiting <= step):
            evaluated = waiting in self._evaluated
            due += [row for row in self._waiting.pop(waiting) if evaluated or not is_held_out(row)]
        return due

    def _new_rows(self) -> tuple[list[Row], list[Row]]:
        """Metrics first: whatever was written before a row of them is then surely among the completions."""
        metrics, completions = self._tails
        return metrics.new_rows(), completions.new_rows(self._shown)

    def _finish(self, fingerprint: Row | None) -> None:
        """Close the replay; with what it was to hold, mark it complete if that is still what there is."""
        assert self._sink is not None, "only an open replay is finished"
        if late := self._completions_until(self._last_step):
            self._sink.write({"step": self._last_step}, late)
        sink, self._sink = self._sink, None
        sink.finish(read_json(self.folder / "status.json") or {})
        if fingerprint and fingerprint == _fingerprint(self.folder):
            _mark(self.folder, self.kind).write_text(json.dumps(fingerprint) + "\n", encoding="utf-8")
        self._let_go()

    def _fresh_tails(self) -> tuple[Tail, Tail]:
        self._shown = RolloutFilter()
        return Tail(self.folder / "metrics.jsonl"), Tail(self.folder / "completions.jsonl")


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
