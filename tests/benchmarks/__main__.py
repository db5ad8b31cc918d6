"""`make bench`: side by side in one run, alternating; BENCH="sweep --quick" chooses."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks import start_up, sweep
from tests.benchmarks.record import keep

BENCHMARKS = {"start_up": start_up.run, "sweep": sweep.run}


def main() -> None:
    """Run the benchmarks named, print their tables, keep them under runs/bench/."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a small setting, to try it")
    parser.add_argument("--repeats", type=int, default=1, help="how often each side runs; medians are told")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"found {', '.join(unknown)}, allowed {', '.join(BENCHMARKS)}")
    records = []
    for name in chosen.names or BENCHMARKS:
        records.append(BENCHMARKS[name](chosen.quick, chosen.repeats))
        print(records[-1].text(), flush=True)
    print(f"kept in {keep(records, Path('runs/bench'))}")


if __name__ == "__main__":
    main()
