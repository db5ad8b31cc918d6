"""Which trials go on, by hand; and a search whose trials are judged on their way."""

from __future__ import annotations

import json
import math

import pytest

from tests.experiment.search.conftest import score, variants
from workbench.errors import DefinitionError
from workbench.experiment.identity import identify
from workbench.experiment.running.run_folder import PAUSED, RunFolder
from workbench.experiment.search.halving import promoted_at_once, promoted_together
from workbench.experiment.search.journal import Journal, Trial
from workbench.experiment.search.loop import as_it_stands, parts
from workbench.experiment.search.settings import Halving, Pause

HALVING = {"first": 2, "factor": 2}


def trials(number: int, rung: int = 0) -> list[Trial]:
    return [Trial(None, {"x": index}, rung) for index in range(number)]


def settings_of(found: list[Trial]) -> list[int]:
    return [trial.setting["x"] for trial in found]


def test_rungs_by_hand():
    assert Halving(first=10, factor=3).rungs(100) == (Pause("steps", 10), Pause("steps", 30), Pause("steps", 90), None)
    assert Halving(first=10, factor=3).rungs(90) == (Pause("steps", 10), Pause("steps", 30), None)
    pause = Pause("flops", 5.0)
    assert pause({"step": 3, "cost/flops": 5.0, "eval/loss": 1.0})
    assert not pause({"step": 3, "cost/flops": 9.0})  # no evaluation
    assert not pause({"step": 30, "cost/flops": 4.9, "eval/loss": 1.0})


def test_one_in_factor_of_a_rung_goes_on_together_the_best_first():
    ended = dict(zip((trial.name for trial in trials(6)), [0.1, 0.5, math.nan, 0.9, 0.5, 0.2], strict=True))
    assert settings_of(promoted_together([trials(6), [], []], ended, 3, 1)) == [3, 1]
    assert settings_of(promoted_together([trials(6), [], []], ended, 3, 4)) == [3, 1, 4, 5]
    gone = [Trial(None, {"x": 3}, 1), Trial(None, {"x": 1}, 1)]
    ended |= {gone[0].name: 0.3, gone[1].name: 0.4}
    assert settings_of(promoted_together([trials(6), gone, []], ended, 3, 1)) == [1]


def test_asha_lets_a_trial_go_on_as_soon_as_it_is_among_the_best_so_far():
    ended = {trial.name: value for trial, value in zip(trials(3), [0.1, 0.5, 0.3], strict=True)}
    assert settings_of(promoted_at_once([trials(2), [], []], ended, 3)) == []
    assert settings_of(promoted_at_once([trials(3), [], []], ended, 3)) == [1]
    assert settings_of(promoted_at_once([trials(3), [Trial(None, {"x": 1}, 1)], []], ended, 3)) == []


def train(part, runs, journey: list[tuple[str, float]]) -> None:
    """Stands in for training: a row at every second step up to the pause or the end, which is step 8."""
    for run in part.todo.runs:
        folder = RunFolder(runs, run.key)
        if folder.is_finished() or folder.is_paused(run.pause):
            continue
        last = int(run.pause.limit) if run.pause is not None else 8
        journey.append((run.variant, last))
        identity = identify(run, runs, "float32")
        folder.model.mkdir(parents=True, exist_ok=True)
        rows = [{"step": step, "eval/exact_match_sampled": score(run) * step / 8} for step in range(0, last + 1, 2)]
        (folder.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        said = {"fingerprint": identity.fingerprint, "identity": identity.fields, "step": last}
        if run.pause is not None:
            folder.write_status(state=PAUSED, paused={"by": run.pause.by, "limit": run.pause.limit}, **said)
        else:
            (folder.model / "model.safetensors").write_bytes(b"weights")
            folder.write_status(state="finished", **said)


@pytest.mark.parametrize("rule", ["successive", "asha"])
@pytest.mark.parametrize("kill", [None, 2, 5])
def test_only_the_best_are_trained_to_their_end_and_a_kill_changes_nothing(lab, searched, definitions, rule, kill):
    hyperparameters = definitions["start"]["hyperparameters"] | {"steps": 8}
    experiment = searched(trials=8, seeds=1, halving=HALVING | {"rule": rule}, confirm={"top": 1, "seeds": 2},
                          extra={"hyperparameters": hyperparameters})  # fmt: skip
    journey: list[tuple[str, float]] = []
    for number, part in enumerate(parts(experiment, lab / "runs", jobs=1, fresh=False, say=lambda _: None)):
        if number == kill:
            break
        train(part, lab / "runs", journey)
    for part in parts(experiment, lab / "runs", jobs=1, fresh=False, say=lambda _: None):
        train(part, lab / "runs", journey)
    ends = [last for _, last in journey]
    assert len(variants(f"x/{name}/s" for name, last in journey if last == 2)) == 8
    assert ends.count(2) == 8
    assert ends.count(4) == 4
    assert ends.count(8) == 2 + 2  # the confirmation's two seeds among them
    best = max(experiment.runs, key=score)
    assert [run.variant for run in part.whole.runs if run.seed > 0] == [best.variant] * 2
    assert (ends[:8] == [2] * 8) == (rule == "successive")
    stands = as_it_stands(experiment, lab / "runs")
    assert sum(run.pause is not None for run in stands.runs) == 6


def test_a_changed_halving_keeps_how_far_trials_went_and_calls_none_of_them_outside(lab, searched, definitions):
    def load(halving):
        hyperparameters = definitions["start"]["hyperparameters"] | {"steps": 8}
        return searched(trials=4, seeds=1, halving=halving, extra={"hyperparameters": hyperparameters})

    asked = load(HALVING)  # at steps 2, 4 and the end
    first, second = [dict(run.point) for run in asked.runs[:2]]
    begun = [Trial(None, first), Trial(None, second), Trial(None, first, 1), Trial(None, first, 2)]
    Journal(asked, lab / "runs").add(begun)
    sooner = Journal(load({"first": 4}), lab / "runs")  # at step 4 and the end
    assert sooner.trials == [*begun[:2], Trial(None, first, 1)]
    assert sooner.num_outside == 0
    Journal(load(None), lab / "runs").add([])
    assert Journal(load(None), lab / "runs").trials == begun[:2]
    assert sorted(trial.name for trial in Journal(asked, lab / "runs").trials) == sorted(t.name for t in begun)
    said: list[str] = []
    next(parts(load(None), lab / "runs", jobs=1, fresh=False, say=said.append))
    assert said == ["search: 2 trials begun before are reused"]


@pytest.mark.parametrize(
    ("settings", "extra", "said"),
    [
        ({"first": 9}, {}, "sweep.search.halving.first: found 9, allowed numbers < 4, the length of a run"),
        ({"first": 2, "by": "flops"}, {}, "allowed the same budget: {flops: ...} in all"),
        ({"first": 0}, {}, "sweep.search.halving.first: found 0, allowed numbers > 0"),
        ({"first": 2, "factor": 1}, {}, "sweep.search.halving.factor: found 1, allowed numbers >= 2"),
        ({"first": 2}, {"evaluate": {"task": "sort", "digits": 3, "prompts": 8}}, "found without evaluate.every"),
    ],
)
def test_rungs_that_cannot_be_told_are_refused(searched, settings, extra, said):
    with pytest.raises(DefinitionError) as raised:
        searched(halving=settings, extra=extra)
    assert said in str(raised.value)
    assert str(raised.value).startswith("experiments/search.yaml:")


@pytest.mark.multi
@pytest.mark.slow
def test_a_trial_that_was_judged_on_its_way_ends_with_the_bits_of_one_that_was_not(lab, define, definitions, command):
    settings = definitions["start"]["hyperparameters"] | {"steps": 8, "schedule": "cosine"}
    plain = definitions["start"] | {"hyperparameters": settings}
    halving = {"first": 2, "factor": 2, "rule": "asha"}
    sweep = {"search": {"trials": 3, "space": {"learning_rate": {"log": [1e-3, 1e-2]}}, "halving": halving}}
    define("judged", plain | {"sweep": sweep})
    done = command("run", "judged", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "paused at step 2 by its search" in done.stderr
    statuses = {path.parent: json.loads(path.read_text()) for path in (lab / "runs/judged").glob("*/*/status.json")}
    [ended] = [folder for folder, status in statuses.items() if status["state"] == "finished"]
    assert sorted(status["state"] for status in statuses.values()) == ["finished", "paused", "paused"]
    rate = ended.parent.name.removeprefix("learning_rate=")
    assert command("run", "start", "--set", "steps=8", "schedule=cosine", f"learning_rate={rate}").returncode == 0
    [once] = (lab / "runs").glob("start+*/main/seed0/model/model.safetensors")
    assert once.read_bytes() == (ended / "model/model.safetensors").read_bytes()
    again = command("run", "judged", "--jobs", "1")
    assert again.returncode == 0
    assert "3 of 3 runs finished already" in again.stderr
    report = (lab / "runs/judged/report/report.md").read_text()
    assert "Nothing is claimed" in report
    assert "2 trials did not go on from where the search judged it" in report
