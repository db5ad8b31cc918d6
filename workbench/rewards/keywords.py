"""Functions that are called with keywords, as TRL calls its own rewards."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from workbench.errors import DefinitionError, RewardError
from workbench.rewards.reward import Judged, Reward, RewardFunction, RewardSet, Sample, TrainerState, shorten

GIVEN = (
    "prompts",
    "completions",
    "completion_ids",
    "answers",
    "num_tokens",
    "ended",
    "trainer_state",
    "log_metric",
    "log_extra",
)
"""What every function may take, besides the columns of the data."""
OURS_ALONE = ("answers", "num_tokens", "ended")
"""What TRL does not give: a column of the data of that name is given in its place, as TRL would."""
LEFT_OUT = ("prompt", "completion", *(name for name in GIVEN if name not in OURS_ALONE))
"""Columns of the data that are not passed on, as in TRL."""
OUR_METRICS = ("eval/", "time/", "cost/")


def as_reward_set(reward_fn: RewardSet | Callable[..., Any]) -> RewardSet:
    """A RewardSet as it is. A function, called as TRL calls its own, becomes the only reward of a set."""
    if isinstance(reward_fn, RewardSet):
        return reward_fn
    name = getattr(reward_fn, "__name__", type(reward_fn).__name__)
    return RewardSet([Reward("reward" if name == "<lambda>" else name, keyword_function(reward_fn, str(name)))])


def keyword_function(function: Callable[..., Any], name: str, columns: Collection[str] | None = None) -> RewardFunction:
    """A function of keywords as one of samples; it may be async. columns: the data's, None where they show with the
    samples. Raises DefinitionError where it is none, and, before it is called, where it needs what there is not."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"reward {name}: found {function!r}, allowed a function of {', '.join(GIVEN)}") from error
    by_keyword = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    loop = _Loop()
    known = None if columns is None else [*GIVEN, *(c for c in columns if c not in LEFT_OUT)]
    for parameter in needed:
        if parameter.name not in by_keyword or (known is not None and parameter.name not in known):
            raise _not_there(name, parameter.name, known or GIVEN)

    def score(samples: Sequence[Sample]) -> Judged:
        log = _Log(name, len(samples))
        found = _given(samples, log) | _columns(samples)
        for parameter in needed:
            if parameter.name not in found:
                raise _not_there(name, parameter.name, found)
        taken = {key: value for key, value in found.items() if takes_all or key in by_keyword}
        values = function(**taken)
        if inspect.isawaitable(values):
            values = loop.result(values)
        return Judged(values, log.metrics, log.extra)

    return score


def _not_there(name: str, parameter: str, allowed: Iterable[str]) -> DefinitionError:
    return DefinitionError(f"reward {name}: its parameter {parameter} is not there, allowed are {', '.join(allowed)}")


def _given(samples: Sequence[Sample], log: _Log) -> dict[str, Any]:
    turns = [sample.messages is not None for sample in samples]
    return {
        "prompts": [
            [{"role": role, "content": content} for role, content in sample.messages or ()] if spoken else sample.prompt
            for sample, spoken in zip(samples, turns, strict=True)
        ],
        "completions": [
            [{"role": "assistant", "content": sample.completion}] if spoken else sample.completion
            for sample, spoken in zip(samples, turns, strict=True)
        ],
        "completion_ids": [list(sample.completion_ids) for sample in samples],
        "answers": [sample.answer for sample in samples],
        "num_tokens": [sample.num_tokens for sample in samples],
        "ended": [sample.ended for sample in samples],
        "trainer_state": (samples[0].state if samples else None) or TrainerState(),
        "log_metric": log.metric,
        "log_extra": log.column,
    }


def _columns(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """The columns of the data, without those that TRL leaves out; None where a row lacks one."""
    names = dict.fromkeys(name for sample in samples for name in sample.columns)
    return {name: [sample.columns.get(name) for sample in samples] for name in names if name not in LEFT_OUT}


class _Log:
    """What one call logs. Raises RewardError, naming what cannot be logged."""

    def __init__(self, reward: str, rows: int) -> None:
        self._reward, self._rows = reward, rows
        self.metrics: dict[str, list[float]] = {}
        self.extra: dict[str, list[Any]] = {}

    def metric(self, name: str, value: float) -> None:
        """A number; the mean of all is the metric of that name."""
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(name, str) or name.startswith(OUR_METRICS):
            raise RewardError(f"reward {self._reward}: log_metric has the name {shorten(str(name))}, which is taken")
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise RewardError(
                f"reward {self._reward}: log_metric {shorten(name)} is {shorten(repr(value), quoted=False)}, "
                "allowed a finite number"
            )
        self.metrics.setdefault(name, []).append(float(value))

    def column(self, name: str, values: Sequence[Any]) -> None:
        """A value a completion, which completions.jsonl shows."""
        values = [value if isinstance(value, str | int | float | bool | None) else repr(value) for value in values]
        if not isinstance(name, str) or len(values) != self._rows:
            raise RewardError(
                f"reward {self._reward}: log_extra {shorten(str(name))} has {len(values)} values, allowed {self._rows}"
            )
        self.extra[name] = values


class _Loop:
    """One event loop for all calls of a function, so that what it keeps between them (sessions) goes on to work. A
    thread of its own where this one runs a loop already, as a notebook does."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def result(self, found: Any) -> Any:
        """Waits for an awaitable and returns its value."""

        async def wait() -> Any:
            return await found

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            if self._runner is None:
                self._runner = asyncio.Runner()
                weakref.finalize(self, self._runner.close)
            return self._runner.run(wait())
        box: list[Any] = []
        thread = threading.Thread(target=lambda: box.append(_outcome(wait())))
        thread.start()
        thread.join()
        value, error = box[0]
        if error is not None:
            raise error
        return value


def _outcome(coroutine: Any) -> tuple[Any, BaseException | None]:
    try:
        return asyncio.run(coroutine), None
    except BaseException as error:
        return None, error
