"""Verdicts of models that were loaded before, by the fingerprint of their folder, in the user's cache folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import torch

from workbench.config import fingerprint
from workbench.errors import ModelError
from workbench.inputs import Inputs
from workbench.models.folder import model_fingerprint
from workbench.models.llama import Llama
from workbench.models.probe import VERSION, Verdict, probe, remember


def remember_verdict(model: torch.nn.Module, folder: Path, inputs: Inputs) -> None:
    """Probe the model of a folder, unless that was done before. ModelError where it is refused, DataError where the
    folder changed since it was loaded. inputs: its files as they stood before."""
    if isinstance(model, Llama):
        return
    import transformers

    dtype = str(next(model.parameters()).dtype)
    key = fingerprint([model_fingerprint(folder), dtype, torch.__version__, transformers.__version__, VERSION])
    file = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "workbench" / "verdicts" / f"{key}.json"
    inputs.check()  # else the key would be another model's
    verdict = _read(file, key)
    if verdict is None:
        try:
            verdict = probe(model)
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error
        _write(file, key, verdict)
    remember(model, verdict)


def _read(file: Path, key: str) -> Verdict | None:
    """None where there is none, or it is damaged."""
    try:
        held = json.loads(file.read_bytes())
        verdict = Verdict(**held["verdict"])
        return verdict if held["check"] == _check(key, verdict) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(file: Path, key: str, verdict: Verdict) -> None:
    held = {"verdict": dataclasses.asdict(verdict), "check": _check(key, verdict)}
    with contextlib.suppress(OSError):  # a read-only home only means that the probe runs again
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
        partial.rename(file)


def _check(key: str, verdict: Verdict) -> str:
    return fingerprint([key, dataclasses.asdict(verdict)])
