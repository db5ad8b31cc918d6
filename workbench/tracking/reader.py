"""Run folders back as rows, tables and records; whole lines only, whatever a crash left behind."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunRecord:
    """What a run says of itself; a file that is absent or torn is an empty dict."""

    folder: Path
    definition: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


class Tail:
    """New rows of a growing JSONL file. `restarted` says that the file was cut since, so all rows come again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restarted = False
        self._offset = 0
        self._last_line = b""

    def new_rows(self) -> list[dict[str, Any]]:
        """Whole rows since the last call."""
        self.restarted = False
        try:
            with open(self.path, "rb") as file:
                # A file that was cut may have grown past the old end since: the last line tells, the size does not.
                file.seek(self._offset - len(self._last_line))
                self.restarted = file.read(len(self._last_line)) != self._last_line
                if self.restarted:
                    self._offset, self._last_line = 0, b""
                    file.seek(0)
                data = file.read()
        except OSError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        if whole:
            self._offset += len(whole)
            self._last_line = whole[whole.rfind(b"\n", 0, -1) + 1 :]
        return _parse(whole)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a JSONL file; none when it is absent."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    return _parse(data[: data.rfind(b"\n") + 1])


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when it is absent or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def read_metrics(run: Path) -> pd.DataFrame:
    """metrics.jsonl, one row a step."""
    import pandas as pd

    return pd.DataFrame(read_rows(run / "metrics.jsonl"))


def read_completions(run: Path) -> pd.DataFrame:
    """completions.jsonl, one row a completion."""
    import pandas as pd

    return pd.DataFrame(read_rows(run / "completions.jsonl"))


def read_run(folder: Path) -> RunRecord:
    """A run's definition, status and provenance."""
    import yaml

    try:
        definition = yaml.safe_load((folder / "definition.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        definition = None
    return RunRecord(
        folder,
        definition if isinstance(definition, dict) else {},
        read_json(folder / "status.json") or {},
        read_json(folder / "provenance.json") or {},
    )


def find_runs(root: Path) -> list[Path]:
    """Every run folder under a runs folder, sorted."""
    return sorted(path.parent for path in root.glob("*/*/seed*/definition.yaml"))


def _parse(data: bytes) -> list[dict[str, Any]]:
    rows = []
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
