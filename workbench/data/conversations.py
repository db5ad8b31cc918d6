"""Turns of a conversation as rows write them: role and content, or ShareGPT's from and value, with what else a chat
template writes of a turn, and which turns are to be learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from workbench.data.checks import check_characters, describe
from workbench.data.sources import shown

Turn = tuple[str, str] | tuple[str, str, str]
"""(role, content), and where the row says more of the turn a JSON object of it, as the chat template is to see it."""
Turns = tuple[Turn, ...]
Shared = TypeVar("Shared", str, Turns)
TOOLS = "tools"
"""The role of a first turn that is none: its content is the JSON of the tools that the template is given."""
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant"), "assistant"),
    **dict.fromkeys(("tool", "observation"), "tool"),
}
SAID_BY_TEMPLATES = (
    *("tool_calls", "function_call", "tool_plan", "thinking", "thought", "reasoning", "reasoning_content"),
    *("citations", "documents"),
)
"""Fields of a turn that a template writes as text: one that does not would change what is learned."""
KNOWN_TO_TEMPLATES = (*SAID_BY_TEMPLATES, "name", "tool_call_id", "tool_name", "recipient", "channel")
WEIGHTS = ("weight", "train", "trainable", "training", "learn", "loss")
"""Fields of an assistant's turn that say whether it is learned: 1 or true, 0 or false."""
UNREAD_WEIGHTS = ("train_detail", "training_detail", "loss_mask", "mask", "masked", "loss_scale", "loss_weight")
"""Fields of a turn that would change what is learned of it and that are not read."""


def parse_turns(value: Any, name: str) -> Turns:
    """[{role, content}, ...] of the field of that name. ValueError says which turn is wrong and why."""
    return _turns(value, name, "role", "content", {role: role for role in ROLES})


def parse_sharegpt(value: Any, name: str) -> Turns:
    """[{from, value}, ...], with the roles that ShareGPT's descendants use."""
    return _turns(value, name, "from", "value", SHAREGPT_ROLES)


def _turns(value: Any, name: str, role_key: str, content_key: str, roles: Mapping[str, str]) -> Turns:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {describe(value) if value != [] else 'empty'}, allowed a list of turns")
    turns: list[Turn] = []
    for index, turn in enumerate(value):
        where = f"{name}[{index}]"
        calls = isinstance(turn, dict) and bool(turn.get("tool_calls") or turn.get("function_call"))
        if not isinstance(turn, dict) or role_key not in turn or not (calls or content_key in turn):
            raise ValueError(f"{where} has no {role_key} and {content_key}")
        role, content = turn[role_key], turn.get(content_key)
        if not isinstance(role, str) or role not in roles:
            raise ValueError(f"{where}.{role_key} is {shown(role)}, allowed {', '.join(roles)}")
        more = {key: turn[key] for key in KNOWN_TO_TEMPLATES if turn.get(key) not in (None, "", [], {})}
        if content is None and calls:
            more["content"], content = None, ""
        if not isinstance(content, str):
            raise ValueError(f"{where}.{content_key} is {describe(content)}, allowed text")
        check_characters(content, f"{where}.{content_key}")
        turns.append((roles[role], content, _as_json(more, where)) if more else (roles[role], content))
    return tuple(turns)


def unlearned_turns(value: Any, turns: Turns, name: str) -> tuple[int, ...]:
    """The assistant's turns that the row says are not to be learned. Raises ValueError where it asks what is not done
    here."""
    found = []
    for index, (turn, given) in enumerate(zip(turns, value, strict=True)):
        where = f"{name}[{index}]"
        for key in UNREAD_WEIGHTS:
            if given.get(key) is not None:
                raise ValueError(f"{where}.{key} is not read here, allowed weight or train of a whole turn")
        flags = [_is_learned(given[key], f"{where}.{key}") for key in WEIGHTS if given.get(key) is not None]
        if turn[0] == "assistant" and not all(flags):
            found.append(index)
        elif turn[0] != "assistant" and any(flags):
            key = next(key for key in WEIGHTS if given.get(key) is not None)
            raise ValueError(f"{where}.{key} is {given[key]} on a {turn[0]} turn, allowed on assistant turns alone")
    return tuple(found)


def _is_learned(value: Any, name: str) -> bool:
    if not isinstance(value, bool | int | float) or value not in (0, 1):
        raise ValueError(f"{name} is {shown(value)}, allowed 1 or true (learned), 0 or false (not learned)")
    return bool(value)


def parse_tools(value: Any) -> Turns:
    """The turn of role TOOLS that leads the others, none where there are no tools. Raises ValueError where it is no
    list."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError("tools is text that is no JSON, allowed a list of tools") from error
    if value in (None, "", [], {}) or (isinstance(value, str) and not value.strip()):
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError(f"tools is {describe(value)}, allowed a list of tools")
    return ((TOOLS, _as_json(value, "tools")),)


def as_messages(turns: tuple[Turn, ...] | list[Turn]) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Messages and tools, as a chat template is given them."""
    tools = json.loads(turns[0][1]) if turns and turns[0][0] == TOOLS else None
    messages = []
    for turn in turns[0 if tools is None else 1 :]:
        more = json.loads(turn[2]) if len(turn) > 2 else {}
        messages.append({"role": turn[0], "content": turn[1], **more})
    return messages, tools


def said_fields(messages: list[dict[str, Any]], tools: list[Any] | None) -> list[str]:
    """The fields that a template must write besides roles and contents, so that nothing of the row is lost."""
    found = [key for key in SAID_BY_TEMPLATES if any(key in message for message in messages)]
    return [*found, *([TOOLS] if tools else [])]


def require_answer(turns: Turns, name: str, unlearned: tuple[int, ...] = ()) -> None:
    """Raises ValueError where no assistant's turn that is learned says anything."""
    saying = [i for i, turn in enumerate(turns) if turn[0] == "assistant" and (turn[1].strip() or len(turn) > 2)]
    if not saying:
        raise ValueError(f"{name} has no assistant turn to learn from")
    if set(saying) <= set(unlearned):
        raise ValueError(f"{name} has no assistant turn to learn from: their weight is 0, or train is false")


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


def _as_json(value: Any, name: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:  # a date of Parquet, a number that is not finite
        raise ValueError(f"{name} holds a value that JSON has not ({error})") from error
    check_characters(text, name)
    return text
