"""What a method says of itself, without torch: `explain`, `plan`, each run's record and so the report read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workbench.config import Settings
from workbench.objectives.options import Option, Options


def option_tables(settings_class: type[Settings]) -> dict[str, Options[Any]]:
    """The settings that choose a function by its name, each with the table that it chooses from."""
    fields = settings_class.model_fields.items()
    return {name: table for name, field in fields for table in field.metadata if isinstance(table, Options)}


def chosen_options(settings: Settings) -> Iterator[tuple[str, str, Options[Any], Option[Any]]]:
    """Of each such setting that has an effect its name, its value, the table and the option chosen."""
    for setting, table in option_tables(type(settings)).items():
        name = getattr(settings, setting)
        option = table.about(name)
        if option is not None and (table.used_with is None or getattr(settings, table.used_with)):
            yield setting, name, table, option
