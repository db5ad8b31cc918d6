"""Built-in tasks: right answers, splits that never meet, rows that a longer draw begins with."""

from __future__ import annotations

import itertools
import re

import pytest
from pydantic import ValidationError

from workbench.data.settings import CollectSettings, TaskSettings
from workbench.data.tasks import HELD_OUT_SHARE, completion_limit, iterate_rows, make_rows, prompt_id
from workbench.errors import DataError
from workbench.evaluation.settings import EvaluateSettings
from workbench.rewards import get_verifier
from workbench.rewards.gym import BLOCK

TASKS = [
    TaskSettings(task="sort", digits=4),
    TaskSettings(task="sort", digits=8),
    TaskSettings(task="countdown", numbers=2),
    TaskSettings(task="countdown", numbers=3),
    TaskSettings(task="countdown", numbers=6),
]
IDS = [f"{task.task}-{task.digits if task.task == 'sort' else task.numbers}" for task in TASKS]


def _problem(prompt: str) -> tuple:
    """What makes two prompts the same problem: the digits; the target and the numbers in any order."""
    numbers = re.findall(r"[0-9]+", prompt)
    return (numbers[0], *sorted(numbers[1:]))


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_every_reference_answer_is_right_and_fits(task):
    verify = get_verifier(task.task)
    for split in ("train", "held_out"):
        for row in itertools.islice(iterate_rows(task, split, seed=1), 100):
            assert verify(row.prompt, row.completion, row.completion) == 1.0, row
            assert len(row.completion) + 1 <= completion_limit(task)


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_train_and_held_out_never_share_a_problem(task):
    held_out = {
        _problem(row.prompt) for seed in (0, 1) for row in itertools.islice(iterate_rows(task, "held_out", seed), 300)
    }
    train = {
        _problem(row.prompt) for seed in (0, 2) for row in itertools.islice(iterate_rows(task, "train", seed), 2000)
    }
    assert len(train) > 10
    assert len(held_out) > 3
    assert not train & held_out


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_fewer_rows_are_the_beginning_of_more(task):
    rows = make_rows(task, "train", 200, seed=7)
    assert make_rows(task, "train", 80, seed=7) == rows[:80]
    assert len({row.prompt for row in rows}) == 200
    assert len({row.prompt_id for row in rows}) == 200


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_seeds_give_other_rows(task):
    zero, one = (make_rows(task, "train", 50, seed=seed) for seed in (0, 1))
    assert zero != one
    assert [row.prompt for row in zero[:5]] != [row.prompt for row in one[:5]]


def test_a_prompt_has_one_id_per_task():
    assert prompt_id("sort", "sort 21: ") == prompt_id("sort", "sort 21: ")
    assert prompt_id("sort", "sort 21: ") != prompt_id("file", "sort 21: ")
    assert re.fullmatch(r"[0-9a-f]{12}", prompt_id("sort", "sort 21: "))


def test_rows_are_these_for_good():
    """Numbers that runs were made with: when they change, VERSION is raised."""
    assert [row.prompt for row in make_rows(TASKS[0], "train", 3, seed=0)] == [
        "sort 9463: ",
        "sort 3378: ",
        "sort 8964: ",
    ]
    rows = make_rows(TASKS[3], "held_out", 2, seed=0)
    assert [(row.prompt, row.completion) for row in rows] == [
        ("make 15 from 4 1 4: ", "4*4-1"),
        ("make 25 from 3 7 4: ", "7*3+4"),
    ]


def test_one_problem_in_eight_is_held_out():
    two = TaskSettings(task="sort", digits=2)
    sizes = {split: len(list(iterate_rows(two, split, 0))) for split in ("train", "held_out")}
    assert sum(sizes.values()) == 100
    assert 100 / HELD_OUT_SHARE * 0.4 < sizes["held_out"] < 100 / HELD_OUT_SHARE * 2


def test_a_task_that_has_not_so_many_prompts_says_how_many():
    with pytest.raises(
        DataError, match=r"sort has \d+ held_out prompts of this size, 500 are asked for: ask for fewer"
    ):
        make_rows(TaskSettings(task="sort", digits=2), "held_out", 500, seed=0)


GYM = TaskSettings(task="reasoning_gym", gym="chain_sum", gym_config={"max_terms": 3, "max_digits": 2})


def test_puzzles_of_a_generator_are_rows_as_any_other():
    pytest.importorskip("reasoning_gym")
    train = make_rows(GYM, "train", BLOCK + 50, seed=0)
    held_out = make_rows(GYM, "held_out", 100, seed=0)
    assert not {row.prompt for row in train} & {row.prompt for row in held_out}
    assert make_rows(GYM, "train", 20, seed=0) == train[:20] != make_rows(GYM, "train", 20, seed=1)
    verify = get_verifier("reasoning_gym")
    for row in train[:5] + train[-5:] + held_out[:5]:
        assert verify(row.prompt, row.completion, row.answer) == 1.0
        assert row.answer == row.reference != row.completion
        assert row.prompt.endswith("\n")
    longer = GYM.model_copy(update={"gym_config": {"min_terms": 6}})
    assert make_rows(longer, "train", 1, seed=0)[0].prompt not in {row.prompt for row in train}


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"task": "reasoning_gym"}, "need each other"), ({"task": "sort", "gym": "chain_sum"}, "need each other"),
     ({"task": "sort", "gym_config": {"a": 1}}, "gym_config belongs to gym"),
     ({"task": "reasoning_gym", "gym": "n_queens"}, "found n_queens, .*runs the completion as Python"),
     ({"task": "reasoning_gym", "gym": "chain_sum", "gym_config": {"seed": 1}}, r"gym_config\.seed is chosen by rows")],
)  # fmt: skip
@pytest.mark.parametrize("cls", [TaskSettings, EvaluateSettings])
def test_a_generator_and_its_task_need_each_other(cls, fields, message):
    with pytest.raises(ValidationError, match=message):
        cls.model_validate(fields)


def test_an_evaluation_measures_on_the_task_it_names():
    fields = {"task": "reasoning_gym", "gym": "gcd", "gym_config": {"min_numbers": 2}}
    assert EvaluateSettings.model_validate(fields).task_settings == TaskSettings.model_validate(fields)
    assert EvaluateSettings.model_validate(fields).max_new_tokens == 256
    assert EvaluateSettings(task="sort", digits=3).task_settings == TaskSettings(task="sort", digits=3)
    assert EvaluateSettings(path="a.jsonl").task_settings is None


def test_collected_data_takes_from_as_its_key():
    assert CollectSettings.model_validate({"task": "sort", "from": ["a", "b"]}).from_ == ["a", "b"]
