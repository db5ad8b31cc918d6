"""Chat templates that a definition gives a model: well known ones by name, or a file of one's own.

Each is written as the model family that made it known writes it, so that its folder says the same to transformers.
"""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ModelError, WorkbenchError
from workbench.files import read_file

NO_TEMPLATE = "the model has no chat template: use prompt and completion, a model that has one, or model.chat_template"
"""The message about rows that only a chat template can write."""
VERSION = 1
"""Raised by hand where a folder that is given a template becomes another folder."""


@dataclass(frozen=True)
class Known:
    """text: in Jinja. tokens: each must be one token of the tokenizer; without them turns would be plain text."""

    text: str
    tokens: tuple[str, ...] = ()


KNOWN = {
    "chatml": Known(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "gemma": Known(
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "llama3": Known(
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "zephyr": Known(
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
}
"""zephyr's turns are plain text but for the end of sequence, so that it goes with any tokenizer that has one."""


def template_file(given: str) -> Path | None:
    """The file that a definition means; None where it means a known template."""
    return None if given in KNOWN else Path(given).expanduser()


def template_text(given: str) -> str:
    """The template that a definition names. Raises ModelError where there is no such template or file."""
    path = template_file(given)
    if path is None:
        return KNOWN[given].text
    try:
        text = read_file(path).decode("utf-8-sig")
    except FileNotFoundError as error:
        near = difflib.get_close_matches(given, KNOWN, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise ModelError(f"model.chat_template: found {given}, allowed {', '.join(KNOWN)}, or a file{hint}") from error
    except (OSError, ValueError, WorkbenchError) as error:
        raise ModelError(f"model.chat_template: {path}: not readable as text: {error}") from error
    if not text.strip():
        raise ModelError(f"model.chat_template: {path}: it is empty; write a template in Jinja, or leave it out")
    return text


def template_identity(given: str) -> dict[str, object]:
    """The identity of the template's text, wherever the file is."""
    return {"text": hashlib.sha256(template_text(given).encode()).hexdigest(), "version": VERSION}
