"""What a method says of itself, without torch: `explain`, each run's record and so the report read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from workbench.config import Settings
from workbench.objectives.options import Option, Options

PairScore = Literal["log_ratio", "logprob", "mean_logprob"]
"""What a method prefers a completion by: the summed log-probability above the reference's, the summed log-probability,
or its mean a token."""
REFERENCE_FREE = {
    "loss": "pairwise loss summed over pairs, divided once by the number of pairs over the whole step; a likelihood "
    "term is divided by its tokens",
    "reference": "none",
    "logps/*": "log-probability of a completion, summed over its tokens, end included",
    "nll_loss": "negative log-likelihood a token of what the likelihood term learns",
}
"""The conventions of methods on pairs that have no reference."""


@dataclass(frozen=True)
class Measure:
    """A metric of a method's own, as the report shows it."""

    metric: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None


@dataclass(frozen=True)
class Method:
    """A method in words, for a reader who compares methods. What kind of data it learns from, and whether that comes
    with a reference, its settings say: data_form and needs_reference."""

    name: str
    formula: str
    """What is minimised. A setting that chooses an option, in braces as in {loss}, stands for the option's formula."""
    learns_from: str
    paper: str = ""
    """The paper that it comes from; those of its options stand with the options."""
    when: str = ""
    """General advice on when to use it."""
    samples: bool = False
    """Whether it samples what it learns from."""
    reference: str = ""
    """What the policy is compared with, where it is compared."""
    tied_by: str = ""
    """The setting that is 0 where there is no reference; empty: there always is the one that `reference` names."""
    moved: str = ""
    """What the reference is where it moves, as settings.reference_moves says; settings stand in braces."""
    reward: str = ""
    """What judges completions, where something does."""
    critic: str = ""
    """What values states, where something does."""
    score: PairScore = "log_ratio"
    """What it prefers a completion by, where it learns from better and worse ones."""
    extras: Mapping[str, str] = field(default_factory=dict)
    """What a setting adds to the formula where it is neither 0 nor off, by its name; options stand in braces
    likewise."""
    conventions: Mapping[str, str] = field(default_factory=dict)
    """What its numbers mean, in words, by what they are of."""
    measures: tuple[Measure, ...] = ()
    """Metrics of its own that the report draws, beside those that many methods have."""


def option_tables(settings_class: type[Settings]) -> dict[str, Options[Any]]:
    """The settings that choose a function by its name, each with the table that it chooses from."""
    fields = settings_class.model_fields.items()
    return {name: table for name, field in fields for table in field.metadata if isinstance(table, Options)}


def chosen_options(settings: Settings) -> Iterator[tuple[str, Options[Any], dict[str, Option[Any]]]]:
    """The name of each such setting that has an effect, its table, and the options chosen; each is called by its name,
    with its weight before it where there are several."""
    for setting, table in option_tables(type(settings)).items():
        weights = table.chosen(getattr(settings, setting))
        if weights and (table.used_with is None or getattr(settings, table.used_with)):
            alone = list(weights.values()) == [1.0]
            called = {name if alone else f"{weight:g} x {name}": table.all[name] for name, weight in weights.items()}
            yield setting, table, called


def is_asked(settings: Settings, name: str) -> bool:
    """Whether a setting is neither 0 nor the name that stands for no option."""
    table = option_tables(type(settings)).get(name)
    return bool(getattr(settings, name)) and (table is None or bool(table.chosen(getattr(settings, name))))


def conventions(method: Method, settings: Settings) -> dict[str, str]:
    """What the method's numbers mean with these settings."""
    found = dict(method.conventions)
    for _, table, called in chosen_options(settings):
        found[table.title] = "; ".join(f"{name}: {option.described}" for name, option in called.items())
        for option in called.values():
            found |= option.conventions
    if method.moved and _moves(settings):
        found["reference"] = reference(method, settings)
    return found


def formula(method: Method, settings: Settings) -> str:
    """What is minimised with these settings."""
    text = "; ".join([method.formula, *(extra for name, extra in method.extras.items() if is_asked(settings, name))])
    for setting, _, called in chosen_options(settings):
        formulas = " + ".join(f"{name}: {option.formula}" for name, option in called.items())
        text = text.replace(f"{{{setting}}}", formulas)
    return text


def has_reference(method: Method, settings: Settings) -> bool:
    """Whether there is a reference with these settings."""
    return bool(method.reference) and (not method.tied_by or bool(getattr(settings, method.tied_by)))


def reference(method: Method, settings: Settings) -> str:
    """What the policy is compared with under these settings."""
    if method.reference and not has_reference(method, settings):
        return f"none ({method.tied_by} is 0)"
    return method.moved.format_map(dict(settings)) if _moves(settings) else method.reference


def _moves(settings: Settings) -> bool:
    return bool(getattr(settings, "reference_moves", False))


def describe(method: Method, settings: Settings) -> dict[str, Any]:
    """The method as it runs with these settings, for a run's record."""
    return {
        "name": method.name,
        "formula": formula(method, settings),
        "learns_from": method.learns_from,
        "when": method.when,
        "samples": method.samples or bool(getattr(settings, "own_completions", 0)),
        "reference": reference(method, settings),
        "reward": method.reward,
        "critic": method.critic,
        "measures": [asdict(measure) for measure in method.measures],
    }
