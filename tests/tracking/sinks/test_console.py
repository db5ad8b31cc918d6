"""What a sweep looks like on a terminal, in a file, and when nobody reads."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.tracking.durations import format_duration
from workbench.tracking.sinks.console import Console, _Run, _run_line


class Terminal(io.StringIO):
    """A terminal that remembers what it shows: understands the two sequences that the console uses."""

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        lines = [""]
        row = 0
        for part in re.split(r"(\x1b\[\d*[A-Za-z]|\n)", self.getvalue()):
            if part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif match := re.fullmatch(r"\x1b\[(\d*)([A-Za-z])", part):
                if match[2] == "F":
                    row -= int(match[1])
                else:
                    assert match[2] == "J", "a sequence unknown to this terminal"
                    lines[row:] = [""]
            elif part:
                assert lines[row] == "", "a line is written over another"
                lines[row] = part
        assert row == len(lines) - 1
        return lines[:-1]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_running_runs_have_a_live_line_each_and_ended_ones_leave_one(
    make_run: Callable[..., Any], terminal: Terminal
) -> None:
    clock = Clock()
    runs = [make_run(seed=seed) for seed in (0, 1)]
    console = Console(terminal, clock)
    console.expect({run.key: 20 for run in runs} | {"dpo_beta/beta=1/seed0": 20})
    console.say("3 runs to do")
    for run in runs:
        console.started(run.key, run.folder, 20)
    for step in range(11):
        clock.now += 0.1
        for run in runs:
            run.train(step)
        console.refresh()
    clock.now += 0.2
    console.refresh()
    screen = terminal.screen()
    assert screen[0] == "3 runs to do"
    assert screen[1].startswith("beta=0.1/seed0  [###---] 10/20  1 s left  loss ")
    assert "held-out match 0.25" in screen[1]
    assert screen[2].startswith("beta=0.1/seed1  [###---] 10/20")
    assert screen[3] == "0/3 runs, 1 s, about 3 s left"
    runs[0].train(20).end()
    console.ended(runs[0].key, "finished")
    screen = terminal.screen()
    assert screen[1].startswith("beta=0.1/seed0: finished  step 20/20  loss ")
    assert screen[2].startswith("beta=0.1/seed1")
    assert screen[3].startswith("1/3 runs, 1 s")
    console.ended(runs[1].key, "failed: loss is NaN")
    console.close()
    screen = terminal.screen()
    assert screen[2].startswith("beta=0.1/seed1: failed: loss is NaN  step 10/20")
    assert len(screen) == 4
    assert "\x1b[?25l" not in terminal.getvalue(), "the cursor is never hidden"


def test_an_online_run_shows_its_reward_and_not_its_loss(
    make_run: Callable[..., Any], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    clock = Clock()
    run = make_run()
    console = Console(terminal, clock)
    console.started(run.key, run.folder, 20)
    clock.now += 1
    run.train_online(10)
    console.refresh()
    shown = r"10/20  1 s left  reward 0\.5  held-out match 0\.2\d*  no signal 0\.25  length 7\.5  kl 0\.01"
    assert re.search(shown, terminal.screen()[0]), terminal.screen()[0]
    console.ended(run.key)
    assert "length 7.5  kl 0.01  in 1 s" in terminal.screen()[0]
    assert "loss" not in terminal.getvalue()


def test_it_redraws_at_most_five_times_a_second(make_run: Callable[..., Any], terminal: Terminal) -> None:
    clock = Clock()
    run = make_run()
    console = Console(terminal, clock)
    console.started(run.key, run.folder, 200)
    console.refresh()
    drawn = terminal.getvalue().count("0/200")
    for step in range(100):
        clock.now += 0.01
        run.train(step)
        console.refresh()
    assert terminal.getvalue().count("/200") - drawn <= 5


def test_live_lines_fit_the_terminal(
    make_run: Callable[..., Any], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "6")
    clock = Clock()
    console = Console(terminal, clock)
    for seed in range(9):
        run = make_run(seed=seed).train(3)
        console.started(run.key, run.folder, 20)
    clock.now += 1
    console.refresh()
    screen = terminal.screen()
    assert max(map(len, screen)) == 39
    assert len(screen) == 5
    assert screen[3] == "... 6 more"
    assert screen[4].startswith("0/9 runs")


def test_a_stage_shows_its_rate_and_leaves_one_line(terminal: Terminal) -> None:
    clock = Clock()
    console = Console(terminal, clock)
    for done in range(0, 101, 10):
        console.progress("collecting pairs", done, 100)
        if done == 50:
            assert terminal.screen() == ["collecting pairs: 50/100  10/s  5 s left"]
        clock.now += 1
    assert terminal.screen() == ["collecting pairs: 100 in 10 s"]
    console.close()
    assert terminal.screen() == ["collecting pairs: 100 in 10 s"]


def test_a_stage_is_two_lines_in_a_file_when_it_is_short() -> None:
    stream = io.StringIO()
    console = Console(stream, Clock())
    for done in range(5):
        console.progress("collecting pairs", done, 4)
    console.close()
    assert stream.getvalue().splitlines() == ["collecting pairs: 0/4", "collecting pairs: 4 in 0 s"]


@pytest.mark.parametrize("why", ["a file", "NO_COLOR", "TERM=dumb"])
def test_elsewhere_plain_lines_come_seldom(
    make_run: Callable[..., Any], terminal: Terminal, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    stream: io.StringIO = io.StringIO() if why == "a file" else terminal
    if why != "a file":
        monkeypatch.setenv(*({"NO_COLOR": ("NO_COLOR", "1"), "TERM=dumb": ("TERM", "dumb")}[why]))
    clock = Clock()
    run = make_run()
    console = Console(stream, clock)
    console.expect({run.key: 400, "dpo_beta/other/seed0": 400})
    console.started(run.key, run.folder, 400)
    for step in range(251):
        clock.now += 0.125
        run.train(step)
        console.refresh()
    console.ended(run.key)
    console.close()
    lines = stream.getvalue().splitlines()
    assert "\x1b" not in stream.getvalue()
    assert lines[0] == "beta=0.1/seed0: started, 400 steps"
    assert [line.split()[2] for line in lines if line.startswith("beta=0.1/seed0  [")] == [
        "79/400",
        "159/400",
        "239/400",
    ]
    assert lines[-2].startswith("beta=0.1/seed0: finished  step 250/400")
    assert lines[-1].startswith("1/2 runs, 31 s")
    assert len(lines) == 9


def test_a_resumed_run_counts_from_where_it_stood(make_run: Callable[..., Any], terminal: Terminal) -> None:
    clock = Clock()
    run = make_run().train(15)
    console = Console(terminal, clock)
    run.cut(10)
    console.started(run.key, run.folder, 20)
    clock.now += 5
    run.train(15)
    console.refresh()
    assert "15/20  0 s left" in terminal.screen()[0], "by the run's own clock: 0.1 s a step"
    assert terminal.screen()[-1] == "0/1 run, 5 s, about 5 s left"


def test_runs_of_two_experiments_keep_their_whole_keys(make_run: Callable[..., Any], terminal: Terminal) -> None:
    console = Console(terminal, Clock())
    console.expect({"sft/main/seed0": 5, "dpo/main/seed0": 5})
    console.ended("sft/main/seed0", "cached")
    assert terminal.screen() == ["sft/main/seed0: cached"]


def test_a_stream_that_is_gone_silences_it() -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w")
    console = Console(stream)
    console.say("nobody hears this")
    console.progress("pairs", 1, 2)
    console.close()
    os.close(os.dup(write))
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_stream_of_few_letters_gets_question_marks() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(stream).say("β=0.1")
    stream.seek(0)
    assert stream.read() == "?=0.1\n"


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (125, "2 min 5 s"), (11520, "3 h 12 min"), (-1, "0 s")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_only_runs_that_finished_are_counted_as_done(tmp_path):
    stream, clock = io.StringIO(), Clock()
    console = Console(stream, clock)
    console.expect(dict.fromkeys(("e/a/seed0", "e/b/seed0", "e/c/seed0", "e/d/seed0"), 2))
    console.started("e/a/seed0", tmp_path, 2)
    for key, outcome in (("a", "finished (patience)"), ("b", "failed: it is gone"), ("c", "interrupted by signal 15")):
        console.ended(f"e/{key}/seed0", outcome)
    console.close()
    assert stream.getvalue().splitlines()[-1].startswith("1/4 runs, 1 failed, 1 interrupted, ")


def test_a_held_out_value_of_another_step_says_of_which() -> None:
    run = _Run(10)
    run.take({"step": 0, "eval/loss": 5.58})
    run.take({"step": 3, "loss": 0.763})
    assert list(run.metrics()) == ["loss 0.763", "held-out loss 5.58 (step 0)"]
    run.take({"step": 6, "loss": 0.5, "eval/exact_match_sampled": 0.25})
    assert list(run.metrics()) == ["loss 0.5", "held-out match 0.25"]
    run.take({"step": 7, "loss": 0.4})
    assert list(run.metrics()) == ["loss 0.4", "held-out match 0.25 (step 6)"]


def test_a_held_out_value_is_never_shown_without_its_step_however_narrow_the_terminal() -> None:
    run = _Run(400)
    run.take({"step": 20, "eval/exact_match_sampled": 0.5391, "eval/exact_match_greedy": 0.8114})
    run.take({"step": 35, "loss": 0.696, "time/seconds": 9.0})
    for columns in (None, *range(20, 140)):
        shown = _run_line("dpo_beta_sweep/beta=10/seed1", run, 10.0, columns)[: columns and columns - 1]
        assert "held-out" not in shown or "(step 20)" in shown
        assert (columns is not None and columns <= 82) or "held-out match 0.539" in shown


def test_a_warning_is_a_line_when_it_comes_and_what_a_run_ended_in_is_one_at_its_end(tmp_path: Path) -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(stream, clock)
    (tmp_path / "warnings.jsonl").write_text('{"step": 1, "warning": "told by the command before"}\n')
    console.started("e/a/seed0", tmp_path, 2)
    with open(tmp_path / "warnings.jsonl", "a") as file:
        file.write('{"step": 3, "warning": "held-out loss is 9"}\n')
    clock.now += 60
    console.refresh()
    console.refresh()
    console.ended("e/a/seed0", "finished", ["held-out loss is 10"])
    console.close()
    lines = [line for line in stream.getvalue().splitlines() if "held-out" in line or "1 run" in line or "told" in line]
    assert lines[0] == "a/seed0: warning: step 3: held-out loss is 9"
    assert lines[-2] == "a/seed0: ended badly: held-out loss is 10"
    assert lines[-1] == "1/1 run, 1 of them ended badly, 1 min 0 s"
    assert len([line for line in lines if "warning" in line]) == 1


def test_control_characters_of_a_name_do_not_act(terminal: Terminal) -> None:
    stream = io.StringIO()
    Console(stream).say("a\x1b[2Jb\rc")
    assert stream.getvalue() == "a\\x1b[2Jb\\rc\n"
