"""Own rewards are called as TRL calls its own: columns, token ids, state, logs, turns, no opinion, async."""

from __future__ import annotations

import asyncio

import pytest

from workbench.errors import DefinitionError, RewardError
from workbench.rewards.keywords import as_reward_set, keyword_function
from workbench.rewards.reward import Reward, RewardSet, Sample, TrainerState
from workbench.rewards.workers import WorkerPool


def sample(completion="c", *, state=None, messages=None, **columns) -> Sample:
    return Sample("p", completion, "a", 2, True, 8, (5, 6), columns, messages, state)


def test_a_function_gets_the_columns_of_the_data_the_token_ids_and_the_state():
    seen = {}

    def reward(prompts, completions, completion_ids, level, trainer_state, **more):
        seen.update(more, level=level, ids=completion_ids, step=trainer_state.global_step)
        return [0.0] * len(prompts)

    state = TrainerState(7, 9)
    as_reward_set(reward).score([sample(level=3, solution="x", prompt="no", state=state), sample(level=4, state=state)])
    assert (seen["level"], seen["ids"], seen["step"]) == ([3, 4], [[5, 6], [5, 6]], 7)
    assert seen["solution"] == ["x", None]
    assert "prompt" not in seen, "as in TRL"


def test_a_column_of_the_data_is_given_where_trl_has_no_argument_of_its_name():
    seen = {}

    def reward(completions, answers, ended, completion_ids):
        seen.update(answers=answers, ended=ended, ids=completion_ids)
        return [0.0] * len(completions)

    columns = {"answers": ["Paris", "paris"], "ended": "1945", "completion_ids": [9]}
    as_reward_set(reward).score([sample(**columns)])
    assert seen == {"answers": [["Paris", "paris"]], "ended": ["1945"], "ids": [[5, 6]]}


def test_turns_come_and_go_as_messages():
    def reward(prompts, completions):
        assert prompts[0] == [{"role": "user", "content": "hi"}]
        return [float(len(turns[0]["content"])) for turns in completions]

    assert as_reward_set(reward).score([sample("abc", messages=(("user", "hi"),))]).total == [3.0]


def test_no_opinion_is_left_out_of_the_sum_and_one_opinion_there_must_be():
    one, two = (keyword_function(lambda completions, v=values: v, name) for name, values in
                (("one", [None, 1.0]), ("two", [2.0, None])))  # fmt: skip
    scores = RewardSet([Reward("one", one, 3.0), Reward("two", two)]).score([sample("a"), sample("b")])
    assert scores.total == [2.0, 3.0]
    assert scores.by_name == {"one": [None, 1.0], "two": [2.0, None]}
    with pytest.raises(
        RewardError, match=r"reward one: found None \(no opinion\) of all, .*prompt 'p', completion 'a'"
    ):
        RewardSet([Reward("one", one), Reward("seen", lambda _: [1.0, 1.0], 0.0)]).score([sample("a"), sample("b")])


def test_async_functions_are_awaited_on_one_loop_also_below_a_running_one():
    loops = []

    async def reward(completions):
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return [1.0] * len(completions)

    rewards = as_reward_set(reward)
    assert rewards.score([sample()]).total == rewards.score([sample()]).total == [1.0]
    assert loops[0] is loops[1], "what it keeps between calls, such as a session, belongs to it"

    async def notebook():
        return as_reward_set(reward).score([sample()]).total

    assert asyncio.run(notebook()) == [1.0]


def test_what_a_function_logs_comes_back_also_from_processes():
    def reward(completions, log_metric, log_extra):
        log_metric("length", float(len(completions[0])))
        log_extra("shout", [text.upper() for text in completions])
        return [1.0] * len(completions)

    for one_at_a_time in (False, True):
        pool = WorkerPool("mine", lambda: keyword_function(reward, "mine"), 1, None, one_at_a_time=one_at_a_time)
        scores = RewardSet([Reward("mine", pool)]).score([sample("a"), sample("bcd")])
        assert scores.metrics == {"length": [1.0, 3.0] if one_at_a_time else [1.0]}
        assert scores.extra == {"shout": ["A", "BCD"]}
        pool.close()


@pytest.mark.parametrize(("name", "value"), [("eval/x", 1.0), ("x", float("nan")), ("x", "1"), (3, 1.0)])
def test_what_is_no_metric_is_refused(name, value):
    with pytest.raises(RewardError, match="log_metric"):
        as_reward_set(lambda completions, log_metric: log_metric(name, value)).score([sample()])


def test_a_column_that_the_data_has_not_is_refused_before_training():
    def reward(completions, level):
        return level

    with pytest.raises(DefinitionError, match="reward mine: its parameter level is not there, allowed are prompts"):
        keyword_function(reward, "mine", ["answer", "solution"])
    assert keyword_function(reward, "mine", ["level"])([sample(level=2.0)]).values == [2.0]
