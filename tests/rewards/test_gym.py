"""reasoning-gym's puzzles: made again exactly, scored by their generator, and never by one that can be fooled."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import subprocess
import sys

import pytest

from workbench.errors import DefinitionError, RewardError
from workbench.rewards import gym
from workbench.rewards.build import build_rewards
from workbench.rewards.gym import BLOCK, REFUSED, make_puzzle, verify_gym
from workbench.rewards.reward import Sample


def installed() -> bool:
    try:
        return bool(importlib.metadata.version("reasoning-gym"))
    except importlib.metadata.PackageNotFoundError:
        return False


needs_package = pytest.mark.skipif(not installed(), reason="needs the extra gym")
SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


@pytest.fixture
def puzzle():
    return make_puzzle("chain_sum", SMALL, 3, 7)


@needs_package
@pytest.mark.parametrize(
    "generator", ["chain_sum", "gcd", "letter_counting", "sudoku", "arc_agi", "maze", "caesar_cipher"]
)
def test_the_generators_own_answer_is_right_and_others_are_not(generator):
    for index in (0, BLOCK - 1):
        puzzle = make_puzzle(generator, {}, 5, index)
        prompt = f"{puzzle.question}\n"
        assert verify_gym(prompt, f" {puzzle.answer}\n", puzzle.reference) == 1.0
        for wrong in ("", "x", "0\n" * 3, puzzle.answer + "1", f"no {puzzle.answer}", prompt, "nan", "٣", "9" * 9999):
            assert verify_gym(prompt, wrong, puzzle.reference) < 1.0, wrong


@needs_package
def test_the_answer_is_what_the_last_tags_hold_else_the_whole_text(puzzle):
    def score(text):
        return verify_gym(puzzle.question, text, puzzle.reference)

    right, wrong = puzzle.answer, str(int(puzzle.answer) + 1)
    assert score(f"<think>{wrong}</think>\n<answer> {right}\n</answer> so") == 1.0
    assert score(f"<answer>{wrong}</answer><answer>{right}</answer>") == 1.0
    assert score(f"<answer>{right}</answer><answer>{wrong}</answer>") < 1.0
    assert score(f"<answer>{wrong} <answer>{right}</answer>") == 1.0
    assert score(f"<answer>{right}") < 1.0
    assert score(f"{right}</answer>") < 1.0
    assert score("<answer>" * 10**4 + "x" * 10**4) < 1.0


FOOLS = {"coin_flip": "0", "complex_arithmetic": "NaN", "game_of_life_halting": "x", "spell_backward": "{} or not"}


@needs_package
@pytest.mark.parametrize("generator", FOOLS)
def test_the_reasons_to_refuse_a_generator_still_hold(generator, monkeypatch):
    """Where one is mended it may be taken again."""
    monkeypatch.setattr(gym, "REFUSED", {})
    puzzles = [make_puzzle(generator, {}, 12345, index) for index in range(20)]
    assert any(
        verify_gym(puzzle.question, FOOLS[generator].format(puzzle.answer), puzzle.reference) == 1.0
        for puzzle in puzzles
        if puzzle.answer.strip("0.") != ""
    )


@needs_package
def test_a_scorer_prints_nothing(capsys):
    puzzle = make_puzzle("tower_of_hanoi", {}, 0, 0)
    verify_gym(puzzle.question, "Move disk 9 from Peg 1 to Peg 9", puzzle.reference)
    assert capsys.readouterr().out == ""


@needs_package
def test_a_puzzle_is_the_same_in_every_process(puzzle):
    text = f"from workbench.rewards.gym import make_puzzle; print(make_puzzle('chain_sum', {SMALL}, 3, 7).question)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == puzzle.question
    assert done.stderr == ""


@needs_package
def test_another_puzzle_than_the_prompts_is_never_scored(puzzle):
    with pytest.raises(RewardError, match="chain_sum makes another puzzle now than when the prompts were made"):
        verify_gym("What is 1 + 1?", puzzle.answer, puzzle.reference)
    for reference in (None, "", "4", "[]", "{}", '{"gym": "chain_sum"}', puzzle.answer):
        with pytest.raises(RewardError, match="allowed the reference that task reasoning_gym gives its prompts"):
            verify_gym(puzzle.question, puzzle.answer, reference)


@needs_package
def test_as_a_reward_a_cut_completion_is_not_right_and_an_answer_is_needed(puzzle):
    rewards = build_rewards([], task="reasoning_gym", device="cpu")

    def sample(ended=True, answer=puzzle.reference):
        return Sample(puzzle.question, puzzle.answer, answer, 3, ended, 8)

    assert rewards.maximum == 1.0
    assert rewards.score([sample(), sample(ended=False)]).total == [1.0, 0.0]
    with pytest.raises(RewardError, match="the prompt has no answer"):
        rewards.score([sample(answer=None)])


@needs_package
@pytest.mark.parametrize(
    ("generator", "config", "message"),
    [("chain_sun", {}, r"gym chain_sun: found no such generator, allowed the \d+ of .*did you mean chain_sum\?"),
     ("qqqq", {}, "such as ab, "),
     ("chain_sum", {"min_term": 2}, r"gym_config.min_term: found an unknown key, allowed min_"),
     ("chain_sum", {"min_terms": 0}, "is refused .*min_terms must be positive"),
     ("chain_sum", {"min_terms": "a"}, "is refused|makes no puzzle"),
     ("n_queens", {}, "its scorer runs the completion as Python")],
)  # fmt: skip
def test_a_name_or_setting_that_the_package_lacks_is_named(generator, config, message):
    with pytest.raises(DefinitionError, match=message):
        make_puzzle(generator, config, 0, 0)


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    gym._package.cache_clear()
    gym._dataset.cache_clear()
    with pytest.raises(DefinitionError, match=r"the package reasoning-gym is not here: pip install 'workbench\[gym\]'"):
        make_puzzle("chain_sum", {"max_terms": 9}, 0, 0)


@needs_package
def test_a_scorer_that_fails_stops_with_the_generators_name_and_the_text(monkeypatch):
    monkeypatch.setattr(gym, "REFUSED", {})
    puzzle = make_puzzle("prime_factorization", {}, 0, 0)
    with pytest.raises(RewardError, match=r"the scorer of prime_factorization raised ValueError: .* for 'abc'; prompt"):
        verify_gym(puzzle.question, "abc", puzzle.reference)


EVALUATES_ITS_OWN = {"number_sorting", "bitwise_arithmetic", "basic_arithmetic", "codeio", "propositional_logic"}
"""These evaluate what they made themselves, never the completion, or by a parser of theirs (read in 0.1.25)."""


@needs_package
def test_every_generator_whose_code_evaluates_text_is_refused_or_was_read():
    datasets = gym._package().factory.DATASETS
    evaluates = re.compile(r"(?<![\w.])(?:\w+\.)?(?:eval|exec|parse_expr|sympify|__import__)\(")
    found = {
        name
        for name, (dataset, _) in datasets.items()
        if evaluates.search(inspect.getsource(sys.modules[dataset.__module__]))
    }
    refused = {name for name, reason in REFUSED.items() if reason == gym._EVALUATES}
    assert found - EVALUATES_ITS_OWN == refused
    assert set(REFUSED) <= set(datasets)


@needs_package
def test_no_text_that_the_refused_would_run_is_run(tmp_path):
    trace = tmp_path / "ran"
    attack = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    for generator in ("chain_sum", "gcd", "sudoku", "bitwise_arithmetic", "codeio", "base_conversion"):
        puzzle = make_puzzle(generator, {}, 1, 0)
        verify_gym(puzzle.question, attack, puzzle.reference)
        verify_gym(puzzle.question, f"[{attack}]", puzzle.reference)
    assert not trace.exists()


@needs_package
def test_a_reference_is_small_plain_and_of_one_text(puzzle):
    assert json.loads(puzzle.reference) == {"gym": "chain_sum", "config": SMALL, "seed": 3, "index": 7}
    assert make_puzzle("chain_sum", dict(reversed(SMALL.items())), 3, 7).reference == puzzle.reference
