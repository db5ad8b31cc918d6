"""A model's chat template: what it writes of turns, as transformers' apply_chat_template does, and each answer as the
model would be asked for it.

An answer's prompt is what the template writes of the turns before it when it asks for an answer: the text that
sampling goes on from. What the template writes of earlier turns may depend on what follows (Qwen3 and R1 leave the
thoughts of earlier answers out), so every answer is rendered by itself.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.data.conversations import Turn, Turns, as_messages, said_fields
from workbench.data.template_process import (
    Rendering,
    TemplateFailure,
    TemplateOverspent,
    TemplateRefusal,
    render_template,
)
from workbench.errors import DataError, ModelError
from workbench.models.chat_templates import NO_TEMPLATE
from workbench.models.tokenizer import Tokenizer

SIMPLEST: Turns = (("user", "1"), ("assistant", "2"))
"""A conversation that every template writes, if it writes any."""
FILLER = "0f1e2d3c4b5a"
"""Stands for an answer where the text around it is looked for."""
THOUGHT, THOUGHT_END = "<think>", "</think>"


@dataclass(frozen=True)
class Exchange:
    """A prompt as it is sampled from, and the answer to learn with what ends it.

    marked: (start, end) within the answer of what the template marks as the assistant's own; None: it marks nothing.
    dated: the template writes the date.
    """

    prompt: str
    answer: str
    marked: tuple[tuple[int, int], ...] | None = None
    dated: bool = False


def render_chat(tokenizer: Tokenizer, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
    """The turns as the model's template writes them. Raises ValueError where it refuses these turns, ModelError where
    it works on none."""
    return _render(tokenizer, turns, generation_prompt).text


def exchange_of(tokenizer: Tokenizer, turns: Sequence[Turn], reply: Sequence[Turn], *, ended: bool = True) -> Exchange:
    """The turns as a prompt, and what the template writes after it for those that reply, the first an assistant's.

    Where the template's question opens what it does not write of an answer (R1 asks behind "<think>\\n"), the answer
    goes on from there: behind the end of a thought, its own or an empty one. not ended: without what the template
    ends the reply with.
    """
    before = _render(tokenizer, turns, True)
    after = _render(tokenizer, [*turns, *reply], False)
    dated = before.dated or after.dated
    if after.text.startswith(before.text) and not _lost_thought(reply, after.text):
        start = len(before.text)
        found = Exchange(before.text, after.text[start:], dated=dated)
        if after.marks:
            spans = ((max(0, first - start), last - start) for first, last in after.marks)
            found = replace(found, marked=tuple(span for span in spans if span[1] > 0))
    else:
        found = Exchange(before.text, _continued(tokenizer, turns, reply, before.text), dated=dated)
    return found if ended else _unended(found, _tail(tokenizer, turns))


def exchanges(
    tokenizer: Tokenizer, turns: Sequence[Turn], *, learn_from: int = 0, unlearned: Sequence[int] = ()
) -> list[Exchange]:
    """Every assistant's turn that is learned: those before learn_from and those in unlearned are context alone."""
    return [
        exchange_of(tokenizer, turns[:index], turns[index : index + 1])
        for index, turn in enumerate(turns)
        if turn[0] == "assistant" and index >= learn_from and index not in unlearned
    ]


@functools.lru_cache(maxsize=8)
def template_end(tokenizer: Tokenizer) -> tuple[str, int] | None:
    """The token, and its id, that the template ends an answer with, where the model's files do not name it as an end
    of sequence. None: one that they name stands there, or no token of its own does."""
    try:
        tail = _tail(tokenizer, SIMPLEST[:1])
    except ValueError:
        return None
    ids = tokenizer.encode(tail) if tail else []
    if any(index in tokenizer.eos_ids for index in ids):
        return None
    # Only white space may follow: the end of a turn, and not the beginning of another.
    for text, index in ((tokenizer.token_text(index), index) for index in ids if index in tokenizer.added_ids):
        if text and text.strip() and not tail.partition(text)[2].strip():
            return text, index
    return None


def opened_thought(prompt: str) -> str:
    """The "<think>" that a prompt ends with, and the white space behind it; empty where it ends otherwise."""
    return prompt[prompt.rfind(THOUGHT) :] if prompt.rstrip().endswith(THOUGHT) else ""


def _render(tokenizer: Tokenizer, turns: Sequence[Turn], generation_prompt: bool) -> Rendering:
    if tokenizer.chat_template is None:
        raise DataError(NO_TEMPLATE)
    messages, tools = as_messages(list(turns))
    variables = {
        "messages": messages,
        "tools": tools,
        "documents": None,
        "add_generation_prompt": generation_prompt,
        **tokenizer.named,
    }
    try:
        found = render_template(tokenizer.chat_template, variables)
    except (TemplateRefusal, TemplateFailure) as error:
        _blame_template(tokenizer, turns, error)
        raise ValueError(f"the chat template refuses it: {error}") from error
    lost = [name for name in said_fields(messages, tools) if name not in _names_in(tokenizer.chat_template)]
    if lost:
        raise ValueError(f"has {lost[0]}, which the model's chat template does not write; write it out, or remove it")
    return found


def _blame_template(tokenizer: Tokenizer, turns: Sequence[Turn], error: ValueError) -> None:
    """Raises ModelError where the fault is the template's: it spends too much, or does not write the simplest
    conversation."""
    if not isinstance(error, TemplateOverspent) and tuple(turns) != SIMPLEST:
        try:
            render_chat(tokenizer, SIMPLEST)
        except ModelError:
            pass
        else:
            return
    raise ModelError(
        f"{tokenizer.name}: its chat template fails: {error}; mend the template, or use prompt and completion"
    ) from error


def _lost_thought(reply: Sequence[Turn], written: str) -> bool:
    """Whether a single answer has a thought that the template leaves out."""
    thought = reply[0][1].rpartition(THOUGHT_END)[0].removeprefix(THOUGHT).strip() if len(reply) == 1 else ""
    return bool(thought) and thought not in written


def _continued(tokenizer: Tokenizer, turns: Sequence[Turn], reply: Sequence[Turn], prompt: str) -> str:
    """The answer behind a question that ends otherwise than the template writes an answer's beginning."""
    if len(reply) != 1 or reply[0][0] != "assistant" or len(reply[0]) > 2:
        raise ValueError("the chat template asks for an answer otherwise than it writes one, allowed one turn of text")
    content = reply[0][1]
    opened = opened_thought(prompt)
    if opened:
        content = content.removeprefix(THOUGHT).lstrip("\n") if THOUGHT_END in content else _after_no_thought(content)
    return content + _tail(tokenizer, turns)


def _after_no_thought(content: str) -> str:
    return f"\n{THOUGHT_END}\n\n{content.lstrip()}"


def _tail(tokenizer: Tokenizer, turns: Sequence[Turn]) -> str:
    """What the template writes behind an answer to the turns."""
    _, found, tail = render_chat(tokenizer, [*turns, ("assistant", FILLER)]).rpartition(FILLER)
    if not found:
        raise ValueError("the chat template does not write the answer")
    return tail


def _unended(exchange: Exchange, tail: str) -> Exchange:
    if not exchange.answer.endswith(tail):
        raise ValueError("the chat template rewrites the answer, so its end cannot be told apart")
    return replace(exchange, answer=exchange.answer.removesuffix(tail), marked=None)


@functools.lru_cache(maxsize=8)
def _names_in(template: str) -> frozenset[str]:
    from workbench.data.sandbox import names_in

    return names_in(template)
