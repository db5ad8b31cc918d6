"""The record of a run that is ready to train: what a process needs that trains it, wherever it is started.

runs/.planned/<key>.json is written once everything is there that the run reads. It names those files and their
contents, which are verified before they are used, so a process that trains from it needs nothing of the one that
planned it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workbench.disk import make_folder
from workbench.errors import DataError, DefinitionError, WorkbenchError
from workbench.experiment.definition.source import show
from workbench.experiment.identity import differences
from workbench.experiment.running.prepared import PreparedRun
from workbench.experiment.running.run_folder import write_json
from workbench.own_code import own_hash
from workbench.redaction import redact
from workbench.tracking.reader import read_sealed, sealed

PLANNED = ".planned"


def write_planned(prepared: PreparedRun, runs: Path) -> Callable[[], PreparedRun]:
    """Write the record of a run. Returns what reads it back; where a secret had to be kept out of a value that counts,
    it gives the run itself, which then can be trained by this command alone."""
    told = _with_question(prepared, redact(prepared.spec.question))
    whole = _record().dump_python(told, mode="json", by_alias=True, exclude_unset=True)
    kept = redact(whole)
    withheld = redact([name for name, _, _ in differences(whole, kept)])
    path = _path(runs, prepared.spec.key)
    make_folder(path.parent)
    write_json(path, sealed({"code": own_hash(), "withheld": withheld, "run": kept}))
    if withheld:
        return lambda: prepared
    return lambda: read_planned(runs, prepared.spec.key, prepared.identity.fingerprint)


def read_planned(runs: Path, key: str, fingerprint: str | None = None) -> PreparedRun:
    """The run of that key as it was planned. fingerprint: the one that is asked for, where it is known. Raises
    DefinitionError where there is no record of it, and DataError where its record cannot be used."""
    path = _path(runs, key)
    record = read_sealed(path)
    again = f"`make exp NAME={key.split('/')[0]}` plans it anew"
    if record is None:
        raise DefinitionError(f"{path}: no record of a planned run, or a damaged one; {again}")
    if record.get("withheld"):
        what = record["withheld"][0]
        raise DataError(f"{path}: {what} holds a secret, which no record keeps; only `make exp` can train {key}")
    if record.get("code") != own_hash():
        raise DataError(f"{path}: {key} was planned by other code of the workbench; {again}")
    try:
        prepared = _record().validate_python(record["run"])
    except (ValidationError, WorkbenchError, KeyError) as error:
        raise DataError(f"{path}: is no record of a planned run; {again}") from error
    if fingerprint is not None and prepared.identity.fingerprint != fingerprint:
        raise DataError(f"{path}: another command has planned {key} otherwise meanwhile; {again}")
    return prepared


def planned_key(runs: Path, named: str) -> str:
    """The key of the planned run that a command names: EXPERIMENT/VARIANT where the variant has one seed,
    EXPERIMENT/VARIANT/seedK, or the run's folder. Raises DefinitionError."""
    is_folder = os.path.isabs(named) or os.path.isdir(named)
    inside = os.path.relpath(named, runs) if is_folder else named
    parts = inside.rstrip("/").split("/")
    found: list[str] = []
    if len(parts) in (2, 3) and not any(part in ("", ".", "..") for part in parts):
        folder = runs / PLANNED / parts[0] / parts[1]
        wanted = parts[2:] or sorted(path.stem for path in folder.glob("seed*.json"))
        found = ["/".join([*parts[:2], seed]) for seed in wanted if os.path.isfile(folder / f"{seed}.json")]
    if len(found) == 1:
        return found[0]
    if found:
        raise DefinitionError(f"command line: RUN: found {show(named)}, allowed one run of it: {', '.join(found)}")
    raise DefinitionError(
        f"command line: RUN: found {show(named)}, allowed EXPERIMENT/VARIANT/seedK of a run that is planned in {runs}; "
        "`workbench prepare EXPERIMENT` plans its runs"
    )


def _with_question(prepared: PreparedRun, question: str) -> PreparedRun:
    """The run with another question, on which nothing depends."""
    sources = tuple(replace(each, spec=replace(each.spec, question=question)) for each in prepared.sources)
    return replace(prepared, spec=replace(prepared.spec, question=question), sources=sources)


def _path(runs: Path, key: str) -> Path:
    return runs / PLANNED / f"{key}.json"


@functools.cache
def _record() -> TypeAdapter[Any]:
    return TypeAdapter(PreparedRun)
