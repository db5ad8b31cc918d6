"""Built-in tasks: right answers, splits that never meet, rows that a longer draw begins with."""

from __future__ import annotations

import itertools
import re

import pytest

from workbench.data.settings import CollectSettings, TaskSettings
from workbench.data.tasks import HELD_OUT_SHARE, completion_limit, iterate_rows, make_rows, prompt_id
from workbench.errors import DataError
from workbench.rewards import get_verifier

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


def test_collected_data_takes_from_as_its_key():
    assert CollectSettings.model_validate({"task": "sort", "from": ["a", "b"]}).from_ == ["a", "b"]
