"""A run as TensorBoard event files: scalars, texts of completions, and its hyperparameters."""

from __future__ import annotations

import hashlib
import os
import shutil
import string
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from workbench.tracking.reader import ROLLOUTS, RunRecord, find_runs
from workbench.tracking.sinks.hparams import declaration, session_end, session_start
from workbench.tracking.sinks.rollouts import split_off
from workbench.tracking.sinks.sink import FinalValues, Row, Sink, created_seconds, numbers, rewards_of, verdict
from workbench.tracking.words import plural

TEXTS_PER_SPLIT = 8
"""Completions of each held-out split shown at an evaluation: the same prompts every time."""
_PUNCTUATION = {ord(mark): f"&#{ord(mark)};" for mark in string.punctuation}
"""Every mark that Markdown or HTML could take for its own."""


class TensorBoardSink(Sink):
    """<run>/tensorboard/. The same rows give the same bytes, whenever they are replayed."""

    def __init__(self, run: RunRecord) -> None:
        self.folder = run.folder / "tensorboard"
        self._started = self._wall_time = created_seconds(run)
        former = sorted(self.folder.glob("*.tfevents.*"))
        for path in former:
            # It is emptied, not deleted: a TensorBoard that reads it would wait for it for ever and never go on to the
            # next file, whose name must sort later and whose first event makes it forget this one's rows.
            os.truncate(path, 0)
        replay = 1 + max((int(path.name.split(".")[-2]) for path in former if path.suffix == ".replay"), default=-1)
        self._final = FinalValues()
        self._file = EventFile(self.folder / f"events.out.tfevents.{int(self._started):010d}.{replay:04d}.replay")
        self._file.write_start(self._started)
        self._file.write(session_start(run, self._started), self._started)

    def write(self, row: Row, completions: Sequence[Row]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        step = int(row["step"])
        self._final.see(row)
        self._wall_time = self._started + float(row.get("time/seconds") or self._wall_time - self._started)
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(row).items()]
        held_out, rollouts = split_off(list(completions))
        values += [_text(f"completions/{split}", text) for split, text in completion_texts(held_out).items()]
        if rollouts:
            values.append(_text(f"completions/{ROLLOUTS}", rollout_table(rollouts)))
        if values:
            self._file.write(Summary(value=values), self._wall_time, step)

    def flush(self) -> None:
        self._file.flush()

    def finish(self, status: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        step, final = self._final.of(status)
        if final and status.get("state") == "finished":
            values = [Summary.Value(tag=name, simple_value=value) for name, value in final.items()]
            self._file.write(Summary(value=values), self._wall_time, step)
        if status.get("state") != "running":
            self._file.write(session_end(status.get("state") == "finished", self._wall_time), self._wall_time)
        self._file.close()
        declare(self.folder.resolve().parents[3])

    def abandon(self) -> None:
        self._file.close()


class EventFile:
    """Records of one event file, written in the calling thread.

    tensorboard's EventFileWriter wraps the same RecordWriter in a thread, stamps the clock and the host's name, and
    reports a full disk late or (joining its queue) never.
    """

    def __init__(self, path: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        path.parent.mkdir(exist_ok=True)  # not the run's: a run folder that vanished is not made anew
        self._records = RecordWriter(open(path, "wb"))  # noqa: SIM115 - closed with the records

    def write_start(self, wall_time: float) -> None:
        """The header, and the mark that everything read before from this folder is void."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._records.write(Event(wall_time=wall_time, file_version="brain.Event:2").SerializeToString())
        start = Event(wall_time=wall_time, step=0, session_log=SessionLog(status=SessionLog.START))
        self._records.write(start.SerializeToString())

    def write(self, summary: Any, wall_time: float, step: int = 0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._records.close()


def declare(root: Path) -> None:
    """Write the columns of the HParams tab for all runs below a runs folder, where they changed.

    One declaration for the whole folder: of several, TensorBoard takes any. Its text names its place, since a running
    TensorBoard keeps the first that it reads in a place and drops what is gone.
    """
    summary = declaration(find_runs(root))
    digest = hashlib.sha256(summary.SerializeToString(deterministic=True)).hexdigest()[:12]
    place = root / ".hparams" / digest
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        former = [path for path in (root / ".hparams").glob("*") if path.name != digest]
        file = EventFile(place / "events.out.tfevents.0000000000.0000.replay")
        file.write_start(0.0)
        file.write(summary, 0.0)
        file.close()
        for path in former:
            shutil.rmtree(path, ignore_errors=True)


def completion_texts(completions: Iterable[Row]) -> dict[str, str]:
    """Markdown for each split: the first few prompts, their completions, right or wrong."""
    shown: dict[str, list[Row]] = {}
    for completion in completions:
        rows = shown.setdefault(str(completion.get("split", "")), [])
        if len(rows) < TEXTS_PER_SPLIT and not completion.get("sample_index"):
            rows.append(completion)
    return {split: "\n\n".join(map(_markdown, rows)) for split, rows in shown.items() if rows}


def rollout_table(rollouts: Sequence[Row]) -> str:
    """A Markdown table of one step's rollouts, a prompt's samples below it: what it was rewarded with and why.

    No text in it can be markup: every mark of punctuation is written as its number.
    """
    names = sorted({name for rollout in rollouts for name in rewards_of(rollout)})
    head = ["prompt", "completion", "reward", *(name for name in names if len(names) > 1), "advantage", "tokens"]
    lines = [" | ".join(map(_cell, head)), " | ".join("---" for _ in head)]
    former = None
    for rollout in rollouts:
        prompt = str(rollout.get("prompt", ""))
        rewards = rewards_of(rollout)
        total = rollout.get("reward", next(iter(rewards.values()), None) if len(rewards) == 1 else None)
        values = [total, *(rewards.get(name) for name in names if len(names) > 1), rollout.get("advantage")]
        tokens = f"{rollout.get('num_tokens', '')}{'' if rollout.get('ended', True) else ' (cut off)'}"
        texts = ["" if prompt == former else prompt, str(rollout.get("completion", "")) or "(empty)"]
        lines.append(" | ".join(map(_cell, [*texts, *map(_number, values), tokens])))
        former = prompt
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"


def _cell(text: str) -> str:
    """Text as a cell shows it, its line breaks and spaces kept."""
    shown = text.translate(_PUNCTUATION).replace("  ", " &#160;")
    return "<br>".join(shown.splitlines())


def _markdown(completion: Row) -> str:
    facts = [f"{name} {value:g}" for name, value in rewards_of(completion).items()]
    facts += [plural(completion["num_tokens"], "token")] if "num_tokens" in completion else []
    facts += [] if completion.get("ended", True) else ["cut off"]
    text = f"{completion.get('prompt', '')}{completion.get('completion', '')}"
    fence = "~~~"
    while fence in text:
        fence += "~"
    return f"**{verdict(completion)}** ({', '.join(facts)})\n\n{fence}\n{text}\n{fence}"


def _text(tag: str, text: str) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text import metadata
    from tensorboard.util import tensor_util

    tensor = tensor_util.make_tensor_proto([text.encode("utf-8", "replace")])
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata.create_summary_metadata(tag, ""))
