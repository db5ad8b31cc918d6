"""Experiments on several sources: what a definition may say of them, their records, their report."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.experiment.test_online import GRPO
from workbench.data.settings import CollectData, MixData
from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import identify
from workbench.experiment.planning.plan_text import describe_plan
from workbench.tracking.reader import read_rows

SORT = {"task": "sort", "digits": 3, "rows": 96}
COUNTDOWN = {"task": "countdown", "numbers": 2, "rows": 32}


def _mixed(definition: dict[str, Any], **data: Any) -> dict[str, Any]:
    return copy.deepcopy(definition) | {"data": {"mix": [SORT, COUNTDOWN]} | data}


def _problems(lab: Path, name: str) -> str:
    with pytest.raises(DefinitionError) as found:
        load_experiment(name, (), lab / "experiments")
    assert not (lab / "runs").exists()
    return str(found.value)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"weights": [1, 2, 3]}, "weights: found 3 for 2 sources, allowed one for each"),
        ({"weights": [0, 0]}, "weights: found [0.0, 0.0], which add up to nothing, allowed one at least above 0"),
        ({"weights": [1, -1]}, "data.weights[1]: found -1, allowed numbers >= 0"),
        ({"weights": [1e308, 1e308]}, "which add up to no finite number, allowed smaller ones"),
        ({"temperature": 1e-5}, "temperature: found 1e-05, allowed numbers >= 0.1"),
        ({"temperature": 0}, "data.temperature: found 0, allowed numbers > 0"),
        ({"temperature": 2.0, "weights": [1, 1]}, "found weights and temperature, allowed one of them"),
        ({"schedule": [{"step": 5, "weights": [1, 1]}, {"step": 5, "weights": [1, 1]}]}, "found steps [5, 5]"),
        ({"schedule": [{"step": 0, "weights": [1]}]}, "schedule[0].weights: found 1 for 2 sources"),
        ({"mix": [SORT, SORT]}, "found two sources named sort, allowed names that differ: give them name: ..."),
        ({"mix": []}, "allowed at least 1 values"),
        ({"mix": [SORT, {"task": "sort", "path": "x.jsonl"}]}, "data.mix[1]: found task and path, allowed one of"),
        ({"mix": [SORT, {"mix": [SORT]}]}, "data.mix[1]: found mix, allowed one of task, path, dataset, collect"),
        ({"mix": [SORT, COUNTDOWN | {"loss_weight": 0}]}, "data.mix[1].loss_weight: found 0, allowed numbers > 0"),
        (
            {"mix": [SORT, {"collect": {"task": "countdown"}}]},
            "found preference pairs for trainer sft, allowed completions, such as 4096",
        ),
        ({"mix": [SORT | {"rewards": [{"reward": "sort"}]}]}, "found for a trainer that samples nothing, allowed none"),
        ({"curriculum": {"bands": 2}}, "curriculum needs exactly one of hardest_from, schedule"),
        ({"curriculum": {"bands": 1, "hardest_from": 4}}, "data.curriculum.bands: found 1, allowed numbers >= 2"),
        (
            {"curriculum": {"schedule": [{"step": 0, "weights": [1, 1]}]}},
            "schedule[0].weights: found 2 for 3 bands, allowed one for each",
        ),
        (
            {"curriculum": {"column": "level", "hardest_from": 4}},
            "data.curriculum.column: found with a source without columns, sort, allowed for files and data sets",
        ),
    ],
)
def test_a_mix_that_cannot_be_drawn_is_refused_by_its_line(lab, define, definitions, data, problem):
    define("mixed", _mixed(definitions["start"], **data))
    found = _problems(lab, "mixed")
    assert problem in found
    assert "experiments/mixed.yaml:" in found
    assert len(found.splitlines()) == 1


def test_prompts_of_a_file_need_rewards(lab, define):
    file = {"path": "words.jsonl"}
    define("none", _mixed(GRPO, mix=[SORT, file]) | {"hyperparameters": GRPO["hyperparameters"] | {"rewards": []}})
    assert "data.mix[1].rewards: found none, here and under hyperparameters, allowed one or more" in _problems(
        lab, "none"
    )


def test_shares_follow_weights_rows_or_the_step():
    def shares(step=0, **how):
        return MixData.model_validate({"mix": [SORT, COUNTDOWN], **how}).shares([96, 32], step)

    assert shares() == [0.75, 0.25]
    assert shares(weights=[1, 4]) == [0.2, 0.8]
    assert shares(temperature=2.0) == pytest.approx([3**0.5 / (3**0.5 + 1), 1 / (3**0.5 + 1)])
    points = [{"step": 10, "weights": [2, 0]}, {"step": 30, "weights": [1, 3]}]
    found = [shares(step, schedule=points) for step in (0, 10, 20, 30, 99)]
    assert found == [[1, 0], [1, 0], [0.625, 0.375], [0.25, 0.75], [0.25, 0.75]]


def test_a_curriculum_goes_from_the_first_band_to_the_last():
    def drawn(step, **curriculum):
        mix = MixData.model_validate({"mix": [SORT, COUNTDOWN], "weights": [1, 3], "curriculum": curriculum})
        return mix.drawn([96, 32], step)

    assert drawn(0, hardest_from=10) == [0.25, 0, 0, 0.75, 0, 0]
    assert drawn(5, hardest_from=10) == [0, 0.25, 0, 0, 0.75, 0]
    assert drawn(99, hardest_from=10, bands=2) == [0, 0.25, 0, 0.75]
    points = [{"step": 0, "weights": [1, 0]}, {"step": 4, "weights": [1, 1]}]
    assert drawn(2, bands=2, schedule=points) == pytest.approx([0.1875, 0.0625, 0.5625, 0.1875])


def test_what_is_drawn_decides_the_run(lab, define, definitions):
    def of(**data: Any) -> str | None:
        define("mixed", _mixed(definitions["start"], **data))
        return identify(load_experiment("mixed", (), lab / "experiments").runs[0], lab / "runs", "float32").fingerprint

    plain = of()
    assert plain != of(weights=[1, 1])
    assert plain != of(mix=[COUNTDOWN, SORT])
    assert plain != of(mix=[SORT, COUNTDOWN | {"loss_weight": 2.0}])
    assert plain == of(mix=[SORT, COUNTDOWN | {"name": "countdown"}])


def test_each_source_collects_from_its_own_models(lab, define, definitions):
    def collect(digits: int, **more: Any) -> dict[str, Any]:
        return {"collect": {"task": "sort", "digits": digits, "pairs": 8} | more, "name": f"sort{digits}"}

    names = ["start", {"experiment": "start"}]
    mix = [collect(3, **{"from": names[:1]}), collect(4), collect(5, **{"from": ["start/main/seed0"]})]
    define("pairs", definitions["sweep"] | {"data": {"mix": mix}, "sweep": {}})
    [run] = load_experiment("pairs", (), lab / "experiments").runs
    assert [part.data.collect.digits for part in run.parts if isinstance(part.data, CollectData)] == [3, 4, 5]
    assert [part.sources for part in run.parts] == [("start",), (), ("start/main/seed0",)]


def test_the_plan_tells_sources_and_their_shares(lab, define, definitions):
    define("mixed", _mixed(definitions["start"], weights=[1, 3]))
    told = describe_plan(load_experiment("mixed", (), lab / "experiments"), lab / "runs", jobs=1, fresh=False).text
    assert "source sort: 96 rows, 0.25 of those drawn; source countdown: 32 rows, 0.75 of those drawn" in told
    assert "128 rows = 8 steps an epoch" in told


def test_a_mix_is_recorded_and_reported_by_source(lab, define, definitions, command: Callable[..., Any]):
    define("mixed", _mixed(definitions["start"], mix=[SORT, COUNTDOWN | {"loss_weight": 2.0}], weights=[1, 3]))
    done = command("run", "mixed")
    assert done.returncode == 0, done.stderr
    rows = read_rows(lab / "runs/mixed/main/seed0/metrics.jsonl")
    assert [(row["rows/sort"], row["rows/countdown"]) for row in rows[1:]] == [(4 * n, 12 * n) for n in (1, 2, 3, 4)]
    assert rows[-1]["passes/countdown"] == 48 / 32
    assert {"loss/sort", "loss/countdown", "tokens/sort"} <= rows[-1].keys()
    report = lab / "runs/mixed/report"
    assert "## Sources" in (report / "report.md").read_text()
    told = pandas.read_csv(report / "sources.csv").set_index("source")
    assert told["rows"].to_dict() == {"sort": 16, "countdown": 48}
    assert told["passes"].to_dict() == {"sort": pytest.approx(16 / 96), "countdown": 1.5}
    assert told.loc["sort", "trained_tokens"] == sum(row["tokens/sort"] for row in rows[1:])
    provenance = json.loads((lab / "runs/mixed/main/seed0/provenance.json").read_text())
    assert {"data/sort", "data/countdown"} == set(provenance["stages"]) == set(provenance["counts"])


@pytest.mark.slow
def test_pairs_of_several_sources_have_their_references(lab, define, definitions, command):
    def collect(digits: int) -> dict[str, Any]:
        settings = {"task": "sort", "digits": digits, "pairs": 16, "samples_per_prompt": 2, "no_correct": "reference"}
        return {"collect": settings, "name": f"sort{digits}"}

    sweep = {"data": {"mix": [collect(3), collect(2)]}, "sweep": {}}
    define("pairs", definitions["sweep"] | sweep | {"evaluate": definitions["sweep"]["evaluate"]})
    done = command("run", "pairs")
    assert done.returncode == 0, done.stderr
    last = read_rows(lab / "runs/pairs/main/seed0/metrics.jsonl")[-1]
    assert {"rewards/accuracies/sort3", "rewards/accuracies/sort2", "loss/sort2"} <= last.keys()
    costs = json.loads((lab / "runs/pairs/main/seed0/status.json").read_text())["costs"]["inherited"]
    assert {"collect/sort3", "collect/sort2", "ref_logprobs/sort3", "ref_logprobs/sort2"} == set(costs)


@pytest.mark.slow
def test_prompts_of_each_source_are_judged_by_its_rewards(lab, define, command):
    (lab / "words.jsonl").write_text("".join(f'{{"prompt": "{n}", "answer": "{n}"}}\n' for n in range(9)))
    words = {"path": str(lab / "words.jsonl"), "rewards": [{"length": {"target": 2}}, {"reward": "number"}]}
    settings = GRPO["hyperparameters"] | {"rewards": []}
    define("mixed", _mixed(GRPO, mix=[SORT, words], weights=[1, 1]) | {"hyperparameters": settings})
    done = command("run", "mixed")
    assert done.returncode == 0, done.stderr
    run = lab / "runs/mixed/main/seed0"
    last = read_rows(run / "metrics.jsonl")[-1]
    assert last["reward"] == pytest.approx((last["reward/sort"] + last["reward/words"]) / 2)
    assert {"rewards/sort/mean", "rewards/number/mean", "rewards/length/mean", "generated_tokens/words"} <= last.keys()
    trained = [row for row in read_rows(run / "completions.jsonl") if row["split"] == "train"]
    assert {tuple(name for name, value in row["rewards"].items() if value is not None) for row in trained} == {
        ("sort",),
        ("length", "number"),
    }
    plain = GRPO | {"data": SORT, "hyperparameters": settings}
    define("plain", plain)
    assert command("plan", "plain").returncode == 0


@pytest.mark.slow
def test_prompts_are_drawn_from_easy_to_hard_by_a_column(lab, define, command):
    rows = "".join(f'{{"prompt": "{n}", "answer": "{n}", "level": {9 - n}}}\n' for n in range(9))
    (lab / "words.jsonl").write_text(rows)
    mix = [{"path": str(lab / "words.jsonl")}]
    settings = GRPO["hyperparameters"] | {"rewards": [{"reward": "number"}], "batch_prompts": 3}
    definition = _mixed(GRPO, mix=mix, curriculum={"column": "level", "hardest_from": 1}) | {
        "hyperparameters": settings
    }
    define("mixed", definition)
    done = command("run", "mixed")
    assert done.returncode == 0, done.stderr
    first, last = read_rows(lab / "runs/mixed/main/seed0/metrics.jsonl")[1:]
    assert [first[f"rows/words-{band}"] for band in (1, 2, 3)] == [3, 0, 0]
    assert [last[f"rows/words-{band}"] for band in (1, 2, 3)] == [3, 0, 3]
    trained = read_rows(lab / "runs/mixed/main/seed0/completions.jsonl")
    assert {row["prompt"] for row in trained if row["split"] == "train" and row["step"] == 1} == {"6", "7", "8"}
    (lab / "words.jsonl").write_text(rows.replace('"level": 4', '"level": "x"'))
    told = command("run", "mixed").stderr
    assert "words.jsonl:6: level is 'x', allowed a finite number" in told
    define("mixed", definition | {"data": definition["data"] | {"curriculum": {"bands": 12, "hardest_from": 1}}})
    told = command("run", "mixed").stderr
    assert "data.curriculum.bands: found 12, and source words has 9 rows; allowed up to it" in told
    assert "experiments/mixed.yaml:" in told


@pytest.mark.slow
def test_rows_and_pairs_are_drawn_from_easy_to_hard_by_a_column(lab, define, definitions, command):
    """The easiest rows by the column are the longest, so their tokens tell that it was read, and row by row."""
    rows = [{"prompt": "q", "completion": "1" * (n + 1), "level": 9 - n} for n in range(9)]
    pairs = [{"prompt": "q", "chosen": row["completion"], "rejected": "2", "level": row["level"]} for row in rows]
    bad = {"prompt": "q", "level": 99}
    left_out = {"rows": bad | {"completion": ""}, "pairs": bad | {"chosen": "3", "rejected": "3"}}
    for name, lines in (("rows", rows), ("pairs", pairs)):
        lines.insert(4, left_out[name])
        (lab / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    start = definitions["start"]
    shared = {name: value for name, value in start["hyperparameters"].items() if name != "batch_rows"} | {"steps": 2}

    def arm(trainer, file, **batch):
        mix = [{"path": str(lab / file), "name": "words", "bad_rows": "skip"}]
        data = {"mix": mix, "curriculum": {"column": "level", "hardest_from": 1}}
        return {"trainer": trainer, "data": data, "hyperparameters": shared | batch}

    arms = {
        "rows": arm("sft", "rows.jsonl", batch_rows=3),
        "pairs": arm("dpo", "pairs.jsonl", batch_pairs=3),
        "apart": arm("kto", "pairs.jsonl", batch_rows=6),
    }
    kept = {name: value for name, value in start.items() if name not in ("trainer", "data", "hyperparameters")}
    define("mixed", kept | {"arms": arms})
    done = command("run", "mixed")
    assert done.returncode == 0, done.stderr
    drawn = {}
    for name in arms:
        first, last = read_rows(lab / f"runs/mixed/{name}/seed0/metrics.jsonl")[1:]
        size = 6 if name == "apart" else 3
        assert [first[f"rows/words-{band}"] for band in (1, 2, 3)] == [size, 0, 0]
        assert [last[f"rows/words-{band}"] for band in (1, 2, 3)] == [size, 0, size]
        drawn[name] = [first["tokens/words-1"], last["tokens/words-3"]]
    # 7 + 8 + 9 figures, then 1 + 2 + 3, each with its end, the other side of a pair in 2 tokens, a prompt before each.
    assert drawn == {"rows": [24 + 6, 6 + 6], "pairs": [27 + 12, 9 + 12], "apart": [27 + 12, 9 + 12]}


def test_an_empty_source_stops_the_run_by_name(lab, define, definitions, command):
    (lab / "empty.jsonl").write_text("")
    define("mixed", _mixed(definitions["start"], mix=[SORT, {"path": str(lab / "empty.jsonl")}]))
    done = command("run", "mixed")
    assert done.returncode != 0
    assert "empty.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (lab / "runs/mixed/main/seed0/metrics.jsonl").exists()


def test_the_data_of_a_mix_is_shown_source_by_source(lab, define, definitions, command):
    define("mixed", _mixed(definitions["start"], weights=[1, 3]))
    done = command("data", "mixed")
    assert done.returncode == 0, done.stderr
    assert "source sort: the task sort" in done.stdout
    assert "25.0% of the rows drawn" in done.stdout


def test_one_source_is_overridden_by_its_place(lab, define, definitions):
    define("mixed", _mixed(definitions["start"], mix=[SORT | {"name": "a"}, COUNTDOWN]))

    def sources(*overrides: str) -> list[Any]:
        [run] = load_experiment("mixed", overrides, lab / "experiments").runs
        return [source.model_dump(exclude_unset=True) for source in run.data.mix]

    assert sources("data.mix.0.rows=8") == [SORT | {"name": "a", "rows": 8}, COUNTDOWN]
    assert sources("data.mix.1.path=x.jsonl") == [SORT | {"name": "a"}, {"path": "x.jsonl"}]
    with pytest.raises(DefinitionError, match=r"--set data.mix.2.rows=8: data.mix: found a mapping, allowed a list"):
        sources("data.mix.2.rows=8")


RATES = {"pass_rate": {"within": [0.1, 0.9]}}


@pytest.mark.parametrize(
    ("curriculum", "problem"),
    [
        (RATES | {"column": "level"}, "curriculum: found column and pass_rate, allowed one of them"),
        (RATES | {"bands": 3}, "curriculum: found bands and pass_rate.within, allowed one of them"),
        (RATES | {"hardest_from": 3}, "curriculum needs exactly one of hardest_from, schedule, pass_rate.within"),
        ({"pass_rate": {}}, "curriculum needs exactly one of hardest_from, schedule, pass_rate.within"),
        ({"pass_rate": {"within": [0.9, 0.1]}}, "within: found [0.9, 0.1], allowed the lower rate first"),
        ({"pass_rate": {"within": [0, 0.4]}}, "prior: found 0.5, allowed rates within [0, 0.4], or no prompt"),
        ({"pass_rate": {"within": [0, 1.5]}}, "data.curriculum.pass_rate.within[1]: found 1.5, allowed numbers <= 1"),
        ({"pass_rate": {"within": [0, float("nan")]}}, "data.curriculum.pass_rate.within[1]: found .nan, allowed"),
        ({"pass_rate": {"memory": 1}, "hardest_from": 2}, "pass_rate.memory: found 1, allowed numbers < 1"),
        ({"pass_rate": {"passes_at": float("nan")}, "hardest_from": 2}, "passes_at: found .nan, allowed"),
    ],
)
def test_a_curriculum_by_pass_rate_that_cannot_be_is_refused_by_its_line(lab, define, curriculum, problem):
    define("mixed", _mixed(GRPO, curriculum=curriculum))
    found = _problems(lab, "mixed")
    assert problem in found
    assert "experiments/mixed.yaml:" in found
    assert len(found.splitlines()) == 1


def test_a_trainer_that_samples_nothing_measures_no_pass_rates(lab, define, definitions):
    define("mixed", _mixed(definitions["start"], curriculum=RATES))
    found = _problems(lab, "mixed")
    assert "data.curriculum.pass_rate: found for trainer SFT, which samples nothing whose rate could be" in found
    assert "allowed for grpo, online_dpo, ppo, reinforce_pp, rloo" in found


@pytest.mark.slow
def test_prompts_drawn_by_their_pass_rates_are_recorded_and_reported(lab, define, command):
    own = {"hyperparameters": GRPO["hyperparameters"] | {"rewards": []}}
    define("rates", _mixed(GRPO, curriculum=RATES) | own)
    done = command("run", "rates")
    assert done.returncode == 0, done.stderr
    last = read_rows(lab / "runs/rates/main/seed0/metrics.jsonl")[-1]
    assert {
        "pass_rate/sort",
        "unmeasured/countdown",
        "prompts/sort-2",
        "rows/sort-2",
        "passes/countdown-3",
    } <= last.keys()
    assert 0 < last["unmeasured/sort"] < 1
    told = pandas.read_csv(lab / "runs/rates/report/pass_rates.csv").set_index("source")
    assert told.loc["sort", "prompts/sort-1"] == pytest.approx(last["prompts/sort-1"])
    define("rates", _mixed(GRPO, curriculum={"pass_rate": {"within": [0.1, 0.9], "passes_at": 1.5}}) | own)
    refused = command("run", "rates")
    assert refused.returncode != 0
    assert "data.curriculum.pass_rate.passes_at: found 1.5, allowed up to 1, which rewards reach" in refused.stderr
    assert "experiments/rates.yaml:" in refused.stderr
