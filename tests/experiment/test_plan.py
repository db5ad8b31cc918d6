"""What counts for a run's identity, and what a plan says of it; without torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.load import load_folders
from workbench.errors import DefinitionError, ModelError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import counted_before, differences, identify, measuring_versions
from workbench.experiment.planning.changes import describe_change
from workbench.experiment.planning.estimate import estimate
from workbench.experiment.planning.plan import plan_runs, waves
from workbench.experiment.planning.plan_file import as_planned, write_plan
from workbench.experiment.planning.plan_text import describe_plan
from workbench.experiment.planning.speed import Speed
from workbench.experiment.planning.status import standings, status_text
from workbench.experiment.running.run_folder import RunFolder
from workbench.tracking.reader import read_sealed
from workbench.trainer.settings import COSTS_VERSION


def only_run(lab: Path, *overrides: str, name: str = "start"):
    return load_experiment(name, overrides, lab / "experiments").runs[0]


def fingerprint_of(lab: Path, *overrides: str) -> str | None:
    return identify(only_run(lab, *overrides), lab / "runs", "float32").fingerprint


def finish(lab: Path, run, **status) -> RunFolder:
    """A folder that says it is finished."""
    folder = RunFolder(lab / "runs", run.key)
    identity = identify(run, lab / "runs", "float32")
    folder.model.mkdir(parents=True)
    (folder.model / "model.safetensors").write_bytes(b"weights")
    state = {"state": "finished", "fingerprint": identity.fingerprint, "identity": identity.fields, "commit": "c1"}
    folder.write_status(**state | {"model_fingerprint": "m1"} | status)
    return folder


def plan(lab: Path, run, **options):
    [planned] = plan_runs([run], lab / "runs", {run.key: "float32"}, **options)
    return planned


@pytest.mark.parametrize(
    "override", ["learning_rate=0.1", "steps=5", "batch_rows=8", "threads=2", "data.rows=128", "model.seed=1",
                 "evaluate.prompts=4", "max_grad_norm=null", "budget.tokens=100", "schedule=cosine",
                 "ema_decay=0.9", "optimizer=muon"]
)  # fmt: skip
def test_what_decides_numbers_changes_the_fingerprint(lab, override):
    assert fingerprint_of(lab, override) != fingerprint_of(lab)


@pytest.mark.parametrize("override", ["micro_batch_rows=2", "gradient_checkpointing=true", "keep_checkpoints=5",
                                      "checkpoint_every=1", "device=cpu", "question=Why?", "track=[]"])  # fmt: skip
def test_what_decides_no_number_leaves_it(lab, override):
    assert fingerprint_of(lab, override) == fingerprint_of(lab)


def test_resolved_precision_and_seed_count(lab):
    run = only_run(lab)
    assert identify(run, lab / "runs", "bf16").fingerprint != identify(run, lab / "runs", "float32").fingerprint
    assert fingerprint_of(lab, "seeds=[1]") != fingerprint_of(lab, "seeds=[0]")


def test_a_data_files_content_counts_and_its_place_does_not(lab, define, definitions):
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (lab / f"{name}.jsonl").write_text(json.dumps({"prompt": "p", "completion": text}) + "\n")
    prints = {}
    for name in "abc":
        definition = definitions["start"] | {"data": {"path": str(lab / f"{name}.jsonl")}}
        define(name, definition)
        prints[name] = identify(only_run(lab, name=name), lab / "runs", "float32").fingerprint
    assert prints["a"] == prints["b"] != prints["c"]


def test_a_start_that_is_not_there_makes_its_runs_wait(lab):
    experiment = load_experiment("sweep", folder=lab / "experiments")
    [[start], runs] = waves(experiment)
    assert (start.key, len(runs)) == ("start/main/seed0", 4)
    planned = plan_runs([start, *runs], lab / "runs", {run.key: "float32" for run in (start, *runs)})
    assert [run.state for run in planned] == ["new"] + ["waits"] * 4
    assert planned[1].reason == "start/main/seed0 is made first"


def test_other_weights_of_the_start_are_another_run(lab):
    run = load_experiment("sweep", folder=lab / "experiments").runs[0]
    folder = finish(lab, only_run(lab))
    before = identify(run, lab / "runs", "float32").fingerprint
    folder.write_status(model_fingerprint="m2")
    assert identify(run, lab / "runs", "float32").fingerprint != before


def test_a_finished_run_is_cached_until_a_field_changes_and_the_plan_names_it(lab):
    run = only_run(lab)
    finish(lab, run)
    assert plan(lab, run, commit="c1").state == "cached"
    changed = run.hyperparameters.model_copy(update={"learning_rate": 0.1})
    planned = plan(lab, replace(run, hyperparameters=changed))
    assert (planned.state, planned.reason) == ("changed", "hyperparameters.learning_rate was 0.003, is 0.1")


def test_other_code_is_marked_and_fresh_trains_anew(lab):
    run = only_run(lab)
    finish(lab, run)
    assert "made by other code, commit c1" in plan(lab, run, commit="c2").reason
    assert plan(lab, run, fresh=frozenset({run.key})).state == "changed"


def test_an_unfinished_run_resumes_and_lost_weights_are_trained_again(lab):
    run = only_run(lab)
    folder = finish(lab, run, state="interrupted")
    (folder.path / "checkpoints/step_00000003").mkdir(parents=True)
    assert plan(lab, run).reason == "from step 3 (interrupted)"
    folder.write_status(state="finished")
    (folder.model / "model.safetensors").unlink()
    assert plan(lab, run).state == "resumes"


def test_a_missing_data_file_is_broken_not_new(lab, define, definitions):
    define("lost", definitions["start"] | {"data": {"path": "nowhere.jsonl"}})
    planned = plan(lab, only_run(lab, name="lost"))
    assert (planned.state, planned.reason.split(";")[0]) == ("broken", "nowhere.jsonl: no such file")


def test_superseding_moves_the_folder_aside_and_keeps_it(lab):
    folder = finish(lab, only_run(lab))
    moved = folder.supersede()
    assert not folder.path.exists()
    assert moved is not None
    assert (moved / "model/model.safetensors").read_bytes() == b"weights"
    assert moved.is_relative_to(lab / "runs/.superseded/start/main")


def test_a_setting_that_is_new_and_has_no_value_is_a_reason_too():
    assert describe_change({"a": 1}, {"a": 1, "new": None}).startswith("made by an older version of the workbench")


def test_differences_name_the_path_of_every_change():
    old, new = {"a": {"b": 1, "c": 2}, "gone": 3}, {"a": {"b": 1, "c": 5}, "new": 4}
    assert list(differences(old, new)) == [("a.c", 2, 5), ("new", None, 4), ("gone", 3, None)]


def test_the_estimate_counts_steps_rows_and_parameters_by_hand(lab):
    run = only_run(lab, "steps=null", "epochs=2")
    found = estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))
    assert (found.rows, found.steps_per_epoch, found.steps) == (256, 16, 32)
    assert found.tokens_per_step == 16 * (len("sort 123: ") + 3 + 1)
    parameters = 98 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256)
    assert found.flops == 32 * 16 * 14 * 6 * parameters
    assert found.seconds == found.flops / 1e9


def test_the_last_step_of_epochs_is_estimated_by_the_rows_that_are_left(lab):
    run = only_run(lab, "steps=null", "data.rows=33")
    found = estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))
    assert (found.steps, found.full_steps, found.steps_per_epoch) == (3, 33 / 16, 33 / 16)
    full = only_run(lab, "steps=2", "data.rows=33")
    two = estimate(full, {full.key: full}, lab / "runs", Speed(1e9, "test"))
    assert found.flops == pytest.approx(two.flops * 33 / 32)


def test_how_epochs_are_counted_is_part_of_the_identity_where_they_decide(lab, monkeypatch):
    by_epochs, by_steps = fingerprint_of(lab, "steps=null"), fingerprint_of(lab)
    monkeypatch.setattr("workbench.experiment.identity.EPOCHS_VERSION", 99)
    assert fingerprint_of(lab, "steps=null") != by_epochs
    assert fingerprint_of(lab) == by_steps


def test_how_flops_are_counted_is_recorded_of_every_run_and_decides_those_with_a_budget(lab, monkeypatch):
    budget = "budget.flops=1.0e9"
    plain, bounded = fingerprint_of(lab), fingerprint_of(lab, budget)
    monkeypatch.setattr("workbench.experiment.identity.COSTS_VERSION", 99)
    assert measuring_versions(only_run(lab))["cost/flops"] == 99
    assert fingerprint_of(lab) == plain
    assert fingerprint_of(lab, budget) != bounded


def test_the_estimate_counts_optimiser_averages_and_what_is_kept_by_hand(lab):
    def memory(*overrides):
        run = only_run(lab, *overrides)
        found = estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))
        return found.memory_bytes, found.disk_bytes, found.flops

    hidden = 2 * (4 * 64 * 64 + 3 * 64 * 256)
    parameters, tokens = 98 * 64 + hidden, 16 * 14
    plain = memory()
    layer = 4 * 64 + 3 * 64 + 2 * 64 + 4 * 256
    assert plain[0] == 4 * (4 * parameters + 1.25 * tokens * (2 * layer + 4 * 98))
    # Four steps' metrics; four evaluations of eight prompts, greedy, sampled and their loss.
    records = 4 * 350 + 4 * 8 * (2 * (180 + 14) + 85)
    assert plain[1] == 4 * (parameters + 3 * parameters) + records
    assert memory("track=[tensorboard]")[1] - plain[1] == 4 * 350
    assert memory("checkpoint_every=1")[1] - plain[1] == 2 * 4 * 3 * parameters
    averaged, muon, again = memory("ema_decay=0.9"), memory("optimizer=muon"), memory("gradient_checkpointing=true")
    assert [a - b for a, b in zip(averaged, plain, strict=True)] == [4 * parameters, 4 * parameters, 0]
    assert [a - b for a, b in zip(muon, plain, strict=True)] == [-4 * hidden, -4 * hidden, 0]
    assert plain[0] - again[0] == 4 * 1.25 * tokens * (2 * layer - (layer + 2 * 64))
    assert again[2] - plain[2] == 4 * tokens * 2 * hidden


STEP_TOKENS = 16 * 14
STEP_FLOPS = STEP_TOKENS * 6 * (98 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256))


@pytest.mark.parametrize(
    ("limit", "steps"),
    [(f"flops={STEP_FLOPS * 3}", 3), (f"tokens={STEP_TOKENS}", 1), (f"seconds={STEP_FLOPS * 2 / 1e9}", 2)],
)
def test_the_estimate_ends_where_the_budget_does(lab, limit, steps):
    def found(budget: str):
        run = only_run(lab, f"budget.{budget}")
        return estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))

    ended = found(limit)
    assert ended.steps == 4
    assert (ended.budget_steps, ended.flops) == pytest.approx((steps, steps * STEP_FLOPS))
    assert found("tokens=1000000").budget_steps is None


def test_the_estimate_holds_the_longest_rows_and_half_precisions_scores(lab, define, definitions):
    rows = ["a" * 10] * 80 + ["a" * 30] * 20
    (lab / "t.jsonl").write_text("".join(json.dumps({"prompt": "b" * 10, "completion": row}) + "\n" for row in rows))

    def memory(**hyperparameters):
        changes = {"data": {"path": str(lab / "t.jsonl")}, "evaluate": None}
        settings = definitions["start"]["hyperparameters"] | hyperparameters
        define("long", definitions["start"] | changes | {"hyperparameters": settings})
        run = only_run(lab, name="long")
        return estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))

    whole, two, half = memory(), memory(micro_batch_rows=2), memory(precision="bf16")
    assert whole.tokens_per_step == 16 * (10 + 14 + 1)  # the completion's end is learned
    layer, parameters = 25 * 64, 98 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256)
    assert whole.memory_bytes - two.memory_bytes == 4 * 1.25 * 14 * 41 * (2 * layer + 4 * 98)
    scores = 16 * 41 * 2 * 2 * 4 * 41  # rows x tokens x layers x numbers x heads x positions
    assert half.memory_bytes - whole.memory_bytes == 4 * (1.25 * scores + parameters / 2)


def test_the_estimate_holds_a_reference_where_one_is_kept_and_none_where_its_scores_are_stored(
    lab, define, definitions
):
    rows = [{"prompt": "b", "completion": "aa"}] * 32
    labelled = [row | {"label": place % 2 == 0} for place, row in enumerate(rows)]
    pairs = [{"prompt": "b", "chosen": "aa", "rejected": "ab"}] * 32
    for name, written in (("rows", rows), ("labelled", labelled), ("pairs", pairs)):
        (lab / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))

    def memory(trainer, data, **hyperparameters):
        changes = {"trainer": trainer, "data": {"path": str(lab / f"{data}.jsonl")}, "evaluate": None}
        define("kept", definitions["start"] | changes | {"hyperparameters": {"steps": 2} | hyperparameters})
        run = only_run(lab, name="kept")
        return estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test")).memory_bytes

    policy = 4 * (98 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256))
    assert memory("dpo", "pairs") == memory("orpo", "pairs")
    assert memory("dpo", "pairs", sync_reference_every=1) == memory("orpo", "pairs") + policy
    assert memory("kto", "labelled", batch_rows=32) == memory("sft", "rows", batch_rows=32) + policy


def test_what_is_computed_again_counts_where_it_moves_the_end(lab):
    budget = "budget.flops=1.0e9"
    assert fingerprint_of(lab, budget, "gradient_checkpointing=true") != fingerprint_of(lab, budget)


def test_how_rows_are_cut_counts_where_the_padding_that_is_charged_moves_the_end(lab):
    plain = fingerprint_of(lab, "budget.flops=1.0e9")
    assert fingerprint_of(lab, "budget.flops=1.0e9", "micro_batch_rows=2") != plain
    by_tokens = fingerprint_of(lab, "budget.tokens=1000")
    assert fingerprint_of(lab, "budget.tokens=1000", "micro_batch_rows=2") == by_tokens


def test_a_run_that_goes_on_names_every_version_that_its_flops_were_counted_by(tmp_path):
    folder = RunFolder(tmp_path, "lab/main/seed0")
    (folder.path / "checkpoints" / "step_1").mkdir(parents=True)
    record = folder.path / "provenance.json"
    for known, told in (
        ({}, f"not recorded and {COSTS_VERSION}"),
        ({"cost/flops": 1}, f"1 and {COSTS_VERSION}"),
        ({"cost/flops": f"1 and {COSTS_VERSION}"}, f"1 and {COSTS_VERSION}"),
    ):
        record.write_text(json.dumps({"measured_by": known}))
        assert counted_before(folder, {"state": "failed"}) == {"cost/flops": told}
    record.write_text(json.dumps({"measured_by": {"cost/flops": COSTS_VERSION}}))
    assert counted_before(folder, {"state": "failed"}) == {}
    (folder.path / "checkpoints" / "step_1").rmdir()
    record.write_text(json.dumps({"measured_by": {}}))
    assert counted_before(folder, {"state": "failed"}) == {}, "it begins anew"


def test_a_finished_run_that_was_moved_away_is_taken_back_where_it_is_asked_for_again(lab):
    run = only_run(lab)
    folder = finish(lab, run, model_sha256=hashlib.sha256(b"weights").hexdigest())
    first = folder.status()["fingerprint"]
    moved = folder.supersede()
    assert plan(lab, run).state == "kept"
    assert (plan(lab, run).trains, plan(lab, run).must_run) == (False, True)
    assert plan(lab, run, fresh=frozenset({run.key})).state == "new"
    other = replace(run, hyperparameters=run.hyperparameters.model_copy(update={"learning_rate": 0.1}))
    assert plan(lab, other).state == "new"
    finish(lab, other)
    assert plan(lab, run).reason == f"from {moved}"
    folder.take_back(moved)
    assert (plan(lab, run).state, folder.status()["fingerprint"]) == ("cached", first)
    assert plan(lab, other).state == "kept", "what stood there was moved away in its turn"


def test_what_was_moved_away_and_is_damaged_is_not_taken_back(lab):
    folder = finish(lab, only_run(lab), model_sha256=hashlib.sha256(b"weights").hexdigest())
    moved = folder.supersede()
    (moved / "model/model.safetensors").write_bytes(b"wieghts")
    with pytest.raises(ModelError, match="is damaged"):
        folder.take_back(moved)
    assert moved.is_dir()


def test_a_plan_says_that_a_resume_would_be_under_other_code(lab):
    run = only_run(lab)
    folder = finish(lab, run, state="interrupted", code="0123456789abcdef")
    (folder.path / "checkpoints/step_00000003").mkdir(parents=True)
    assert "FRESH=1, or INEXACT=1 marks it" in plan(lab, run).reason


def test_why_a_run_without_a_folder_failed_is_told_by_status_and_plan(lab):
    experiment = load_experiment("start", folder=lab / "experiments")
    key = experiment.runs[0].key
    assert "not started" in status_text(standings(experiment, lab / "runs"))
    write_plan(experiment, lab / "runs", [], {key: ("failed", "data.jsonl:2: is not JSON")})
    assert status_text(standings(experiment, lab / "runs")) == f"{key}  failed       data.jsonl:2: is not JSON"
    [row] = load_folders(lab / "runs", read_sealed(lab / "runs/start/plan.json")["runs"]).runs.to_dict("records")
    assert (row["state"], row["message"]) == ("failed", "data.jsonl:2: is not JSON")
    write_plan(experiment, lab / "runs", [])
    assert "not started" in status_text(standings(experiment, lab / "runs"))


def test_a_path_too_long_for_a_run_s_files_is_said_when_it_is_planned(lab):
    run = only_run(lab)
    deep = lab / "/".join(["d" * 200] * 18)
    [planned] = plan_runs([run], deep, {run.key: "float32"})
    assert (planned.state, "bytes, allowed 3695; choose RUNS=folder" in planned.reason) == ("broken", True)
    [planned] = plan_runs([run], lab / ("é" * 128), {run.key: "float32"})
    assert (planned.state, "a name of 256 bytes, allowed 255" in planned.reason) == ("broken", True)


def test_the_long_name_of_an_overridden_experiment_stands_for_what_it_was_run_with(lab):
    overrides = ["steps=2", "learning_rate=1e-4"]
    experiment = load_experiment("start", overrides, lab / "experiments")
    write_plan(experiment, lab / "runs", notes=[])
    assert as_planned(experiment.name, lab / "runs") == ("start", overrides)
    assert as_planned("start", lab / "runs") == ("start", [])
    with pytest.raises(DefinitionError, match=r"NAME: found 'start\+steps=3', of which .* holds no plan"):
        as_planned("start+steps=3", lab / "runs")


def test_after_an_undone_edit_a_child_is_told_by_the_model_that_is_taken_back(lab):
    experiment = load_experiment("sweep", folder=lab / "experiments")
    [[start], [child, *_]] = waves(experiment)
    first = finish(lab, start, model_sha256=hashlib.sha256(b"weights").hexdigest())
    finish(lab, child)
    first.supersede()
    other = replace(start, hyperparameters=start.hyperparameters.model_copy(update={"steps": 9}))
    finish(lab, other, model_fingerprint="m2")

    def states():
        specs = [start, child]
        return [run.state for run in plan_runs(specs, lab / "runs", {spec.key: "float32" for spec in specs})]

    assert states() == ["kept", "cached"]
    RunFolder(lab / "runs", child.key).supersede()
    finish(lab, child)  # as it was trained from the other start
    assert states() == ["kept", "kept"]
    assert plan(lab, child).state == "cached"
    text = describe_plan(experiment, lab / "runs", jobs=1, fresh=False).text
    assert f"{start.key}  made before, to be taken back" in text.replace("   ", " ")
