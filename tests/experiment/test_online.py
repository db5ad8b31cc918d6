"""Experiments of trainers that sample their own data: what decides their numbers, own code as a reward, end to end."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Command
from tests.trainers import ONLINE
from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
from workbench.experiment.identity import identify
from workbench.experiment.planning.estimate import estimate
from workbench.experiment.planning.plan_text import describe_plan
from workbench.experiment.planning.speed import Speed

OWN_CODE = "def reward(completions, answers):\n    return [float(len(text)) for text in completions]\n"
GRPO: dict[str, Any] = {
    "question": "Does it learn to sort?",
    "trainer": "grpo",
    "start_from": "start",
    "data": {"task": "sort", "digits": 3, "rows": 64},
    "hyperparameters": {
        "steps": 2, "batch_prompts": 4, "group_size": 4, "max_new_tokens": 6, "learning_rate": 1e-3,
        "rewards": [{"reward": "sort"}, {"length": {"target": 3}, "weight": 0.5}], "precision": "float32",
    },
    "evaluate": {"task": "sort", "digits": 3, "prompts": 8, "max_new_tokens": 6},
}  # fmt: skip


@pytest.fixture
def online(define) -> Callable[..., None]:
    """online(name, trainer=..., hyperparameter=...) writes the definition with these changes."""

    def write(name: str, trainer: str = "grpo", /, **changes: Any) -> None:
        kept = {key: changes.pop(key) for key in list(changes) if key in (*GRPO, "model")}
        settings = {k: v for k, v in (GRPO["hyperparameters"] | changes).items() if v is not None}
        definition = GRPO | {"trainer": trainer, "hyperparameters": settings} | kept
        define(name, {key: value for key, value in definition.items() if value is not None})

    return write


def run_of(lab: Path, name: str, *overrides: str):
    return load_experiment(name, overrides, lab / "experiments").runs[0]


def fingerprint(lab: Path, name: str, *overrides: str) -> str | None:
    return identify(run_of(lab, name, *overrides), lab / "runs", "float32").fingerprint


def alone(online: Callable[..., None], name: str, **changes: Any) -> None:
    """A definition that waits for no start."""
    online(name, start_from=None, model={"preset": "tiny"}, **changes)


def test_what_rewards_and_sampling_are_decides_the_run_and_what_is_only_written_does_not(lab, online):
    alone(online, "a")
    first = fingerprint(lab, "a")
    for changed in ("temperature=0.5", "group_size=8", "rewards=[{reward: sort}]", "max_new_tokens=5"):
        assert fingerprint(lab, "a", changed) != first
    for same in ("logged_prompts=9", "micro_batch_rows=2"):
        assert fingerprint(lab, "a", same) == first
    # A task's own check is the reward that is not named.
    alone(online, "none", rewards=None)
    alone(online, "named", rewards=[{"reward": "sort"}])
    assert fingerprint(lab, "none") == fingerprint(lab, "named")


def test_own_code_counts_by_its_content_and_not_by_its_place(lab, online):
    for name, text in (("a", OWN_CODE), ("b", OWN_CODE), ("c", OWN_CODE + "# other\n")):
        (lab / f"{name}.py").write_text(text)
        alone(online, name, rewards=[{"file": str(lab / f"{name}.py")}])
    assert fingerprint(lab, "a") == fingerprint(lab, "b") != fingerprint(lab, "c")
    alone(online, "lost", rewards=[{"file": "nowhere.py"}])
    with pytest.raises(DefinitionError, match=r"nowhere\.py: no such file"):
        fingerprint(lab, "lost")


@pytest.mark.slow
@pytest.mark.multi
def test_own_code_is_refused_before_anything_runs_unless_it_is_allowed(lab, command, online, define, definitions):
    (lab / "own.py").write_text(OWN_CODE + "open('ran', 'w').close()\n")
    alone(online, "own", rewards=[{"reward": "sort"}, {"file": "own.py"}])
    define("child", definitions["start"] | {"start_from": "own", "model": None})
    for name in ("own", "child"):
        done = command("run", name)
        assert done.returncode == 2
        assert done.stderr.strip() == (
            "experiments/own.yaml:13: hyperparameters.rewards[1].file: found own code (own.py), allowed with "
            "--allow-reward-code (make: REWARD_CODE=1): it runs with your rights, so read it first"
        )
    planned = command("plan", "own")
    assert "own code as rewards: own.py; to run it needs --allow-reward-code" in planned.stdout
    assert "needs" not in command("plan", "own", "--allow-reward-code").stdout
    assert not (lab / "ran").exists()
    assert not (lab / "runs").exists()
    assert command("run", "own", "--allow-reward-code").returncode == 0
    run = lab / "runs/own/main/seed0"
    [sha] = [sha for path, sha in json.loads((run / "provenance.json").read_text())["data"].items() if path == "own.py"]
    assert len(sha) == 64
    assert rows(run)[-1]["rewards/reward/mean"] > 0


def test_the_estimate_counts_sampling_and_learning_by_hand(lab, online):
    alone(online, "plain", steps=None, epochs=2.0)
    run = run_of(lab, "plain")
    found = estimate(run, {run.key: run}, lab / "runs", Speed(1e9, "test"))
    parameters = 98 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 256)
    prompt, completion = len("sort 123: "), 3
    assert (found.rows, found.steps_per_epoch, found.steps) == (64, 16, 32)
    # A prompt once for its four completions, in sampling and in learning.
    sampled = 4 * prompt + 16 * completion
    assert found.tokens_per_step == sampled
    assert found.flops == 32 * (sampled * 6 + 2 * sampled) * parameters
    tied = run_of(lab, "plain", "beta=0.1", "passes=2", "minibatches=2", "steps=1")
    more = estimate(tied, {tied.key: tied}, lab / "runs", Speed(1e9, "test"))
    assert more.tokens_per_step == sampled / 2
    assert more.flops == (sampled / 2 * 6 + 2 * (sampled / 4 + sampled / 4)) * parameters
    assert (
        "4 prompts x 4 completions per step"
        in describe_plan(load_experiment("plain", folder=lab / "experiments"), lab / "runs", jobs=1, fresh=False).text
    )


def rows(run: Path, name: str = "metrics.jsonl") -> list[dict]:
    """Rows without their clock fields."""
    lines = (run / name).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]


@pytest.mark.multi
@pytest.mark.slow
@pytest.mark.parametrize("trainer", ONLINE)
def test_an_online_run_leaves_what_others_do_and_its_own_completions(lab, command, online, trainer):
    online("online", trainer)
    done = command("run", "online", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    run = lab / "runs/online/main/seed0"
    found = rows(run)
    assert [row["step"] for row in found] == [0, 1, 2]
    assert found[0]["eval/kl_start"] == 0.0
    assert found[-1]["eval/num_prompts"] == 8
    assert found[1]["reward"] == pytest.approx(found[1]["rewards/sort/mean"] + 0.5 * found[1]["rewards/length/mean"])
    assert found[-1]["cost/generated_tokens"] > 0
    sampled = [row for row in rows(run, "completions.jsonl") if row["split"] == "train"]
    assert {tuple(row["rewards"]) for row in sampled} == {("sort", "length")}
    assert all(row["prompt"].startswith("sort ") for row in sampled)
    status = json.loads((run / "status.json").read_text())
    assert status["costs"]["generated_tokens"] == found[-1]["cost/generated_tokens"]
    assert (lab / "runs/online/report/index.html").exists()
    data = command("data", "online", "--rows", "1").stdout
    assert "64 of 64 prompts have one" in data
    assert "answer: " in data


@pytest.mark.multi
@pytest.mark.slow
@pytest.mark.parametrize("trainer", ONLINE)
def test_an_online_run_that_a_signal_ended_ends_bit_identical(lab, command, online, trainer):
    online("online", trainer, steps=40)
    assert command("run", "online", "--runs", "whole").returncode == 0
    assert command("run", "start").returncode == 0
    process = Command(lab, "run", "online")
    run, deadline = lab / "runs/online/main/seed0", time.monotonic() + 60
    while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and len(rows(run)) > 5):
        time.sleep(0.01)
    process.send(signal.SIGINT)
    code, output = process.end(60.0)
    assert code == 128 + signal.SIGINT, output
    assert command("run", "online").returncode == 0
    whole = lab / "whole/online/main/seed0"
    for name in ("metrics.jsonl", "completions.jsonl"):
        assert rows(run, name) == rows(whole, name)
    assert (run / "model/model.safetensors").read_bytes() == (whole / "model/model.safetensors").read_bytes()


@pytest.mark.multi
@pytest.mark.slow
def test_a_file_of_prompts_with_answers_trains_and_is_measured(lab, command, online):
    for name, numbers in (("train", range(12)), ("test", range(12, 20))):
        lines = ({"prompt": f"sort {n + 10}: ", "answer": "".join(sorted(str(n + 10)))} for n in numbers)
        (lab / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    data, evaluate = {"path": "train.jsonl"}, {"path": "test.jsonl", "max_new_tokens": 6}
    online("file", data=data, evaluate=evaluate, rewards=[{"reward": "exact"}, {"length": {"target": 2}}])
    done = command("run", "file")
    assert done.returncode == 0, done.stderr
    assert rows(lab / "runs/file/main/seed0")[-1]["eval/num_prompts"] == 8
    (lab / "test.jsonl").write_text('{"prompt": "sort 21: "}\n')
    done = command("run", "file")
    assert done.returncode == 2
    assert "test.jsonl:1: the row has no answer, allowed rows with one: exact match compares" in done.stderr
    (lab / "train.jsonl").write_text('{"text": "sort 21: 12"}\n')
    done = command("run", "file")
    assert done.returncode == 2
    assert "train.jsonl:1: found text rows, this needs rows of prompt; prompt, answer;" in done.stderr
