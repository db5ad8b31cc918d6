"""Several held-out sets: one decides and bears the plain names, the others stand beside it under their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment

SORT = {"name": "sort", "task": "sort", "digits": 3, "prompts": 8, "every": 2, "max_new_tokens": 6}
FILE = {"name": "sums", "path": "sums.jsonl", "verifier": "number", "prompts": 2, "sampling": None, "max_new_tokens": 3}


@pytest.fixture
def sums(lab):
    rows = [{"prompt": f"{n} and {n} is: ", "answer": 2 * n} for n in range(3)]
    (lab / "sums.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (lab / "train.jsonl").write_text(json.dumps({"prompt": "1 and 1 is: ", "completion": "2"}) + "\n")


def records(lab, name: str, file: str) -> Any:
    [path] = (lab / "runs" / name).rglob(file)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_measures_every_set_and_its_records_say_which(lab, command, define, definitions, sums):
    alone = {name: value for name, value in SORT.items() if name != "name"}
    define("alone", definitions["start"] | {"evaluate": alone, "data": {"path": "train.jsonl"}})
    define(
        "both", definitions["start"] | {"evaluate": [FILE, SORT | {"decides": True}], "data": {"path": "train.jsonl"}}
    )
    for name in ("alone", "both"):
        done = command("run", name)
        assert done.returncode == 0, done.stderr
    one, both = records(lab, "alone", "metrics.jsonl"), records(lab, "both", "metrics.jsonl")
    for row, other in zip(one, both, strict=True):  # the deciding set has the names and numbers that it has alone
        assert {k: v for k, v in row.items() if k.startswith("eval/")} == {
            k: v for k, v in other.items() if k.startswith("eval/") and not k.startswith("eval/sums/")
        }
    assert {"eval/sums/exact_match_greedy", "eval/sums/num_prompts", "time/eval/sums_seconds"} <= set(both[-1])
    assert (both[-1]["eval/sums/num_prompts"], "eval/sums/exact_match_sampled" in both[-1]) == (2, False)
    assert ["eval/sums/exact_match_greedy" in row for row in both] == [True, False, True, False, True]
    completions = records(lab, "both", "completions.jsonl")
    assert {row["set"] for row in completions} == {"sort", "sums"}
    assert [row | {"set": "sort"} for row in records(lab, "alone", "completions.jsonl")] == [
        row for row in completions if row["set"] == "sort"
    ]
    [status], [provenance] = (
        [json.loads(path.read_text()) for path in (lab / "runs/both").rglob(name)]
        for name in ("status.json", "provenance.json")
    )
    assert status["identity"]["evaluate"]["name"] == "sort"
    assert list(status["identity"]["other_sets"]) == ["sums"]
    assert [each["held_out"] for each in status["overlaps"]] == ["held-out prompts of sums"]
    assert provenance["measured_by_other_sets"]["sums"]["verifier number"]
    assert "verifier number" not in provenance["measured_by"]
    [written] = (lab / "runs/both").rglob("definition.yaml")
    assert yaml.safe_load(written.read_text())["other_sets"]["sums"]["path"] == "sums.jsonl"


def test_plan_explain_and_data_say_which_set_decides_and_what_stands_beside_it(command, define, definitions, sums):
    define("both", definitions["start"] | {"evaluate": [SORT, FILE], "data": {"path": "train.jsonl"}})
    plan = command("plan", "both").stdout
    assert "held-out set sort decides, beside it sums" in plan
    assert "1 of 2 held-out prompts of sums (50 %) stands in the training data" in plan
    assert "sums.jsonl: 2 rows" in plan
    assert "sort decides, and bears the plain names" in command("explain", "both").stdout
    assert "sums.jsonl" in command("data", "both", "--split", "held_out").stdout


def test_early_stopping_may_follow_any_set(lab, command, define, definitions, sums):
    stopping = {"early_stopping": {"metric": "eval/sums/exact_match_greedy", "patience": 1}}
    hyperparameters = definitions["start"]["hyperparameters"] | stopping | {"steps": 8}
    define("both", definitions["start"] | {"evaluate": [SORT, FILE], "hyperparameters": hyperparameters})
    assert command("run", "both").returncode == 0
    [status] = (lab / "runs/both").rglob("status.json")
    assert json.loads(status.read_text())["stopped_by"] == "early_stopping"


@pytest.mark.parametrize(
    ("evaluate", "problem"),
    [
        ("[]", "6: evaluate: found an empty list, allowed one set or more, such as [{name: sort, task: sort}]"),
        ("[{task: sort}]", "6: evaluate[0]: found no name, allowed one: the sets of a list are told apart by it"),
        (
            "[{name: a, task: sort}, {name: a, task: sort}]",
            "6: evaluate[1].name: found another set named a, allowed names that differ",
        ),
        ("[{name: a/b, task: sort}]", "6: evaluate[0].name: found 'a/b', allowed letters, digits, - and _, at most 40"),
        (
            "[{name: a, task: sort}, {name: kl, task: sort}]",
            "6: evaluate[1].name: found kl, which is a setting of every set, allowed another name",
        ),
        ("{task: sort, pass_at: [1, 8]}", "6: evaluate.pass_at: found K = 1 for pass@8, allowed samples: 8 or more"),
        (
            "{task: sort, samples: 4, sampling: null}",
            "6: evaluate.samples: found 4 samples with sampling: null, which gives the same completion every time; "
            "allowed with a temperature, such as sampling: {temperature: 1.0}",
        ),
        (
            "{pairs: pairs.jsonl, samples: 4, majority_at: [4]}",
            "6: evaluate.majority_at: found without prompts that are completed, allowed with task or path",
        ),
        (
            "[{name: a, task: sort, decides: true}, {name: b, task: sort, decides: true}]",
            "6: evaluate[1].decides: found a second set that decides beside a, allowed one",
        ),
        (
            "[{name: a, task: sort, every: 5}, {name: b, task: sort, every: 4}]",
            "6: evaluate[1].every: found 4, allowed 5, as set a has, which decides: all are measured at the same steps",
        ),
    ],
)
def test_sets_that_cannot_be_are_refused_in_one_line(lab, command, evaluate, problem):
    (lab / "experiments/bad.yaml").write_text(
        "question: q\ntrainer: sft\nmodel: {preset: tiny}\ndata: {task: sort}\n"
        f"hyperparameters: {{steps: 1}}\nevaluate: {evaluate}\n"
    )
    done = command("run", "bad")
    assert (done.returncode, done.stderr.strip()) == (2, f"experiments/bad.yaml:{problem}")
    assert not (lab / "runs").exists()


def test_overrides_reach_one_set_by_its_name_or_all_of_them(lab, command, define, definitions):
    other = {"name": "more", "task": "sort", "digits": 4}
    define("both", definitions["start"] | {"evaluate": [SORT, other]})
    said = command("explain", "both", "--set", "evaluate.more.prompts=5", "--set", "evaluate.every=1").stdout
    lines = dict(line.split()[:2] for line in said.splitlines() if line.startswith("  evaluate."))
    assert (lines["evaluate.more.prompts"], lines["evaluate.sort.prompts"]) == ("5", "8")
    assert (lines["evaluate.more.every"], lines["evaluate.sort.every"]) == ("1", "1")
    alone = command("explain", "both", "--set", "evaluate.task=sort").stdout
    assert "evaluate.task" in alone, "a mapping that says what is measured takes the place of the list"


@pytest.mark.parametrize("value", ["null", "5"])
def test_a_set_that_is_overridden_by_no_mapping_is_refused(lab, define, definitions, value):
    sets = [{"name": "a", "task": "sort"}, {"name": "b", "task": "countdown"}]
    define("sets", definitions["start"] | {"evaluate": sets})
    with pytest.raises(DefinitionError, match=r"evaluate\.b: found .*, allowed a mapping"):
        load_experiment("sets", [f"evaluate.b={value}"], lab / "experiments")


@pytest.mark.parametrize(
    ("metric", "hint"),
    [("eval/pass_at_8", "eval/pass_at_4?"), ("eval/nothing", "eval/more/loss"), ("eval/more/pass_at_4", "_at_4?")],
)
def test_early_stopping_on_what_no_set_measures_is_refused_when_planned(
    lab, command, define, definitions, metric, hint
):
    sets = [SORT | {"samples": 4, "pass_at": [1, 4]}, {"name": "more", "task": "sort", "sampling": None}]
    hyperparameters = definitions["start"]["hyperparameters"] | {"early_stopping": {"metric": metric}}
    define("sets", definitions["start"] | {"evaluate": sets, "hyperparameters": hyperparameters})
    for asked in ("plan", "explain", "run"):
        done = command(asked, "sets")
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
        assert (
            f"early_stopping.metric: found {metric}, which no held-out set measures, allowed eval/exact" in done.stderr
        )
        assert done.stderr.strip().endswith(hint)
    assert not (lab / "runs").exists()


MIX = {"mix": [{"task": "sort", "digits": 3, "rows": 32}, {"name": "sums", "task": "countdown", "rows": 32}]}


def test_a_mix_is_measured_on_each_sources_own_held_out_prompts_where_evaluate_names_none(lab, define, definitions):
    define("mixed", definitions["start"] | {"data": MIX, "evaluate": {"prompts": 4, "every": 2}})
    [run] = load_experiment("mixed", [], lab / "experiments").runs
    found = [run.evaluate, *run.other_sets]
    assert [(own.name, own.task, own.prompts, own.every) for own in found] == [
        ("sort", "sort", 4, 2), ("sums", "countdown", 4, 2)
    ]  # fmt: skip
    assert found[0].digits == 3


def test_a_source_of_no_task_has_no_held_out_part_of_its_own(lab, command, define, definitions, sums):
    mix = {"mix": [*MIX["mix"], {"path": "train.jsonl"}]}
    define("mixed", definitions["start"] | {"data": mix, "evaluate": {"prompts": 4}})
    done = command("plan", "mixed")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "evaluate: found nothing to measure source train on, which is of no task; allowed a list" in done.stderr


def test_a_mix_without_evaluate_is_measured_on_nothing(lab, define, definitions):
    define("mixed", {name: value for name, value in definitions["start"].items() if name != "evaluate"} | {"data": MIX})
    [run] = load_experiment("mixed", [], lab / "experiments").runs
    assert (run.evaluate, run.other_sets) == (None, ())


def test_a_set_of_pairs_shows_its_accuracy_and_a_text_its_loss_and_a_leak_of_either_is_told(
    lab, command, define, definitions, sums
):
    rows = [{"prompt": f"{n} and {n} is: ", "chosen": f"{2 * n}", "rejected": "x"} for n in range(4)]
    (lab / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (lab / "texts.jsonl").write_text("".join(f'{{"text": "{n} and {n}"}}\n' for n in range(4)))
    sets = [SORT | {"every": 0, "samples": 2, "pass_at": [1, 2]}, {"name": "prefs", "pairs": "pairs.jsonl"}]
    sets.append({"name": "texts", "path": "texts.jsonl"})
    sets.append({"name": "more", "task": "sort", "prompts": 8, "samples": 2, "pass_at": [2], "max_new_tokens": 6})
    sources = {"mix": [{"task": "sort", "digits": 3, "rows": 32}, {"path": "texts.jsonl"}]}
    changes = {"steps": 2, "batch_rows": 4, "precision": "float32"}
    define("three", definitions["start"] | {"evaluate": sets, "data": sources, "hyperparameters": changes})
    done = command("run", "three")
    assert done.returncode == 0, done.stderr
    report = (lab / "runs/three/report/report.md").read_text()
    [pairs], [texts] = (
        [line for line in report.splitlines() if line.startswith(f"| {n} ")] for n in ("prefs", "texts")
    )
    assert "pair accuracy" in pairs
    assert [line.split("|")[3] for line in report.splitlines() if line.startswith("| more ")] == [
        " sampled exact match (share) ", " pass@2 (share) "
    ]  # fmt: skip
    assert "held\\-out loss" in texts or "held-out loss" in texts
    assert all(" to " in line.split("|")[5] for line in (pairs, texts)), "each value has its interval"
    assert "4 of 4 held-out prompts of texts (100 %) stand in the training data" in report.partition("## ")[0]


def test_samples_are_asked_for_in_vain_where_a_files_rows_are_no_prompts(lab, command, define, definitions):
    (lab / "texts.jsonl").write_text('{"text": "1 and 1"}\n')
    evaluate = {"path": "texts.jsonl", "samples": 2, "pass_at": [2]}
    define("texts", definitions["start"] | {"evaluate": evaluate})
    done = command("run", "texts")
    assert done.returncode != 0
    assert "texts.jsonl: none of its rows is a prompt to complete, and several samples of each are" in done.stderr


def test_a_reward_model_completes_no_prompts_of_a_mix(lab, define, definitions):
    mix = {"mix": [{"collect": {"task": "sort", "digits": 3, "pairs": 16}}]}
    settings = {"steps": 1, "batch_pairs": 4}
    changes = {"trainer": "reward", "data": mix, "evaluate": {"prompts": 4}, "hyperparameters": settings}
    define("scorer", definitions["start"] | changes)
    with pytest.raises(DefinitionError, match="evaluate needs one of task, path, pairs, split"):
        load_experiment("scorer", [], lab / "experiments")
