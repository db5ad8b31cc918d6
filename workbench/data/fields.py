"""The fields of a row by what becomes of them: read, left unread and named, or refused, because without them another
thing would be learned; and the columns that a definition names, which may lie within others."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from workbench.data.conversations import KNOWN_TO_TEMPLATES, SAID_BY_TEMPLATES, UNREAD_WEIGHTS, WEIGHTS
from workbench.data.sources import shown

MISSING = object()
ROW_WEIGHTS = (
    *("weight", "weights", "sample_weight", "sample_weights", "loss_weight", "example_weight", "row_weight"),
    "importance_weight",
)
"""1 is what every row is learned with."""
ROW_SWITCHES = ("train", "trainable", "learn", "loss")
"""False: not to be learned."""
MASKS = ("loss_mask", "completion_mask", "assistant_mask", "assistant_masks", "mask", "kto_tag", "labels")
CONTEXT = (
    *("system", "tools", "system_prompt", "system_message", "context", "history", "input", "instruction"),
    *("instructions", "passage", "documents", "knowledge", "chat_template", "chat_template_kwargs"),
    *("image", "images", "video", "videos", "audio", "audios"),
)
"""What a prompt would be read with."""
TURN_LISTS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
KNOWN_OF_A_TURN = {"role", "content", "from", "value", *KNOWN_TO_TEMPLATES, *WEIGHTS, *UNREAD_WEIGHTS}
ALL = ("text", "prompt", "completion", "messages", "conversations", "chosen", "rejected", "instruction", "output")
GUESSES = (
    ("prompt", ("prompt", "question", "problem", "query", "instruction", "input", "user", "source")),
    ("completion", ("completion", "answer", "solution", "response", "output", "reply", "assistant", "target")),
)


def column_of(fields: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a dotted path into nested ones (reward_model.ground_truth); MISSING."""
    if column in fields:
        return fields[column]
    value: Any = fields
    for part in column.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return MISSING
    return value


def renamed(fields: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The fields under the names that the format gives them. columns: the data's own name by the format's."""
    found = {name: column_of(fields, column) for name, column in columns.items()}
    taken = {columns[name] for name, value in found.items() if value is not MISSING}
    kept = {name: value for name, value in fields.items() if name not in taken}
    return kept | {name: value for name, value in found.items() if value is not MISSING}


def without_absent(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row of typed columns, without nulls in tools and calls: what only others have is absent."""
    found = dict(fields)
    for name, value in fields.items():
        if name == "tools":
            found[name] = _without_nulls(value)
        elif name in TURN_LISTS and isinstance(value, list):
            found[name] = [_turn_without_absent(turn) if isinstance(turn, dict) else turn for turn in value]
    return found


def _turn_without_absent(turn: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_nulls(value) if key in SAID_BY_TEMPLATES else value for key, value in turn.items()}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def refused_fields(fields: Mapping[str, Any], read: Collection[str], *, text: bool) -> list[str]:
    """The fields outside those that are read that would change what is learned. text: rows of plain text, which have
    no prompt."""
    return [name for name, value in fields.items() if name not in read and _changes(name.lower(), value, text=text)]


def _changes(name: str, value: Any, *, text: bool) -> bool:
    if _is_empty(value):
        return False
    if name in ROW_WEIGHTS:
        return value not in (1, "1", "1.0")
    if name in ROW_SWITCHES:
        return value in (False, 0, "0", "false", "False")
    if name == "label":
        return isinstance(value, bool) and not text
    return name in MASKS or (name in CONTEXT and not text)


def unread_fields(fields: Mapping[str, Any], read: Collection[str], nested: Iterable[str] = ()) -> Iterator[str]:
    """The fields with a value that nothing reads, those of turns as messages[].name. nested: dotted columns that are
    read; what stands beside them is named."""
    parts: dict[str, set[str]] = {}
    for column in nested:
        parent, _, rest = column.partition(".")
        if column not in fields:
            parts.setdefault(parent, set()).add(rest.split(".")[0])
    for name, value in fields.items():
        if name in parts and isinstance(value, Mapping):
            yield from (f"{name}.{key}" for key in value if key not in parts[name] and not _is_empty(value[key]))
        elif name not in read and not _is_empty(value):
            yield name
        elif name in TURN_LISTS and isinstance(value, list):
            known = {key for turn in value if isinstance(turn, dict) for key in turn if not _is_empty(turn[key])}
            yield from (f"{name}[].{key}" for key in sorted(known - KNOWN_OF_A_TURN))


def no_such_column(columns: Mapping[str, str], absent: str, source: str, names: Collection[str], rows: int) -> str:
    """The one line of a column that no row has. absent: the name it was to be read as."""
    near = difflib.get_close_matches(columns[absent], names, n=1)
    hint = f"; did you mean {shown(near[0])[1:-1]}?" if near else ""
    if absent == "prompt" and {"chosen", "rejected"} <= set(names):
        hint = "; a prompt that chosen and rejected begin with needs no name: columns: {completion: chosen}"
    return (
        f"{source}: columns: {absent}: {columns[absent]}: none of its {rows:,} rows has that column, "
        f"allowed {listed(names)}{hint}"
    )


def no_format(where: str, names: Collection[str], rows: int, allowed: str) -> str:
    """The one line of a file whose fields are of no format."""
    folded = {name.strip().lower(): name for name in names}
    guess = {name: folded[name] for name in ALL if name in folded and folded[name] != name}
    if not guess:
        guess = {wanted: next((folded[like] for like in known if like in folded), "...") for wanted, known in GUESSES}
    such = ", ".join(f"{wanted}: {shown(name)[1:-1]}" for wanted, name in guess.items())
    rest = f" (nor is any other of {rows:,} rows)" if rows > 1 else ""
    return (
        f"{where}: columns: found {listed(names)}, which is no format{rest}; name them as data.columns={{{such}}}; "
        f"the formats have {allowed}"
    )


def listed(names: Collection[str], most: int = 8) -> str:
    """Names of the data in a message."""
    text = ", ".join(shown(name)[1:-1] for name in list(names)[:most]) + (", ..." if len(names) > most else "")
    return text or "(none)"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)
