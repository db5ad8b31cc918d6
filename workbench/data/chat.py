"""A model's chat template, rendered in a sandbox: no attribute, import or call that a hostile template could misuse."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from workbench.errors import DataError
from workbench.models.tokenizer import Tokenizer

Turn = tuple[str, str]
Segment = tuple[str, bool]
MAX_RENDERED = 10_000_000


def render_chat(tokenizer: Tokenizer, turns: Sequence[Turn], *, generation_prompt: bool = False) -> str:
    """The turns as the model's template writes them. ValueError when the template refuses them."""
    import jinja2

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
    messages = [{"role": role, "content": content} for role, content in turns]
    try:
        template = _compile(tokenizer.chat_template)
        pieces, length = [], 0
        for piece in template.generate(messages=messages, add_generation_prompt=generation_prompt, **special):
            length += len(piece)
            if length > MAX_RENDERED:
                raise ValueError(f"the chat template writes more than {MAX_RENDERED:,} characters")
            pieces.append(piece)
    except (jinja2.TemplateError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"the chat template refuses it: {str(error).splitlines()[0]}") from error
    return "".join(pieces)


def chat_segments(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[Segment]:
    """The conversation in pieces of (text, learned): learned are the assistant's turns with what ends them.

    Each piece is what the template adds for one more turn, so a template that rewrites earlier turns is refused.
    """
    segments: list[Segment] = []
    written = ""
    for index, (role, _) in enumerate(turns):
        if role != "assistant":
            continue
        before = render_chat(tokenizer, turns[:index], generation_prompt=True)
        after = render_chat(tokenizer, turns[: index + 1])
        if not before.startswith(written) or not after.startswith(before):
            raise ValueError("the chat template rewrites earlier turns, so the assistant's part cannot be told apart")
        segments += [(before[len(written) :], False), (after[len(before) :], True)]
        written = after
    return [segment for segment in segments if segment[0]]


@functools.lru_cache(maxsize=8)
def _compile(template: str) -> Any:
    import jinja2
    import jinja2.sandbox

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    return environment.from_string(template)
