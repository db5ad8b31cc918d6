"""Built-in tasks: prompts with a reference answer, train and held-out never overlapping."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from workbench.data.settings import TaskSettings
from workbench.errors import DataError
from workbench.rewards.countdown import countdown_prompt
from workbench.rewards.sort import sort_prompt

VERSION = 1
HELD_OUT_SHARE = 8
"""One problem in this many is held out, by the hash of the problem."""


@dataclass(frozen=True)
class TaskRow:
    """prompt_id: hash of task and prompt."""

    prompt: str
    completion: str
    prompt_id: str


def make_rows(settings: TaskSettings, split: Literal["train", "held_out"], num: int, seed: int) -> list[TaskRow]:
    """`num` different prompts of a split. DataError when the task has not that many."""
    rows: dict[str, TaskRow] = {}
    makers: dict[str, Callable[[TaskSettings, random.Random], Iterator[tuple[str, str, str]]]] = {
        "sort": _sort_problems,
        "countdown": _countdown_problems,
    }
    problems = makers[settings.task](settings, random.Random(f"{settings.task} {split} {seed}"))
    for prompt, answer, problem in itertools.islice(problems, 100 * num + 10_000):
        if _is_held_out(f"{settings.task} {problem}") == (split == "held_out") and prompt not in rows:
            rows[prompt] = TaskRow(prompt, answer, prompt_id(settings.task, prompt))
            if len(rows) == num:
                return list(rows.values())
    raise DataError(
        f"{settings.task} has no {num} different {split} prompts of this size: ask for fewer or larger ones"
    )


def prompt_id(task: str, prompt: str) -> str:
    """The same for the same prompt, wherever it is met."""
    return hashlib.sha256(f"{task}\0{prompt}".encode()).hexdigest()[:12]


def _is_held_out(problem: str) -> bool:
    return hashlib.sha256(problem.encode()).digest()[0] % HELD_OUT_SHARE == 0


def _sort_problems(settings: TaskSettings, generator: random.Random) -> Iterator[tuple[str, str, str]]:
    while True:
        digits = "".join(generator.choices("0123456789", k=settings.digits))
        yield sort_prompt(digits), "".join(sorted(digits)), digits


def _countdown_problems(settings: TaskSettings, generator: random.Random) -> Iterator[tuple[str, str, str]]:
    """Numbers 1 to 9 and a target that a random expression over them reaches; a problem is told by its sorted numbers
    and target, so that another order of the same numbers never crosses the split."""
    while True:
        numbers = [generator.randint(1, 9) for _ in range(settings.numbers)]
        solved = _random_expression(numbers, generator)
        if solved is None or not 1 <= solved[1] <= 99:
            continue
        shown = generator.sample(numbers, len(numbers))
        yield countdown_prompt(solved[1], shown), solved[0], f"{solved[1]} {sorted(numbers)}"


def _random_expression(numbers: list[int], generator: random.Random) -> tuple[str, int] | None:
    """A left-to-right expression over all numbers with whole intermediate values; None when a division breaks."""
    text, value, last = str(numbers[0]), numbers[0], "*"
    for number in numbers[1:]:
        sign = generator.choice("+-*/" if value % number == 0 else "+-*")
        text = f"({text}){sign}{number}" if sign in "*/" and last in "+-" else f"{text}{sign}{number}"
        value = {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[sign]
        last = sign
    return (text, value) if value >= 0 else None
