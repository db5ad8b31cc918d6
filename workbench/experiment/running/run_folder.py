"""A run's folder: what it says of itself, whether it is finished, and where it goes when it no longer holds."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from workbench.config import file_sha256
from workbench.errors import ModelError, StorageError, describe_error
from workbench.experiment.definition.schema import RunSpec
from workbench.experiment.search.settings import Pause
from workbench.models.folder import weights_file
from workbench.redaction import redact
from workbench.tracking.reader import read_sealed, sealed, sealed_text

SUPERSEDED = ".superseded"
FINISHED = "finished"
PAUSED = "paused"
"""The state of a run that its search judged on its way, and that goes on only where it is among the best."""


class RunFolder:
    """runs/<experiment>/<variant>/seed<k>."""

    def __init__(self, runs: Path, key: str) -> None:
        self.runs, self.key, self.path = runs, key, runs / key

    @property
    def model(self) -> Path:
        """The Hugging Face folder that a finished run leaves."""
        return self.path / "model"

    @property
    def log(self) -> Path:
        """What its process printed."""
        return self.path / "log.txt"

    def status(self) -> dict[str, Any]:
        """status.json; empty when there is none, or one that does not match the checksum it bears."""
        return read_sealed(self.path / "status.json") or {}

    def is_finished(self) -> bool:
        """Whether it ran to its end and its model stands."""
        return self.status().get("state") == FINISHED and weights_file(self.model).is_file()

    def is_paused(self, pause: Pause | None) -> bool:
        """Whether it came as far as its search asks for now, and waits there."""
        status = self.status()
        at = status.get("paused") or {}
        if pause is None or status.get("state") != PAUSED:
            return False
        return bool(at.get("by") == pause.by and at.get("limit", 0) >= pause.limit)

    def write_paused(self, spec: RunSpec, **progress: Any) -> None:
        """Write that it waits for its search to judge it. progress: how far it came."""
        assert spec.pause is not None, "only a search ends a run on its way"
        message = f"paused at step {progress.get('step')} by its search"
        self.write_status(state=PAUSED, message=message, exit_code=0, paused=asdict(spec.pause), **progress)

    def model_files(self) -> dict[str, str]:
        """SHA-256 of every file of the model, by its place in the model's folder."""
        paths = sorted(path for path in self.model.rglob("*") if path.is_file())
        return {str(path.relative_to(self.model)): file_sha256(path) for path in paths}

    def verify_model(self) -> None:
        """Raises ModelError when a file of the model is not as the run wrote it."""
        status = self.status()
        # Runs that were made before every file had a checksum have one of the weights alone.
        expected = status.get("model_files") or {weights_file(self.model).name: status.get("model_sha256")}
        found = self.model_files()
        damaged = [name for name, digest in expected.items() if digest is None or found.get(name) != digest]
        if damaged:
            raise ModelError(f"{self.model / damaged[0]} is damaged (checksum); FRESH=1 trains {self.key} anew")

    def write_status(self, **changes: Any) -> None:
        """Lay changes over status.json, atomically; what an error says may hold a secret, which stays out."""
        status = self.status() | redact(changes) | {"updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        write_json(self.path / "status.json", sealed(status))

    def begin(self, spec: RunSpec, provenance: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Definition and provenance first, then the status."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(redact(spec.to_definition()), sort_keys=False, allow_unicode=True)
            (self.path / "definition.yaml").write_text(sealed_text(text), encoding="utf-8")
        except OSError as error:
            raise _failed(self.path, error) from error
        write_json(self.path / "provenance.json", sealed(redact(provenance)))
        self.write_status(**status)

    def superseded(self) -> Iterator[RunFolder]:
        """The finished runs that were moved out of this one's way, the newest first."""
        above = (self.runs / SUPERSEDED / self.key).parent
        for path in sorted(above.glob(f"{glob.escape(self.path.name)}-*"), reverse=True):
            moved = RunFolder(above, path.name)
            if moved.is_finished():
                yield moved

    def superseded_as(self, fingerprint: str | None) -> Path | None:
        """The newest of them with that fingerprint."""
        found = (moved.path for moved in self.superseded() if moved.status().get("fingerprint") == fingerprint)
        return next(found, None)

    def workshop(self) -> RunFolder:
        """The folder where another run of its name is made before it can take the place of this one. It is made
        empty."""
        above = (self.runs / SUPERSEDED / self.key).parent
        made = RunFolder(above, f"{self.path.name}.partial")
        try:
            if made.path.exists():
                shutil.rmtree(made.path)
            made.path.mkdir(parents=True)
        except OSError as error:
            raise _failed(made.path, error) from error
        return made

    def take_back(self, superseded: Path) -> None:
        """Put what was moved out of the way here again, verified; what stands here goes out of the way. Raises
        ModelError."""
        RunFolder(superseded.parent, superseded.name).verify_model()
        self.supersede()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            superseded.rename(self.path)
        except OSError as error:
            raise _failed(self.path, error) from error

    def supersede(self) -> Path | None:
        """Move the folder out of the way, into .superseded/; None when there is none."""
        if not self.path.exists():
            return None
        target = self.beside()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path.rename(target)
            # TensorBoard walks hidden folders too, and would show the old run beside the new one.
            shutil.rmtree(target / "tensorboard", ignore_errors=True)
        except OSError as error:
            raise _failed(target, error) from error
        return target

    def beside(self) -> Path:
        """A name for a run of this key among those out of the way, which none bears yet."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        target = self.runs / SUPERSEDED / f"{self.key}-{stamp}"
        number = 1
        while target.exists():
            number += 1
            target = self.runs / SUPERSEDED / f"{self.key}-{stamp}-{number}"
        return target


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all. Raises StorageError when the disk fails or the folder is gone."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except BaseException as error:  # a signal leaves nothing half written either
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _failed(path, error) from error
        raise


def _failed(path: Path, error: OSError) -> StorageError:
    return StorageError(f"{path}: cannot be written ({describe_error(error)}); free some space or choose RUNS=folder")
