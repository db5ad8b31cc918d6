"""What the machine can do at most: large matrix products. python -m tests.benchmarks.sides.peak FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.benchmarks.turns import Turns
from tests.benchmarks.workload import THREADS, Workload

SIZE = 2048


def main(folder: Path) -> None:
    """Units are floating-point operations."""
    torch.set_num_threads(THREADS)
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16}[Workload.load(folder).precision]
    left, right = (torch.randn(SIZE, SIZE).to(dtype) for _ in range(2))
    turns = Turns()
    turns.boundary()
    while True:
        torch.mm(left, right)
        turns.boundary(2.0 * SIZE**3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
