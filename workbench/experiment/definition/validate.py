"""Settings classes applied to Nodes: every problem becomes one line that says where, found, allowed, did you mean."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from workbench.config import Settings
from workbench.experiment.definition.remedies import remedy
from workbench.experiment.definition.source import Node, describe, join_field

SettingsType = TypeVar("SettingsType", bound=Settings)
Hint = Callable[[str], str]
MAX_LISTED = 15
SCHEMA = "schema.json"

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "path_type": "a path",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "mapping_type": "a mapping",
    "none_required": "nothing",
    "missing": "a value",
}
_BOUNDS = {"greater_than": (">", "gt"), "greater_than_equal": (">=", "ge"), "less_than": ("<", "lt")}
_BOUNDS |= {"less_than_equal": ("<=", "le")}
_SIZES = {"too_short": "min_length", "string_too_short": "min_length", "too_long": "max_length"}
_SIZES |= {"string_too_long": "max_length"}


class Problems:
    """Lines for the user, each once, in the order they were found."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, node: Node, problem: str, field: str | None = None) -> None:
        """One line about node: problem is "found ..., allowed ..."."""
        self.append(f"{node.where}: {field or node.field or 'file'}: {problem}")

    def append(self, line: str) -> None:
        """A whole line."""
        if line not in self.lines:
            self.lines.append(line)

    def sorted(self) -> tuple[str, ...]:
        """The problems by file, in the order of the files' first problems, and then by line."""
        files: dict[str, int] = {}

        def place(line: str) -> tuple[int, int]:
            match = re.match(r"(.*?\.yaml):(\d+):", line)
            file = match[1] if match else ""
            return files.setdefault(file, len(files)), int(match[2]) if match else 0

        return tuple(sorted(self.lines, key=place))


def validate(cls: type[SettingsType], node: Node, problems: Problems, hint: Hint | None = None) -> SettingsType | None:
    """The settings that node declares, or None after their problems were added.

    Values are taken strictly: text is no number and 1 is not true. hint(name) words the problem of an unknown key.
    """
    try:
        text = json.dumps(node.plain())
        return TypeAdapter(cls).validate_json(text, strict=True)
    except ValidationError as error:
        _translate(cls, node, error, problems, hint)
        return None


def suggest(found: str, allowed: Iterable[str]) -> str:
    """ ", did you mean x?" where one of the allowed names is near, else ''."""
    folded = {name.lower().replace("-", "_"): name for name in allowed}
    near = difflib.get_close_matches(found.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return f", did you mean {folded[near[0]]}?" if near else ""


def unknown_key(found: str, allowed: Iterable[str], more: str = "", listing: str = SCHEMA) -> str:
    """The problem of a key that does not exist: the nearest one, or all there are. listing: what tells of many."""
    names = list(allowed)
    near = more or suggest(found, names)
    listed = f"the {len(names)} names that {listing} lists" if near and len(names) > MAX_LISTED else ", ".join(names)
    return f"found an unknown key, allowed {listed}{near}"


def _translate(cls: type[Settings], node: Node, error: ValidationError, problems: Problems, hint: Hint | None) -> None:
    collected: dict[tuple[str, str], tuple[Node, list[str]]] = {}
    for item in error.errors(include_url=False):
        at, field, missing = _locate(node, item)
        kind, context = item["type"], item.get("ctx", {})
        if kind == "extra_forbidden":
            name = str(item["loc"][-1])
            top = hint is not None and len(item["loc"]) == 1
            keys = _keys_at(cls, item["loc"][:-1])
            axis = f", did you mean sweep.grid.{name}?" if item["loc"][:-1] == ("sweep",) else ""
            problem = hint(name) if top and hint else unknown_key(name, keys, suggest(name, keys) or axis)
            problems.add(at, problem, field)
        elif item["loc"][-1:] == ("[key]",):
            names = re.findall(r"'([^']*)'", str(context.get("expected")))
            problems.add(at, unknown_key(str(item["loc"][-2]), names), field)
        elif kind == "missing" and missing:
            problems.add(at, "found nothing, allowed a value: it has no default", field)
        elif kind in ("value_error", "assertion_error"):
            problems.add(at, str(context.get("error", item["msg"])), field)
        else:
            collected.setdefault((at.where, field), (at, []))[1].append(_allowed(kind, context, at, item["msg"]))
    for (_, field), (at, allowed) in collected.items():
        if any(other.startswith((f"{field}.", f"{field}[")) for _, other in collected):
            continue  # of a choice between kinds the file took this one: what is wrong is inside
        choices = list(dict.fromkeys(allowed))
        near = _near_literal(at, choices) or remedy(at, choices)
        problems.add(at, f"found {describe(at)}, allowed {' or '.join(choices)}{near}", field)


def _locate(node: Node, item: Any) -> tuple[Node, str, bool]:
    """The deepest node on the way to the error, the field's name, and whether the field is absent from the file."""
    at, field = node, node.field
    parts = list(item["loc"])
    for index, part in enumerate(parts):
        child = _child(at, part)
        if child is not None:
            at, field = child, child.field
        elif item["type"] == "missing" and index == len(parts) - 1:
            return at, f"{field}[{part}]" if isinstance(part, int) else join_field(field, part), True
    return at, field, False


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(part)
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _keys_at(cls: type[Settings], loc: tuple[Any, ...]) -> list[str]:
    """Names that the settings class at loc below cls knows."""
    schema = TypeAdapter(cls).json_schema(by_alias=True)
    place = _follow(schema, schema)
    for part in loc:
        if isinstance(part, int):
            place = _follow(place.get("items", place), schema)
        elif part in place.get("properties", {}):
            place = _follow(place["properties"][part], schema)
        elif isinstance(place.get("additionalProperties"), dict):
            place = _follow(place["additionalProperties"], schema)
    return list(place.get("properties", {}))


def _follow(place: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference, or the first mapping of several choices, stands for."""
    if "$ref" in place:
        return _follow(schema["$defs"][place["$ref"].rsplit("/", 1)[-1]], schema)
    for choices in (place.get("anyOf", []), place.get("oneOf", [])):
        for choice in choices:
            found = _follow(choice, schema)
            if found.get("properties") or found.get("type") == "array":
                return found
    return place


def _allowed(kind: str, context: dict[str, Any], at: Node, message: str) -> str:
    if kind in _BOUNDS:
        sign, name = _BOUNDS[kind]
        bound = context[name]
        return f"{_thing(at)}{sign} {bound:g}" if abs(bound) < 1e6 else f"{_thing(at)}{sign} {bound:,.0f}"
    if kind in _SIZES:
        number = context[_SIZES[kind]]
        unit = "characters" if kind.startswith("string") else "values"
        return f"{'at least' if 'short' in kind else 'at most'} {number} {unit}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    if kind == "missing":  # an item of a fixed-length list
        return "one more item"
    return _KINDS.get(kind, message[:1].lower() + message[1:])


def _thing(at: Node) -> str:
    return "numbers " if isinstance(at.value, int | float) else ""


def _near_literal(at: Node, choices: list[str]) -> str:
    if not isinstance(at.value, str):
        return ""
    names = [name for choice in choices for name in re.split(r", | or ", choice) if " " not in name]
    return suggest(at.value, names)
