"""Before and after one run: the same items, paired, and only where one seed leaves nothing else to say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.inference.before_after import changes, in_words
from analysis.report.pages import write_report
from analysis.study import open_study

Make = Callable[..., Path]
# Before and after, greedy: one kept, two gained, one lost, four wrong in both.
OUTCOMES = [(1, 1), (0, 1), (0, 1), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
LOSSES = [(3.0, 1.5, 3), (5.0, 4.5, 1)]


@pytest.fixture
def single(make_experiment: Make) -> Path:
    """One run whose records are the ones above."""
    folder = make_experiment(betas=(), seeds=1, prompts=4, steps=6, every=3)
    run = folder / "main/seed0"
    completions, losses = [], []
    for index, pair in enumerate(OUTCOMES):
        for step, right in zip((0, 6), pair, strict=True):
            row = {"split": "greedy", "prompt_id": f"p{index}", "sample_index": 0, "prompt": "q", "completion": "a"}
            completions.append({"step": step, **row, "exact_match": float(right)})
    for index, (before, after, tokens) in enumerate(LOSSES):
        for step, nats in ((0, before), (6, after)):
            losses.append({"step": step, "row_id": f"row{index}", "loss_sum": nats, "num_tokens": tokens})
    for name, rows in (("completions", completions), ("losses", losses)):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_items_are_paired_by_hand(single: Path) -> None:
    match, loss = changes(open_study(single))
    assert (match.before.mean, match.after.mean, match.change.mean) == (2 / 8, 3 / 8, 1 / 8)
    assert match.p == 1.0  # 2 against 1 of a fair coin
    assert match.how == "of 8 prompts 2 gained, 1 lost; exact McNemar p = 1.00"
    assert (loss.before.mean, loss.after.mean) == (2.0, 1.5)
    # The changes are -1.5 nats in 3 tokens and -0.5 in 1: the same a token, so nothing is left to doubt.
    assert (loss.change.mean, loss.change.is_constant) == (-0.5, True)
    assert loss.before.low == 0.0  # a t interval would reach below 0, which a loss of rows cannot
    assert math.isnan(match.change.low)


def test_a_completion_that_was_not_judged_is_neither_right_nor_wrong(single: Path) -> None:
    record = single / "main/seed0" / "completions.jsonl"
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    for row in rows:
        if row["prompt_id"] == "p0" and row["step"]:
            row["exact_match"] = None
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    match, _ = changes(open_study(single))
    assert match.how == "of 7 prompts 2 gained, 1 lost; exact McNemar p = 1.00"


def test_one_run_is_answered_with_both_sides_and_their_intervals(single: Path) -> None:
    found = in_words(changes(open_study(single)))
    assert found[0].startswith("Held-out greedy exact match: 0.250 (95 % interval 0.071 to 0.591) before, 0.375 (")
    assert "change −0.500; paired over 2 rows" in found[1]
    write_report(single)
    page, text = ((single / "report" / name).read_text() for name in ("index.html", "report.md"))
    assert all(sentence in page for sentence in found)
    assert "Before and after training" in page
    assert "Before and after training" in text
    assert (single / "report/before_after.csv").read_text().count("\n") == 3


def test_several_seeds_speak_of_methods_instead(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=2, prompts=4, steps=6, every=3)
    write_report(folder)
    assert not (folder / "report/before_after.csv").exists()


def test_a_run_that_was_not_measured_before_has_no_change(single: Path) -> None:
    run = single / "main/seed0"
    for name in ("completions", "losses"):
        path = run / f"{name}.jsonl"
        path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if '"step": 0' not in line))
    assert changes(open_study(single)) == []
