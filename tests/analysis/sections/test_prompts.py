"""Prompt by prompt: flips, regressions over seeds, length and reward drift, by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats as peer

from analysis import stats
from analysis.inference import prompts
from analysis.report.pages import write_report
from analysis.study import Study, open_study

Make = Callable[..., Path]
SMALL = {"prompts": 6, "steps": 4, "every": 4}
Outcomes = dict[str, float]


def rewrite(run: Path, outcomes: dict[int, Outcomes], **more: Callable[[int, str], Any]) -> None:
    """completions.jsonl anew: greedy and sampled completions of prompts p0, p1, ... right or wrong as given by step."""
    rows = []
    for step, by_prompt in outcomes.items():
        for split in ("greedy", "sampled"):
            for name, right in by_prompt.items():
                row = {"step": step, "split": split, "prompt_id": name, "sample_index": 0, "prompt": f"sort {name}: "}
                row |= {"completion": f"{name} at {step}", "num_tokens": 5, "ended": True, "exact_match": right}
                row |= {"rewards": {"sort": right}}
                rows.append(row | {key: give(step, name) for key, give in more.items()})
    (run / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def study_of_seeds(folder: Path, before: Outcomes, after: list[Outcomes], **more: Any) -> Study:
    for seed, outcomes in enumerate(after):
        rewrite(folder / "main" / f"seed{seed}", {0: before, 4: outcomes}, **more)
    return open_study(folder)


def test_gained_and_lost_prompts_and_how_many_seeds_agree(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=2, **SMALL)
    before = {"a": 1, "b": 1, "c": 0, "d": 0, "e": 1}
    study = study_of_seeds(folder, before, [{**before, "a": 0, "b": 0, "c": 1}, {**before, "b": 0, "d": 1}])
    (flips,) = prompts.flips(study)
    assert (flips.seed, flips.seeds) == (0, 2)
    # b is lost by both seeds and stands first; a by one.
    assert list(flips.of("lost").index) == ["b", "a"]
    assert list(flips.of("lost")["lost_seeds"]) == [2, 1]
    assert list(flips.of("gained").index) == ["c"]
    assert flips.exact == stats.mcnemar([1, 1, 0, 0, 1], [0, 0, 1, 0, 1])
    row = flips.of("lost").loc["b"]
    assert (row["prompt"], row["before"], row["after"]) == ("sort b: ", "b at 0", "b at 4")


def test_two_checkpoints_differ_where_one_is_right(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=1, **SMALL)
    before = {"a": 0, "b": 0, "c": 1}
    rewrite(folder / "beta=0.1" / "seed0", {0: before, 4: {"a": 1, "b": 0, "c": 1}})
    rewrite(folder / "beta=1" / "seed0", {0: before, 4: {"a": 0, "b": 1, "c": 1}})
    table = prompts.between(*prompts.flips(open_study(folder)))
    assert list(table.index) == ["a", "b"]
    assert list(table["first_right"]) == [True, False]
    assert list(table["second"]) == ["a at 4", "b at 4"]


def test_drift_is_paired_by_prompt(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=1, **SMALL)
    before, after = {"a": 1, "b": 0, "c": 0}, {"a": 1, "b": 1, "c": 0}
    longer = {"a": 1, "b": 2, "c": 6}
    study = study_of_seeds(
        folder,
        before,
        [after],
        num_tokens=lambda step, name: 5 + (longer[name] if step else 0),
        ended=lambda step, name: not (step and name == "c"),
    )
    by_name = {drift.what: drift for drift in prompts.drifts(study)}
    length = by_name["Completion length"]
    assert (length.before, length.after, length.difference.mean) == (5.0, 8.0, 3.0)
    assert length.p == pytest.approx(peer.ttest_1samp([1, 2, 6], 0).pvalue)
    assert by_name["Completions cut off"].after == pytest.approx(1 / 3)
    assert by_name["Reward sort"].difference.mean == pytest.approx(1 / 3)
    right, wrong = prompts.lengths_by_outcome(study)["main"]
    assert (right, wrong) == (6.5, 11.0)


def test_prompts_that_share_a_passage_are_one_cluster(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=1, **SMALL)
    names = [f"p{i}" for i in range(6)]
    longer = dict(zip(names, [1, 1, 0, 0, 2, 2], strict=True))
    study = study_of_seeds(
        folder,
        dict.fromkeys(names, 0),
        [dict.fromkeys(names, 1)],
        num_tokens=lambda step, name: 5 + (longer[name] if step else 0),
        cluster=lambda step, name: int(name[1]) // 2,
    )
    length = next(drift for drift in prompts.drifts(study) if drift.unit == "tokens")
    assert length.difference.n == 3
    assert (length.difference, length.p) == stats.mean_difference([1, 1, 0, 0, 2, 2], [0, 0, 1, 1, 2, 2])


def test_the_page_shows_regressions_and_the_file_holds_every_flip(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=2, **SMALL)
    names = [f"p{i:02d}" for i in range(12)]
    before, after = dict.fromkeys(names, 1), dict.fromkeys(names, 0)
    study_of_seeds(folder, before, [after, after])
    page = write_report(folder)
    text = page.read_text()
    assert "Lost by main: 6 of 12" in text
    assert "lost in 2 of 2 seeds" in text
    assert "not about methods" in " ".join(text.split())
    rows = list(csv.DictReader((page.parent / "flips.csv").read_text().splitlines()))
    assert [row["prompt_id"] for row in rows] == names
    assert {row["change"] for row in rows} == {"lost"}


def test_an_unfinished_run_flips_nothing(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=1, states={("main", 0): "interrupted"}, **SMALL)
    assert prompts.flips(open_study(folder)) == []
    assert prompts.drifts(open_study(folder)) == []
