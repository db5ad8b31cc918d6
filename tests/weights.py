"""Whether numbers moved: python -m tests.weights FILE [NAME ...] in the tree before and in the one after, and then
python -m tests.weights --compare BEFORE AFTER.

Records hashes of the final weights, the metrics and the costs of every run of the shipped definitions (or of those
named), cut to two steps, in float32 and bf16. Two trees are compared on one machine: other libraries or another
processor give other last bits. It takes about ten minutes for all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.contracts.test_definitions import NAMES, ROOT, write_definitions
from workbench.tracking.reader import read_rows

PRECISIONS = ("float32", "bf16")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}


def record(folder: Path, precision: str, names: list[str]) -> dict[str, str]:
    """The hashes of the definitions' runs, by what they are of. Raises SystemExit where a command fails."""
    write_definitions(folder)
    for path in (folder / "experiments").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())
        for part in (definition, *definition.get("arms", {}).values()):
            if "hyperparameters" in part:
                part["hyperparameters"]["precision"] = precision
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
    for name in names:
        print(f"{precision} {name}", flush=True)
        command = [sys.executable, "-m", "workbench.cli", "run", name, "--jobs", "1"]
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name}: exit code {done.returncode}\n{done.stderr}")
    found = {}
    for run in sorted((folder / "runs").glob("*/*/seed*")):
        key = f"{precision} {run.relative_to(folder / 'runs')}"
        rows = read_rows(run / "metrics.jsonl")
        found[f"{key} weights"] = digest((run / "model/model.safetensors").read_bytes())
        found[f"{key} rows"] = digest([_of(row, costs=False) for row in rows])
        found[f"{key} costs"] = digest([_of(row, costs=True) for row in rows])
    return found


def _of(row: dict[str, Any], *, costs: bool) -> dict[str, Any]:
    """The costs of a row, or what is neither a cost nor a time."""
    return {k: v for k, v in row.items() if not k.startswith("time/") and k.startswith("cost/") == costs}


def digest(value: Any) -> str:
    """A hash of bytes, or of a value's JSON."""
    content = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def compare(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What both have and is not the same."""
    return [key for key in sorted(before.keys() & after.keys()) if before[key] != after[key]]


def main() -> int:
    """Exit code 1 where anything moved."""
    parser = argparse.ArgumentParser(prog="python -m tests.weights", description="Record or compare final weights.")
    parser.add_argument("--compare", action="store_true", help="two files that were recorded")
    parser.add_argument("file", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="definitions (default: all), or the second file")
    parsed = parser.parse_args()
    if parsed.compare:
        before, after = (json.loads(Path(path).read_text()) for path in (parsed.file, *parsed.names))
        moved = compare(before, after)
        print(f"{len(before.keys() & after.keys())} compared, {len(moved)} moved", *moved, sep="\n  ")
        return int(bool(moved))
    found: dict[str, str] = {}
    for precision in PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            found |= record(Path(folder), precision, parsed.names or NAMES)
    parsed.file.write_text(json.dumps(found, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
