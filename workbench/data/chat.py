"""A model's chat template, rendered in a sandbox: no attribute, import or call that a hostile template could misuse.

Rendered as transformers' apply_chat_template does it, but for strftime_now: a date would change the data by the day.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence

from workbench.data.conversations import Turn, as_messages, said_fields
from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer

Segment = tuple[str, bool]


def render_chat(tokenizer: Tokenizer, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
    """The turns as the model's template writes them. ValueError when the template refuses them."""
    if tokenizer.chat_template is None:
        raise DataError("the model has no chat template: use prompt and completion, or a model that has one")
    special = {
        f"{role}_token": "" if index is None else tokenizer.token_text(index) or ""
        for role, index in (
            ("bos", tokenizer.bos_id),
            ("eos", next(iter(tokenizer.eos_ids), None)),
            ("pad", tokenizer.pad_id),
        )
    }
    messages, tools = as_messages(list(turns))
    try:
        render = _compile(tokenizer.chat_template)
        text = render(
            messages=messages, tools=tools, documents=None, add_generation_prompt=generation_prompt, **special
        )
    except Exception as error:  # whatever a stranger's template does is its own refusal: nothing of ours runs in it
        # Python says at which kind of call the depth was exceeded, which differs from run to run.
        told = "maximum recursion depth exceeded" if isinstance(error, RecursionError) else str(error)
        reason = (told.splitlines() or [type(error).__name__])[0]
        raise ValueError(f"the chat template refuses it: {reason[:200]}") from error
    lost = [name for name in said_fields(messages, tools) if name not in _names_in(tokenizer.chat_template)]
    if lost:
        raise ValueError(f"has {lost[0]}, which the model's chat template does not write; write it out, or remove it")
    return text


def chat_segments(
    tokenizer: Tokenizer, turns: Sequence[Turn], *, learn_from: int = 0, unlearned: Collection[int] = ()
) -> list[Segment]:
    """The conversation in pieces of (text, learned): learned are the assistant's turns with what ends them.

    learn_from: assistant's turns before this one, and those whose index is in unlearned, are context. What follows the
    last assistant's turn is left out. Each piece is what the template adds for one more turn, so a template that
    rewrites earlier turns is refused.
    """
    segments: list[Segment] = []
    written = ""
    for index, turn in enumerate(turns):
        if turn[0] != "assistant":
            continue
        before = render_chat(tokenizer, turns[:index], generation_prompt=True)
        after = render_chat(tokenizer, turns[: index + 1])
        if not before.startswith(written) or not after.startswith(before):
            raise ValueError("the chat template rewrites earlier turns, so the assistant's part cannot be told apart")
        learned = index >= learn_from and index not in unlearned
        segments += [(before[len(written) :], False), (after[len(before) :], learned)]
        written = after
    return [segment for segment in segments if segment[0]]


def answer_segments(tokenizer: Tokenizer, prompt: str, answer: str, *, ended: bool = True) -> tuple[str, str]:
    """One prompt and its answer as the template writes them; not ended: without what the template ends it with."""
    segments = chat_segments(tokenizer, [("user", prompt), ("assistant", answer)])
    before = "".join(text for text, learned in segments if not learned)
    after = "".join(text for text, learned in segments if learned)
    if not ended:
        start = after.find(answer.strip())
        if start < 0:
            raise ValueError("the chat template rewrites the answer, so its end cannot be told apart")
        after = after[: start + len(answer.strip())]
    return before, after


def reply_segments(tokenizer: Tokenizer, prompt: Sequence[Turn], reply: Sequence[Turn]) -> tuple[str, str]:
    """A prompt of turns, and what the template writes after it for the turns that reply, the first an assistant's."""
    before = render_chat(tokenizer, prompt, generation_prompt=True)
    whole = render_chat(tokenizer, [*prompt, *reply])
    if not whole.startswith(before):
        raise ValueError("the chat template rewrites earlier turns, so the assistant's part cannot be told apart")
    return before, whole[len(before) :]


@functools.lru_cache(maxsize=8)
def _names_in(template: str) -> frozenset[str]:
    from workbench.data.sandbox import names_in

    return names_in(template)


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Callable[..., str]:
    from workbench.data.sandbox import compile_template

    return compile_template(template)
