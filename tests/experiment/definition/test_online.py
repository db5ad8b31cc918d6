# ruff: noqa: E501 - a case of the table is one line
"""Definitions of trainers that sample their own data: what does not fit is one line, before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiment.conftest import trainers_with
from workbench.errors import DefinitionError
from workbench.experiment.definition.explain import conventions
from workbench.experiment.definition.resolve import load_experiment
from workbench.trainer.registry import trainer_names

GRPO = """question: Does it learn to sort?
trainer: grpo
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters:
  steps: 10
  group_size: 4
"""
REWARDS = "hyperparameters.rewards"
NO_REWARD = "5: hyperparameters.rewards: found none, allowed one or more for prompts of no built-in task, such as [{reward: number}]"
ONE_KIND = "allowed exactly one of reward, format, regex, length, model, model_from, file"

# what is replaced, by what, and the lines after "experiments/case.yaml:".
CASES: list[tuple[str, str, list[str]]] = [
    ("group_size: 4", "group_size: 1", ["7: hyperparameters.group_size: found 1, allowed numbers >= 2"]),
    ("{task: sort, rows: 128}", "{collect: {task: sort, pairs: 9}}", ["4: data.collect: found preference pairs for trainer grpo, allowed task, path or dataset"]),
    ("{task: sort, rows: 128}", "{path: x.jsonl}", [NO_REWARD]),
    ("{task: sort, rows: 128}", "{dataset: a/b}", [NO_REWARD]),
    ("group_size: 4", "rewards: [{reward: sortt}]", [f"7: {REWARDS}[0].reward: found 'sortt', allowed exact, number, math, countdown, sort or reasoning_gym, did you mean sort?"]),
    ("group_size: 4", "rewards: [{reward: sort, format: boxed}]", [f"7: {REWARDS}[0]: found reward and format, {ONE_KIND}"]),
    ("group_size: 4", "rewards: [{}]", [f"7: {REWARDS}[0]: found none of them, {ONE_KIND}"]),
    ("group_size: 4", "rewards: [sort]", [f"7: {REWARDS}[0]: found 'sort', allowed a mapping, did you mean {{reward: sort}}?"]),
    ("group_size: 4", "rewards: {reward: sort}", [f"7: {REWARDS}: found a mapping, allowed a list, did you mean [{{reward: sort}}]?"]),
    ("group_size: 4", "rewards: [{reward: sort}, {reward: sort}]", [f"7: {REWARDS}[1]: found another reward named sort, allowed names that differ: give it a name"]),
    ("group_size: 4", "rewards: [{reward: sort, weight: 0}]", [f"7: {REWARDS}: found weight 0 for all, allowed one at least that counts"]),
    ("group_size: 4", "rewards: [{reward: sort, weight: .nan}]", [f"7: {REWARDS}[0].weight: found .nan, allowed finite numbers"]),
    ("group_size: 4", "rewards: [{reward: sort, graded: true}]", [f"7: {REWARDS}[0]: graded belongs to format, found it with reward"]),
    ("group_size: 4", "rewards: [{regex: '('}]", [f"7: {REWARDS}[0].regex: found '(', allowed a pattern (missing ) at position 1)"]),
    ("group_size: 4", "loss: grop", ["7: hyperparameters.loss: found 'grop', allowed grpo, dapo, bnpo, dr_grpo, gspo, luspo, sapo or cispo, did you mean grpo?"]),
    ("group_size: 4", "temperature: 0", ["7: hyperparameters.temperature: found 0, allowed numbers > 0"]),
    ("group_size: 4", "minibatches: 99", ["5: hyperparameters: minibatches 99 are more than batch_prompts 8; allowed up to it"]),
    ("trainer: grpo", "trainer: gpro", [f"2: trainer: found 'gpro', allowed {', '.join(trainer_names())}, did you mean grpo?"]),
    ("trainer: grpo", "trainer: sft", [f"7: hyperparameters.group_size: found an unknown key, allowed the 27 names that `workbench explain sft` lists, did you mean {trainers_with('group_size')}?"]),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    return tmp_path / "experiments"


def load(folder: Path, text: str):
    (folder / "case.yaml").write_text(text)
    return load_experiment("case").runs[0]


@pytest.mark.parametrize(("old", "new", "lines"), CASES, ids=range(len(CASES)))
def test_what_does_not_fit_an_online_trainer_is_one_line(folder, old, new, lines):
    assert old in GRPO
    with pytest.raises(DefinitionError) as caught:
        load(folder, GRPO.replace(old, new))
    assert list(caught.value.problems) == [f"experiments/case.yaml:{line}" for line in lines]


def test_a_task_brings_its_own_reward_and_a_file_is_fine_with_one(folder):
    assert load(folder, GRPO).hyperparameters.rewards == ()
    of_file = GRPO.replace("{task: sort, rows: 128}", "{path: x.jsonl}")
    [reward] = load(folder, of_file + "  rewards: [{reward: number, weight: 2}]\n").hyperparameters.rewards
    assert (reward.kind, reward.reward, reward.weight) == ("reward", "number", 2.0)


@pytest.mark.parametrize(
    ("trainer", "more", "expected"),
    [
        ("grpo", "", "8 prompts x 4 completions per step"),
        ("grpo", "  passes: 2\n  minibatches: 4\n", "8 prompts x 4 completions per rollout, 8 steps of it"),
        ("ppo", "  batch_prompts: 16\n", "16 prompts x 4 completions per rollout, 4 steps of it"),
        ("online_dpo", "  micro_batch_rows: 2\n", "8 prompts x 4 completions per step, 2 rows at a time"),
    ],
)
def test_a_batch_is_told_in_prompts_and_completions(folder, trainer, more, expected):
    assert conventions(load(folder, GRPO.replace("grpo", trainer) + more))["batch"] == expected


def test_the_conventions_state_advantage_and_loss_by_their_names(folder):
    found = conventions(load(folder, GRPO + "  advantage: rloo\n  loss: dr_grpo\n"))
    assert found["advantages"].startswith("rloo: reward − mean of its prompt's other completions (Ahmadian")
    assert "divided by completions × max_new_tokens" in found["policy loss"]


def test_an_arm_that_is_online_keeps_no_pairs_of_the_one_that_is_not(folder):
    text = (
        "question: Which?\nmodel: {preset: tiny}\narms:\n"
        "  dpo: {trainer: dpo, data: {collect: {task: sort, pairs: 8}}, hyperparameters: {steps: 1}}\n"
        "  online: {trainer: online_dpo, data: {task: sort}, hyperparameters: {steps: 1, group_size: 2}}\n"
    )
    (folder / "case.yaml").write_text(text)
    assert [run.form.name for run in load_experiment("case").runs] == ["pairs", "prompts"]
