"""`make bench`: python -m tests.benchmarks [NAME ...] [--quick] [--repeats N]."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path

from tests.benchmarks import (
    checkpoints,
    dashboard,
    determinism,
    dpo,
    family,
    generation,
    grpo,
    loading,
    memory,
    scaling,
    sft,
    start_up,
    sweep,
)
from tests.benchmarks.measure import ROOT, BenchmarkError, machine
from tests.benchmarks.page import paste_table, write
from tests.benchmarks.workload import FAMILY

BENCHMARKS = {
    "start_up": start_up.run,
    "sft_padded": sft.run_padded,
    "sft_ragged": sft.run_ragged,
    "checkpoints": checkpoints.run,
    "dashboard": dashboard.run,
    "determinism": determinism.run,
    "dpo": dpo.run,
    **{f"family_{method}": partial(family.run, method) for method in FAMILY},
    "generation": generation.run,
    "grpo": grpo.run,
    "loading": loading.run,
    "memory": memory.run,
    "scaling": scaling.run,
    "sweep": sweep.run,
}
ON_A_GPU = {"determinism"}
"""Only where they are named."""


def meant_by(name: str) -> list[str]:
    """The benchmark of that name, or all whose names begin with it, such as those of the family."""
    return [name] if name in BENCHMARKS else [each for each in BENCHMARKS if each.startswith(f"{name}_")]


def main() -> int:
    """1 where a benchmark failed or missed its goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure, side by side with TRL.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all for a CPU)")
    parser.add_argument("--quick", action="store_true", help="smaller settings on both sides, for trying it out")
    parser.add_argument("--repeats", type=int, help="times each side of a comparison is run (default: its own)")
    parser.add_argument("--out", type=Path, help="folder of the results (default runs/bench; quick: runs/bench-quick)")
    parser.add_argument(
        "--paste", action="store_true", help="write the results that --out holds into docs/benchmarks.md, and end"
    )
    parsed = parser.parse_args()
    out = parsed.out or Path("runs/bench-quick" if parsed.quick else "runs/bench")
    if parsed.paste:
        paste_table(ROOT / "docs/benchmarks.md", (out / "table.md").read_text(encoding="utf-8"))
        return 0
    unknown = [name for name in parsed.names if not meant_by(name)]
    if unknown or (parsed.repeats is not None and parsed.repeats < 1):
        parser.error(f"found {' '.join(unknown) or parsed.repeats}, allowed {', '.join(BENCHMARKS)}, repeats >= 1")
    command = shlex.join(["python", "-m", "tests.benchmarks", *sys.argv[1:]])
    missed = False
    meant = [name for given in parsed.names for name in meant_by(given)]
    for name in meant or [name for name in BENCHMARKS if name not in ON_A_GPU]:
        facts = machine() | {"command": command}
        try:
            result = BENCHMARKS[name](quick=parsed.quick, repeats=parsed.repeats)
        except BenchmarkError as error:
            print(f"{name}: failed: {error}", file=sys.stderr)
            missed = True
            continue
        facts |= {"load after": f"{os.getloadavg()[0]:.2f}"} | result.values.get("versions", {})
        print(f"\n{result.text()}\n{write(out, result, facts)}\n", flush=True)
        missed |= not result.reached
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
