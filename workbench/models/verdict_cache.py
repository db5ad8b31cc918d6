"""What was found of models that were loaded before, in the user's cache folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch

from workbench.config import fingerprint
from workbench.errors import ModelError
from workbench.inputs import Inputs
from workbench.models.folder import model_fingerprint
from workbench.models.probe import VERSION, Verdict, probe, remember


def remember_verdict(model: torch.nn.Module, folder: Path, inputs: Inputs, forward: str = "") -> None:
    """Probe a model that transformers loaded of a folder, unless that was done before. Raises ModelError where it is
    refused, DataError where the folder changed since it was loaded. inputs: its files as they stood before. forward:
    why our own does not run it, where its family is ours."""
    import transformers

    dtype = str(next(model.parameters()).dtype)
    key = fingerprint([model_fingerprint(folder), dtype, torch.__version__, transformers.__version__, VERSION])
    inputs.check()  # else the key would be another model's
    verdict = _verdict(read_found(key))
    if verdict is None:
        try:
            verdict = probe(model)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error
        write_found(key, dataclasses.asdict(verdict))
    remember(model, dataclasses.replace(verdict, forward=forward))


def _verdict(found: Any) -> Verdict | None:
    try:
        return Verdict(**found)
    except TypeError:
        return None


def read_found(key: str) -> Any:
    """What was kept under the key; None where there is nothing, or it is damaged."""
    try:
        held = json.loads(_file(key).read_bytes())
        return held["verdict"] if held["check"] == fingerprint([key, held["verdict"]]) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_found(key: str, found: Any) -> None:
    """Keep it for later commands; where the home is read-only it is found again instead."""
    held = {"verdict": found, "check": fingerprint([key, found])}
    file = _file(key)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        partial.rename(file)


def _file(key: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "workbench" / "verdicts" / f"{key}.json"
