"""Keeps secrets out of everything that is written or told of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(^|[_\-.])(api_?key|secrets?|passwords?|passwd|credentials?|private_key|access_key)($|[_\-.])"
    r"|^token$|(^|_)(auth|access|api|bearer|hub|hf|wandb|refresh)_token$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_SECRET_TEXT = (
    re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16})\b"),
    re.compile(r"(?<=://)[^/@\s]+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/-]{16,}=*"),
    re.compile(r"(?i)(?:(?<=api_key=)|(?<=token=)|(?<=secret=)|(?<=password=)|(?<=passwd=))[^\s&'\"]+"),
)
_NAMED = r"api_?key|passw(?:or)?d|(?:secret|access|private)_?key|client_secret|(?:auth|access|api|bearer|refresh)_token"
_ASSIGNED = (
    # A value that source code or YAML gives to a secret's name; text in quotes also for names that say it less clearly.
    re.compile(rf"(?i)(\b\w*(?:{_NAMED})['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&*]{{6,}}"),
    re.compile(
        r"(?i)(\b\w*(?:secret|credentials?|(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)token)"
        r"['\"]?\s*[:=]\s*['\"])[^\s'\"]{8,}(?=['\"])"
    ),
)
_SHORTEST_SECRET = 8
"""The least length of a secret value: shorter values of such variables are words ("1", "true") that a definition may
hold by right."""


def secret_values(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Returns the values of environment variables whose names say that they are secret, longest first."""
    variables = os.environ if environment is None else environment
    found = {
        part
        for name, value in variables.items()
        if _SECRET_VARIABLE.search(name)
        # A log shows each line of a value of several lines, such as a private key, by itself.
        for part in {value, *value.splitlines()}
        if len(part) >= _SHORTEST_SECRET and not os.path.exists(part)
    }
    return tuple(sorted(found, key=len, reverse=True))


def redact(value: Any, secrets: tuple[str, ...] | None = None) -> Any:
    """Returns plain data with its secrets replaced: found by their value, by the name of their key, or by what a key
    looks like."""
    hidden = secret_values() if secrets is None else secrets
    if isinstance(value, Mapping):
        return {
            redact(key, hidden): HIDDEN if isinstance(key, str) and _SECRET_NAME.search(key) else redact(item, hidden)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact(item, hidden) for item in value]
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, HIDDEN)
        for pattern in _SECRET_TEXT:
            value = pattern.sub(HIDDEN, value)
        for pattern in _ASSIGNED:
            value = pattern.sub(rf"\1{HIDDEN}", value)
    return value
