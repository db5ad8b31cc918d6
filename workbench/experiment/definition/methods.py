"""Every method side by side, for a reader who asks which to take: `workbench explain --methods`, docs/methods.md."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.objectives.options import Options
from workbench.trainer import method
from workbench.trainer.registry import get_settings_class, trainer_names

MEASURED = "measured.csv"
"""The file beside the shipped definitions that says what runs of them reached, by trainer. `python -m tests.pages`
writes it."""


@dataclass(frozen=True)
class MethodRow:
    """A method as its own settings describe it. Texts are empty where there is nothing to say."""

    trainer: str
    name: str
    paper: str
    formula: str
    """What is minimised with the default settings."""
    choices: str
    """The settings that choose another formula, with the names that they take."""
    data: str
    reference: str
    reward: str
    when: str
    measured: str
    """What a shipped definition reached with it."""

    def facts(self) -> Iterator[tuple[str, str]]:
        """What there is to say, by what it is."""
        said = {
            "paper": self.paper,
            "minimises": self.formula,
            "choices": self.choices,
            "learns from": self.data,
            "reference": self.reference or "none",
            "reward": self.reward or "none",
            "use it when": self.when,
            "measured": self.measured,
        }
        return ((what, text) for what, text in said.items() if text)


def method_rows(folder: Path = Path("experiments")) -> list[MethodRow]:
    """Every trainer there is a file for, a user's own among them. folder: of the definitions, and of what they gave."""
    measured = _measured(folder)
    return [_row(name, measured.get(name, "")) for name in trainer_names()]


def _row(trainer: str, measured: str) -> MethodRow:
    settings = get_settings_class(trainer)()
    told = settings.described()
    choices = {name: ", ".join(table.names) for name, table in method.option_tables(type(settings)).items()}
    return MethodRow(
        trainer=trainer,
        name=told.name,
        paper=told.paper,
        formula=method.formula(told, settings),
        choices="; ".join(f"{name}: {names}" for name, names in choices.items()),
        data=told.learns_from,
        reference=f"{told.reference}; none where {told.tied_by} is 0" if told.tied_by else told.reference,
        reward=told.reward,
        when=told.when,
        measured=measured,
    )


def _measured(folder: Path) -> dict[str, str]:
    """What the shipped definitions gave, in words, by trainer; empty where the folder has no such table."""
    path = folder / MEASURED
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["trainer"]: row["measured"] for row in csv.DictReader(file)}


def methods_text() -> str:
    """A block for each method, for a terminal."""
    lines: list[str] = []
    for row in method_rows():
        lines += [f"{row.trainer}: {row.name}", *(f"  {what:12} {text}" for what, text in row.facts()), ""]
    return "\n".join(lines).rstrip()


def methods_table(folder: Path = Path("experiments")) -> str:
    """The same as a table in Markdown."""
    head = ("trainer", "paper", "minimises", "learns from", "reference", "reward", "use it when", "measured here")
    rows = [
        (
            f"`{row.trainer}`: {row.name}",
            row.paper,
            f"{row.formula} (choices: {row.choices})" if row.choices else row.formula,
            row.data,
            row.reference or "none",
            row.reward or "none",
            row.when,
            row.measured,
        )
        for row in method_rows(folder)
    ]
    return _markdown(head, rows)


def options_table(options: Options[Any]) -> str:
    """The functions that a setting chooses from, as a table in Markdown."""
    head = (options.title, "formula", "paper", "it reads")
    rows = [
        (f"`{name}`", option.formula, option.paper, ", ".join(f"`{setting}`" for setting in option.reads))
        for name, option in options.all.items()
    ]
    return _markdown(head, rows)


def _markdown(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    table = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table) + "\n"
