"""`--set key=value`: reading overrides, and the name of the folder that keeps them apart."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.config import fingerprint
from workbench.errors import DefinitionError
from workbench.experiment.definition.source import OVERRIDE, Node, parse_value, show
from workbench.experiment.definition.validate import Problems
from workbench.redaction import redact

MAX_NAME = 120
SHORTHANDS = {"seeds": "sweep.seeds"}
SPACES = '; no spaces around =, spaces between settings, and quotes around a value with spaces: question="Why not?"'
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_=+-]+)*")


@dataclass(frozen=True)
class Override:
    """One `key=value` of the command line; the value's place is the override as it was typed."""

    key: str
    value: Node


def parse_overrides(texts: Sequence[str], problems: Problems) -> list[Override]:
    """The overrides, in the order of their keys. Problems: no `=`, a broken key or value, a key given twice."""
    found: dict[str, Override] = {}
    unread: list[tuple[str, str]] = []
    for text in texts:
        key, equals, value = text.partition("=")
        where = f"{OVERRIDE}{text if text.isprintable() and len(text) <= MAX_NAME else show(text, MAX_NAME)}"
        key = SHORTHANDS.get(key, key).removeprefix("hyperparameters.")
        if not equals or not _KEY.fullmatch(key):
            unread.append((where, text))
            continue
        if key in found:
            problems.append(f"{where}: {key}: found a second time, allowed once")
            continue
        if not value:
            problems.append(
                f"{where}: {key}: found nothing after =, allowed a value; none at all is written {key}=null"
            )
            continue
        node = parse_value(value, where, key, problems.lines)
        glued = _without_space(node)
        if glued is not None:
            name, sign, rest = re.split("([:=])", glued, maxsplit=1)
            what = "a space after the colon" if sign == ":" else "a colon and a space"
            problems.append(f"{where}: {key}: found {show(glued)}, allowed {what}: {{{name}: {rest}}}")
        elif isinstance(node, Node) and isinstance(node.value, str) and re.search(r"^[\w.+-]+[,;]$", node.value):
            problems.append(f"{where}: {key}: found {show(node.value)}, allowed {node.value[:-1]}{SPACES}")
        elif node is not None:
            found[key] = Override(key, node)
    if unread:
        words = ", ".join(show(text) for _, text in unread)
        allowed = f"key=value, such as beta=0.2 or data.path=pairs.jsonl{SPACES}"
        problems.append(f"{unread[0][0]}: found {words}, allowed {allowed}")
    return [found[key] for key in sorted(found)]


def _without_space(node: Node | None) -> str | None:
    """A key such as prompt:question or prompt=question, which YAML reads as one word without a value, anywhere within;
    None where there is none."""
    if node is None or not isinstance(node.value, dict | list):
        return None
    fields = node.value.items() if isinstance(node.value, dict) else ((None, inner) for inner in node.value)
    for name, inner in fields:
        if name is not None and inner.value is None and re.search("[:=]", name):
            return str(name)
        if (found := _without_space(inner)) is not None:
            return found
    return None


def split_settings(text: str) -> list[str]:
    """The words of `SET="..."`: as a shell reads them, quotes keep white space, but a backslash is a backslash, and a
    value that begins with a bracket or a brace ends where that is closed. Raises DefinitionError for a quote left
    open."""
    words, at = [], 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        word, at = _word(text, at)
        words.append(word)
    return words


def join_settings(words: Sequence[str]) -> str:
    """The text that `split_settings` reads as these words."""
    return " ".join(word if _is_whole(word) else shlex.quote(word) for word in words)


def _is_whole(word: str) -> bool:
    try:
        return split_settings(word) == [word]
    except DefinitionError:
        return False


def _word(text: str, at: int) -> tuple[str, int]:
    """The word that begins at a place, and the place after it."""
    word = ""
    while at < len(text) and not text[at].isspace():
        character = text[at]
        end = at + 1
        if character in "'\"":
            end = text.find(character, at + 1) + 1
            if not end:
                raise DefinitionError(
                    f"command line: SET: found a quote {character} left open in {show(text)}, allowed pairs of them"
                )
            word += text[at + 1 : end - 1]
        elif character in "[{" and re.fullmatch(r"[^=]*=", word):
            end = _closed(text, at)
            word += text[at:end]
        else:
            word += character
        at = end
    return word, at


def _closed(text: str, at: int) -> int:
    """The place after the bracket that closes the one there, of the text in quotes nothing counted; the end without."""
    depth, quote = 0, ""
    for place in range(at, len(text)):
        character = text[place]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "[{") - (character in "]}")
            if not depth:
                return place + 1
    return len(text)


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
