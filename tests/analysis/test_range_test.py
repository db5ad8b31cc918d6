"""Range tests: rates read by hand, and a report that suggests and does not claim."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis.report.pages import write_report
from analysis.report.sections import range_test
from analysis.study import open_study

Make = Callable[..., Path]


def test_rates_are_read_at_the_steepest_fall_and_the_lowest_point() -> None:
    rates = np.array([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    # From one step before to one after: falls of 0.5, 2.5 and 3 on the way to the lowest point, at 1e-1.
    smoothed = np.array([4.5, 4.0, 4.0, 1.5, 1.0, 2.0])
    assert range_test.read_rates(rates, smoothed, span=1) == (1e-2, 1e-1)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    found = range_test.read_rates(np.array([1e-3, 1e-2, 1e-1]), np.array([1.0, 2.0, 3.0]), span=1)
    assert all(math.isnan(rate) for rate in found)


def test_a_fall_too_short_to_have_a_slope_still_has_a_lowest_point() -> None:
    steepest, lowest = range_test.read_rates(np.array([1e-3, 1e-2, 1e-1]), np.array([2.0, 1.0, 3.0]), span=2)
    assert math.isnan(steepest)
    assert lowest == 1e-2


def test_seeds_are_pooled_by_the_geometric_mean_and_gaps_left_out() -> None:
    assert range_test.pooled([1e-4, math.nan, 1e-2]) == pytest.approx((1e-3, 1e-4, 1e-2))
    assert all(math.isnan(value) for value in range_test.pooled([math.nan]))


@pytest.mark.parametrize(("rate", "text"), [(2.14e-3, "2.1e-3"), (1.0, "1.0e0"), (1e-5, "1.0e-5"), (math.nan, "none")])
def test_rates_are_written_as_definitions_write_them(rate: float, text: str) -> None:
    assert range_test.rate_text(rate) == text


@pytest.fixture
def ranged(make_experiment: Make) -> Callable[..., Path]:
    """ranged(bottom=..., states=...) -> an experiment of three range tests whose loss is lowest at that rate."""

    def make(bottom: float = 1e-2, top: float = 1.0, seeds: int = 3, stopped: str = "", **settings: object) -> Path:
        folder = make_experiment("lr_finder", betas=(), seeds=seeds, prompts=4, steps=50, every=50, **settings)
        for path in sorted(folder.glob("main/seed*")):
            rows = []
            for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()):
                kept = {key: value for key, value in row.items() if not key.startswith("eval/")}
                if row["step"]:
                    rate = 1e-5 * (top / 1e-5) ** ((row["step"] - 1) / 49)
                    bend = math.log10(rate / bottom)
                    kept |= {"learning_rate": rate, "loss": 1.0 + (bend**2 if bend < 0 else 3 * bend**2)}
                rows.append(kept)
            (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (path / "completions.jsonl").unlink(missing_ok=True)
            status = json.loads((path / "status.json").read_text())
            if stopped and path.name == "seed0":
                status["stopped_by"] = stopped
            (path / "status.json").write_text(json.dumps(status))
            definition = yaml.safe_load((path / "definition.yaml").read_text())
            definition["hyperparameters"] |= {"schedule": "range_test", "steps": 50}
            (path / "definition.yaml").write_text(yaml.safe_dump(definition))
        return folder

    return make


def test_the_report_suggests_rates_and_claims_nothing(ranged: Callable[..., Path]) -> None:
    folder = ranged(stopped="range_test: the loss is not finite at learning rate 1")
    page = write_report(folder).read_text()
    curves = range_test.read_curves(open_study(folder))
    assert [curve.seed for curve in curves] == [0, 1, 2]
    assert "the highest rate was reached" in page
    assert ">nan<" not in page
    # The average lags by about one of the steps, a quarter more each.
    assert curves[0].lowest == pytest.approx(1e-2, rel=0.5)
    assert f"{range_test.rate_text(curves[0].tenth)} to" in page
    assert "nothing is claimed about it" in page
    assert "Rates to begin with" in page
    assert "<h2>Results</h2>" not in page
    assert (folder / "report/range_test.csv").read_text().count("\n") == 4
    assert (folder / "report/figures/range_test.png").stat().st_size > 5_000
    assert "## Rates to begin with" in (folder / "report/report.md").read_text()


def test_a_range_that_ends_too_low_is_flagged(ranged: Callable[..., Path]) -> None:
    answer = range_test.answer(open_study(ranged(top=1e-3)))
    assert any("raise learning_rate" in flag for flag in answer.flags)
    assert any("the range may end too low" in ground for ground in answer.grounds)


def test_unfinished_runs_enter_no_reading_and_one_seed_is_said_to_be_one(ranged: Callable[..., Path]) -> None:
    study = open_study(ranged(states={("main", 0): "failed", ("main", 1): "failed"}))
    answer = range_test.answer(study)
    assert "over" not in answer.result.split(" by ")[0]
    assert answer.flags[0].startswith("1 of 3 planned runs finished")
    assert not any(ground.startswith("With one seed") for ground in answer.grounds)
    assert range_test.answer(open_study(ranged(seeds=1))).grounds[-1].startswith("With one seed")


def test_a_run_that_never_began_leaves_it_a_range_test(ranged: Callable[..., Path]) -> None:
    study = open_study(ranged())
    runs = study.loaded.runs
    runs.loc[runs.index[-1], "hyperparameters/schedule"] = float("nan")
    assert range_test.is_range_test(study)


def test_an_ordinary_study_is_no_range_test(make_experiment: Make) -> None:
    assert not range_test.is_range_test(open_study(make_experiment(prompts=4, steps=6, every=3)))
