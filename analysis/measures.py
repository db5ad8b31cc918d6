"""What each column of a run means to a reader: its name, unit, direction, and how its numbers are written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.tracking.names import (
    COMPLETION_TOKENS,
    EXACT_MATCH_GREEDY,
    EXACT_MATCH_SAMPLED,
    HELD_OUT_LOSS,
    KL_START,
    LENGTH_CORRELATION,
    NUM_PAIRS,
    NUM_PROMPTS,
    PAIR_ACCURACY,
    PAIR_ACCURACY_OWN,
    PAIR_MARGIN,
    SCORE_MEAN,
    SCORE_SD,
    of_samples,
)

if TYPE_CHECKING:
    from analysis.stats.intervals import Interval


@dataclass(frozen=True)
class Measure:
    """A column of metrics.jsonl as the report shows it."""

    column: str
    label: str
    unit: str
    kind: str
    """rate (0 to 1), nats, count, flops or seconds: decides how a number is written."""
    higher_is_better: bool | None = None
    counted_by: str | None = None
    """The column with the number of prompts or pairs that a rate was counted on."""
    least: float | None = None
    """What it cannot be below, whatever its interval says; None: it can be anything. A rate lies between 0 and 1."""

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the greatest that it can be; None: nothing holds it."""
        return (0.0, 1.0) if self.kind == "rate" else (self.least, None)

    def within(self, interval: Interval) -> Interval:
        """The interval with its limits held to what the measure can be."""
        low, high = self.bounds
        return replace(
            interval,
            low=interval.low if low is None else max(interval.low, low),
            high=interval.high if high is None else min(interval.high, high),
        )

    @property
    def axis_label(self) -> str:
        """Name and unit, as on a plot's axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def subject(self) -> str:
        """The name at the beginning of a sentence about held-out items."""
        return "Held-out " + self.label.removeprefix("held-out ")

    def text(self, value: float) -> str:
        """The value as written in a table; an en dash for none."""
        return format_number(value, self.kind)

    def span(self, low: float, high: float) -> str:
        """ "low to high", with as many digits as tell the two apart."""
        first, last = self.text(low), self.text(high)
        digits = 4
        while first == last and low != high and self.kind in ("rate", "nats", "seconds") and digits < 12:
            first, last = (f"{value:.{digits}f}".replace("-", "−") for value in (low, high))
            digits += 1
        return f"{first} to {last}"


OUTCOMES = (
    Measure(EXACT_MATCH_SAMPLED, "sampled exact match", "share", "rate", True, NUM_PROMPTS),
    Measure(EXACT_MATCH_GREEDY, "greedy exact match", "share", "rate", True, NUM_PROMPTS),
    Measure(PAIR_ACCURACY, "pair accuracy", "share", "rate", True, NUM_PAIRS),
    Measure(PAIR_ACCURACY_OWN, "pair accuracy by its own score", "share", "rate", True, NUM_PAIRS),
    Measure(PAIR_MARGIN, "pair margin", "nats", "nats", None),
    Measure(SCORE_MEAN, "mean score", "held-out completions", "nats", None),
    Measure(SCORE_SD, "standard deviation of scores", "held-out completions", "nats", None, least=0.0),
    Measure(LENGTH_CORRELATION, "score with length", "rank correlation", "nats", None),
    Measure(KL_START, "KL from the start", "nats per sequence", "nats", None, least=0.0),
    Measure(HELD_OUT_LOSS, "held-out loss", "nats per token", "nats", False),
    Measure(COMPLETION_TOKENS, "completion length", "tokens", "nats", None, least=0.0),
)
TRAINING = (
    Measure("rewards/margins", "reward margin in training", "nats", "nats", None),
    Measure("rewards/accuracies", "reward accuracy in training", "share", "rate", None),
    Measure("loss", "training loss", "nats", "nats", None),
    Measure("grad_norm", "gradient norm", "", "nats", None, least=0.0),
)
ROLLOUTS = (
    Measure("reward", "reward in training", "mean of completions", "nats", None),
    Measure("groups_with_signal", "groups with signal", "share", "rate", None),
    Measure("completions/mean_length", "length of rollouts", "tokens", "nats", None, least=0.0),
    Measure("completions/clipped_ratio", "rollouts cut off", "share", "rate", None),
    Measure("entropy", "entropy of rollouts", "nats per token", "nats", None, least=0.0),
    Measure("objective/entropy", "entropy of whole rollouts", "nats per sequence", "nats", None, least=0.0),
    Measure("kl", "KL in training", "nats per token", "nats", None),
    Measure("objective/kl", "KL of whole rollouts", "nats per sequence", "nats", None),
    Measure("clip_ratio/region_mean", "tokens clipped", "share", "rate", None),
    Measure("policy/clipfrac_avg", "tokens clipped by PPO", "share", "rate", None),
    Measure("loss/value_avg", "value loss", "", "nats", None, least=0.0),
)
"""What online runs say of their own completions. Training measures all: the trainer's own estimates on its own prompts,
not the report's."""
PASS_RATES = (
    Measure("pass_rate", "pass rate of prompts", "share", "rate", None, least=0.0),
    Measure("prompts", "prompts in the band", "share", "rate", None, least=0.0),
)
"""By source, where prompts are drawn by how often completions of them passed."""
COSTS = (
    Measure("cost/trained_tokens", "trained tokens", "", "count", least=0.0),
    Measure("cost/generated_tokens", "generated tokens", "", "count", least=0.0),
    Measure("cost/scored_tokens", "scored tokens", "", "count", least=0.0),
    Measure("cost/flops", "FLOPs", "", "flops", least=0.0),
    Measure("time/seconds", "training time", "s", "seconds", least=0.0),
)
STEPS = Measure("step", "optimiser steps", "", "count")
BY_COLUMN = {measure.column: measure for measure in (*OUTCOMES, *TRAINING, *ROLLOUTS, *PASS_RATES, *COSTS)}


def measure_of(column: str) -> Measure:
    """What a column means; rewards/<name>/mean are each reward's own, <measure>/<source> those of one source, and
    eval/pass_at_<k> and eval/majority_at_<k> those of k samples."""
    if column.startswith("rewards/") and column.endswith("/mean"):
        name = column.removeprefix("rewards/").removesuffix("/mean")
        return Measure(column, f"reward {name} in training", "mean of completions", "nats")
    if (samples := of_samples(column)) is not None:
        return Measure(column, "{}@{}".format(*samples), "share", "rate", True)
    of_all, _, source = column.rpartition("/")
    if column not in BY_COLUMN and of_all in BY_COLUMN:
        whole = BY_COLUMN[of_all]
        return replace(whole, column=column, label=f"{whole.label}, {source}")
    return BY_COLUMN[column]


_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def format_number(value: float | None, kind: str = "nats") -> str:
    """A number at the precision its kind deserves; an en dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if kind == "rate":
        return f"{value:.3f}"
    if kind == "flops":
        return _powers_of_ten(value)
    if kind == "count":
        return _thousands(value)
    if kind == "seconds":
        return f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 1000 else 0
    return f"{value:.{min(decimals, 4)}f}".replace("-", "−")


def power_of_ten(exponent: int) -> str:
    """Writes a power of ten with its exponent raised."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _powers_of_ten(value: float) -> str:
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    mantissa = f"{value / 10**exponent:.2f}"
    if mantissa.startswith("10"):
        mantissa, exponent = "1.00", exponent + 1
    return f"{mantissa}×{power_of_ten(exponent)}"


def _thousands(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.3g}{suffix}"
    return f"{value:,.0f}"


def format_p(p: float) -> str:
    """A p value with its relation: "p = 0.031", "p < 0.001", or that there is none."""
    if math.isnan(p):
        return "no test"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def plain(value: object) -> str:
    """A swept value as written in a definition: 0.1 and not 0.10000000000000001, 3 and not 3.0, {ipo: 0.5}."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {plain(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(plain, value))}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def join(words: list[str], last: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}" if words else ""


def join_few(words: list[str], shown: int = 3) -> str:
    """The first ones, and how many more there are."""
    more = len(words) - shown
    return join(words) if more <= 1 else join([*words[:shown], f"{more} more"])


def capital(text: str) -> str:
    """The text with a capital, to begin a sentence."""
    return text[:1].upper() + text[1:]


def number_or_nan(value: object) -> float:
    """A number of a status or a row as a float; NaN for anything else."""
    return float(value) if isinstance(value, int | float) else math.nan
