"""`--set key=value`: reading overrides, and the name of the folder that keeps them apart."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.config import fingerprint
from workbench.experiment.definition.source import Node, parse_value, show
from workbench.experiment.definition.validate import Problems
from workbench.redaction import redact

MAX_NAME = 120
SHORTHANDS = {"seeds": "sweep.seeds"}
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_=+-]+)*")


@dataclass(frozen=True)
class Override:
    """One `key=value` of the command line; the value's place is the override as it was typed."""

    key: str
    value: Node


def parse_overrides(texts: Sequence[str], problems: Problems) -> list[Override]:
    """The overrides, in the order of their keys. Problems: no `=`, a broken key or value, a key given twice."""
    found: dict[str, Override] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        where = f"--set {text if text.isprintable() else show(text)}"
        key = SHORTHANDS.get(key, key).removeprefix("hyperparameters.")
        if not equals or not _KEY.fullmatch(key):
            problems.append(
                f"{where}: found {show(text)}, allowed key=value, such as beta=0.2 or data.path=pairs.jsonl"
            )
            continue
        if key in found:
            problems.append(f"{where}: {key}: found a second time, allowed once")
            continue
        node = parse_value(value, where, key, problems.lines)
        if node is not None:
            found[key] = Override(key, node)
    return [found[key] for key in sorted(found)]


def experiment_folder(name: str, overrides: Sequence[Override]) -> str:
    """NAME, or NAME+key=value,key=value in characters that are safe in a file's name."""
    if not overrides:
        return name
    shown = {shorthand: key for key, shorthand in SHORTHANDS.items()}
    return f"{name}+{file_safe({shown.get(item.key, item.key): item.value.plain() for item in overrides})}"


def file_safe(values: dict[str, Any]) -> str:
    """key=value,key=value; where letters had to be replaced or cut, or a secret is left out, a hash of the values tells
    them apart."""
    exact = ",".join(f"{key}={value_text(value)}" for key, value in values.items())
    short = ",".join(f"{key}={_short(redact(value_text(value)))}" for key, value in values.items())
    if short == exact and len(exact) <= MAX_NAME:
        return exact
    return f"{short[: MAX_NAME - 7]}-{fingerprint(values)[:6]}"


def value_text(value: Any) -> str:
    """A value as a person writes it: text bare, all else as JSON without spaces."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _short(text: str) -> str:
    name = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", name).strip("-.") or "-"
