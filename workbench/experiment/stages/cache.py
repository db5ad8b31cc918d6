"""Results that runs share: made once, published whole, verified before every use.

A stage is the folder <name>-v<version>-<fingerprint>/ with stage.json, which names every file's checksum and is written
last. It is made as .partial, synced and renamed, so a folder under its final name is whole; a damaged one is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config import file_sha256, fingerprint
from workbench.errors import StorageError
from workbench.experiment.locks import hold
from workbench.tracking.reader import read_json

FOLDER = "stages"
MANIFEST = "stage.json"


@dataclass(frozen=True)
class Stage:
    """What a result depends on. version is raised by hand when the code that makes it changes."""

    name: str
    version: int
    key: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """Of everything that decides the result."""
        return fingerprint({"name": self.name, "version": self.version, "key": dict(self.key)})

    @property
    def folder_name(self) -> str:
        """The same for the same key, everywhere."""
        return f"{self.name}-v{self.version}-{self.fingerprint}"


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its files, and what its maker said of it (costs, counts)."""

    stage: Stage
    folder: Path
    made: dict[str, Any]


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
        if manifest is None or _damage(folder, manifest):
            return None
        result = StageResult(stage, folder, manifest["made"])
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
                if (self.root / stage.folder_name).exists():
                    say(f"{stage.folder_name} is damaged and is made anew")
                self._publish(stage, make)
                found = self.find(stage)
        assert found is not None, "a stage that was just published verifies"
        return found

    def _publish(self, stage: Stage, make: Maker) -> None:
        folder = self.root / stage.folder_name
        partial = folder.with_name(folder.name + ".partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            made = dict(make(partial))
            files = {path.name: file_sha256(path) for path in sorted(partial.iterdir())}
            for name in files:
                _sync(partial / name)
            manifest = {"name": stage.name, "version": stage.version, "key": dict(stage.key)}
            text = json.dumps({**manifest, "made": made, "files": files}, indent=1)
            (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
            _sync(partial / MANIFEST)
            _sync(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            _sync(self.root)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror or error}); free some space or choose RUNS=folder"
            ) from error


def _damage(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    try:
        for name, digest in manifest["files"].items():
            if file_sha256(folder / name) != digest:
                return f"{name} does not match its checksum"
        return None if isinstance(manifest["made"], dict) else "stage.json is damaged"
    except (OSError, KeyError, AttributeError, TypeError) as error:
        return str(error)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
