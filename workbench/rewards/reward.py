"""What a completion earns: named, weighted functions of samples, scored together. Nothing here loads torch."""

from __future__ import annotations

import inspect
import math
import numbers
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import DefinitionError, RewardError, WorkbenchError

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


RewardFunction = Callable[[Sequence[Sample]], Sequence[float]]


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


@dataclass(frozen=True)
class Scores:
    """total: sum of weight x value. by_name: each reward's own values, unweighted. One number a sample, in order."""

    total: list[float]
    by_name: dict[str, list[float]]


class RewardSet:
    """The rewards of a run."""

    def __init__(self, rewards: Sequence[Reward]) -> None:
        """DefinitionError for no reward, two of one name, or none that counts."""
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
        """Every reward of every sample. RewardError where a function raises, or gives anything but one finite number
        a sample: it is never taken for 0."""
        by_name = {reward.name: _values(reward, samples) for reward in self.rewards}
        total = [0.0] * len(samples)
        for reward in self.rewards:
            if reward.weight != 0:
                total = [so_far + reward.weight * v for so_far, v in zip(total, by_name[reward.name], strict=True)]
        for sample, value in zip(samples, total, strict=True):
            if not math.isfinite(value):
                raise RewardError(f"rewards: their weighted sum is {value}, allowed finite numbers; {show(sample)}")
        return Scores(total, by_name)


def as_reward_set(reward_fn: RewardSet | Callable[..., Any]) -> RewardSet:
    """A RewardSet as it is. A function, called as TRL calls its own, with keywords (prompts, completions, answers,
    num_tokens, ended: lists; of these the ones that it takes), becomes the only reward of a set."""
    if isinstance(reward_fn, RewardSet):
        return reward_fn
    name = getattr(reward_fn, "__name__", type(reward_fn).__name__)
    return RewardSet([Reward("reward" if name == "<lambda>" else name, keyword_function(reward_fn, str(name)))])


def keyword_function(function: Callable[..., Any], name: str) -> RewardFunction:
    """A function of keywords as one of samples. DefinitionError where it needs what there is not."""
    given = ("prompts", "completions", "answers", "num_tokens", "ended")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"reward {name}: found {function!r}, allowed a function of {', '.join(given)}") from error
    by_keyword = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [
        parameter for parameter in needed if parameter not in given or parameter not in {p.name for p in by_keyword}
    ]
    if missing:
        raise DefinitionError(f"reward {name}: its parameter {missing[0]} is not there, allowed are {', '.join(given)}")
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    taken = [keyword for keyword in given if takes_all or keyword in {p.name for p in by_keyword}]

    def score(samples: Sequence[Sample]) -> Any:
        columns = {
            "prompts": [sample.prompt for sample in samples],
            "completions": [sample.completion for sample in samples],
            "answers": [sample.answer for sample in samples],
            "num_tokens": [sample.num_tokens for sample in samples],
            "ended": [sample.ended for sample in samples],
        }
        return function(**{keyword: columns[keyword] for keyword in taken})

    return score


def show(sample: Sample) -> str:
    """A sample on one line of an error."""
    answer = "" if sample.answer is None else f", answer {shorten(sample.answer)}"
    return f"prompt {shorten(sample.prompt)}, completion {shorten(sample.completion)}{answer}"


def describe_failure(error: BaseException) -> str:
    """What a function raised, and the line of its file that did."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {shorten(str(error), quoted=False)}{place}"


def as_numbers(name: str, found: Any, samples: Sequence[Sample]) -> list[float]:
    """What a function gave, as floats. RewardError for anything but one finite number a sample."""
    values = _plain(found)
    if not isinstance(values, list | tuple):
        raise RewardError(f"reward {name}: found {type(found).__name__}, allowed a list of numbers; {_first(samples)}")
    if len(values) != len(samples):
        raise RewardError(
            f"reward {name}: found {len(values)} numbers for {len(samples)} samples, allowed one for each; "
            f"{_first(samples)}"
        )
    return [_number(name, _plain(value), sample) for value, sample in zip(values, samples, strict=True)]


def _values(reward: Reward, samples: Sequence[Sample]) -> list[float]:
    if not samples:
        return []
    try:
        found = reward.function(samples)
    except WorkbenchError:
        raise
    # sys.exit() in a reward is a failure of it; an interrupt of the run is none.
    except (Exception, SystemExit) as error:
        sample = _culprit(reward, samples)
        where = show(sample) if sample is not None else f"on {len(samples)} samples at once; {_first(samples)}"
        raise RewardError(f"reward {reward.name}: {describe_failure(error)}; {where}") from error
    return as_numbers(reward.name, found, samples)


def _culprit(reward: Reward, samples: Sequence[Sample]) -> Sample | None:
    """The first sample that the function fails on alone; None where none does, or finding it takes too long."""
    until = time.monotonic() + SEARCH_SECONDS
    for sample in samples:
        if time.monotonic() > until:
            break
        try:
            reward.function([sample])
        except (Exception, SystemExit):
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
