"""The largest resident memory of each side's process: interpreter, libraries, weights, optimiser, activations."""

from __future__ import annotations

from tests.benchmarks.page import Result, Table
from tests.benchmarks.turns import LOOP, OURS, TRL, take_turns
from tests.benchmarks.workload import Workload

CASES = {
    "SFT 32 x 128, float32": Workload("sft", num_batches=8),
    "SFT 32 x 128, bf16": Workload("sft", precision="bf16", num_batches=8),
    "DPO 32 pairs x 64, float32": Workload("dpo", length=64, prompt=16, num_batches=8),
    "DPO 32 pairs x 64, bf16": Workload("dpo", length=64, prompt=16, precision="bf16", num_batches=8),
}
STEP_SECONDS = 2.0


def run(*, quick: bool, repeats: int | None) -> Result:
    """A few steps are enough: memory peaks in the first ones."""
    del quick, repeats
    table = Table("Peak resident memory, MiB", ["", *(side.name for side in (OURS, TRL, LOOP)), "workbench / TRL"])
    values, ratios, summary = {}, [], []
    for label, workload in CASES.items():
        print(f"{label}, peak memory", flush=True)
        measured = take_turns((OURS, TRL, LOOP), workload, rounds=1, turn_seconds=STEP_SECONDS)
        peaks = [side.peak_mib for side in measured.values()]
        ratios.append(peaks[0] / peaks[1])
        cells = [f"{peak:,.0f}" for peak in peaks]
        table.rows.append([label, *cells, f"{ratios[-1]:.2f}"])
        verdict = "yes" if ratios[-1] <= 1 else "no"
        summary.append([f"{label}, peak MiB", *cells, f"{ratios[-1]:.2f} TRL (at most 1)", verdict])
        values[label] = {name: side.facts for name, side in measured.items()}
    return Result(
        "memory",
        goal="at most TRL's",
        reached=max(ratios) <= 1,
        tables=[table],
        values=values,
        notes=["ru_maxrss of a process that does one side's work and nothing else; nothing is subtracted."],
        summary=summary,
    )
