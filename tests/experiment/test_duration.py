"""How long a plan says that an experiment takes, and what it counts for that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.duration import COMMAND_SECONDS, Durations, side_by_side
from workbench.experiment.planning.estimate import estimate
from workbench.experiment.planning.plan import waves
from workbench.experiment.planning.plan_text import describe_plan
from workbench.experiment.planning.speed import Speed, measured_speed
from workbench.experiment.running.run_folder import RunFolder
from workbench.models.presets import make_preset


@pytest.fixture
def own_model(lab):
    """A folder whose config.json has GPT-2's names and a large vocabulary, and whose tokenizer has a token a byte."""
    folder = lab / "own"
    make_preset("bytes", folder, 0)
    config = {"model_type": "gpt2", "n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 50_000, "n_positions": 512}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def on_a_file(define, definitions, lab, own_model, completions):
    rows = [json.dumps({"prompt": "é" * 5, "completion": "a" * length}) for length in completions]
    (lab / "rows.jsonl").write_text("\n".join(rows) + "\n")
    changes = {"model": {"path": str(own_model)}, "data": {"path": str(lab / "rows.jsonl")}, "evaluate": None}
    define("own", definitions["start"] | changes)
    return load_experiment("own", folder=lab / "experiments")


def test_a_local_folder_s_tokens_are_those_of_its_tokenizer_and_its_time_is_known(lab, define, definitions, own_model):
    [run] = on_a_file(define, definitions, lab, own_model, range(1, 101)).runs
    found = estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))
    assert (found.rows, found.tokens_per_step) == (100, 16 * (2 * 5 + 50.5 + 1))
    assert found.seconds is not None
    assert found.memory_bytes is not None


def test_of_many_rows_some_are_tokenised_and_the_plan_says_so(lab, define, definitions, own_model):
    experiment = on_a_file(define, definitions, lab, own_model, [7] * 1000)
    [run] = experiment.runs
    found = estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))
    assert (found.rows, found.tokens_per_step) == (1000, 16 * 18)
    text = describe_plan(experiment, lab / "runs", jobs=1, fresh=False).text
    assert "about 288 tokens a step (by 200 rows of them)" in text
    assert "time: about" in text


def test_runs_side_by_side_end_when_the_last_does():
    assert side_by_side([3.0] * 5, 2) == 9.0
    assert side_by_side([1.0, 1.0, 4.0], 2) == 5.0
    assert side_by_side([], 2) == 0.0


def test_what_runs_share_is_counted_once_and_not_again_where_it_was_made(lab):
    experiment = load_experiment("sweep", folder=lab / "experiments")
    levels = waves(experiment)
    specs = {spec.key: spec for level in levels for spec in level}
    speeds = dict.fromkeys(specs, Speed(1e9, "test"))
    found = {key: estimate(spec, specs, lab / "runs", speeds[key]) for key, spec in specs.items()}
    durations = Durations(specs, lab / "runs", speeds)
    [start], pairs = levels
    one, first = durations.run(pairs[0], found[pairs[0].key]), durations.run(start, found[start.key])
    shared = durations.shared(pairs[0])
    assert shared > 0
    assert durations.total(levels, specs, found, 4) == pytest.approx(COMMAND_SECONDS + first + shared / 4 + one)
    again = {run.key for run in pairs[1:]}
    assert durations.total(levels, again, found, 1) == pytest.approx(COMMAND_SECONDS + 3 * one)


def test_passes_that_score_pairs_in_each_step_are_counted_and_told(lab):
    def planned(*overrides):
        experiment = load_experiment("sweep", overrides, lab / "experiments")
        specs = {spec.key: spec for level in waves(experiment) for spec in level}
        run = experiment.runs[0]
        found = estimate(run, specs, lab / "runs", Speed(1e9, "test"))
        return found.flops, describe_plan(experiment, lab / "runs", jobs=1, fresh=False).text

    (plain, text), (over_step, _), (moving, told) = (
        planned(*more) for more in ((), ("loss={aot: 1.0, bco_pair: 0.5}",), ("sync_reference_every=2",))
    )
    assert over_step == moving == pytest.approx(plain * 4 / 3)  # a forward to one forward and backward
    assert "the reference moves, so each step scores its pairs under it" in told
    assert "the reference moves" not in text


def test_an_evaluation_more_takes_longer(lab):
    def seconds(*overrides):
        [run] = load_experiment("start", overrides, lab / "experiments").runs
        speeds = {run.key: Speed(1e6, "test")}
        found = estimate(run, {run.key: run}, lab / "runs", speeds[run.key])
        return Durations({run.key: run}, lab / "runs", speeds).run(run, found)

    none, two, four = seconds("evaluate=null"), seconds("evaluate.every=0"), seconds("evaluate.every=1", "steps=3")
    assert none < two
    assert four - seconds("evaluate=null", "steps=3") == pytest.approx(2 * (two - none))
    greedy = seconds("evaluate.every=0", "evaluate.sampling=null")
    assert greedy < two
    eight = seconds("evaluate.every=0", "evaluate.samples=8")
    assert eight - greedy == pytest.approx(8 * (two - greedy)), "K samples cost K times"


def test_a_finished_run_s_speed_is_taken_of_models_about_as_large(lab):
    [run] = load_experiment("start", folder=lab / "experiments").runs
    for seed, (parameters, trainer) in enumerate([(100_000, "sft"), (90_000, "sft"), (10_000_000, "sft"), (5, "dpo")]):
        other = replace(run, seed=seed)
        costs = {"flops": 6.0 * parameters, "seconds": 2.0, "generated_tokens": 0}
        status = {"state": "finished", "identity": {"trainer": trainer}, "threads": 1, "precision": "float32"}
        (lab / "runs" / other.key).mkdir(parents=True)
        RunFolder(lab / "runs", other.key).write_status(costs=costs, num_parameters=parameters, **status)
    near = measured_speed(lab / "runs", run, 120_000)
    assert (near.flops_per_second, near.source) == (285_000, "the speed of 2 finished sft runs here")
    assert measured_speed(lab / "runs", run, 4).source == "the speed of 1 finished dpo run here"
    assert "matrix product timed now" in measured_speed(lab / "runs", run, 1000).source
