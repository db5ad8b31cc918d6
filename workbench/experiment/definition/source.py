"""Definition files as data: YAML read by a closed reader that remembers file and line of every value.

Only plain mappings, lists and scalars are understood. Nothing in a file can name code, and no file is slow to refuse.
Scalars follow YAML 1.2: `1e-3` is a number, `on`, `off`, `yes`, `no` and dates stay text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from workbench.decimals import becomes_zero

MAX_BYTES = 64 * 1024
MAX_DEPTH = 20
MAX_NODES = 5_000
MAX_INTEGER = 2**63 - 1
OVERRIDE = "--set "
"""What the place of an override begins with."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufffe\uffff\ud800-\udfff]")
_CONSTANTS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_CONSTANTS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class SourceError(Exception):
    """Reading cannot go on; what was found so far is in the list of problems."""


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a definition, with the place it was written and the name it has there."""

    value: Any
    """A scalar, a dict of text to Node, or a list of Nodes."""
    where: str
    """experiments/x.yaml:9 (for an entry of a mapping the line of its key), or the override as it was typed."""
    field: str
    """The dotted path at that place, such as sweep.grid.beta[2]; empty for the whole file."""

    @property
    def is_override(self) -> bool:
        """Whether it was written on the command line."""
        return self.where.startswith(OVERRIDE)

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value

    def get(self, path: str) -> Node | None:
        """The node at a dotted path below this one."""
        node: Node | None = self
        for key in path.split("."):
            if node is None or not isinstance(node.value, dict):
                return None
            node = node.value.get(key)
        return node

    def size(self) -> int:
        """Number of nodes, this one included."""
        children: Any = self.value.values() if isinstance(self.value, dict) else self.value
        return 1 + (sum(child.size() for child in children) if isinstance(self.value, dict | list) else 0)

    def renamed(self, field: str) -> Node:
        """Returns the same value at the same place under another name."""
        value = self.value
        if isinstance(value, dict):
            value = {key: item.renamed(join_field(field, key)) for key, item in value.items()}
        elif isinstance(value, list):
            value = [item.renamed(f"{field}[{index}]") for index, item in enumerate(value)]
        return replace(self, value=value, field=field)


def join_field(parent: str, key: str) -> str:
    """Dotted path of key below parent."""
    return f"{parent}.{key}" if parent else key


def show(value: Any, limit: int = 60) -> str:
    """A found value on one line: JSON, cut when long, control characters escaped."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    if isinstance(value, str) and value.isprintable() and value and len(value) < limit and "'" not in value:
        text = f"'{value}'"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def read_source(path: Path, label: str, problems: list[str]) -> tuple[Node | None, str]:
    """The file's tree and its text; the tree is None when it cannot be read. Every problem found is appended.

    label stands for the path in messages (experiments/x.yaml). Never raises for anything the file may hold.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(f"{label}:1: file: found {error.strerror or 'nothing readable'}, allowed a readable file")
        return None, ""
    found = len(problems)
    text = _decode(raw, label, problems)
    if text is None or len(problems) > found:
        return None, text or ""
    try:
        node = _Builder(text, label, problems).document()
    except SourceError:
        return None, text
    return (node if len(problems) == found else None), text


def parse_value(text: str, where: str, field: str, problems: list[str]) -> Node | None:
    """The value of an override as typed: a bare scalar, or YAML where it starts with a bracket, brace or quote."""
    found = len(problems)
    if text[:1] in ("[", "{", '"', "'"):
        builder = _Builder(text, where, problems, line_numbers=False)
        try:
            node = builder.document(mapping=False).renamed(field)
        except SourceError:
            return None
        return node if len(problems) == found else None
    if _CONTROL.search(text):
        problems.append(f"{where}: {field}: found a control character, allowed printable text")
        return None
    value, problem = resolve_scalar(text)
    if problem:
        problems.append(f"{where}: {field}: {problem}")
        return None
    return Node(value, where, field)


def resolve_scalar(text: str) -> tuple[Any, str]:
    """The value of an unquoted scalar, and a problem ("found ..., allowed ...") or ''."""
    if text in _CONSTANTS:
        return _CONSTANTS[text], ""
    if _NOT_FINITE.fullmatch(text):
        return None, f"found {text}, allowed finite numbers"
    if _LEADING_ZERO.fullmatch(text):
        digits = text.lstrip("+-0") or "0"
        return None, f"found {show(text)}, allowed numbers without a leading zero, did you mean {digits} or '{text}'?"
    if _INTEGER.fullmatch(text):
        if len(text) > 20 or abs(int(text)) > MAX_INTEGER:
            return None, f"found {show(text)}, allowed whole numbers below 2**63"
        return int(text), ""
    if _FLOAT.fullmatch(text):
        number = float(text)
        if becomes_zero(text, number):
            return None, f"found {show(text)}, so small that it would be read as 0, allowed 0 or a larger number"
        # Adding 0.0 makes minus zero zero, so that it is no second value of a grid.
        return (number + 0.0, "") if math.isfinite(number) else (None, f"found {show(text)}, allowed finite numbers")
    return text, ""


def _decode(raw: bytes, label: str, problems: list[str]) -> str | None:
    if len(raw) > MAX_BYTES:
        problems.append(f"{label}:1: file: found more than {MAX_BYTES} bytes, allowed a definition, which is short")
        return None
    for mark, name in ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if raw.startswith(mark):
            problems.append(f"{label}:1: file: found a byte order mark ({name}), allowed UTF-8 without one")
            return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        problems.append(f"{label}:{line}: file: found the byte 0x{raw[error.start]:02x}, allowed UTF-8 text")
        return None
    for number, line_text in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if re.match(r" *\t", line_text) and line_text.strip():
            problems.append(f"{label}:{number}: file: found a tab in the indentation, allowed spaces")
        control = _CONTROL.search(line_text)
        if control:
            problems.append(
                f"{label}:{number}: file: found the character {ord(control[0]):#04x}, allowed printable text"
            )
    return text


class _Builder:
    """Turns PyYAML's events into Nodes, counting depth and size as it goes."""

    def __init__(self, text: str, label: str, problems: list[str], *, line_numbers: bool = True) -> None:
        self.label, self.problems, self.line_numbers = label, problems, line_numbers
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))
        self.anchors: dict[str, Node | None] = {}
        self.num_nodes = 0

    def document(self, *, mapping: bool = True) -> Node:
        """The only document of the stream."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._stop(1, "file", "found nothing, allowed a mapping such as `question: ...`")
        event = self._next()
        node = self._node(event, self._where(event), "", 0)
        self._next()  # the end of the document
        extra = self._next()
        if not isinstance(extra, yaml.StreamEndEvent):
            self._stop(extra.start_mark.line + 1, "file", "found a second document, allowed one a file")
        if mapping and not isinstance(node.value, dict):
            self._stop(1, "file", f"found {describe(node)}, allowed a mapping such as `question: ...`")
        return node

    def _next(self) -> Any:
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self._stop(
                mark.line + 1 if mark else 1, "file", f"found broken YAML ({_advice(error)}), allowed plain YAML"
            )
        except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
            self._stop(1, "file", f"found broken YAML ({show(str(error))}), allowed plain YAML")

    def _where(self, event: Any) -> str:
        return f"{self.label}:{event.start_mark.line + 1}" if self.line_numbers else self.label

    def _stop(self, line: int, field: str, problem: str) -> Any:
        where = f"{self.label}:{line}" if self.line_numbers else self.label
        self.problems.append(f"{where}: {field}: {problem}")
        raise SourceError

    def _complain(self, where: str, field: str, problem: str) -> None:
        self.problems.append(f"{where}: {field or 'file'}: {problem}")

    def _count(self, number: int, event: Any) -> None:
        self.num_nodes += number
        if self.num_nodes > MAX_NODES:
            problem = f"found more than {MAX_NODES} values once aliases are written out, allowed a short definition"
            self._stop(event.start_mark.line + 1, "file", problem)

    def _node(self, event: Any, where: str, field: str, depth: int) -> Node:
        """The value that starts with event; where is the place it is known by."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, where, field)
        self._count(1, event)
        if depth > MAX_DEPTH:
            self._stop(
                event.start_mark.line + 1, "file", f"found more than {MAX_DEPTH} levels, allowed a flat definition"
            )
        if event.tag is not None:
            self._complain(
                where, field, f"found the tag {show(event.tag)}, allowed plain data; quote a value to make it text"
            )
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.MappingStartEvent):
            node = Node(self._mapping(field, depth), where, field)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Node(self._sequence(field, depth), where, field)
        else:
            node = Node(self._scalar(event, where, field), where, field)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, event: Any, where: str, field: str) -> Node:
        if event.anchor not in self.anchors:
            self._stop(
                event.start_mark.line + 1, field or "file", f"found *{event.anchor}, allowed a name anchored above"
            )
        anchored = self.anchors[event.anchor]
        if anchored is None:
            self._stop(
                event.start_mark.line + 1, field or "file", f"found *{event.anchor} inside itself, allowed no circle"
            )
        assert anchored is not None
        self._count(anchored.size(), event)
        return replace(anchored.renamed(field), where=where)

    def _scalar(self, event: Any, where: str, field: str) -> Any:
        if event.style is not None:
            return event.value
        value, problem = resolve_scalar(event.value)
        if problem:
            self._complain(where, field, problem)
        return value

    def _sequence(self, field: str, depth: int) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, self._where(event), f"{field}[{len(items)}]", depth + 1))
        return items

    def _mapping(self, field: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(key := self._next(), yaml.MappingEndEvent):
            where = self._where(key)
            if not isinstance(key, yaml.ScalarEvent) or key.tag is not None or not key.value:
                name = "a list or mapping" if not isinstance(key, yaml.ScalarEvent) else show(key.tag or key.value)
                self._stop(key.start_mark.line + 1, field or "file", f"found {name} as a key, allowed a plain name")
            if key.value == "<<":
                self._complain(where, field, "found the merge key <<, allowed `extends: NAME` to share settings")
            node = self._node(self._next(), where, join_field(field, key.value), depth + 1)
            if key.value in entries:
                first = entries[key.value].where.rpartition(":")[2]
                self._complain(where, node.field, f"found a second time (first on line {first}), allowed once")
                continue
            entries[key.value] = node
        return entries


def describe(node: Node) -> str:
    """What a value is, for a message: a mapping, a list, nothing, or the value itself."""
    if isinstance(node.value, dict):
        return "a mapping"
    if isinstance(node.value, list):
        return "a list"
    return "nothing" if node.value is None else show(node.value)


def _advice(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's own words on one line, with a remedy for the commonest slips."""
    words = " ".join(str(part) for part in (error.context, error.problem) if part)
    words = " ".join(words.split())
    if "mapping values are not allowed" in words:
        return f"{words}; is a quote or an indent missing?"
    if "'\\t'" in words:
        return "a tab between words; use spaces"
    return words
