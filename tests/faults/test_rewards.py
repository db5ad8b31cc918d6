"""Rewards that raise, are no number or come in the wrong count, and signals that are dead, under the real command."""

from __future__ import annotations

import json

import pytest

from tests.faults.labs import SORT, SWEEP, define
from tests.trainers import ONLINE

pytestmark = [pytest.mark.slow, pytest.mark.multi]
RUN = "runs/evil/main/seed0"
BAD = {
    "raises": ("raise KeyError('gold')", "KeyError: 'gold'"),
    "is NaN": ("return [float('nan')] * len(completions)", "nan"),
    "is infinite": ("return [float('inf')] * len(completions)", "inf"),
    "is None": ("return [None] * len(completions)", "None"),
    "is one too few": ("return [0.0] * (len(completions) - 1)", "15"),
    "is one number": ("return 1.0", "found float, allowed a list of numbers"),
}


@pytest.fixture
def lab(started):
    return started


def train(call, lab, trainer, body, **settings):
    """Code and status of a run that is rewarded by a function with this body."""
    (lab / "reward.py").write_text(f"def reward(prompts, completions, **_):\n    {body}\n")
    hyperparameters = SWEEP["arms"]["grpo"]["hyperparameters"] | SWEEP["hyperparameters"]
    define(
        lab,
        "evil",
        {
            "question": "q",
            "trainer": trainer,
            "start_from": "start",
            "data": {**SORT, "rows": 64},
            "track": [],
            "hyperparameters": hyperparameters | {"rewards": [{"file": "reward.py"}]} | settings,
        },
    )
    code, said = call("run", "evil", "--allow-reward-code")
    assert "Traceback" not in said
    return code, json.loads((lab / RUN / "status.json").read_text())


@pytest.mark.parametrize("trainer", ONLINE)
@pytest.mark.parametrize("fault", BAD)
def test_a_reward_that_fails_stops_the_run_and_shows_what_it_failed_on(fault, trainer, call, lab):
    body, words = BAD[fault]
    code, status = train(call, lab, trainer, body)
    assert (code, status["state"], status["exit_code"], status["step"]) == (6, "failed", 6, 0)
    assert words in status["message"]
    assert "sort " in status["message"], "a prompt of it is shown"
    rows = [json.loads(line) for line in (lab / RUN / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0], "it counted as nothing"


@pytest.mark.parametrize("trainer", ONLINE)
def test_a_constant_reward_stops_the_run_after_its_patience(trainer, call, lab):
    settings = {"dead_signal_patience": 3, "passes": 1, "minibatches": 1}
    code, status = train(call, lab, trainer, "return [0.25] * len(completions)", **settings)
    assert (code, status["state"], status["step"]) == (6, "failed", 3)
    assert "for 3 rollouts (dead_signal_patience)" in status["message"]
    assert any("step 1: dead signal" in warning for warning in status["warnings"])
