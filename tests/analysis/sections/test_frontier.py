"""The frontier: which means nothing beats, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.report.plots import Canvas
from analysis.report.sections import frontier
from analysis.study import Study, open_study

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3}


def placed(folder: Path, places: dict[str, tuple[float, float]], scatter: float = 0.001) -> Study:
    """The study with each setting's seeds about (kl, exact match)."""
    study = open_study(folder)
    finals = study.finals.copy()
    for variant, (kl, value) in places.items():
        own = finals["variant"] == variant
        shift = finals.loc[own, "seed"] - 1.0
        finals.loc[own, "eval/kl_start"] = kl + scatter * shift
        finals.loc[own, "eval/exact_match_sampled"] = value + scatter * shift
    return replace(study, finals=finals)


def test_a_setting_that_another_beats_is_behind_and_said_to_be(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    study = placed(folder, {"beta=0.1": (3.0, 0.4), "beta=1": (1.0, 0.6), "beta=10": (5.0, 0.8)})
    section = frontier.section(study, Canvas(study))
    assert section is not None
    on = {row[0].text: (row[3].text, row[4].text) for row in section.tables[0].rows}
    assert on == {"beta = 0.1": ("no", "0.00"), "beta = 1": ("yes", "1.00"), "beta = 10": ("yes", "1.00")}
    assert "Behind it: beta = 0.1 (0.00)" in section.figures[0].see


def test_a_setting_no_better_than_the_start_is_behind_it(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    study = placed(folder, {"beta=0.1": (2.0, 0.1), "beta=1": (1.0, 0.6)})
    points = frontier._points(study, study.deciding)
    assert [point.on_frontier for point in points] == [False, True]
    assert points[0].probability == pytest.approx(0.0, abs=0.01)


def test_a_caption_says_where_no_setting_is_on_the_frontier(make_experiment: Make) -> None:
    """All are no better than the start, which is on it."""
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    study = placed(folder, {"beta=0.1": (2.0, 0.01), "beta=1": (1.0, 0.02)})
    section = frontier.section(study, Canvas(study))
    assert section is not None
    see = section.figures[0].see
    assert see.startswith("By their means none is on the frontier, where no other has both less KL and more ")
    assert "Behind it: beta = 0.1 (0.00) and beta = 1 (0.00)." in see
    assert ": ." not in see


def test_wide_scatter_leaves_the_place_open(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    study = placed(folder, {"beta=0.1": (2.0, 0.55), "beta=1": (1.0, 0.6)}, scatter=0.2)
    first, second = frontier._points(study, study.deciding)
    assert (first.on_frontier, second.on_frontier) == (False, True)
    assert 0.1 < first.probability < 0.9


def test_one_seed_has_no_probability(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 1.0), seeds=1, **SMALL))
    section = frontier.section(study, Canvas(study))
    assert section is not None
    assert {row[4].text for row in section.tables[0].rows} == {"one seed"}
    assert "In brackets" not in section.figures[0].see


def test_pair_accuracy_decides_where_nothing_is_sampled(make_experiment: Make) -> None:
    study = open_study(make_experiment(betas=(0.1, 1.0), seeds=1, pairs=20, **SMALL))
    assert frontier.section(study, Canvas(study)) is None, "no KL was measured"
