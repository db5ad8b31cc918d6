"""Checkpoints: safetensors and JSON only, checksummed, atomic; a folder bears its final name only when whole.

A checkpoint is a folder step_00000060/ of named safetensors files, state.json, and manifest.json with the SHA-256 of
each, written last. It is made as step_00000060.partial, synced, then renamed; one that it replaces is kept beside it
until then.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from workbench.disk import sync
from workbench.errors import CheckpointError, StorageError, describe_error

MANIFEST = "manifest.json"
Tensors = dict[str, dict[str, torch.Tensor]]
"""Named groups of tensors: a safetensors file each."""


def step_folder(checkpoints: Path, step: int) -> Path:
    """The folder of the checkpoint of a step."""
    return checkpoints / f"step_{step:08d}"


def write(folder: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write a checkpoint at `folder`: one safetensors file for each entry of `tensors`, and `state` as JSON.

    On any failure the previous checkpoint stands untouched. Raises StorageError when the disk fails. checkpoints/ is
    made where it is missing, the run folder above it never: one that vanished would come back without its records.
    """
    from safetensors.torch import save

    partial = folder.with_name(folder.name + ".partial")
    try:
        _remove(partial)
        partial.parent.mkdir(exist_ok=True)
        partial.mkdir()
        manifest = {}
        for name, group in tensors.items():
            data = save({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()})
            manifest[f"{name}.safetensors"] = _write_synced(partial / f"{name}.safetensors", data)
        manifest["state.json"] = _write_synced(partial / "state.json", json.dumps(state, indent=1).encode())
        _write_synced(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync(partial)
        _take_place(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise StorageError(f"{folder}: the checkpoint could not be written ({describe_error(error)})") from error


def read(folder: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors and state of a checkpoint, verified before use. Raises CheckpointError, naming what does not hold."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    reason = find_damage(folder)
    if reason:
        raise CheckpointError(f"{folder} is not a valid checkpoint: {reason}")
    # Only what the manifest lists is read: a file beside it was never verified.
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        tensors = {
            Path(name).stem: load(_read_verified(folder / name, manifest[name]))
            for name in sorted(manifest)
            if name.endswith(".safetensors")
        }
        return tensors, json.loads(_read_verified(folder / "state.json", manifest["state.json"]))
    except OSError as error:
        raise CheckpointError(f"{folder} was taken away while it was read ({describe_error(error)})") from error
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a valid checkpoint: it holds what none wrote ({error})") from error


def _read_verified(path: Path, digest: str) -> bytes:
    """What is used is what was hashed. Raises CheckpointError where it changed since the whole was found valid."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path.parent} is not a valid checkpoint: {path.name} was changed while it was read")
    return data


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint folder, by its checksums; None when it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, digest in manifest.items():
            if Path(name).name != name:
                return f"{MANIFEST} lists {name}, which lies elsewhere"
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                return f"{name} does not match its checksum"
        if "state.json" not in manifest:
            return f"{MANIFEST} lists no state.json"
        if not isinstance(json.loads((folder / "state.json").read_text()), dict):
            return "state.json holds no state"
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return f"{MANIFEST} or a file it lists cannot be read ({error})"
    return None


def steps_newest_first(checkpoints: Path) -> Iterator[Path]:
    """Every finished checkpoint folder, valid or not, the highest step first."""
    yield from sorted((p for p in checkpoints.glob("step_*") if p.suffix == "" and p.is_dir()), reverse=True)


def newest_valid(checkpoints: Path) -> Path | None:
    """The newest checkpoint that verifies; None when there is no checkpoint at all.

    Raises CheckpointError when there are some and none is valid.
    """
    damaged = []
    for folder in steps_newest_first(checkpoints):
        reason = find_damage(folder)
        if reason is None:
            return folder
        damaged.append(f"{folder.name}: {reason}")
    if damaged:
        raise CheckpointError(f"{checkpoints}: no valid checkpoint ({'; '.join(damaged)}); FRESH=1 trains anew")
    return None


def rotate(newest: Path, keep: int, always: set[Path]) -> None:
    """Delete all but the `keep` newest checkpoints, those in `always`, and the newest valid one.

    newest: the one just written; any of a higher step is of a history that was left, and goes. A failed delete is
    left for next time.
    """
    folders = list(steps_newest_first(newest.parent))
    current = [folder for folder in folders if folder.name <= newest.name]
    valid = next((folder for folder in current if find_damage(folder) is None), newest)
    kept = {*current[:keep], *always, valid}
    for folder in folders:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)
    for partial in newest.parent.glob("*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def recover(checkpoints: Path) -> None:
    """Give whole checkpoints the names that a kill kept from them: written and not yet renamed, or being replaced."""
    # The new one sorts before the one that it replaces.
    for partial in sorted(checkpoints.glob("step_*.partial")):
        folder = checkpoints / partial.name.split(".")[0]
        if not folder.exists() and find_damage(partial) is None:
            partial.rename(folder)


def _take_place(partial: Path, folder: Path) -> None:
    """Rename, and only then delete what stood there: at every moment one of the two is whole, see recover."""
    replaced = folder.with_name(f"{folder.name}.replaced.partial")
    _remove(replaced)
    if folder.exists():
        folder.rename(replaced)
    partial.rename(folder)
    sync(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write_synced(path: Path, data: bytes) -> str:
    """Write and fsync; the SHA-256 of what was written."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()
