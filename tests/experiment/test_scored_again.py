"""What is measured changes, what is trained does not: the finished run is scored again, and its record is the one that
training under the new settings would have left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import WorkbenchError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.planning.plan import PlannedRun, plan_runs
from workbench.experiment.running import score_again as module
from workbench.experiment.running.prepare import Preparer
from workbench.experiment.running.run import execute
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.running.score_again import score_again
from workbench.models.presets import make_preset

PAIRS = [{"prompt": f"say {n}: ", "chosen": str(n % 7), "rejected": "x"} for n in range(24)]
FAST = {"steps": 4, "learning_rate": 1e-2, "precision": "float32", "checkpoint_every": 1}
OLD = {"task": "sort", "digits": 3, "prompts": 4, "every": 1, "max_new_tokens": 4}
NEW = OLD | {"prompts": 6, "sampling": {"temperature": 0.7}, "max_new_tokens": 5}
LORA = {"lora": {"rank": 2, "dropout": 0.2}}
ALONE = {"lora": {"rank": 2, "save": "adapter"}}
SFT = {
    "question": "q", "trainer": "sft", "model": {"path": "base"}, "data": {"task": "sort", "digits": 3, "rows": 64},
    "hyperparameters": FAST | {"batch_rows": 8}, "evaluate": OLD, "track": [],
}  # fmt: skip
DPO = SFT | {
    "trainer": "dpo", "data": {"path": "pairs.jsonl"}, "hyperparameters": FAST | {"batch_pairs": 4},
    "evaluate": {"pairs": "pairs.jsonl"},
}  # fmt: skip
ONLINE = SFT | {"hyperparameters": FAST | {"batch_prompts": 4, "max_new_tokens": 4}}
GRPO = ONLINE | {"trainer": "grpo", "hyperparameters": ONLINE["hyperparameters"] | {"group_size": 2}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sft": (SFT, NEW),
    "sft_samples": (SFT, OLD | {"samples": 4, "pass_at": [1, 4], "majority_at": [2]}),
    "sft_lora": (SFT | LORA, NEW),
    "sft_adapter": (SFT | ALONE, NEW),
    "sft_averaged": (SFT | {"hyperparameters": SFT["hyperparameters"] | {"ema_decay": 0.5}}, NEW),
    "dpo": (DPO, {"pairs": "held_pairs.jsonl", "every": 2}),
    "dpo_lora": (DPO | LORA, NEW | {"pairs": "held_pairs.jsonl"}),
    "dpo_adapter": (DPO | ALONE, {"pairs": "held_pairs.jsonl"}),
    "grpo": (GRPO, NEW),
    "grpo_lora": (GRPO | LORA, NEW | {"kl": False}),
    "grpo_adapter": (GRPO | ALONE, NEW | {"seed": 1}),
    "ppo": (ONLINE | {"trainer": "ppo"}, NEW),
}

QUICK = ("sft", "sft_samples", "dpo")


class Silent:
    def say(self, text: str) -> None: ...

    def progress(self, label: str, done: int, total: int) -> None: ...


@pytest.fixture
def plan(lab, define, monkeypatch, torch):
    """plan(definition, runs="runs") -> the planned run of experiments/it.yaml; its files are in the lab."""
    monkeypatch.chdir(lab)
    torch.set_num_threads(1)
    make_preset("tiny", lab / "base", 0)
    for name, rows in (("pairs", PAIRS), ("held_pairs", PAIRS[:9:2])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def planned(definition: dict[str, Any], runs: str = "runs") -> PlannedRun:
        define("it", definition)
        specs = load_experiment("it").runs
        return plan_runs(specs, Path(runs), {spec.key: "float32" for spec in specs})[0]

    return planned


def prepare(run: PlannedRun, runs: str = "runs") -> Any:
    return Preparer(Path(runs), Silent(), 1).prepare(run.spec, "float32")


def train(run: PlannedRun, runs: str = "runs") -> RunFolder:
    execute(prepare(run, runs), Path(runs), {})
    return RunFolder(Path(runs), run.spec.key)


def score(run: PlannedRun) -> RunFolder:
    assert run.state == "scored", (run.state, run.reason)
    score_again(prepare(run), Path("runs"), {"commit": "abc"})
    return RunFolder(Path("runs"), run.spec.key)


def rows(folder: RunFolder, name: str = "metrics") -> list[dict[str, Any]]:
    path = folder.path / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("eval/")}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_a_row_that_is_scored_again_is_the_one_that_training_would_have_recorded(plan, name):
    definition, new = CASES[name]
    wanted = definition | {"evaluate": new}
    train(plan(definition))
    scored, trained = score(plan(wanted)), train(plan(wanted, "anew"), "anew")
    steps = [step for step in (0, 3, 4) if step != 3 or new.get("every") == 1]  # two checkpoints are kept
    for row, other in zip(rows(scored), rows(trained), strict=True):
        assert json.dumps(row) == json.dumps(other if row["step"] in steps else plain(other))
    assert plain(rows(scored)[-1]) != rows(scored)[-1]
    for record in ("completions", "pairs", "losses"):
        kept = [row for row in rows(trained, record) if row["step"] in steps or row.get("split") == "train"]
        assert rows(scored, record) == kept
    for field in ("fingerprint", "identity", "model_files", "model_fingerprint", "overlaps"):
        assert scored.status()[field] == trained.status()[field]
    assert plan(wanted).state == "cached"


SET = {"digits": 3, "prompts": 4, "max_new_tokens": 4, "task": "sort"}
OTHER = SET | {"task": "countdown"}


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ([SET], [SET, OTHER], {"b": (1, 2)}),
        ([SET, OTHER], [SET | {"prompts": 6}, OTHER], {"a": (1, 2)}),
        ([SET, OTHER], [SET], {}),
    ],
    ids=["a set more", "another deciding set", "a set less"],
)
def test_of_several_sets_only_those_that_changed_are_measured_again(plan, old, new, missing):
    def definition(sets: list[dict[str, Any]]) -> dict[str, Any]:
        named = [own | {"name": name, "every": 1} for name, own in zip("ab", sets, strict=False)]
        return SFT | {"evaluate": named if len(named) > 1 else named[0] | {"name": None}}

    train(plan(definition(old)))
    run = plan(definition(new))
    assert {name: own.missing for name, own in run.trained.points.items() if own.missing} == missing
    scored, trained = score(run), train(plan(definition(new), "anew"), "anew")
    kept = {step: [name for name in "ab" if step not in missing.get(name, ())] for step in range(5)}

    def is_kept(step: int, name: str) -> bool:
        return name in kept[step] or len(new) == 1

    for row, other in zip(rows(scored), rows(trained), strict=True):
        lost = {"a": "eval/", "b": "eval/b/"}
        other = {
            metric: value
            for metric, value in other.items()
            if not metric.startswith("eval/") or is_kept(row["step"], "b" if metric.startswith(lost["b"]) else "a")
        }
        assert json.dumps(row) == json.dumps(other)
    for record in ("completions", "losses"):
        wanted = [row for row in rows(trained, record) if is_kept(row["step"], row.get("set", "a"))]
        assert rows(scored, record) == wanted
    assert plan(definition(new)).state == "cached"


def test_the_harm_that_a_run_has_done_is_judged_by_what_is_measured_now(plan):
    diverging = SFT | {"hyperparameters": SFT["hyperparameters"] | {"learning_rate": 100.0}}
    old, new = ({name: value for name, value in at.items() if name != "every"} for at in (OLD, NEW))
    train(plan(diverging | {"evaluate": old}))
    wanted = diverging | {"evaluate": new}
    scored, trained = score(plan(wanted)), train(plan(wanted, "anew"), "anew")
    assert scored.status()["harms"] == trained.status()["harms"] != []
    assert scored.status()["warnings"] == trained.status()["warnings"]
    assert rows(scored, "warnings") == rows(trained, "warnings")


@pytest.fixture
def finished(plan) -> RunFolder:
    return train(plan(SFT))


def contents(folder: RunFolder) -> dict[str, bytes]:
    kinds = (".json", ".jsonl", ".yaml")
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if path.suffix in kinds}


def test_undoing_the_change_takes_the_former_scoring_back(plan, finished):
    before = contents(finished)
    assert "curve between was not kept (steps 1 and 2); FRESH=1" in plan(SFT | {"evaluate": NEW}).reason
    score(plan(SFT | {"evaluate": NEW}))
    assert contents(finished) != before
    note = finished.status()["scored"]["note"]
    assert finished.status()["scored"]["steps"] == [0, 3, 4]
    assert note in plan(SFT | {"evaluate": NEW}).reason
    assert note in finished.status()["notes"]
    again = plan(SFT)
    assert again.state == "kept"
    finished.take_back(finished.superseded_as(again.identity.fingerprint))
    assert contents(finished) == before


def test_of_another_cadence_what_was_measured_is_taken_and_not_measured_again(plan, finished, monkeypatch):
    before = rows(finished)
    monkeypatch.setattr(module, "_measure", lambda trainer, trained: ({}, []))
    score(plan(SFT | {"evaluate": OLD | {"every": 2}}))
    assert [row for row in rows(finished) if row["step"] % 2 == 0] == before[::2]
    assert rows(finished)[1] == plain(before[1])
    assert finished.status()["scored"]["missing"] == []
    assert {row["step"] for row in rows(finished, "completions")} == {0, 2, 4}


@pytest.mark.parametrize("lora", [{}, *(pytest.param(lora, marks=pytest.mark.slow) for lora in (LORA, ALONE))])
def test_the_last_step_is_scored_from_the_model_where_its_checkpoint_is_gone(plan, lora):
    finished = train(plan(SFT | lora))
    before = rows(finished)
    shutil.rmtree(finished.path / "checkpoints")
    score(plan(SFT | lora | {"evaluate": OLD | {"kl": False}}))
    after = rows(finished)
    assert finished.status()["scored"]["steps"] == [0, 4]
    assert after[-1] | {"eval/kl_start": before[-1]["eval/kl_start"]} == before[-1]


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_an_evaluation_that_fails_or_is_stopped_anywhere_leaves_the_run_as_it_is(plan, finished, monkeypatch):
    before, run = contents(finished), plan(SFT | {"evaluate": NEW})

    def stopped_at(place: Any, name: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(place, name, stop)
            with pytest.raises(KeyboardInterrupt):
                score(run)

    for name in ("build_trainer", "_measure", "_merge", "_write_metrics", "_link", "scored_note"):
        stopped_at(module, name)
        assert contents(finished) == before
        assert plan(SFT | {"evaluate": NEW}).state == "scored"
    Path("rows.jsonl").write_text(json.dumps({"prompt": "a" * 9000, "completion": "b"}) + "\n")
    too_long = plan(SFT | {"evaluate": {"path": "rows.jsonl"}})
    with pytest.raises(WorkbenchError, match=r"rows.jsonl:1"):
        score(too_long)
    assert contents(finished) == before
    assert not list(Path("runs/.superseded/it/main").iterdir())
    stopped_at(RunFolder, "take_back")
    assert contents(finished) == before
    assert plan(SFT | {"evaluate": NEW}).state == "kept"  # what is whole is taken by the next command


def test_a_run_that_begins_from_one_that_is_scored_again_stays(plan, finished, define):
    more = {**SFT, "start_from": "it"}
    del more["model"]
    define("more", more)
    specs = [finished_spec := load_experiment("it").runs[0], load_experiment("more").runs[0]]
    precisions = {spec.key: "float32" for spec in specs}
    begun = plan_runs(specs, Path("runs"), precisions)[1]
    assert begun.state == "new"
    score(plan(SFT | {"evaluate": NEW}))
    again = plan_runs([load_experiment("it").runs[0], specs[1]], Path("runs"), precisions)
    assert again[1].identity == begun.identity
    assert finished_spec.key == again[0].spec.key


def test_where_a_measure_decides_when_training_ends_a_change_of_it_trains_anew_and_says_why(plan):
    stopping = {"hyperparameters": SFT["hyperparameters"] | {"early_stopping": {"metric": "eval/loss", "mode": "min"}}}
    train(plan(SFT | stopping))
    changed = plan(SFT | stopping | {"evaluate": NEW})
    assert (changed.state, "early_stopping decides by what is measured" in changed.reason) == ("changed", True)
    assert plan(SFT | {"evaluate": NEW}).state == "changed", "a run that could have stopped is no run that could not"


def test_what_training_depends_on_is_never_only_scored(plan, finished):
    for change in ({"learning_rate": 1e-3}, {"steps": 3}, {"batch_rows": 4}):
        changed = {"hyperparameters": SFT["hyperparameters"] | change, "evaluate": NEW}
        assert plan(SFT | changed).state == "changed"
    assert plan(SFT | {"data": SFT["data"] | {"rows": 65}, "evaluate": NEW}).state == "changed"


def test_costs_and_rewards_stay_measured_by_the_versions_of_training():
    old, new = {"cost/flops": 3, "reward sort": 1, "sampling": 1}, {"cost/flops": 4, "reward sort": 2, "sampling": 2}
    assert module._measured_by(old, new) == {"cost/flops": 3, "reward sort": 1, "sampling": 2}


@pytest.mark.slow
def test_more_held_out_pairs_are_measured_on_and_not_trained_for(plan):
    collect = {"task": "sort", "digits": 3, "pairs": 16, "samples_per_prompt": 2, "no_correct": "reference"}

    def definition(held_out: int) -> dict[str, Any]:
        return DPO | {"data": {"collect": collect | {"held_out_pairs": held_out}}, "evaluate": OLD | {"every": 0}}

    train(plan(definition(4)))
    scored, trained = score(plan(definition(8))), train(plan(definition(8), "anew"), "anew")
    assert [json.dumps(row) for row in rows(scored)] == [json.dumps(row) for row in rows(trained)]
    assert rows(scored, "pairs") == rows(trained, "pairs")
    assert rows(scored)[-1]["eval/num_pairs"] == 8


@pytest.mark.slow
@pytest.mark.multi
def test_the_command_scores_again_and_takes_back_every_run_of_a_sweep(lab, define, command):
    small = {"model": {"preset": "tiny"}, "sweep": {"seeds": 2}, "track": ["tensorboard"]}
    definition = SFT | small | {"evaluate": OLD | {"every": 0}}
    folders = [lab / f"runs/it/main/seed{seed}" for seed in (0, 1)]
    define("it", definition)
    assert command("run", "it").returncode == 0
    before = [(folder / "model/model.safetensors").stat().st_ino for folder in folders]
    records = [(folder / "metrics.jsonl").read_bytes() for folder in folders]
    define("it", definition | {"evaluate": NEW | {"every": 1}})
    assert "2 of 2 runs to score again: about" in command("plan", "it").stdout
    done = command("run", "it")
    assert (done.returncode, "started" in done.stderr) == (0, False), done.stderr
    assert done.stderr.count("finished (scored again)") == 2
    for text in (command("status", "it").stdout, (lab / "runs/it/report/report.md").read_text()):
        assert "steps 0, 3 and 4; the curve between was not kept (steps 1 and 2); FRESH=1 trains anew" in text
    for folder, inode in zip(folders, before, strict=True):
        assert (folder / "model/model.safetensors").stat().st_ino == inode
        assert json.loads((folder / "tensorboard/replayed.json").read_text())["metrics_rows"] == 5
        found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        assert [row["step"] for row in found if "eval/loss" in row] == [0, 3, 4]
    (lab / "rows.jsonl").write_text(json.dumps({"prompt": "a" * 9000, "completion": "b"}) + "\n")
    define("it", definition | {"evaluate": {"path": "rows.jsonl"}})
    done = command("run", "it")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "as it is defined now it failed: rows.jsonl:1" in command("status", "it").stdout
    assert "as it is defined now it failed (rows.jsonl:1" in (lab / "runs/it/report/report.md").read_text()
    define("it", definition)
    done = command("run", "it")
    assert (done.returncode, "started" in done.stderr, done.stderr.count("taken back")) == (0, False, 2), done.stderr
    assert [(folder / "metrics.jsonl").read_bytes() for folder in folders] == records
    assert command("run", "it", "--fresh").stderr.count("started") == 2
