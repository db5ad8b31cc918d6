"""Run folders back as rows, tables and records; whole lines only, whatever a crash left behind."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    import yaml


Row = dict[str, Any]

ROLLOUTS = "train"
"""The split that training's own completions bear in completions.jsonl; every other split is held out."""
WARNINGS = "warnings.jsonl"
"""What a run warned of while it trained: rows of step and warning."""
_ROLLOUT_MARK = json.dumps({"split": ROLLOUTS})[1:-1].encode()
"""How the store writes it. Inside a string the quotes would be escaped, so no completion can hold this."""
SEAL = "sha256"
"""The key, in a JSON object, of the hash of everything else in it."""
_SEAL_LINE = f"# {SEAL}: "
_HEX = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class RunRecord:
    """What a run says of itself; a file that is absent or damaged is an empty dict."""

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

    def new_rows(self, keep: Callable[[Row], bool] | None = None) -> list[Row]:
        """Whole rows since the last call; with `keep`, those of them that it admits, which alone stay in memory."""
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
        return _parse(whole.splitlines(), keep)


def read_rows(path: Path) -> list[Row]:
    """Every whole line of a JSONL file; none when it is absent."""
    try:
        data = path.read_bytes()
    except OSError:
        return []
    return _parse(data[: data.rfind(b"\n") + 1].splitlines())


def read_held_out(path: Path) -> list[Row]:
    """The rows of a completions.jsonl without training's own, which may outnumber them a hundredfold: those are neither
    parsed nor kept."""
    try:
        with open(path, "rb") as file:
            lines = (line for line in file if line.endswith(b"\n") and _ROLLOUT_MARK not in line)
            return _parse(lines, is_held_out)
    except OSError:
        return []


def is_held_out(completion: Row) -> bool:
    """Whether a row of completions.jsonl is an evaluation's."""
    return completion.get("split") != ROLLOUTS


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None when it is absent or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object and its checksum, as read_sealed wants it."""
    plain = json.loads(json.dumps(value))  # as it is read back
    return {**plain, SEAL: _digest(json.dumps(plain, sort_keys=True))}


def read_sealed(path: Path) -> dict[str, Any] | None:
    """A JSON object without its checksum; None when it is absent, none, or not what was sealed. One that bears no
    checksum is taken as it is."""
    value = read_json(path)
    if not value:
        return value
    last, seal = next(reversed(value.items()))
    # It is known by its name or by its form, because damage may have hit either.
    if last != SEAL and not (len(last) == len(SEAL) and _HEX.fullmatch(str(seal))):
        return value
    del value[last]
    return value if (last, seal) == (SEAL, _digest(json.dumps(value, sort_keys=True))) else None


def sealed_text(text: str) -> str:
    """Lines of YAML, and before them, in a comment, their checksum: a text that is cut short still has it."""
    return f"{_SEAL_LINE}{_digest(text)}\n{text}"


def _is_whole(text: str) -> bool:
    """Whether a text is what was sealed, or bears no checksum: neither its beginning nor its end."""
    first, _, rest = text.partition("\n")
    bears_one = first.startswith(_SEAL_LINE) or _HEX.fullmatch(first[-64:])
    return not bears_one or first == f"{_SEAL_LINE}{_digest(rest)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def swept_values(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run's record that its experiment's grid sweeps, by axis: a hyperparameter's name, else a dotted
    path. They stand where every other run has them; records from before axes were named had them beside, as point."""
    axes, point = definition.get("axes"), definition.get("point")
    if isinstance(axes, list):
        return {str(axis): _value_at(definition, str(axis)) for axis in axes}
    return dict(point) if isinstance(point, Mapping) else {}


def _value_at(definition: Mapping[str, Any], axis: str) -> Any:
    first, *rest = axis.split(".")
    at: Any = definition if first in definition else definition.get("hyperparameters")
    for name in (first, *rest):
        at = at.get(name) if isinstance(at, Mapping) else None
    if axis == "start_from" and isinstance(at, Mapping):  # which is written by name, and recorded whole
        return f"{at.get('experiment')}/{at.get('variant')}"
    return at


def read_completions(run: Path, *, rollouts: bool = False) -> pd.DataFrame:
    """completions.jsonl, one row a completion: of held-out prompts, or training's own rollouts, never both."""
    import pandas as pd

    path = run / "completions.jsonl"
    return pd.DataFrame([row for row in read_rows(path) if not is_held_out(row)] if rollouts else read_held_out(path))


def read_run(folder: Path) -> RunRecord:
    """A run's definition, status and provenance; what is damaged is empty."""
    import yaml

    try:
        text = (folder / "definition.yaml").read_text(encoding="utf-8")
        definition = yaml.load(text, _yaml_loader(text)) if _is_whole(text) else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        definition = None
    return RunRecord(
        folder,
        definition if isinstance(definition, dict) else {},
        read_sealed(folder / "status.json") or {},
        read_sealed(folder / "provenance.json") or {},
    )


def _yaml_loader(text: str) -> type[yaml.SafeLoader] | type[yaml.CSafeLoader]:
    """The safe loader, in C where libyaml is there: of a thousand definitions that is seconds. The one in C ends the
    process on what is nested too deeply, so text that could be goes to the one in Python, which raises."""
    import yaml

    could_be_deep = len(text) > 1_000_000 or sum(map(text.count, "[{")) > 2_000
    return yaml.CSafeLoader if yaml.__with_libyaml__ and not could_be_deep else yaml.SafeLoader


def find_runs(root: Path) -> list[Path]:
    """Every run folder under a runs folder, sorted."""
    return sorted(path.parent for path in root.glob("*/*/seed*/definition.yaml"))


def _parse(lines: Iterable[bytes], keep: Callable[[Row], bool] | None = None) -> list[Row]:
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # torn, or nested beyond reading
            continue
        if isinstance(row, dict) and (keep is None or keep(row)):
            rows.append(row)
    return rows
