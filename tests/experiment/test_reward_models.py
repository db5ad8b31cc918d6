"""A reward model from pairs to the reward of another run, through the command line; and what it is refused for."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.tracking.reader import read_rows

pytestmark = [pytest.mark.multi, pytest.mark.slow]


@pytest.fixture
def judged(lab, define, definitions):
    """Definitions of a reward model with two seeds, and of a GRPO run that the one of its own seed judges."""
    reward = definitions["sweep"] | {"trainer": "reward", "evaluate": {"every": 2}, "sweep": {"seeds": 2}}
    reward["hyperparameters"] = {"steps": 3, "batch_pairs": 16, "learning_rate": 1e-3, "precision": "float32"}
    define("reward", reward)
    rewards = [{"model_from": {"experiment": "reward", "seed": "match"}}, {"reward": "sort", "weight": 0}]
    sampling = {"batch_prompts": 4, "group_size": 4, "max_new_tokens": 4}
    start = {name: part for name, part in definitions["start"].items() if name != "model"}
    grpo = start | {"trainer": "grpo", "start_from": "start", "sweep": {"seeds": 2}}
    define("judged", grpo | {"hyperparameters": {"steps": 2, "precision": "float32", "rewards": rewards} | sampling})
    return lab


def last_row(run):
    return read_rows(run / "metrics.jsonl")[-1]


def test_a_run_is_judged_by_the_reward_model_of_its_seed_which_is_trained_first(judged, command):
    done = command("run", "judged")
    assert done.returncode == 0, done.stderr
    rewards = [judged / f"runs/reward/main/seed{seed}" for seed in range(2)]
    assert {"eval/pair_accuracy", "eval/pair_margin", "eval/score_mean", "eval/score_sd"} <= last_row(rewards[0]).keys()
    assert "eval/exact_match_greedy" not in last_row(rewards[0])
    config = json.loads((rewards[0] / "model/config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    runs = [judged / f"runs/judged/main/seed{seed}" for seed in range(2)]
    rows = [last_row(run) for run in runs]
    assert all({"rewards/model/mean", "rewards/sort/mean", "eval/exact_match_greedy"} <= row.keys() for row in rows)
    assert all(row["reward"] == pytest.approx(row["rewards/model/mean"]) for row in rows)
    identities = [json.loads((run / "status.json").read_text())["identity"] for run in runs]
    fingerprints = [json.loads((run / "status.json").read_text())["model_fingerprint"] for run in rewards]
    assert [identity["hyperparameters"]["rewards"][0]["model"] for identity in identities] == fingerprints
    assert "2 of 2 runs finished already" in command("run", "judged").stderr
    spoken = command("sample", "reward/main/seed0", "3 1 2 >")
    assert (spoken.returncode, "scores texts and completes none" in spoken.stderr) == (2, True)

    weights = rewards[1] / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    shutil.rmtree(runs[1])
    again = command("run", "judged")
    assert again.returncode == 2
    assert "runs/reward/main/seed1/model" in again.stderr
    assert "Traceback" not in again.stderr


REFUSED = {
    "start_from": ("start_from: reward", "start_from: found reward, which leaves a reward model (trainer reward)"),
    "judge": ("model_from: start", "model_from: found start, which leaves a language model (trainer sft), allowed"),
    "unknown": ("model_from: rewad", "model_from: found 'rewad'"),
    "variant": ("model_from: {experiment: reward, seed: 7}", "found seed 7, allowed the seeds of reward: 0, 1"),
    "seeds": (
        "model_from: reward",
        "allowed one of them, written as model_from: {experiment: reward, seed: match}, or",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_of_another_kind_is_refused_by_its_line(case, judged, command):
    written, problem = REFUSED[case]
    start, model_from = ("reward", "reward") if case == "start_from" else ("start", written.partition(": ")[2])
    (judged / "experiments/case.yaml").write_text(
        f"question: q\ntrainer: grpo\nstart_from: {{experiment: {start}, seed: 0}}\n"
        "data: {task: sort, digits: 3, rows: 16}\n"
        f"hyperparameters:\n  steps: 2\n  rewards:\n    - model_from: {model_from}\n      weight: 2.0\n"
    )
    done = command("plan", "case")
    line = 3 if case == "start_from" else 8
    assert done.returncode == 2
    assert f"experiments/case.yaml:{line}: " in done.stderr
    assert problem in done.stderr
    assert not (judged / "runs").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"evaluate": {"task": "sort"}},
            "evaluate.task: found prompts to complete, and trainer reward leaves a reward",
        ),
        ({"lora": {"rank": 2, "save": "adapter"}}, "lora.save: found adapter, and trainer reward trains a score head"),
        (
            {"data": {"task": "sort"}},
            "data.task: found rows of a task for trainer reward, allowed path to a preference",
        ),
    ],
)
def test_what_a_reward_model_cannot_do_is_refused(change, problem, judged, define, definitions, command):
    reward = definitions["sweep"] | {"trainer": "reward", "evaluate": {"every": 2}, "sweep": {"seeds": 1}}
    define("reward", reward | {"hyperparameters": {"steps": 3}} | change)
    done = command("plan", "reward")
    assert done.returncode == 2
    assert problem in done.stderr


def test_a_folder_that_is_no_reward_model_is_named_by_the_line_of_the_definition(judged, command):
    """Two labels, of which none is named; and a language model."""
    for number, (config, problem) in enumerate(
        (
            ({"architectures": ["LlamaForSequenceClassification"]}, "found no label, allowed one of LABEL_0, LABEL_1"),
            ({"architectures": ["LlamaForCausalLM"]}, "no classifier (LlamaForCausalLM), it has no score head"),
        )
    ):
        folder = judged / f"folder{number}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").touch()
        (judged / f"experiments/case{number}.yaml").write_text(
            "question: q\ntrainer: grpo\nmodel: {preset: tiny}\ndata: {task: sort, digits: 3, rows: 16}\n"
            f"hyperparameters:\n  steps: 2\n  rewards: [{{model: {folder.name}}}]\n"
        )
        done = command("plan", f"case{number}")
        assert done.returncode == 2
        assert f"experiments/case{number}.yaml:7: rewards: {folder.name}: {problem}" in done.stdout + done.stderr
