"""A teacher that a definition names, and completions that are collected from it: resolved, made, charged, refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.experiment.conftest import SFT
from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import identify
from workbench.experiment.planning.changes import describe_change
from workbench.experiment.planning.estimate import estimate, run_size, shared_bytes
from workbench.experiment.planning.plan import waves
from workbench.experiment.planning.speed import Speed
from workbench.tracking.reader import read_rows

TASK = {"task": "sort", "digits": 3}
DISTILL: dict[str, Any] = {
    "question": "What does it learn of its teacher?",
    "trainer": "distill",
    "start_from": "start",
    "teacher": "better",
    "data": {**TASK, "rows": 64},
    "hyperparameters": {"steps": 4, "batch_rows": 8, "learning_rate": 1e-3, "precision": "float32",
                        "on_policy_share": 0.5, "max_new_tokens": 6},
    "evaluate": {**TASK, "prompts": 8, "every": 2, "max_new_tokens": 6},
}  # fmt: skip
COLLECT = {"collect": {**TASK, "completions": 24, "from": ["better"]}}
BETTER = copy.deepcopy(SFT) | {"model": {"preset": "mini"}}
BETTER["hyperparameters"] |= {"steps": 6}


class Silent:
    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


@pytest.fixture
def distill(lab: Path, define, monkeypatch):
    """distill(**changes) -> its one run, of a student that a larger teacher teaches."""
    monkeypatch.chdir(lab)
    define("better", BETTER)

    def make(**changes: Any) -> Any:
        define("distill", copy.deepcopy(DISTILL) | changes)
        return load_experiment("distill")

    return make


def lines(error: Any) -> list[str]:
    return list(error.value.problems)


def test_a_run_comes_after_its_start_and_its_teacher(distill):
    experiment = distill()
    (run,) = experiment.runs
    assert run.needs == ("start/main/seed0", "better/main/seed0")
    assert [[spec.key for spec in wave] for wave in waves(experiment)] == [
        ["start/main/seed0", "better/main/seed0"],
        ["distill/main/seed0"],
    ]
    assert run.to_definition()["teacher"] == {"experiment": "better", "variant": "main", "seed": 0}
    assert "teacher" not in load_experiment("start").runs[0].to_definition()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teacher": None}, "distill.yaml:1: teacher: found nothing, allowed the model to learn from, such as"),
        (
            {"teacher": "bettr"},
            "distill.yaml:4: teacher: found 'bettr', allowed better, distill, start, sweep, did you mean better?",
        ),
        ({"teacher": "sweep"}, "one of them, written as teacher: {experiment: sweep, variant: beta=0.1, seed: match}"),
        ({"teacher": {"experiment": "better", "seed": 7}}, "teacher.seed: found seed 7, allowed the seeds of better"),
        ({"teacher": {"preset": "huge"}}, "teacher.preset: found 'huge', allowed"),
        ({"teacher": "distill"}, "found a circle (distill -> distill)"),
        ({"trainer": "sft", "hyperparameters": {"steps": 2}}, "found a teacher for a trainer that learns from none"),
        (
            {"data": {"collect": {**TASK, "pairs": 8}}},
            "found preference pairs for trainer distill, allowed",
        ),
        ({"data": {"collect": {**TASK, "completions": 8, "pairs": 8}}}, "pairs is of pairs, found it with completions"),
        ({"hyperparameters": {"lmbda": 1.0}}, "did you mean on_policy_share?"),
        ({"hyperparameters": {"on_policy_share": 1.5}}, "hyperparameters.on_policy_share: found 1.5, allowed"),
        ({"hyperparameters": {"beta": 2}}, "hyperparameters.beta: found 2, allowed numbers <= 1"),
    ],
)
def test_what_a_definition_may_not_say_is_one_line_with_its_place(distill, changes, expected):
    with pytest.raises(DefinitionError) as error:
        distill(**changes)
    (line,) = lines(error)
    assert expected in line


def test_completions_are_no_pairs(distill, define):
    define("pairs", {"question": "q", "trainer": "dpo", "start_from": "start", "data": COLLECT})
    with pytest.raises(DefinitionError, match="found completions for trainer dpo, allowed pairs"):
        load_experiment("pairs")


def test_another_trainer_of_an_arm_drops_the_teacher(distill):
    sft = {"trainer": "sft", "data": {**TASK, "rows": 64}, "hyperparameters": {"steps": 2}}
    assert [run.teacher for run in distill(arms={"own": {}, "sft": sft}).runs] == ["better/main/seed0", None]


def test_a_plan_counts_the_teacher_and_what_is_stored_of_it_once(distill):
    def estimates(**settings: Any) -> list[Any]:
        hyperparameters = DISTILL["hyperparameters"] | {"on_policy_share": 0.0} | settings
        experiment = distill(hyperparameters=hyperparameters, sweep={"seeds": 2})
        specs = experiment.ancestors | {run.key: run for run in experiment.runs}
        return [(run, estimate(run, specs, Path("runs"), Speed(1e9, ""))) for run in experiment.runs]

    (_, asked), (_, mixed), (_, stored) = (
        estimates(**settings)[0] for settings in ({}, {"on_policy_share": 0.5}, {"teacher_logprobs": "stored"})
    )
    tokens = asked.tokens_per_step * 4
    size = run_size(load_experiment("better").runs[0], {}, Path("runs")).policy
    assert asked.flops == pytest.approx(stored.flops + 2 * size * tokens)
    assert mixed.flops > asked.flops
    assert asked.memory_bytes == pytest.approx(stored.memory_bytes + 4 * size)
    # 64 rows at 4 bytes for each token of the vocabulary, once for both seeds.
    assert shared_bytes(estimates(teacher_logprobs="stored")) == stored.stored_bytes
    assert 64 * 8 * 90 * 4 < stored.stored_bytes < 64 * 16 * 130 * 4


@pytest.mark.slow
def test_a_teacher_and_its_samples_from_definition_to_report(distill, command, define, lab):
    arms = {
        "mixed": {},
        "off": {"data": COLLECT, "hyperparameters": {"on_policy_share": 0.0}},
        "stored": {"data": COLLECT, "hyperparameters": {"on_policy_share": 0.0, "teacher_logprobs": "stored"}},
        "sft": {"trainer": "sft", "data": COLLECT, "hyperparameters": {"steps": 4, "precision": "float32"}},
    }
    distill(arms=arms)
    done = command("run", "distill")
    assert done.returncode == 0, done.stderr
    runs = lab / "runs/distill"
    rows = {arm: read_rows(runs / arm / "seed0/metrics.jsonl") for arm in arms}
    assert rows["mixed"][-1]["cost/generated_tokens"] > 0
    assert rows["mixed"][-1]["cost/scored_tokens"] == rows["mixed"][-1]["cost/trained_tokens"]
    assert {"divergence/data", "divergence/student", "own_tokens"} <= set(rows["mixed"][-1])
    first = {arm: rows[arm][0] for arm in arms}
    assert first["mixed"]["cost/flops"] == 0
    # Both are charged in full for the teacher's samples before their first step.
    assert first["off"]["cost/flops"] == first["sft"]["cost/flops"] > 0
    assert first["off"]["cost/generated_tokens"] == first["sft"]["cost/generated_tokens"] > 24
    assert rows["off"][-1]["cost/scored_tokens"] == rows["off"][-1]["cost/trained_tokens"]
    assert rows["sft"][-1]["cost/scored_tokens"] == 0
    # What is stored teaches alike; it is charged before the first step, and no step asks the teacher again.
    losses = [[row["loss"] for row in rows[arm][1:]] for arm in ("stored", "off")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert first["stored"]["cost/flops"] > first["off"]["cost/flops"]
    assert rows["stored"][-1]["cost/scored_tokens"] == first["stored"]["cost/scored_tokens"] > 0
    record = json.loads((runs / "mixed/seed0/provenance.json").read_text())
    assert record["teacher"]["folder"] == "better/main/seed0"
    report = (runs / "report/report.md").read_text()
    assert "24 completions were collected from" in report
    assert "teacher, frozen" in report
    # Another teacher makes another run, and the plan says why.
    spec = load_experiment("distill").runs[0]
    before = identify(spec, Path("runs"), "float32")
    define("better", BETTER | {"data": {**TASK, "rows": 32}})
    assert command("run", "distill").returncode == 0
    after = identify(spec, Path("runs"), "float32")
    assert before.fingerprint != after.fingerprint
    assert describe_change(before.fields, after.fields).startswith("teacher was")


def test_a_run_is_prepared_with_one_look_at_its_teacher(distill, monkeypatch):
    from workbench.experiment.running.prepare import Preparer
    from workbench.experiment.running.start_models import StartModels

    (spec,) = distill(model={"preset": "tiny"}, start_from=None, teacher={"preset": "mini"}).runs
    found, look = [], StartModels.teacher
    monkeypatch.setattr(StartModels, "teacher", lambda *asked: found.append(look(*asked)) or found[-1])
    prepared = Preparer(Path("runs"), Silent(), 1).prepare(spec, "float32")
    assert found == [prepared.teacher_folder]
    assert str(found[0] / "config.json") in prepared.opened


def test_a_store_of_what_a_teacher_says_that_would_be_too_large_is_refused_with_the_remedy(distill, monkeypatch):
    from workbench.experiment.running.run_stages import RunStages
    from workbench.experiment.running.start_models import StartModels
    from workbench.experiment.stages import teacher_logprobs
    from workbench.inputs import Inputs

    asked = {"on_policy_share": 0.0, "teacher_logprobs": "stored", "steps": 2, "precision": "float32"}
    experiment = distill(model={"preset": "tiny"}, start_from=None, teacher={"preset": "mini"}, hyperparameters=asked)
    (spec,) = experiment.runs
    models = StartModels(Path("runs"), Silent())
    stages = RunStages(models, 1)
    rows = stages.training_data(spec, spec.form)
    monkeypatch.setattr(teacher_logprobs, "LARGEST", 1000)
    with pytest.raises(DefinitionError, match=r"distill.yaml:\d+: hyperparameters.teacher_logprobs: stored would take"):
        stages.taught(spec, rows, models.teacher(spec), models.worker(spec), Inputs(()))


@pytest.mark.slow
def test_a_teacher_with_another_vocabulary_is_refused_in_one_line_and_no_run_begins(distill, command, lab):
    distill(teacher={"preset": "bytes"})
    done = command("run", "distill")
    assert done.returncode == 2, done.stderr
    assert "experiments/distill.yaml:4: teacher: found " in done.stderr + done.stdout
    assert "whose 257 tokens are not the" in done.stderr + done.stdout or "tokens are not the" in done.stderr
    assert not (lab / "runs/distill/main").exists()
