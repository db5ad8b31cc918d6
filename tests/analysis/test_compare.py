"""compare gives the report's numbers as tables, of whatever runs it is asked about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis import load_runs
from analysis.compare import compare
from analysis.inference import claims
from analysis.study import open_study, study_of
from workbench.errors import DefinitionError

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3}


def test_loaded_runs_and_the_experiment_s_name_give_one_comparison(make_experiment: Make) -> None:
    folder = make_experiment(betas=(10.0, 0.1, 1.0), seeds=3, **SMALL)
    loaded = load_runs(folder.parent, where={"experiment": folder.name})
    by_name, by_table = compare(folder.name, root=folder.parent), compare(loaded)
    pd.testing.assert_frame_equal(by_name.results, by_table.results)
    pd.testing.assert_frame_equal(by_name.tests, by_table.tests)
    assert by_name.answer == by_table.answer
    assert list(by_table.results["variant"]) == ["beta=0.1", "beta=1", "beta=10"]
    study = open_study(folder)
    assert study.deciding is not None
    assert list(by_name.tests["p_holm"]) == [c.adjusted for c in claims.compare_all(study, study.deciding)]


def test_loaded_runs_are_left_as_they_were(make_experiment: Make) -> None:
    first = make_experiment(betas=(0.1, 1.0), seeds=2, **SMALL)
    make_experiment("other", betas=(), seeds=2, **SMALL)
    loaded = load_runs(first.parent, where={"experiment": [first.name, "other"]})
    before = loaded.runs.copy()
    study = study_of(loaded)
    pd.testing.assert_frame_equal(loaded.runs, before)
    names = {variant.name for variant in study.variants}
    assert names == {f"{first.name}/beta=0.1", f"{first.name}/beta=1", "other/main"}
    assert set(study.loaded.metrics["variant"]) == names


def test_a_measure_that_nobody_has_names_those_that_exist(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=2, **SMALL)
    with pytest.raises(DefinitionError, match=r"eval/nothing.*eval/pair_accuracy"):
        compare(folder.name, "eval/nothing", root=folder.parent)


def test_nothing_to_compare_is_said(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=1, **SMALL)
    (folder / "report").mkdir()
    all_runs = len(load_runs(folder.parent).runs)
    with pytest.raises(DefinitionError, match=rf"no runs to compare.*\(where\) left none of its {all_runs} runs"):
        compare(load_runs(folder.parent, where=lambda row: False))
    with pytest.raises(DefinitionError, match=r"no runs to compare; `make exp"):
        compare(load_runs(folder / "report"))
    with pytest.raises(DefinitionError, match="at least one"):
        compare([])
