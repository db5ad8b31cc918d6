"""Whether an online run still has a signal to learn from: dead or solved rewards, collapse, over-optimisation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from workbench.errors import DivergenceError
from workbench.trainer.online.metrics import ENTROPY, GROUPS, LENGTH, LONE_GROUPS, PAIRS, REWARD, REWARD_STD

FIRST = 5
"""Rollouts that say what is normal."""
SMOOTHING = 0.8
"""The weight of the past in the moving averages that are compared with the first rollouts."""
COLLAPSED_LENGTH = 0.3
COLLAPSED_ENTROPY = 0.1
NEAR_MAXIMUM = 0.95
ROUNDING = 1e-9
"""A mean of equal rewards may differ from them by this much, relative to them."""
EVALUATIONS = 3
"""The training reward rises and the held-out metric falls over this many evaluations in a row."""
HELD_OUT = ("eval/exact_match_greedy", "eval/exact_match_sampled")


class SignalWatch:
    """Sees every recorded row; each warning is given once, a dead signal once for each time that it dies."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._state: dict[str, Any] = {
            "dead": 0,
            "rollouts": 0,
            "said": [],
            "means": {},
            "first": {},
            "evaluations": [],
        }

    def state_dict(self) -> dict[str, Any]:
        """JSON values for a checkpoint."""
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror of state_dict."""
        self._state = state

    def observe(self, row: dict[str, Any], maximum: float | None) -> list[str]:
        """Warnings that this row gives rise to. maximum: the largest possible reward, where it is known.

        DivergenceError once the signal has been dead for as many rollouts as are allowed.
        """
        found: list[str] = []
        if REWARD_STD in row:
            if row.get(LONE_GROUPS) and self._once("group of one"):
                found.append(
                    f"group of one: {row[LONE_GROUPS]:g} of {row[GROUPS]:g} groups have a single completion, "
                    "whose advantage is 0: bring several completions of a prompt, with equal group_ids"
                )
            found += self._signal(row, maximum)
            found += self._collapse(row, maximum)
        if any(name in row for name in HELD_OUT):
            found += self._over_optimisation(row)
        return found

    def _signal(self, row: dict[str, Any], maximum: float | None) -> Iterator[str]:
        state = self._state
        if row[REWARD_STD] > 0.0 and row.get(PAIRS, 1.0) > 0.0:
            state["dead"] = 0
            return
        if maximum is not None and row[REWARD] >= maximum - ROUNDING * abs(maximum):
            state["dead"] = 0
            if self._once("solved"):
                yield f"solved: every completion of a rollout earned the largest reward, {maximum:g}: nothing to learn"
            return
        state["dead"] += 1
        remedy = (
            "start from a model that is right now and then, ask for easier prompts, raise group_size or temperature, "
            "or add a reward of the form"
        )
        if state["dead"] == 1:
            yield f"dead signal: all completions of each prompt earn the same (reward {row[REWARD]:g}); {remedy}"
        if self._patience and state["dead"] >= self._patience:
            raise DivergenceError(
                f"step {row['step']}: dead signal: no prompt's completions differed in reward for {state['dead']} "
                f"rollouts (dead_signal_patience); {remedy}"
            )

    def _collapse(self, row: dict[str, Any], maximum: float | None) -> Iterator[str]:
        state = self._state
        state["rollouts"] += 1
        for name in (LENGTH, ENTROPY, REWARD):
            if name not in row:
                continue
            value, before = row[name], state["means"].get(name, row[name])
            state["means"][name] = SMOOTHING * before + (1 - SMOOTHING) * value
            if state["rollouts"] <= FIRST:
                state["first"][name] = state["first"].get(name, 0.0) + value / FIRST
        if state["rollouts"] <= FIRST:
            return
        means, first = state["means"], state["first"]
        nearly_solved = maximum is not None and means[REWARD] >= NEAR_MAXIMUM * maximum
        if means[LENGTH] < COLLAPSED_LENGTH * first[LENGTH] and self._once("length"):
            yield (
                f"length collapse: completions have {means[LENGTH]:.3g} tokens, {first[LENGTH]:.3g} at the beginning; "
                "look at completions.jsonl, take loss: dr_grpo or dapo, or a reward that short answers do not earn"
            )
        collapsed = ENTROPY in means and means[ENTROPY] < COLLAPSED_ENTROPY * first[ENTROPY]
        if collapsed and not nearly_solved and self._once("entropy"):
            yield (
                f"entropy collapse: {means[ENTROPY]:.3g} nats a token, {first[ENTROPY]:.3g} at the beginning, and the "
                "reward is not at its largest; lower learning_rate, raise clip_high, or add entropy_bonus or beta"
            )

    def _over_optimisation(self, row: dict[str, Any]) -> Iterator[str]:
        state = self._state
        held_out = next(row[name] for name in HELD_OUT if name in row)
        if REWARD in state["means"]:
            state["evaluations"] = [*state["evaluations"], [state["means"][REWARD], held_out]][-EVALUATIONS:]
        seen = state["evaluations"]
        rising = all(after[0] > before[0] for before, after in itertools.pairwise(seen))
        falling = all(after[1] < before[1] for before, after in itertools.pairwise(seen))
        if len(seen) == EVALUATIONS and rising and falling and self._once("over-optimisation"):
            yield (
                f"over-optimisation: over {EVALUATIONS} evaluations the training reward rose from {seen[0][0]:.3g} to "
                f"{seen[-1][0]:.3g} while the held-out metric fell from {seen[0][1]:.3g} to {seen[-1][1]:.3g}; stop "
                "earlier (early_stopping), raise beta, or mend the reward"
            )

    def _once(self, name: str) -> bool:
        said = self._state["said"]
        if name in said:
            return False
        said.append(name)
        return True
