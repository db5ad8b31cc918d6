"""pass@k and majority@k in the report: values, both intervals, curves and contrasts, by hand."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from analysis import compare, stats
from analysis.inference import several_samples
from analysis.inference.checkpoints import interval_of
from analysis.inference.comparability import groups
from analysis.measures import measure_of
from analysis.report.pages import write_report
from analysis.study import open_study

Make = Callable[..., Path]
PASS_4 = measure_of("eval/pass_at_4")


def _rewrite(path: Path, change: Callable[[dict], dict]) -> None:
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _with_samples(folder: Path) -> Path:
    """Every prompt's pass@1 is 0 or 1 as its sample is; its pass@4 is half way from there to 1."""

    def of_row(row: dict) -> dict:
        if row["split"] != "sampled":
            return row
        right = row["exact_match"]
        return row | {"vote": 0, "pass_at_1": right, "pass_at_4": (1 + right) / 2, "majority_at_4": right}

    for path in folder.glob("*/seed*/completions.jsonl"):
        _rewrite(path, of_row)
        by_step: dict[int, list[dict]] = {}
        for line in path.read_text().splitlines():
            by_step.setdefault(json.loads(line)["step"], []).append(json.loads(line))

        def measured(row: dict, by_step: dict[int, list[dict]] = by_step) -> dict:
            own = [each for each in by_step.get(row["step"], []) if "pass_at_4" in each]
            names = ("pass_at_1", "pass_at_4", "majority_at_4") if own else ()
            return row | {f"eval/{name}": statistics.fmean(each[name] for each in own) for name in names}

        _rewrite(path.with_name("metrics.jsonl"), measured)
    return folder


@pytest.fixture
def folder(make_experiment: Make) -> Path:
    return _with_samples(make_experiment(betas=(0.1, 1.0), prompts=16, steps=6, every=3))


def test_a_measure_of_k_samples_has_its_name_and_its_order(folder: Path) -> None:
    study = open_study(folder)
    assert [measure.label for measure in study.of_samples] == ["pass@1", "pass@4", "majority@4"]
    assert (PASS_4.higher_is_better, PASS_4.bounds) == (True, (0.0, 1.0))
    assert study.deciding is not None
    assert study.deciding.column == "eval/exact_match_sampled", "several samples decide nothing"


def test_a_change_from_the_start_is_tested_over_seeds_and_over_prompts_apart(folder: Path) -> None:
    study = open_study(folder)
    found = [each for each in several_samples.contrasts(study) if each.second is None and each.measure == PASS_4]
    first = study.variants[0]
    rows = study.finals[study.finals["variant"] == first.name]
    changes = [float(x) for x in rows["eval/pass_at_4"] - rows["start/eval/pass_at_4"]]
    assert found[0].over_seeds == stats.t_interval(changes)
    assert found[0].p_seeds == stats.one_sample_p(changes)
    table = study.loaded.completions
    own = table[(table["run"] == rows["run"].iloc[0]) & (table["split"] == "sampled")]
    before, after = (own[own["step"] == s].set_index("prompt_id")["pass_at_4"] for s in (0, own["step"].max()))
    assert (found[0].over_prompts, found[0].p_prompts) == stats.mean_difference(list(after - before))


def test_two_settings_are_compared_by_welch_and_holm_counts_every_contrast(folder: Path) -> None:
    study = open_study(folder)
    found = several_samples.contrasts(study)
    between = [each for each in found if each.second is not None]
    assert (len(found), len(between)) == (9, 3)
    a, b = (study.values(variant, PASS_4.column) for variant in study.variants)
    assert next(each for each in between if each.measure == PASS_4).p_seeds == stats.welch(a, b).p
    assert [each.holm_seeds for each in found] == pytest.approx(
        stats.holm([each.p_seeds for each in found]), nan_ok=True
    )


def test_one_seed_has_its_interval_over_prompts(make_experiment: Make) -> None:
    study = open_study(_with_samples(make_experiment(betas=(0.1,), seeds=1, prompts=16, steps=6, every=3)))
    [variant] = study.variants
    table = study.loaded.completions
    own = table[(table["split"] == "sampled") & (table["step"] == table["step"].max())]["pass_at_4"]
    interval = stats.t_interval(list(own))
    assert interval_of(study, variant, PASS_4) == PASS_4.within(interval)


def test_settings_that_were_sampled_unlike_are_not_compared_in_pass_at_k(folder: Path) -> None:
    import yaml

    for path in (folder / "beta=1").glob("seed*/definition.yaml"):
        definition = yaml.safe_load(path.read_text())
        definition["evaluate"]["sampling"] = {"temperature": 0.5}
        path.write_text(yaml.safe_dump(definition))
    assert len(groups(open_study(folder), PASS_4.column)) == 2
    assert len(groups(open_study(folder), "eval/exact_match_greedy")) == 1


def test_trials_of_a_search_are_not_contrasted(folder: Path) -> None:
    study = open_study(folder)
    assert several_samples.contrasts(study)
    assert several_samples.contrasts(replace(study, plans=[{**study.plans[0], "unconfirmed": True}])) == []


def test_the_report_shows_the_values_the_curve_and_the_contrasts(folder: Path) -> None:
    write_report(folder)
    text = (folder / "report/report.md").read_text()
    assert "## Several samples a prompt" in text
    for name in ("several_samples.csv", "several_samples_compared.csv", "figures/pass_at_k.svg"):
        assert (folder / "report" / name).is_file()
    assert not (folder / "report/figures/majority_at_k.svg").exists(), "one k is no curve"


def test_without_several_samples_nothing_is_said_of_them(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1,), seeds=1, prompts=4, steps=6, every=3)
    write_report(folder)
    assert "Several samples" not in (folder / "report/report.md").read_text()


def test_runs_are_compared_by_pass_at_k_from_python(folder: Path) -> None:
    found = compare("dpo_beta_sweep", "eval/pass_at_4", root=folder.parent)
    assert list(found.results["finished_seeds"]) == [3, 3]
    a, b = (open_study(folder).values(name, PASS_4.column) for name in ("beta=0.1", "beta=1"))
    assert list(found.tests["p_welch"]) == [stats.welch(a, b).p]
