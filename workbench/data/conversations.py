"""Turns of a conversation as rows write them: role and content, or ShareGPT's from and value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from workbench.data.checks import check_characters, describe
from workbench.data.sources import shown

Turn = tuple[str, str]
"""(role, content)."""
Turns = tuple[Turn, ...]
Shared = TypeVar("Shared", str, Turns)
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant"), "assistant"),
    **dict.fromkeys(("tool", "observation"), "tool"),
}
# What a template would write of a turn or a row besides roles and contents: leaving it out would change the text.
UNREAD_OF_A_TURN = ("tool_calls", "function_call", "thinking", "reasoning_content")
UNREAD_OF_A_ROW = ("tools", "chat_template_kwargs")


def parse_turns(value: Any, name: str) -> Turns:
    """[{role, content}, ...] of the field of that name. ValueError says which turn is wrong and why."""
    return _turns(value, name, "role", "content", {role: role for role in ROLES})


def parse_sharegpt(value: Any, name: str) -> Turns:
    """[{from, value}, ...], with the roles that ShareGPT's descendants use."""
    return _turns(value, name, "from", "value", SHAREGPT_ROLES)


def _turns(value: Any, name: str, role_key: str, content_key: str, roles: Mapping[str, str]) -> Turns:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {describe(value) if value != [] else 'empty'}, allowed a list of turns")
    turns = []
    for index, turn in enumerate(value):
        where = f"{name}[{index}]"
        if not isinstance(turn, dict) or not {role_key, content_key} <= turn.keys():
            raise ValueError(f"{where} has no {role_key} and {content_key}")
        role, content = turn[role_key], turn[content_key]
        refuse_unread(turn, UNREAD_OF_A_TURN, where)
        if not isinstance(role, str) or role not in roles:
            raise ValueError(f"{where}.{role_key} is {shown(role)}, allowed {', '.join(roles)}")
        if not isinstance(content, str):
            raise ValueError(f"{where}.{content_key} is {describe(content)}, allowed text")
        check_characters(content, f"{where}.{content_key}")
        turns.append((roles[role], content))
    return tuple(turns)


def refuse_unread(fields: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """ValueError where a field is given that a template would write and that is not handed to it."""
    for name in names:
        if fields.get(name):
            place = f"{where}.{name}" if where else name
            raise ValueError(f"{place} is given, which is not read here; write it out in the content, or remove it")


def require_answer(turns: Turns, name: str) -> None:
    """ValueError where no assistant's turn says anything."""
    if not any(role == "assistant" and content.strip() for role, content in turns):
        raise ValueError(f"{name} has no assistant turn to learn from")


def split_prompt(chosen: Shared, rejected: Shared) -> tuple[Shared, Shared, Shared]:
    """Prompt, chosen and rejected of two whole texts or conversations that begin alike, as TRL's extract_prompt does.

    The prompt is what both begin with; a space before the difference goes to the completions, and each keeps at least
    its last character or turn. "a b c" and "a b d" give "a b", " c", " d".
    """
    shortest = min(len(chosen), len(rejected))
    shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), None)
    if shared is None:
        shared = shortest - 1
    elif shared and chosen[shared - 1] == " ":
        shared -= 1
    return chosen[:shared], chosen[shared:], rejected[shared:]
