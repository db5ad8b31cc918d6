"""Scoring: every reward of every sample, or an error that shows the prompt; never a number that nobody gave."""

from __future__ import annotations

import math
import signal
import sys

import numpy as np
import pytest

from workbench.errors import DefinitionError, RewardError
from workbench.rewards.build import build_rewards
from workbench.rewards.keywords import GIVEN, as_reward_set
from workbench.rewards.reward import MAX_SHOWN, Reward, RewardSet, Sample


def sample(completion="12", prompt="sort 21: ", answer="12", num_tokens=3, ended=True, token_limit=8) -> Sample:
    return Sample(prompt, completion, answer, num_tokens, ended, token_limit)


SAMPLES = [sample(), sample("21"), sample("")]


def constant(value, name="mine", weight=1.0, maximum=None) -> Reward:
    return Reward(name, lambda samples: [value] * len(samples), weight, maximum)


def test_the_total_is_the_weighted_sum_and_weight_0_is_only_reported():
    rewards = RewardSet([constant(2, "a", 0.5), constant(-1.0, "b", 3.0), constant(7.0, "seen", 0.0)])
    scores = rewards.score(SAMPLES)
    assert scores.total == [-2.0] * 3
    assert scores.by_name == {"a": [2.0] * 3, "b": [-1.0] * 3, "seen": [7.0] * 3}


def test_no_samples_have_no_scores():
    assert RewardSet([constant(math.nan, "a")]).score([]).total == []


@pytest.mark.parametrize(
    ("rewards", "maximum"),
    [
        ([constant(0, "a", 0.5, 1.0), constant(0, "b", 2.0, 0.0)], 0.5),
        ([constant(0, "a", 1.0, 1.0), constant(0, "seen", 0.0)], 1.0),
        ([constant(0, "a", 1.0, 1.0), constant(0, "b", 1.0)], None),
        ([constant(0, "a", -1.0, 1.0)], None),
    ],
)
def test_the_maximum_is_known_where_every_reward_that_counts_knows_its_own(rewards, maximum):
    assert RewardSet(rewards).maximum == maximum


@pytest.mark.parametrize(
    ("value", "found"),
    [(math.nan, "found nan"), (math.inf, "found inf"), (-math.inf, "found -inf"),
     ("1", "found '1'"), (1j, "found 1j"), ([1.0], r"found \[1.0\]"), (10**400, "found inf"), (np.nan, "found nan")],
)  # fmt: skip
def test_what_is_no_finite_number_stops_and_shows_name_prompt_and_completion(value, found):
    values = [1.0, value, 1.0]
    with pytest.raises(RewardError, match=f"reward mine: {found}") as error:
        RewardSet([Reward("mine", lambda samples: values)]).score(SAMPLES)
    assert "prompt 'sort 21: ', completion '21', answer '12'" in str(error.value)
    assert error.value.exit_code == 6


def test_even_a_reward_of_weight_0_stops_the_run_when_it_fails():
    with pytest.raises(RewardError, match="reward seen: found nan"):
        RewardSet([constant(1.0, "a"), constant(math.nan, "seen", 0.0)]).score(SAMPLES)


def test_a_sum_that_is_not_finite_stops_too():
    with pytest.raises(RewardError, match="weighted sum is inf"):
        RewardSet([constant(1e308, "a", 10.0)]).score(SAMPLES)


@pytest.mark.parametrize(
    ("found", "message"),
    [([1.0], "found 1 numbers for 3 samples"), ([1.0] * 4, "found 4 numbers"), ([], "found 0"), (1.0, "found float"),
     (None, "found NoneType"), ({0: 1.0}, "found dict"), ("abc", "found str"), (np.zeros((3, 1)), r"found \[0.0\]")],
)  # fmt: skip
def test_the_wrong_count_stops(found, message):
    with pytest.raises(RewardError, match=f"reward mine: {message}.*prompt 'sort 21: '"):
        RewardSet([Reward("mine", lambda samples: found)]).score(SAMPLES)


@pytest.mark.parametrize(
    "found", [np.array([1, 0, 1]), np.array([1.0, 0.0, 1.0], np.float32), [True, False, True], (1, 0, 1.0),
              [np.float32(1), np.int64(0), np.bool_(True)]]
)  # fmt: skip
def test_arrays_and_their_numbers_are_numbers(found):
    total = RewardSet([Reward("mine", lambda samples: found)]).score(SAMPLES).total
    assert total == [1.0, 0.0, 1.0]
    assert all(type(value) is float for value in total)


def test_tensors_are_numbers(torch):
    assert as_reward_set(lambda completions: torch.ones(3)).score(SAMPLES).total == [1.0] * 3
    assert as_reward_set(lambda completions: [torch.tensor(1)] * 3).score(SAMPLES).total == [1.0] * 3


def test_a_function_that_raises_names_its_line_and_the_sample_it_fails_on():
    def fails(completions):
        return [1 / len(completion) for completion in completions]

    with pytest.raises(RewardError, match=r"reward fails: raised ZeroDivisionError: .*\(test_reward.py:\d+\)") as error:
        as_reward_set(fails).score(SAMPLES)
    assert "completion ''" in str(error.value)


def test_a_function_that_raises_on_the_batch_alone_says_so():
    def fails(completions):
        raise_if = len(completions) > 1
        return sys.exit("no") if raise_if else [1.0]

    with pytest.raises(RewardError, match=r"raised SystemExit: no .*on 3 samples at once"):
        as_reward_set(fails).score(SAMPLES)


def test_an_interrupt_is_no_failure_of_the_reward():
    def interrupted(completions):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a script or a notebook
    try:
        with pytest.raises(KeyboardInterrupt):
            as_reward_set(interrupted).score(SAMPLES)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_is_one_line_of_bounded_length_and_prints_nothing_that_moves_the_cursor():
    bad = sample("\x1b[2J\r\n\u202e" * 10_000, prompt="p\n" * 10_000)
    with pytest.raises(RewardError) as error:
        RewardSet([constant(math.nan)]).score([bad])
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 10 * MAX_SHOWN


@pytest.mark.parametrize(
    ("rewards", "message"),
    [([], "found none"), ([constant(0), constant(0)], "the name mine twice"), ([constant(0, weight=0.0)], "for all"),
     ([constant(0, weight=math.nan)], "not finite")],
)  # fmt: skip
def test_a_set_needs_different_names_and_one_that_counts(rewards, message):
    with pytest.raises(DefinitionError, match=message):
        RewardSet(rewards)


def test_a_function_gets_the_keywords_that_it_takes():
    def some(completions, answers):
        return [float(c == a) for c, a in zip(completions, answers, strict=True)]

    def every(**columns):
        assert list(columns) == list(GIVEN)
        return [columns["num_tokens"][0] * columns["ended"][0]] * len(columns["prompts"])

    rewards = as_reward_set(some)
    assert as_reward_set(rewards) is rewards
    assert rewards.score(SAMPLES).by_name == {"some": [1.0, 0.0, 0.0]}
    assert as_reward_set(every).score(SAMPLES).total == [3.0] * 3


@pytest.mark.parametrize("function", [lambda texts: [], lambda prompts, /: [], lambda *, ground_truth: []])
def test_a_function_that_needs_what_there_is_not_is_refused_before_it_runs(function):
    with pytest.raises(DefinitionError, match=r"its parameter \w+ is not there, allowed are prompts, completions"):
        as_reward_set(function).score(SAMPLES)


def test_a_tasks_prompts_bring_their_own_check_and_others_need_one_named():
    scores = build_rewards([], task="sort", device="cpu").score(SAMPLES)
    assert scores.by_name == {"sort": [1.0, 0.0, 0.0]}
    assert build_rewards([], task="countdown", device="cpu").maximum == 1.0
    with pytest.raises(
        DefinitionError, match=r"rewards: found none.*write for example rewards: \[\{reward: number\}\]"
    ):
        build_rewards([], task=None, device="cpu")
