"""What the terminal shows while runs train: a live line each, a line for the sweep, and one line for each run ended."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from workbench.tracking.durations import format_duration
from workbench.tracking.names import EXACT_MATCH_GREEDY, EXACT_MATCH_SAMPLED, HELD_OUT_LOSS, KL_START, PAIR_ACCURACY
from workbench.tracking.reader import WARNINGS, Tail
from workbench.tracking.sinks.sink import Row, numbers
from workbench.tracking.terminal import visible
from workbench.tracking.words import plural

REDRAW_SECONDS = 0.2
PLAIN_SECONDS = 10.0
_SHORT_NAMES = {
    EXACT_MATCH_SAMPLED: "match",
    EXACT_MATCH_GREEDY: "greedy",
    PAIR_ACCURACY: "pairs",
    KL_START: "KL",
    HELD_OUT_LOSS: "loss",
}
"""The held-out metrics that matter, in this order, as they fit a terminal."""
_METRICS_SHOWN = 2
_ROLLOUT_NAMES = {
    "reward": ("reward", "objective/scores"),
    "no signal": ("frac_reward_zero_std",),
    "length": ("completions/mean_length",),
    "kl": ("kl", "objective/kl"),
}
"""What an online run shows instead of its loss, which says little of it: the first name that it has."""
_BAR_CELLS = 12


@dataclass
class _Run:
    """What is known of one run."""

    num_steps: int
    tail: Tail | None = None
    step: int = 0
    first_step: int | None = None
    """The step at which the run stood when this command took it up."""
    started_at: float = 0.0
    loss: float | None = None
    rollouts: dict[str, float] = field(default_factory=dict)
    """The latest of _ROLLOUT_NAMES; empty unless the run trains on its own completions."""
    held_out: dict[str, float] = field(default_factory=dict)
    held_out_step: int | None = None
    """The step at which `held_out` was measured."""
    first_time: tuple[int, float] | None = None
    last_time: tuple[int, float] | None = None
    """Steps and the run's own clock, for its rate."""
    ended: bool = False
    harmed: bool = False
    """Whether the run ended badly."""
    warned: Tail | None = None
    told: set[tuple[Any, str]] = field(default_factory=set)
    """Warnings that were shown, or that an earlier command has shown, by step and text."""
    outcome: str = ""
    """The first word of what came of it: finished, failed, interrupted, ..."""

    def take(self, row: Row) -> None:
        self.step = row["step"] if isinstance(row.get("step"), int) else self.step
        metrics = numbers(row)
        self.loss = metrics.get("loss", self.loss)
        for short, columns in _ROLLOUT_NAMES.items():
            known = next((name for name in columns if name in metrics), None)
            if known is not None and ("reward" in self.rollouts or short == "reward"):
                self.rollouts[short] = metrics[known]
        found = {name: value for name, value in metrics.items() if name.startswith("eval/")}
        if found:
            self.held_out = found  # of one step alone, so that one date holds for all
            self.held_out_step = self.step
        if "time/seconds" in metrics:
            self.last_time = self.step, metrics["time/seconds"]
            self.first_time = self.first_time or self.last_time

    def read(self) -> None:
        if self.tail is None:
            return
        rows = self.tail.new_rows()
        if rows and self.tail.restarted:
            self.first_time = self.last_time = None
        for row in rows:
            self.take(row)
        if self.first_step is None or self.step < self.first_step:
            self.first_step = self.step

    def new_warnings(self) -> Iterator[str]:
        """What the run has warned of since the last call."""
        for row in self.warned.new_rows() if self.warned is not None else ():
            found = row.get("step"), str(row.get("warning"))
            if found not in self.told:
                self.told.add(found)
                yield f"warning: step {found[0]}: {found[1]}"

    def steps_per_second(self, now: float) -> float | None:
        if self.first_time and self.last_time and self.last_time[1] > self.first_time[1]:
            return (self.last_time[0] - self.first_time[0]) / (self.last_time[1] - self.first_time[1])
        done = self.step - (self.first_step or 0)
        return done / (now - self.started_at) if done > 0 and now > self.started_at else None

    def metrics(self, most: int = _METRICS_SHOWN) -> Iterator[str]:
        """What the last step's training says, then what was held out: at most so many measures, dated where they are
        of another step."""
        if self.loss is not None and not self.rollouts:
            yield f"loss {self.loss:.3g}"
        names = [name for name in _SHORT_NAMES if name in self.held_out] or sorted(self.held_out)
        measures = [
            f"{_SHORT_NAMES.get(name, name.removeprefix('eval/'))} {self.held_out[name]:.3g}"
            for name in names[: min(most, 1 if self.rollouts else _METRICS_SHOWN)]
        ]
        dated = f" (step {self.held_out_step})" if self.held_out_step != self.step else ""
        shown = [f"held-out {', '.join(measures)}{dated}"] if measures else []
        # What a narrow terminal may cut stands last.
        rollouts = [f"{name} {value:.3g}" for name, value in self.rollouts.items()]
        yield from [*rollouts[:1], *shown, *rollouts[1:]]


class Console:
    """Draws in place on a terminal (at most 5 times a second); elsewhere, or with NO_COLOR or TERM=dumb, plain lines.

    It follows the metrics.jsonl of the runs that were started. It never hides the cursor, and a stream that is gone
    silences it: a closed pipe is no reason to stop training.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._live = self._stream.isatty() and not plain
        self._runs: dict[str, _Run] = {}
        self._stages: dict[str, tuple[int, int, float]] = {}
        self._lines_drawn = 0
        self._drawn_at: float | None = None
        self._made_at = self._clock()
        self._started_at: float | None = None
        self._silent = False

    def expect(self, runs: Mapping[str, int]) -> None:
        """The keys of all runs to come and their numbers of steps, for the count and the time left."""
        for key, num_steps in runs.items():
            self._runs.setdefault(key, _Run(num_steps))

    def say(self, text: str) -> None:
        """Writes a line that stays."""
        self._put(text)

    def progress(self, label: str, done: int, total: int) -> None:
        """How far a stage is; at the end a line that stays."""
        now = self._clock()
        since = self._stages.get(label, (0, 0, now))[2]
        if done >= total:
            self._stages.pop(label, None)
            self._put(f"{label}: {done} in {format_duration(now - since)}")
            return
        if label not in self._stages and not self._live:
            self._put(f"{label}: {done}/{total}")
            self._drawn_at = now
        self._stages[label] = done, total, since
        self.refresh()

    def started(self, key: str, folder: Path, num_steps: int) -> None:
        """Takes up a run that trains now."""
        now = self._clock()
        run = self._runs[key] = _Run(num_steps, Tail(folder / "metrics.jsonl"), started_at=now)
        run.warned = Tail(folder / WARNINGS)
        run.read()
        list(run.new_warnings())
        if self._started_at is None:
            self._started_at = now
            self._drawn_at = self._drawn_at or now
        if not self._live:
            where = f"from step {run.step} of {num_steps}" if run.step else plural(num_steps, "step", "")
            self._put(f"{self._name(key)}: started, {where}")

    def ended(self, key: str, outcome: str = "finished", harms: Sequence[str] = ()) -> None:
        """A run is over (or needed no training); leaves one line with its outcome and its last metrics, and one for
        each harm that it ended in."""
        run = self._runs.setdefault(key, _Run(0))
        run.read()
        self._warn(key, run)
        run.ended, run.outcome = True, re.split(r"\W", outcome, maxsplit=1)[0]
        parts = [f"{self._name(key)}: {outcome}"]
        if run.tail is not None:
            taken = format_duration(self._clock() - run.started_at)
            parts += [f"step {run.step}/{run.num_steps}", *run.metrics(), f"in {taken}"]
            run.tail = run.warned = None
        self._put("  ".join(parts))
        run.harmed = bool(harms)
        for harm in harms:
            self._put(f"{self._name(key)}: ended badly: {harm}")

    def _warn(self, key: str, run: _Run) -> None:
        for text in run.new_warnings():
            self._put(f"{self._name(key)}: {text}")

    def refresh(self) -> None:
        """Show what is new, if it is time to."""
        now = self._clock()
        if self._drawn_at is not None and now - self._drawn_at < (REDRAW_SECONDS if self._live else PLAIN_SECONDS):
            return
        self._drawn_at = now
        for key, run in self._runs.items():
            run.read()
            self._warn(key, run)
        if self._live:
            self._draw()
        elif lines := self._status_lines():
            self._write("".join(visible(line) + "\n" for line in lines))

    def close(self) -> None:
        """Take the live lines away and leave the summary."""
        summary = self._summary()
        self._stages = {}
        for run in self._runs.values():
            run.tail = None
        self._write(self._erase() + (f"{summary}\n" if summary else ""))
        self._silent = True

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _name(self, key: str) -> str:
        """The key without its experiment where there is only one."""
        experiments = {known.split("/")[0] for known in self._runs}
        return key.split("/", 1)[-1] if len(experiments) == 1 else key

    def _status_lines(self, columns: int | None = None) -> list[str]:
        """columns: of the terminal that they must fit, where there is one."""
        now = self._clock()
        lines = [_stage_line(label, *stage, now) for label, stage in self._stages.items()]
        training = {self._name(key): run for key, run in self._runs.items() if run.tail is not None}
        width = max(map(len, training), default=0)
        lines += [_run_line(name.ljust(width), run, now, columns) for name, run in training.items()]
        summary = self._summary()
        return [*lines, summary] if summary and (lines or self._live) else lines

    def _summary(self) -> str:
        """Runs finished of all, those that ended otherwise, time since the first began, time left at this pace."""
        if self._started_at is None:
            return ""
        elapsed = self._clock() - self._started_at
        outcomes = Counter(run.outcome for run in self._runs.values() if run.ended)
        finished = outcomes.pop("finished", 0)
        others = [f"{number} {outcome}" for outcome, number in outcomes.items()]
        harmed = sum(run.harmed for run in self._runs.values())
        others += [f"{harmed} of them ended badly"] if harmed else []
        of_all = plural(len(self._runs), "run")
        parts = [f"{finished}/{of_all}", *others, format_duration(self._clock() - self._made_at)]
        left = sum(max(0, run.num_steps - run.step) for run in self._runs.values() if not run.ended)
        done = sum(run.step - (run.first_step or 0) for run in self._runs.values() if run.first_step is not None)
        if left and done > 0 and elapsed > 0:
            parts.append(f"about {format_duration(left * elapsed / done)} left")
        return ", ".join(parts)

    def _draw(self) -> None:
        columns, rows = _terminal_size(self._stream)
        lines = self._status_lines(columns)
        if len(lines) > max(2, rows - 1):
            shown = max(1, rows - 3)
            lines = [*lines[:shown], f"... {len(lines) - 1 - shown} more", lines[-1]]
        text = self._erase() + "".join(visible(line)[: max(1, columns - 1)] + "\n" for line in lines)
        self._write(text)
        self._lines_drawn = len(lines)

    def _erase(self) -> str:
        """What takes the live lines off the screen."""
        lines, self._lines_drawn = self._lines_drawn, 0
        return f"\x1b[{lines}F\x1b[J" if lines else ""

    def _put(self, text: str) -> None:
        self._write(self._erase() + visible(text) + "\n")
        if self._live and (self._stages or any(run.tail is not None for run in self._runs.values())):
            self._draw()

    def _write(self, text: str) -> None:
        if self._silent or not text:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except (OSError, ValueError):
            self._silent = True


def _run_line(name: str, run: _Run, now: float, columns: int | None) -> str:
    """The fullest line that fits: what is left out of a narrow one is left out whole, a measure's step never alone."""
    long, short = (f"{name}  [{_bar(run, cells)}]" for cells in (_BAR_CELLS, _BAR_CELLS // 2))
    count = f"{run.step}/{run.num_steps}".rjust(2 * len(str(run.num_steps)) + 1)
    rate = run.steps_per_second(now)
    left = [f"{format_duration((run.num_steps - run.step) / rate)} left"] if rate else []
    pace = [f"{rate:.3g} steps/s"] if rate else []
    lines = [
        [f"{long} {count}", *left, *run.metrics(), *pace],
        [f"{long} {count}", *left, *run.metrics()],
        [f"{long} {count}", *left, *run.metrics(1)],
        [f"{short} {count}", *left, *run.metrics(1)],
        [f"{name}  {count}", *left, *run.metrics(1)],
        [f"{name}  {count}", *run.metrics(1)],
        [f"{name}  {count}", *left, *run.metrics(0)],
    ]
    whole = ("  ".join(parts) for parts in lines)
    fitting = (line for line in whole if columns is None or len(line) < columns)
    return next(fitting, "  ".join(lines[-1]))


def _bar(run: _Run, cells: int) -> str:
    filled = round(cells * min(1.0, run.step / run.num_steps)) if run.num_steps else 0
    return "#" * filled + "-" * (cells - filled)


def _stage_line(label: str, done: int, total: int, since: float, now: float) -> str:
    line = f"{label}: {done}/{total}"
    if done and now > since:
        line += f"  {done / (now - since):.3g}/s  {format_duration((total - done) * (now - since) / done)} left"
    return line


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError, AttributeError):
        columns, rows = 0, 0
    fallback = shutil.get_terminal_size((80, 24))
    return columns or fallback.columns, rows or fallback.lines
