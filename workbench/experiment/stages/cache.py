"""Results that runs share: made once, published whole, verified before every use.

A stage is the folder <name>-v<version>-<fingerprint>/ with stage.json, which says of what it is, names every file's
checksum, bears its own, and is written last. It is made as .partial, synced and renamed, so a folder under its final
name is whole; one that is damaged, or holds what is not its own, is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config import file_sha256, fingerprint
from workbench.disk import sync, writing
from workbench.locks import hold
from workbench.tracking.reader import read_json

FOLDER = "stages"
MANIFEST = "stage.json"
VERSIONS = {"data": 8, "collect": 2, "ref_logprobs": 3, "teacher_logprobs": 1}
"""Versions of what each stage makes. One is raised where the same key would give another result; then the stages are
made anew, and the runs that rest on them."""


@dataclass(frozen=True)
class Stage:
    """What a result depends on. version is raised by hand when the code that makes it changes."""

    name: str
    version: int
    key: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of everything that decides the result."""
        return fingerprint({"name": self.name, "version": self.version, "key": dict(self.key)})

    @property
    def folder_name(self) -> str:
        """The name of the folder, the same for the same key everywhere."""
        return f"{self.name}-v{self.version}-{self.fingerprint}"


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its files, and what its maker said of it (costs, counts)."""

    stage: Stage
    folder: Path
    made: dict[str, Any]
    files: dict[str, str]
    """SHA-256 by name."""

    @property
    def hashes(self) -> dict[str, str]:
        """The hashes of the files, as Inputs.verified wants them."""
        return {str(self.folder / name): digest for name, digest in self.files.items()}


Maker = Callable[[Path], Mapping[str, Any]]
"""Writes the stage's files into a folder; returns what is to be remembered of it, as JSON values."""


class StageCache:
    """The stages of one runs folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.root = runs / FOLDER
        self._known: dict[str, StageResult] = {}

    def find(self, stage: Stage) -> StageResult | None:
        """The stage if it is there and every file matches its checksum."""
        known = self._known.get(stage.folder_name)
        if known is not None:
            return known
        folder = self.root / stage.folder_name
        manifest = read_json(folder / MANIFEST)
        if manifest is None or _damage(folder, manifest, stage):
            return None
        result = StageResult(stage, folder, manifest["made"], manifest["files"])
        self._known[stage.folder_name] = result
        return result

    def get(self, stage: Stage, make: Maker, say: Callable[[str], None] = lambda _: None) -> StageResult:
        """The stage, made now if it is not there. Two processes never make the same one."""
        found = self.find(stage)
        if found is not None:
            return found
        waiting = f"waiting for {stage.name}, which "
        with hold(self.runs, stage.folder_name, on_wait=lambda holder: say(f"{waiting}{holder} makes")):
            found = self.find(stage)
            if found is None:
                if os.path.lexists(self.root / stage.folder_name):
                    say(f"{stage.folder_name} is damaged and is made anew")
                self._publish(stage, make)
                found = self.find(stage)
        assert found is not None, "a stage that was just published verifies"
        return found

    def _publish(self, stage: Stage, make: Maker) -> None:
        folder = self.root / stage.folder_name
        partial = folder.with_name(folder.name + ".partial")
        try:
            with writing(folder):
                _remove(partial)
                partial.mkdir(parents=True)
                _write(stage, make, partial)
                _remove(folder)
                partial.rename(folder)
                sync(self.root)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _write(stage: Stage, make: Maker, folder: Path) -> None:
    """The stage's files and, last, its manifest, all on the disk."""
    made = dict(make(folder))
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    for name in files:
        sync(folder / name)
    manifest = {"name": stage.name, "version": stage.version, "key": dict(stage.key)}
    manifest = json.loads(json.dumps({**manifest, "made": made, "files": files}))  # as it is read back
    text = json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def _damage(folder: Path, manifest: Mapping[str, Any], stage: Stage) -> str | None:
    """Why the folder is not that stage, whole and nothing else; None where it is."""
    try:
        rest = {name: value for name, value in manifest.items() if name != "sha256"}
        if manifest["sha256"] != _digest(rest):
            return f"{MANIFEST} does not match its checksum"
        if Stage(manifest["name"], manifest["version"], manifest["key"]).fingerprint != stage.fingerprint:
            return f"{MANIFEST} is of another stage"
        paths = list(folder.iterdir())
        if {path.name for path in paths} != {MANIFEST, *manifest["files"]}:
            return "its files are not those that were made"
        for path in paths:
            if path.is_symlink() or (path.name != MANIFEST and file_sha256(path) != manifest["files"][path.name]):
                return f"{path.name} is a link or does not match its checksum"
        return None
    except (OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        return str(error)


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _remove(path: Path) -> None:
    """Whatever stands there; of a link the link alone."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
