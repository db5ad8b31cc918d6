"""A sweep of two axes is a grid, and names no setting twice that all share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.report.pages import describe
from analysis.report.plots import Canvas
from analysis.report.sections import grid
from analysis.study import Study, open_study

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3, "seeds": 2}


def _swept(folder: Path, **axes: dict[str, Any]) -> Study:
    """The experiment with further axes: {axis: {variant: value}}, beside its own beta."""
    plan = json.loads((folder / "plan.json").read_text())
    for run in plan["runs"]:
        run["point"] |= {name: values[run["variant"]] for name, values in axes.items()}
    # Two variants each of beta 0.1 and 1: the names stay, the points make the grid.
    plan["axes"] = [{"name": name, "values": sorted({run["point"][name] for run in plan["runs"]})}
                    for name in plan["runs"][0]["point"]]  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    return open_study(folder)


BETAS = ("beta=0.1", "beta=1", "beta=3", "beta=10")


def _grid(make_experiment: Make, **more: dict[str, Any]) -> Study:
    folder = make_experiment(betas=(0.1, 1.0, 3.0, 10.0), **SMALL)
    first = dict(zip(BETAS, (1, 1, 2, 2), strict=True))
    second = dict(zip(BETAS, (10, 20, 10, 20), strict=True))
    return _swept(folder, beta=first, rate=second, **more)


def test_two_axes_make_one_grid_with_every_cell(make_experiment: Make) -> None:
    study = _grid(make_experiment)
    found = grid.section(study, Canvas(study))
    assert found is not None
    (table,) = found.tables
    assert [name for name, _ in table.columns] == ["beta", "rate = 10", "rate = 20"]
    assert [row[0].text for row in table.rows] == ["1", "2"]
    means = {(row["beta"], row["rate"]): row["mean"] for row in table.plain}
    assert set(means) == {(1, 10), (1, 20), (2, 10), (2, 20)}
    assert table.rows[1][1].sort == means[2, 10]
    assert [panel.name for panel in found.figures[0].panels] == ["sampled_exact_match_grid"]


def test_a_third_axis_makes_slices(make_experiment: Make) -> None:
    study = _grid(make_experiment, kind=dict(zip(BETAS, ("x", "x", "y", "y"), strict=True)))
    found = grid.section(study, Canvas(study))
    assert found is not None
    assert [table.name for table in found.tables] == ["grid_0", "grid_1"]
    assert [table.label for table in found.tables] == ["Sampled exact match, kind = x", "Sampled exact match, kind = y"]
    assert found.tables[0].rows[1][1].text == "–"  # kind x was never tried with beta 2


def test_what_all_settings_share_stands_once_and_in_no_label(make_experiment: Make) -> None:
    study = _grid(make_experiment, momentum=dict.fromkeys(BETAS, 0.9))
    assert study.variants[0].label == "beta = 1, rate = 10"
    assert study.common == ["momentum = 0.9"]
    assert ("in all settings", "momentum = 0.9") in describe(study)["facts"]
    assert grid.grid_of(study) is not None


@pytest.mark.parametrize("betas", [(), (0.1,), (0.1, 1.0)])
def test_fewer_than_two_axes_make_no_grid(make_experiment: Make, betas: tuple[float, ...]) -> None:
    study = open_study(make_experiment(betas=betas, **SMALL))
    assert grid.section(study, Canvas(study)) is None


def test_a_setting_without_a_finished_run_is_an_empty_cell(make_experiment: Make) -> None:
    study = _grid(make_experiment)
    folder = study.root / "dpo_beta_sweep"
    for path in folder.glob("beta=10/seed*/status.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "failed"}))
    study = open_study(folder)
    found = grid.section(study, Canvas(study))
    assert found is not None
    assert found.tables[0].rows[1][2].text == "–"
