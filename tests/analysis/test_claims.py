"""What the report says, and what it must not say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import stats
from analysis.inference import checkpoints, claims
from analysis.inference.over_optimisation import by_pairs
from analysis.measures import BY_COLUMN
from analysis.report.sections.cells import limits_text
from analysis.study import Study, open_study

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3}


def _with_finals(folder: Path, values: dict[str, list[float]], column: str = "eval/exact_match_sampled") -> Study:
    """The study with the deciding measure's final values replaced: values[variant][seed]."""
    for variant, by_seed in values.items():
        for seed, value in enumerate(by_seed):
            path = folder / variant / f"seed{seed}" / "metrics.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            rows[-1][column] = value
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_study(folder)


def test_separated_settings_are_claimed_with_the_test_and_its_m(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    values = {"beta=0.1": [0.30, 0.31, 0.29], "beta=1": [0.70, 0.71, 0.69], "beta=10": [0.50, 0.51, 0.49]}
    answer = claims.answer(_with_finals(folder, values))
    assert "best at beta = 1, inside the grid: 0.700 (95 % interval 0.675 to 0.725)" in answer.result
    assert answer.certainty.startswith("From this start, beta = 1 is better than beta = 0.1 and beta = 10")
    assert "Holm over all 3 pairs" in answer.certainty
    assert answer.flags == []
    assert any("permutation test of 3 against 3 seeds cannot give less than p = 0.1" in g for g in answer.grounds)


def test_equal_settings_are_not_ranked(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    same = [0.50, 0.55, 0.45]
    answer = claims.answer(_with_finals(folder, {"beta=0.1": same, "beta=1": [0.51, 0.56, 0.46], "beta=10": same}))
    assert "no more than the highest of the means" in answer.certainty
    assert "beta = 0.1 (0.500) and beta = 10 (0.500) cannot be told from it" in answer.result
    assert "its lead over beta = 0.1 and beta = 10 is" in answer.certainty
    assert "better than" not in answer.certainty


@pytest.mark.parametrize(
    ("best", "edge"), [("beta=0.1", "lowest beta tried, 0.1"), ("beta=10", "highest beta tried, 10")]
)
def test_a_best_value_at_the_edge_is_flagged(make_experiment: Make, best: str, edge: str) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    answer = claims.answer(_with_finals(folder, {best: [0.97, 0.98, 0.99]}))
    assert any(edge in flag for flag in answer.flags)
    assert "inside the grid" not in answer.result


def test_one_seed_claims_nothing_about_methods_and_says_why(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.05, 0.1, 0.5), seeds=1, pairs=126, steps=6, every=3))
    answer = claims.answer(study)
    assert "on 126 held-out pairs" in answer.result
    assert "best" not in answer.result
    assert "spread over seeds is unknown" in answer.certainty
    assert claims.compare_all(study, study.deciding) == []


def test_one_run_is_described_as_a_checkpoint(make_experiment: Make) -> None:
    answer = claims.answer(open_study(make_experiment(betas=(), seeds=1, **SMALL)))
    assert "after training, from 0.220 before training" in answer.result
    assert "one checkpoint from one seed" in answer.certainty


def test_seeds_without_spread_are_not_tested(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    study = _with_finals(folder, {"beta=0.1": [0.2] * 3, "beta=1": [0.9] * 3})
    assert not any(c.separated for c in claims.compare_all(study, study.deciding))
    answer = claims.answer(study)
    assert "no spread over the seeds" in answer.certainty
    assert "0.900 (one value, the same in all 3: no interval)" in answer.result
    assert "0.900 to 0.900" not in f"{answer.result} {answer.certainty} {answer.grounds}"
    assert answer.grounds[-3].startswith("The seeds of each setting gave one value")


@pytest.mark.parametrize("spread", [0.0, 0.01])
def test_settings_that_are_all_equal_have_no_highest_and_no_edge(make_experiment: Make, spread: float) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    seeds = [0.5, 0.5 + spread, 0.5 - spread]
    study = _with_finals(folder, dict.fromkeys(("beta=0.1", "beta=1", "beta=10"), seeds))
    answer = claims.answer(study)
    assert "has the same mean, 0.500, at all 3 settings" in answer.result
    assert answer.flags == []
    assert "highest" not in f"{answer.result} {answer.certainty}"
    assert "best" not in f"{answer.result} {answer.certainty}"
    assert claims.leaders(study, study.deciding) == []


def test_a_best_value_at_the_edge_that_another_equals_is_no_edge(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    same = [0.9, 0.91, 0.92]
    study = _with_finals(folder, {"beta=0.1": same, "beta=1": same, "beta=10": [0.2, 0.21, 0.22]})
    assert claims.answer(study).flags == []


def test_the_detectable_effect_is_that_of_the_first_claim_that_holm_makes(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    answer = claims.answer(_with_finals(folder, {"beta=1": [0.5, 0.55, 0.45]}))
    (ground,) = [text for text in answer.grounds if "four times in five" in text]
    assert f"find a difference of {stats.minimum_detectable_effect(3, alpha=0.05 / 3):.2f} of these" in ground
    assert "the level that Holm leaves for the first of 3 pairs" in ground


def test_lengths_and_kl_have_no_interval_below_zero(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    for column in ("eval/kl_start", "eval/completion_tokens"):
        study = _with_finals(folder, {"beta=1": [0.1, 4.0, 9.0]}, column)
        interval = checkpoints.interval_of(study, study.variants[1], BY_COLUMN[column])
        assert (interval.low, interval.high > 9) == (0.0, True)
        assert limits_text(stats.t_interval([0.1, 4.0, 9.0]), BY_COLUMN[column]).startswith("0 to ")


def test_a_finished_run_without_a_finite_value_is_told(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    answer = claims.answer(_with_finals(folder, {"beta=1": [0.5, 0.55, math.inf]}))
    assert any("no finite sampled exact match: beta = 1 (1 of 3)" in flag for flag in answer.flags)


def test_settings_evaluated_differently_are_not_compared(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    for path in folder.glob("beta=1/*/definition.yaml"):
        path.write_text(path.read_text().replace("prompts: 48", "prompts: 99"))
    study = open_study(folder)
    answer = claims.answer(study)
    assert "Group A (beta = 0.1)" in answer.result
    assert "best" not in answer.result
    assert "Nothing is claimed across" in answer.certainty
    assert any("evaluate.prompts is 48 for beta = 0.1; 99 for beta = 1" in flag for flag in answer.flags)
    assert claims.compare_all(study, study.deciding) == []


def test_unfinished_runs_are_counted_first_thing(make_experiment: Make) -> None:
    states = {("beta=0.1", 0): "diverged", ("beta=1", 2): "missing"}
    answer = claims.answer(open_study(make_experiment(betas=(0.1, 1.0), states=states, **SMALL)))
    assert answer.flags[0].startswith("4 of 6 planned runs finished (1 diverged, 1 missing)")


def test_nothing_finished_gives_no_answer(make_experiment: Make) -> None:
    states = {("beta=1", seed): "failed" for seed in range(3)}
    answer = claims.answer(open_study(make_experiment(betas=(1.0,), states=states, **SMALL)))
    assert "no answer yet" in answer.result


def test_gains_are_taken_run_by_run_from_their_own_start(make_experiment: Make) -> None:
    folder = make_experiment(betas=(1.0,), **SMALL)
    study = _with_finals(folder, {"beta=1": [0.52, 0.53, 0.54]})
    (gain,) = claims.gains(study, study.deciding)
    assert gain.change.mean == pytest.approx(0.53 - 0.22)
    assert gain.adjusted < 0.01


def test_over_optimisation_is_told_where_margins_rise_and_the_task_falls(make_experiment: Make) -> None:
    told = by_pairs(open_study(make_experiment(**SMALL)))
    assert told[0].startswith("beta = 0.1: pair accuracy 0.9")
    assert "below the start" in told[0]
    assert not any(line.startswith("beta = 10") for line in told)


def test_no_over_optimisation_is_told_between_settings_that_cannot_be_told_apart(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    study = _with_finals(folder, {"beta=0.1": [0.5, 0.6, 0.4], "beta=1": [0.51, 0.61, 0.41]})
    assert by_pairs(study) == []


def _pairs(folder: Path, values: dict[str, list[float]]) -> Study:
    for variant, h in values.items():
        path = folder / variant / "seed0" / "pairs.jsonl"
        rows = [{"step": 6, "pair_id": f"p{i}", "h": x} for i, x in enumerate(h)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_study(folder)


def test_pair_scores_count_ties_as_one_half(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 0.5), seeds=1, pairs=4, steps=6, every=3)
    study = _pairs(folder, {"beta=0.1": [1.0, 2.0, 0.0, -1.0], "beta=0.5": [1.0, -1.0, -1.0, -1.0]})
    score = checkpoints.pair_scores(study)[0]
    assert (score.accuracy.mean, score.ties, score.margin.mean) == (0.625, 1, 0.5)
    assert score.against_even.p == 1.0


def test_checkpoints_are_compared_on_the_pairs_both_were_scored_on(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 0.5), seeds=1, pairs=4, steps=6, every=3)
    study = _pairs(folder, {"beta=0.1": [1.0] * 8, "beta=0.5": [1.0] + [-1.0] * 6})
    counted, (test,) = checkpoints.paired_tests(study)
    assert counted == "held-out pairs with h > 0"
    assert (test.items, test.only_first, test.only_second) == (7, 6, 0)
    assert test.adjusted == test.exact.p == 2 / 64


def test_a_rate_of_one_checkpoint_bears_the_interval_of_its_items(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 0.5), seeds=1, prompts=40, steps=6, every=3))
    interval = checkpoints.interval_of(study, study.variants[0], study.deciding)
    assert interval.n == 40
    assert interval.low < interval.mean < interval.high
