"""What to write instead of a value of the wrong kind: the value that was meant, as YAML has it."""

from __future__ import annotations

import re
from collections.abc import Collection

from workbench.experiment.definition.source import Node, resolve_scalar

_WORDS = {"none": "null", "nil": "null", "yes": "true", "on": "true", "no": "false", "off": "false"}
_PRESETS = ("tiny", "mini", "bench", "bytes")
_TASKS = ("sort", "countdown", "reasoning_gym")
_SUFFIX = re.compile(r"\.(jsonl|json|parquet|csv|tsv|txt)$", re.IGNORECASE)
_OF_WORDS = ("track", "ignore_columns", "add_tokens", "targets")
_EXAMPLES = {
    "columns": "{prompt: question, completion: answer}",
    "arms": "{first: {trainer: sft}, second: {trainer: dpo}}",
    "early_stopping": "{metric: eval/exact_match_greedy}",
}
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
_FRACTION = re.compile(r"([0-9.]+)/([0-9.]+)")
MANY_VALUES = "; values to compare stand in sweep.grid"


def remedy(node: Node, allowed: Collection[str]) -> str:
    """ ", did you mean x?" where what was meant can be told from the value and from what is allowed; else ''."""
    meant = _meant(node, allowed)
    if meant:
        return f", did you mean {_as_override(node.field, meant) if node.is_override else meant}?"
    if isinstance(node.value, list) and node.field.endswith("path"):
        return "; data.dataset reads a folder of files"
    scalar = not {"a list", "a mapping"} & set(allowed) and not any("values" in each for each in allowed)
    several = isinstance(node.value, list) and scalar
    of_trainer = node.field.removeprefix("hyperparameters.").count(".") == 0 and node.field != "trainer"
    return MANY_VALUES if several and of_trainer else ""


def _as_override(field: str, meant: str) -> str:
    """What is typed on the command line for a list, or for a mapping of one entry."""
    if not re.fullmatch(r"\w+(\.\w+)*", field):
        return meant
    entry = re.fullmatch(r"\{(\w+): ([^{},]+)\}", meant)
    if entry:
        return f"{field}.{entry[1]}={entry[2]}"
    whole = meant.startswith("[") and meant.endswith("]")
    return f"{field}={meant}" if whole else meant


def _meant(node: Node, allowed: Collection[str]) -> str:
    value = node.value
    if isinstance(value, str) and value.lower() in _WORDS:
        word = _WORDS[value.lower()]
        return word if word == "null" or "true or false" in allowed else ""
    if isinstance(value, dict) and "a mapping" not in allowed:
        return f"[{{{', '.join(f'{k}: {v.value}' for k, v in value.items())}}}]" if _is_flat(node) else ""
    if isinstance(value, bool) and "a mapping" not in allowed:
        return ""
    if "a mapping" in allowed:
        return _mapping(node)
    if isinstance(value, float) and "a whole number" in allowed and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        return _of_text(node, value, allowed)
    alone = isinstance(value, int | float) and list(allowed) == ["a list"]
    return f"[{value}]" if alone else ""


def _is_flat(node: Node) -> bool:
    """Whether one reward stands where a list of them is allowed."""
    fields = node.value.values() if isinstance(node.value, dict) else ()
    flat = all(not isinstance(item.value, dict | list) for item in fields)
    return flat and bool(fields) and node.field.endswith("rewards")


def _of_text(node: Node, text: str, allowed: Collection[str]) -> str:
    number = _number(text, allowed)
    if number:
        return number
    parts = [part.strip() for part in text.strip("()").split(",")]
    if "a list" in allowed and node.field.endswith("rewards"):
        return f"[{{reward: {text}}}]"
    numbers = all(isinstance(resolve_scalar(part)[0], int | float) for part in parts)
    of_words = node.field.split(".")[-1] in _OF_WORDS
    if not of_words and not numbers:
        return ""
    if "a list" in allowed and text and re.fullmatch(r"[\w ./()+,-]+", text):
        return f"[{', '.join(parts)}]"
    if len(parts) > 1 and all(isinstance(resolve_scalar(part)[0], int | float) for part in parts):
        return f"[{', '.join(parts)}] in sweep.grid" if {"a number", "a whole number"} & set(allowed) else ""
    return ""


def _number(text: str, allowed: Collection[str]) -> str:
    """The number that a text means, where one is allowed."""
    value = resolve_scalar(text)[0]
    if "a whole number" in allowed and isinstance(value, int) and not isinstance(value, bool):
        return f"{text} without quotes"
    if "a number" in allowed and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{text} without quotes"
    if "a whole number" in allowed and re.fullmatch(r"[0-9]{1,3}([_,][0-9]{3})+|[0-9]+(_[0-9]+)+", text):
        return re.sub("[_,]", "", text)
    if "a number" in allowed and _DECIMAL_COMMA.fullmatch(text):
        return text.replace(",", ".")
    fraction = _FRACTION.fullmatch(text)
    if "a number" in allowed and fraction:
        try:
            return f"{float(fraction[1]) / float(fraction[2]):g}"
        except (ValueError, ZeroDivisionError):
            return ""
    return ""


def _mapping(node: Node) -> str:
    """What a section, or a reward, is written as, of which a word stands there."""
    value, name = node.value, re.sub(r"\[[0-9]+\]$", "", node.field).split(".")[-1]
    text = value if isinstance(value, str) and re.fullmatch(r"[\w./~+-]+", value) else ""
    if value is False:
        return "null"
    if isinstance(value, list) and value and all(isinstance(item.value, dict) for item in value):
        return "the same without dashes"
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    if value is True and name == "evaluate":
        return "{task: sort} or {path: test.jsonl}"
    if name == "lora":
        return f"{{rank: {value if isinstance(value, int) and value is not True else 16}}}"
    if name == "budget" and isinstance(value, int | float) and value is not True:
        return f"{{flops: {value:g}}} or {{tokens: {value:g}}}" if isinstance(value, float) else f"{{tokens: {value}}}"
    if name == "sampling" and isinstance(value, int | float) and value is not True:
        return f"{{temperature: {value}}}"
    if not text:
        return ""
    if name == "model":
        return (
            f"{{preset: {text}}}"
            if text in _PRESETS
            else f"{{path: {text}}} for a folder, {{name: {text}}} for the hub"
        )
    if name in ("data", "evaluate"):
        if text in _TASKS:
            return f"{{task: {text}}}"
        return (
            f"{{path: {text}}}"
            if _SUFFIX.search(text) or name == "evaluate"
            else f"{{dataset: {text}}} or {{path: file}}"
        )
    return f"{{reward: {text}}}" if name == "rewards" else ""
