"""Built-in tasks: prompts with a reference answer, train and held-out never overlapping."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from workbench.data.settings import TaskSettings
from workbench.errors import DataError
from workbench.rewards.countdown import countdown_prompt
from workbench.rewards.gym import BLOCK, make_puzzle
from workbench.rewards.sort import sort_prompt

VERSION = 1
HELD_OUT_SHARE = 8
"""One problem in this many is held out, by the hash of the problem."""
MAX_BARREN = 20_000
"""Draws without a new prompt after which a task is taken to have no more."""
MAX_CHECKED_ROWS = 50_000
"""Rows of a task that are made while planning, to look at them."""
GYM_TOKENS = 256
"""Tokens of a completion where pairs are collected on a generator's puzzles."""
Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class TaskRow:
    """prompt_id: hash of task and prompt. reference: what the task's verifier takes as the answer, where that is not
    the completion."""

    prompt: str
    completion: str
    prompt_id: str
    reference: str | None = None

    @property
    def answer(self) -> str:
        """What the task's verifier takes."""
        return self.completion if self.reference is None else self.reference


class Problem(NamedTuple):
    """told_by: what tells problems apart, so that none crosses the split in another guise."""

    prompt: str
    completion: str
    told_by: str
    reference: str | None = None


def iterate_rows(settings: TaskSettings, split: Split, seed: int) -> Iterator[TaskRow]:
    """Different prompts of a split, one by one; ends when the task seems to have no more."""
    problems = _PROBLEMS[settings.task](settings, random.Random(f"{settings.task} {split} {seed}"))
    seen: set[str] = set()
    barren = 0
    for problem in problems:
        prompt = problem.prompt
        if _is_held_out(f"{settings.task} {problem.told_by}") == (split == "held_out") and prompt not in seen:
            barren = 0
            seen.add(prompt)
            yield TaskRow(prompt, problem.completion, prompt_id(settings.task, prompt), problem.reference)
        barren += 1
        if barren > MAX_BARREN:
            return


def make_rows(settings: TaskSettings, split: Split, num: int, seed: int) -> list[TaskRow]:
    """`num` different prompts of a split. Raises DataError when the task has not that many."""
    rows = list(itertools.islice(iterate_rows(settings, split, seed), num))
    if len(rows) < num:
        raise DataError(
            f"{settings.gym or settings.task} has {len(rows):,} {split} prompts of this size, {num:,} are asked for: "
            "ask for fewer or larger ones"
        )
    return rows


def completion_limit(settings: TaskSettings) -> int:
    """Tokens (of a character tokenizer) that any right answer fits into, its end included; a generator's, if short."""
    if settings.gym is not None:
        return GYM_TOKENS
    return settings.digits + 1 if settings.task == "sort" else 6 * settings.numbers


def prompt_id(task: str, prompt: str) -> str:
    """The name of a prompt, the same wherever the prompt is met."""
    return hashlib.sha256(f"{task}\0{prompt}".encode()).hexdigest()[:12]


def _is_held_out(problem: str) -> bool:
    return hashlib.sha256(problem.encode()).digest()[0] % HELD_OUT_SHARE == 0


def _sort_problems(settings: TaskSettings, generator: random.Random) -> Iterator[Problem]:
    while True:
        digits = "".join(generator.choices("0123456789", k=settings.digits))
        yield Problem(sort_prompt(digits), "".join(sorted(digits)), digits)


def _countdown_problems(settings: TaskSettings, generator: random.Random) -> Iterator[Problem]:
    """Numbers 1 to 9 and a target that a random expression over them reaches; a problem is told by its sorted numbers
    and target, so that another order of the same numbers never crosses the split."""
    while True:
        numbers = [generator.randint(1, 9) for _ in range(settings.numbers)]
        solved = _random_expression(numbers, generator)
        if solved is None or not 1 <= solved[1] <= 99:
            continue
        shown = generator.sample(numbers, len(numbers))
        yield Problem(countdown_prompt(solved[1], shown), solved[0], f"{solved[1]} {sorted(numbers)}")


def _gym_problems(settings: TaskSettings, generator: random.Random) -> Iterator[Problem]:
    """Questions as they are, a line break after them; a problem is told by its question."""
    assert settings.gym is not None
    while True:
        seed = generator.getrandbits(31)
        for index in range(BLOCK):
            puzzle = make_puzzle(settings.gym, settings.gym_config, seed, index)
            yield Problem(f"{puzzle.question}\n", puzzle.answer, puzzle.question, puzzle.reference)


def _random_expression(numbers: list[int], generator: random.Random) -> tuple[str, int] | None:
    """A left-to-right expression over all numbers with whole intermediate values; None when a division breaks."""
    text, value, last = str(numbers[0]), numbers[0], "*"
    for number in numbers[1:]:
        sign = generator.choice("+-*/" if value % number == 0 else "+-*")
        text = f"({text}){sign}{number}" if sign in "*/" and last in "+-" else f"{text}{sign}{number}"
        value = {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[sign]
        last = sign
    return (text, value) if value >= 0 else None


_PROBLEMS: dict[str, Callable[[TaskSettings, random.Random], Iterator[Problem]]] = {
    "sort": _sort_problems,
    "countdown": _countdown_problems,
    "reasoning_gym": _gym_problems,
}
"""Problems without end, by task."""
