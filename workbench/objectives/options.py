"""Options that are functions, by name: each carries its formula, its paper and the settings that it reads.

The tables stand beside the functions, so an option has one place. Settings take their allowed names from them, and a
definition is checked, planned and explained without torch: modules that fill a table import torch late (late_torch.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Option(Generic[T]):
    """One of the options of a setting."""

    function: T
    formula: str
    paper: str = ""
    """The paper that it comes from; empty where no paper has it."""
    reads: tuple[str, ...] = ()
    """The settings that it reads, of those that not every option of its table does."""
    requires: tuple[str, ...] = ()
    """The settings among them that may not be 0 with it."""
    over_step: bool = False
    """Whether its value for a row depends on the other rows of the step."""
    conventions: Mapping[str, str] = field(default_factory=dict)
    """What a method's numbers mean with it, in words, where that differs from the method's own."""

    @property
    def described(self) -> str:
        """Formula and paper."""
        return f"{self.formula} ({self.paper})" if self.paper else self.formula


class Options(Mapping[str, T]):
    """Functions by name. As the metadata of a settings' field, Annotated[str, TABLE], it allows their names alone.

    title: what `explain` calls the choice. off: the name that stands for no option at all, allowed in settings beside
    the others. used_with: the setting without which the choice has no effect. weighted: several may be chosen, each
    with its weight, as {name: weight}.
    """

    def __init__(
        self, title: str, *, off: str | None = None, used_with: str | None = None, weighted: bool = False
    ) -> None:
        self.title = title
        self.weighted = weighted
        self.off = off
        self.used_with = used_with
        self._options: dict[str, Option[T]] = {}

    def add(self, name: str, function: T, formula: str, **about: Any) -> T:
        """One more option; about: the other fields of Option. Names are given once."""
        assert name not in self.names, f"{self.title} {name} is defined twice"
        self._options[name] = Option(function, formula, **about)
        return function

    def option(self, name: str, formula: str, **about: Any) -> Callable[[T], T]:
        """A decorator that adds the function below it."""
        return lambda function: self.add(name, function, formula, **about)

    def about(self, name: str) -> Option[T] | None:
        """What an option says of itself; None for the name that stands for none."""
        return self._options[name] if name != self.off else None

    def chosen(self, value: str | Mapping[str, float]) -> dict[str, float]:
        """The options that a setting's value stands for, each with its weight, in the order of their names; none where
        it stands for none."""
        weights = value if isinstance(value, Mapping) else {value: 1.0}
        return {name: weights[name] for name in sorted(weights) if name != self.off}

    @property
    def all(self) -> Mapping[str, Option[T]]:
        """Every option by its name."""
        return self._options

    def that_read(self, setting: str) -> list[str]:
        """The options that read a setting."""
        return [name for name, option in self._options.items() if setting in option.reads]

    @property
    def names(self) -> list[str]:
        """What a settings' field may hold."""
        return [*([self.off] if self.off is not None else []), *self._options]

    def __getitem__(self, name: str) -> T:
        return self._options[name].function

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        names = core_schema.literal_schema(self.names)
        if not self.weighted:
            return names
        weight = core_schema.float_schema(gt=0, allow_inf_nan=False)
        weights = core_schema.dict_schema(names, weight, min_length=1)
        return core_schema.tagged_union_schema(
            {"name": names, "weights": weights}, lambda value: "weights" if isinstance(value, Mapping) else "name"
        )
