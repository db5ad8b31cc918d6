"""A data file as examples of one kind; bad rows are named all at once, or left out and counted where that is asked."""

from __future__ import annotations

from pathlib import Path

from workbench.data.formats import Example, PromptCompletion, kind_of, parse_example
from workbench.data.sources import read_records
from workbench.errors import DataError

MAX_SHOWN = 20


def read_examples(path: Path, *, pairs: bool, skip_bad: bool = False) -> tuple[list[Example], list[str]]:
    """The examples, and a line for each bad row that was left out ("file:line: reason").

    pairs: preference pairs are wanted, else anything but them. DataError, a line a bad row, unless skip_bad.
    """
    examples: list[Example] = []
    problems: list[str] = []
    kind: str | None = None
    for record in read_records(path):
        try:
            if record.problem:
                raise ValueError(record.problem)
            if kind is None:
                kind = kind_of(record.fields)
                if (kind == "preference") != pairs:
                    wanted = "prompt, chosen, rejected" if pairs else "text; prompt, completion; messages"
                    raise DataError(f"{record.where}: found {kind} rows, this needs rows of {wanted}")
            examples.append(parse_example(kind, record.fields))
        except ValueError as error:
            problems.append(f"{record.where}: {error}")
    if problems and not skip_bad:
        shown = "\n".join(problems[:MAX_SHOWN])
        more = f"\n... and {len(problems) - MAX_SHOWN:,} more bad rows" if len(problems) > MAX_SHOWN else ""
        raise DataError(f"{shown}{more}\nmend the rows, or set data.bad_rows=skip to leave them out, counted")
    if not examples:
        raise DataError(f"{path}: no row in it can be used" + (f"; the first: {problems[0]}" if problems else ""))
    return examples, problems


def read_held_out(path: Path) -> list[PromptCompletion]:
    """The prompts and answers of a prompt-completion file. DataError where it is another kind."""
    found = [example for example in read_examples(path, pairs=False)[0] if isinstance(example, PromptCompletion)]
    if not found:
        raise DataError(f"{path}: found no prompt and completion, which a held-out set of prompts needs")
    return found
