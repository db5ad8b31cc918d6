"""What a completion earns: named, weighted functions of samples, scored together. Nothing here loads torch."""

from __future__ import annotations

import math
import numbers
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.errors import DefinitionError, RewardError, WorkbenchError
from workbench.rewards.guard import unchanged

MAX_SHOWN = 160
"""Characters of a prompt or completion in an error."""
SEARCH_SECONDS = 5.0
"""How long samples are tried one by one, to find the one that a function fails on."""


@dataclass(frozen=True)
class Sample:
    """One completion as a reward judges it.

    answer: the prompt's reference, None where its data has none. num_tokens: of the completion, its end included.
    ended: the model ended it; else it was cut at token_limit.
    """

    prompt: str
    completion: str
    answer: str | None
    num_tokens: int
    ended: bool
    token_limit: int
    completion_ids: tuple[int, ...] = ()
    """The ids of the completion, its end included."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The data's own columns of the prompt's row."""
    messages: tuple[tuple[str, str], ...] | None = None
    """(role, content) of the prompt, where the data has turns."""
    state: TrainerState | None = None
    prefill: str = ""
    """What the prompt, as the model read it, had already written of the answer: a "<think>" that it opened."""
    source: int = 0
    """The number of the prompt's source, where prompts are of several."""


@dataclass(frozen=True)
class TrainerState:
    """How far training is, under the names that TRL's trainer_state has."""

    global_step: int = 0
    max_steps: int = 0
    epoch: float = 0.0
    is_world_process_zero: bool = True


@dataclass(frozen=True)
class Judged:
    """What a function gave: a value a sample, None where it has no opinion; and what it logged by name."""

    values: Any
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)


RewardFunction = Callable[[Sequence[Sample]], Any]
"""A function from samples to Judged, or to the values alone."""


@dataclass(frozen=True)
class Reward:
    """A function with its name in metrics. weight 0: reported, but not in the total. maximum: the most it can give,
    None where that is not known."""

    name: str
    function: RewardFunction
    weight: float = 1.0
    maximum: float | None = None
    take_costs: Callable[[], tuple[int, float]] | None = None
    """Tokens and FLOPs that a model behind it spent since it was last asked; None: nothing that is counted."""
    uncounted: str = ""
    """Why that model's FLOPs cannot be counted; then they are NaN."""


@dataclass(frozen=True)
class Scores:
    """total: sum of weight x value. by_name: each reward's own values, unweighted, None where it has no opinion. One a
    sample, in order. metrics: numbers that own code logged. extra: a value a sample that it logged."""

    total: list[float]
    by_name: dict[str, list[float | None]]
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)


class RewardSet:
    """The rewards of a run."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        """Raises DefinitionError for no reward, two of one name, or none that counts."""
        names = [reward.name for reward in rewards]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not rewards:
            raise DefinitionError("rewards: found none, allowed one or more")
        if twice:
            raise DefinitionError(
                f"rewards: found the name {twice[0]} twice, allowed names that differ: give one a name"
            )
        if not all(math.isfinite(reward.weight) for reward in rewards):
            raise DefinitionError("rewards: found a weight that is not finite, allowed finite numbers")
        if all(reward.weight == 0 for reward in rewards):
            raise DefinitionError(
                f"rewards: found weight 0 for all ({', '.join(names)}), allowed one at least that counts"
            )
        self.rewards = tuple(rewards)

    @property
    def maximum(self) -> float | None:
        """The most that a total can be; None where a reward that counts does not know its own most, or counts
        against the total."""
        counted = [(reward.weight, reward.maximum) for reward in self.rewards if reward.weight != 0]
        if any(weight < 0 or most is None for weight, most in counted):
            return None
        return sum(weight * most for weight, most in counted if most is not None)

    def take_costs(self) -> list[tuple[int, float]]:
        """Tokens and FLOPs that each model among the rewards spent since it was last asked."""
        return [reward.take_costs() for reward in self.rewards if reward.take_costs is not None]

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Every reward of every sample. Raises RewardError where a function raises, or gives anything but one finite
        number a sample: it is never taken for 0. None is no opinion and left out; of one reward at least there must be
        one."""
        judged = {reward.name: judge(reward.name, reward.function, samples) for reward in self.rewards}
        total = [0.0] * len(samples)
        for index, sample in enumerate(samples):
            given = [(r.weight, judged[r.name].values[index]) for r in self.rewards if r.weight != 0]
            if all(value is None for _, value in given):
                names = ", ".join(reward.name for reward in self.rewards if reward.weight != 0)
                raise RewardError(f"reward {names}: found None (no opinion) of all, allowed a number; {show(sample)}")
            for weight, value in given:
                total[index] += weight * value if value is not None else 0.0
            if not math.isfinite(total[index]):
                raise RewardError(
                    f"rewards: their weighted sum is {total[index]}, allowed finite numbers; {show(sample)}"
                )
        logged: dict[str, list[float]] = {}
        for name, values in ((n, v) for found in judged.values() for n, v in found.metrics.items()):
            logged[name] = logged.get(name, []) + values
        extra = {name: values for found in judged.values() for name, values in found.extra.items()}
        return Scores(total, {name: found.values for name, found in judged.items()}, logged, extra)


def show(sample: Sample) -> str:
    """A sample on one line of an error."""
    answer = "" if sample.answer is None else f", answer {shorten(sample.answer)}"
    return f"prompt {shorten(sample.prompt)}, completion {shorten(sample.completion)}{answer}"


def describe_failure(error: BaseException) -> str:
    """What a function raised, and the line of its file that did."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {shorten(str(error), quoted=False)}{place}"


def judge(name: str, function: RewardFunction, samples: Sequence[Sample]) -> Judged:
    """What a function gives the samples, checked: floats, or None. Raises RewardError, naming it and the sample it
    fails on."""
    if not samples:
        return Judged([])
    with unchanged(name):
        try:
            found = function(samples)
        except WorkbenchError:
            raise
        except BaseException as error:
            # sys.exit() and KeyboardInterrupt in a reward are failures of it; an interrupt of the run is none.
            if not is_failure(error):
                raise
            sample = _culprit(function, samples)
            where = show(sample) if sample is not None else f"on {len(samples)} samples at once; {_first(samples)}"
            raise RewardError(f"reward {name}: {describe_failure(error)}; {where}") from error
    judged = found if isinstance(found, Judged) else Judged(found)
    return replace(judged, values=as_numbers(name, judged.values, samples))


def is_failure(error: BaseException) -> bool:
    """Whether a function raised it of its own; not where a signal did, of a run or on the keyboard."""
    if isinstance(error, KeyboardInterrupt):
        return signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    return isinstance(error, Exception | SystemExit | GeneratorExit)


def as_numbers(name: str, found: Any, samples: Sequence[Sample]) -> list[float | None]:
    """What a function gave, as floats. Raises RewardError for anything but one finite number, or None, a sample."""
    values = _plain(found)
    if not isinstance(values, list | tuple):
        raise RewardError(f"reward {name}: found {type(found).__name__}, allowed a list of numbers; {_first(samples)}")
    if len(values) != len(samples):
        raise RewardError(
            f"reward {name}: found {len(values)} numbers for {len(samples)} samples, allowed one for each; "
            f"{_first(samples)}"
        )
    return [
        None if value is None else _number(name, _plain(value), sample)
        for value, sample in zip(values, samples, strict=True)
    ]


def _culprit(function: RewardFunction, samples: Sequence[Sample]) -> Sample | None:
    """The first sample that the function fails on alone; None where none does, or finding it takes too long."""
    until = time.monotonic() + SEARCH_SECONDS
    for sample in samples:
        if time.monotonic() > until:
            break
        try:
            function([sample])
        except BaseException as error:
            if not is_failure(error):
                raise
            return sample
    return None


def _number(name: str, value: Any, sample: Sample) -> float:
    if not isinstance(value, numbers.Real):
        raise RewardError(
            f"reward {name}: found {shorten(repr(value), quoted=False)}, allowed finite numbers; {show(sample)}"
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RewardError(f"reward {name}: found {number}, allowed finite numbers; {show(sample)}")
    return number


def _plain(found: Any) -> Any:
    """Arrays and tensors, of any library, as Python's own lists and numbers."""
    tolist = getattr(found, "tolist", None)
    return tolist() if callable(tolist) else found


def _first(samples: Sequence[Sample]) -> str:
    return f"the first: {show(samples[0])}"


def shorten(text: str, quoted: bool = True) -> str:
    """One printable line, its middle left out where it is long."""
    if len(text) > MAX_SHOWN:
        text = f"{text[: MAX_SHOWN // 2]} ... {text[-MAX_SHOWN // 2 :]}"
    shown = repr(text)
    return shown if quoted else shown[1:-1]
