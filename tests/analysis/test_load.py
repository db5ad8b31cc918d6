"""Run folders become tables that lose no run and no row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.load import load_folders, load_runs
from workbench.errors import DefinitionError, StorageError

Make = Callable[..., Path]


def test_tables_join_on_run_and_hold_every_row(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=2, prompts=4, steps=6, every=3)
    loaded = load_runs(folder.parent)
    assert len(loaded.runs) == 5
    swept = loaded.runs[loaded.runs["experiment"] == "dpo_beta_sweep"]
    assert list(swept["hyperparameters/beta"]) == [0.1, 0.1, 1.0, 1.0]
    assert not [name for name in loaded.runs if "beta" in name and name != "hyperparameters/beta"]
    own = loaded.metrics[loaded.metrics["experiment"] == "dpo_beta_sweep"]
    assert set(own.groupby("run").size()) == {7}
    assert set(loaded.completions["run"]) == set(loaded.runs["run"])


def test_where_filters_by_value_by_list_and_by_function(make_experiment: Make) -> None:
    root = make_experiment(betas=(0.1, 1.0), seeds=2, prompts=4, steps=6, every=3).parent
    assert set(load_runs(root, {"experiment": "dpo_beta_sweep", "seed": 0}).metrics["seed"]) == {0}
    assert len(load_runs(root, {"hyperparameters/beta": [0.1, 1.0]}).runs) == 4
    assert len(load_runs(root, lambda row: row["experiment"] == "sft_sort").runs) == 1


def test_where_on_a_column_that_no_run_has_is_an_error(make_experiment: Make) -> None:
    root = make_experiment(betas=(0.1,), seeds=1, prompts=4, steps=6, every=3).parent
    with pytest.raises(DefinitionError, match="no run has bta"):
        load_runs(root, {"bta": 0.1})


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="nowhere: no such folder"):
        load_runs(tmp_path / "nowhere")


def test_a_planned_run_that_nobody_made_is_a_row(tmp_path: Path) -> None:
    loaded = load_folders(
        tmp_path, [{"folder": "a/beta=3/seed1", "variant": "beta=3", "seed": 1, "point": {"beta": 3, "data.rows": 9}}]
    )
    assert loaded.runs.loc[0, ["hyperparameters/beta", "data/rows"]].tolist() == [3, 9]
    assert loaded.runs.loc[0, ["run", "state", "variant", "seed"]].tolist() == [
        "a/beta=3/seed1",
        "missing",
        "beta=3",
        1,
    ]
    assert loaded.metrics.empty


def test_null_in_metrics_is_nan_and_a_torn_last_line_is_left_out(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1,), seeds=1, prompts=4, steps=6, every=3)
    path = folder / "beta=0.1" / "seed0" / "metrics.jsonl"
    path.write_text(
        json.dumps({"step": 0, "loss": None}) + "\n" + json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2'
    )
    losses = load_runs(folder.parent, {"experiment": "dpo_beta_sweep"}).metrics["loss"]
    assert math.isnan(losses.iloc[0])
    assert list(losses.iloc[1:]) == [2.0]


def test_finished_runs_keep_copies_and_others_do_not(make_experiment: Make) -> None:
    states = {("beta=0.1", 1): "interrupted"}
    folder = make_experiment(betas=(0.1,), seeds=2, states=states, prompts=4, steps=6, every=3)
    first = load_runs(folder.parent)
    assert first.metrics is not None
    kept = {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
    assert kept == {"beta=0.1/seed0/metrics.parquet"}, "a table that nobody asked for is not read"
    again = load_runs(folder.parent)
    pd.testing.assert_frame_equal(first.metrics, again.metrics)
    pd.testing.assert_frame_equal(first.completions, load_runs(folder.parent).completions)


def test_rewards_of_completions_are_columns(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1,), seeds=1, prompts=4, steps=6, every=3)
    completions = load_runs(folder.parent).completions
    assert set(completions["rewards/sort"]) <= {0.0, 1.0}
    assert list(completions["rewards/sort"]) == list(completions["exact_match"])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_what_is_exported_is_what_was_loaded(make_experiment: Make, tmp_path: Path, form: str) -> None:
    loaded = load_runs(make_experiment(betas=(0.1, 1.0), seeds=1, prompts=4, steps=6, every=3).parent)
    written = loaded.export(tmp_path / "out", form)
    assert [path.name for path in written] == [f"{name}.{form}" for name in ("runs", "metrics", "completions")]
    read = pd.read_csv if form == "csv" else pd.read_parquet
    for path in written:
        table = getattr(loaded, path.stem)
        again = read(path)
        assert list(again.columns) == list(table.columns)
        assert len(again) == len(table)
    metrics = read(tmp_path / "out" / f"metrics.{form}")
    pd.testing.assert_frame_equal(metrics, loaded.metrics, check_dtype=form == "parquet", rtol=0, atol=0)


def test_an_export_that_cannot_be_is_one_line(make_experiment: Make, tmp_path: Path) -> None:
    loaded = load_runs(make_experiment(betas=(0.1,), seeds=1, prompts=4, steps=6, every=3).parent)
    with pytest.raises(DefinitionError, match="csv, parquet"):
        loaded.export(tmp_path, "excel")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        loaded.export(tmp_path / "file")


def test_torn_files_lose_no_other_run(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), seeds=1, prompts=4, steps=6, every=3)
    run = folder / "beta=1" / "seed0"
    (run / "status.json").write_text('{"state": "fini')
    (run / "metrics.jsonl").write_bytes(b"\x00\xff garbage")
    loaded = load_runs(folder.parent, {"experiment": "dpo_beta_sweep"})
    assert list(loaded.runs["state"]) == ["finished", "unreadable"]
    assert set(loaded.metrics["variant"]) == {"beta=0.1"}


@pytest.mark.parametrize(
    ("name", "content", "state"),
    [
        ("definition.yaml", "{torn", "unreadable"),
        ("definition.yaml", None, "finished"),
        ("definition.yaml", "point: [1]", "finished"),
        ("definition.yaml", "hyperparameters: [1]", "finished"),
        ("definition.yaml", "hyperparameters: {since: 2026-01-01}", "finished"),
        ("status.json", "", "unreadable"),
        ("status.json", "[" * 100_000, "unreadable"),
        ("status.json", '{"state": "finished", "costs": [1]}', "finished"),
        ("status.json", None, "not started"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "finished"),
        ("metrics.jsonl", '{"step": 0, "\\ud800": 1.0}\n', "finished"),
        ("metrics.parquet", "", "finished"),
    ],
)
def test_whatever_a_folder_holds_the_run_is_a_row(
    make_experiment: Make, name: str, content: str | None, state: str
) -> None:
    folder = make_experiment(betas=(0.1,), seeds=2, prompts=4, steps=6, every=3)
    path = folder / "beta=0.1" / "seed1" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    for _ in range(2):  # from the record, then from the copies
        loaded = load_runs(folder.parent, lambda row: row["run"].startswith("dpo_beta_sweep/"))
        assert list(loaded.runs["state"]) == ["finished", state]
        assert set(loaded.metrics["run"]) >= {loaded.runs["run"][0]}
