"""Training's own completions in the trackers: few, in every replay the same, and harmless whatever they say."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from workbench.tracking.reader import ROLLOUTS
from workbench.tracking.sinks.replay import Replay
from workbench.tracking.sinks.rollouts import CHARACTERS, PROMPTS, SAMPLES, RolloutFilter, shorten, stride
from workbench.tracking.sinks.tensorboard import TensorBoardSink, rollout_table
from workbench.tracking.sinks.wandb import completion_table

Row = dict[str, Any]


def _rollout(step: int, prompt: int = 0, sample: int = 0) -> Row:
    return {"step": step, "split": ROLLOUTS, "prompt_id": str(prompt), "sample_index": sample}


def _texts(folder: Path, tag: str = "completions/train") -> list[tuple[int, str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    accumulator.Reload()
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in accumulator.Tensors(tag)]


def test_a_step_shows_the_first_samples_of_its_first_prompts() -> None:
    admits = RolloutFilter()
    shown = [(p, s) for p in range(9) for s in range(9) if admits(_rollout(1, p, s))]
    assert shown == [(p, s) for p in range(PROMPTS) for s in range(SAMPLES)]


def test_early_steps_are_all_shown_and_each_doubling_adds_sixteen() -> None:
    admits = RolloutFilter()
    shown = [step for step in range(1, 4097) if admits(_rollout(step))]
    assert shown[:31] == list(range(1, 32))
    assert [sum(low <= step < 2 * low for step in shown) for low in (32, 64, 128, 2048)] == [16, 16, 16, 16]


def test_rollouts_that_serve_several_steps_are_shown_whatever_steps_they_fall_on() -> None:
    admits = RolloutFilter()
    shown = [step for step in range(1, 2000, 7) if admits(_rollout(step))]
    assert max(b - a for a, b in pairwise(shown)) <= stride(1999) + 7


def test_held_out_rows_are_all_admitted() -> None:
    admits = RolloutFilter()
    assert all(admits({"step": 5, "split": "greedy", "prompt_id": str(n)}) for n in range(512))


def test_a_long_text_loses_its_middle_and_says_so() -> None:
    text = shorten("a" * 5000 + "answer")
    assert text.startswith("aaa")
    assert text.endswith("answer")
    assert "[... 3006 characters ...]" in text
    assert shorten("b" * CHARACTERS) == "b" * CHARACTERS


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")
def test_no_rollout_can_break_its_table_or_script_the_page(make_run: Callable[..., Any]) -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    run = make_run().train_online(3).end()
    replay = Replay(run.folder, "tensorboard", TensorBoardSink)
    replay.poll()
    found = _texts(run.folder)
    assert [step for step, _ in found] == [1, 2, 3]
    page = markdown_to_safe_html(found[0][1])
    cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in page.split("<tr>")[2:]]
    assert [len(row) for row in cells] == [7] * (PROMPTS * SAMPLES)
    assert set(re.findall(r"</?([a-z]+)", page)) == {"table", "thead", "tbody", "tr", "th", "td", "br"}
    shown = [html.unescape(row[1].replace("<br>", "\n")) for row in cells]
    assert shown[:3] == ["12", "a | b\n\n| --- |", "<script>alert(1)</script>"]
    assert shown[3] == "![x](javascript:1) [y](http://z) `c` ~~~"
    assert [html.unescape(row[0]) for row in cells[:2]] == ["sort 10:", ""]
    assert [html.unescape(text) for text in cells[1][2:]] == ["0.975", "-0.25", "1", "0.5", "5"]
    assert html.unescape(cells[0][-1]) == "4 (cut off)"


def test_a_rollout_without_rewards_is_a_row_of_dashes() -> None:
    (line,) = rollout_table([{"prompt": "p", "completion": "", "rewards": ["no", "names"]}]).splitlines()[2:]
    assert html.unescape(line) == "| p | (empty) | – | – |  |"


@pytest.mark.parametrize("polls", [1, 7])
def test_a_resume_leaves_each_shown_step_once(make_run: Callable[..., Any], polls: int) -> None:
    run = make_run()
    replay = Replay(run.folder, "tensorboard", TensorBoardSink)
    for part in range(polls):
        run.train_online(45 * (part + 1) // polls)
        replay.poll()
    run.cut(38).train_online(70)
    replay.poll()
    run.end()
    replay.poll()
    assert [step for step, _ in _texts(run.folder)] == [*range(1, 32), *range(32, 64, 2), 64, 68]
    assert [step for step, _ in _texts(run.folder, "completions/sampled")] == list(range(0, 71, 5))


def test_wandb_shows_total_and_advantage_and_no_verdict_of_a_rollout(make_run: Callable[..., Any]) -> None:
    run = make_run().train_online(1)
    rows = [json.loads(line) for line in (run.folder / "completions.jsonl").read_text().splitlines()]
    columns, data = completion_table([row for row in rows if row["split"] == ROLLOUTS][:1])
    assert columns[-4:] == ["reward", "advantage", "reward/length", "reward/sort"]
    assert "verdict" not in columns
    assert data[0][-4:] == [-0.025, 1.5, -0.25, 0.0]
