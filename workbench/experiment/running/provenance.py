"""Records where a run's numbers come from: commit, uncommitted changes, versions, machine, command; never a secret."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workbench.own_code import own_hash
from workbench.processor import cpu_name, num_cores
from workbench.redaction import redact

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "peft",
    "datasets",
    "pandas",
    "scipy",
    "wandb",
    "tensorboard",
)
MAX_DIFF_CHARACTERS = 200_000
MAX_UNTRACKED = 200


def collect_provenance(root: Path) -> dict[str, Any]:
    """Everything that is the same for all runs of one command; root is the folder of the repository."""
    return {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": redact(" ".join(["workbench", *sys.argv[1:]])),
        "code": own_hash(),
        **code_state(root),
        "python": platform.python_version(),
        "packages": package_versions(),
        "hardware": hardware(),
    }


@functools.cache
def code_state(root: Path) -> dict[str, Any]:
    """Commit, whether the tree differs from it, and how: the diff, and the hashes of files git does not track."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None}
    diff = _git(root, "diff", "HEAD") or ""
    names = (_git(root, "ls-files", "--others", "--exclude-standard") or "").splitlines()
    untracked = {}
    for name in names[:MAX_UNTRACKED]:
        hashed = _git(root, "hash-object", "--", name)
        untracked[redact(name)] = (hashed or "unreadable").strip()
    state: dict[str, Any] = {"commit": commit.strip(), "dirty": bool(diff or names), "untracked": untracked}
    if diff:
        state["diff"] = redact(diff[:MAX_DIFF_CHARACTERS])
    return state


def current_commit(root: Path) -> str | None:
    """The commit that is checked out."""
    commit = _git(root, "rev-parse", "HEAD")
    return commit.strip() if commit else None


@functools.cache
def package_versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPU."""
    import psutil

    return {
        "cpu": cpu_name(),
        "cores": num_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpu_name(),
    }


def _gpu_name() -> str | None:
    """The GPU's name, from the driver's own files: asking torch would start CUDA, which no fork survives."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.split(":", 1)[1].strip()
    return None


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
