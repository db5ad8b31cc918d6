"""One workload, several sides: rates, ratios to the others, goals, as rows of tables."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.page import Result, Table
from tests.benchmarks.turns import LOOP, OURS, PEAK, Measured, Side, take_turns
from tests.benchmarks.workload import THREADS, Workload

ROUNDS, TURN_SECONDS = 5, 3.0
QUICK_ROUNDS, QUICK_TURN_SECONDS = 2, 0.5
SIDES_NOTE = (
    f"Every side is a process of its own with {THREADS} threads and GOMP_SPINCOUNT=1000, has made its first steps, and "
    "takes turns with the others: a few steps of one, the same number of the next, and so on, round after round. A "
    "number is the median of its turns; a ratio is the median of the ratios within a round. All start from the same "
    "weights (a Llama of hidden 256, 4 layers, 4 heads, intermediate 1,024, vocabulary 512, unless said otherwise) and "
    "see the same rows of token ids at the same step; fused AdamW, gradients clipped at norm 1, every step. bf16 is "
    "autocast over float32 weights. Timed is the whole step: its batch, forward, backward, update, record."
)
WORKBENCH_NOTE = (
    "workbench: its trainer by its public face, BatchLoader, metrics recorded in an output folder; no evaluation, no "
    "checkpoint within the timed steps."
)
TRL_NOTE = (
    "TRL 1.16: its trainer on a dataset of token ids, without logging, saving, gradient checkpointing or loader "
    "processes, max_length None."
)
LOOP_NOTE = (
    "plain loop: written by hand over transformers' Llama with sdpa, without mask (rows are padded on the right) and "
    "without trainer."
)
PEAK_NOTE = (
    "Share of the peak: 6 floating-point operations a token and parameter (head included, embedding not) and 12 x "
    "layers x hidden x context / 2 for attention, over what products of two 2,048 x 2,048 matrices reach in the same "
    "rounds."
)


@dataclass(frozen=True)
class Comparison:
    """What the sides did of one workload. goals: the least ratio of our rate to another side's, by its name."""

    label: str
    workload: Workload
    measured: dict[str, Measured]
    goals: Mapping[str, float]
    unit: str = "tokens"

    @classmethod
    def measure(
        cls,
        label: str,
        workload: Workload,
        sides: Sequence[Side],
        goals: Mapping[str, float],
        *,
        quick: bool,
        repeats: int | None,
        turn_seconds: float = TURN_SECONDS,
        unit: str = "tokens",
    ) -> Comparison:
        """Let the sides take turns."""
        print(f"{label}: {', '.join(side.name for side in sides)}", flush=True)
        rounds, seconds = (QUICK_ROUNDS, QUICK_TURN_SECONDS) if quick else (ROUNDS, turn_seconds)
        measured = take_turns(sides, workload, rounds=repeats or rounds, turn_seconds=seconds)
        return cls(label, workload, measured, goals, unit)

    def ratio(self, name: str) -> float:
        """Our rate over another's, the median of the rounds."""
        ours, theirs = self.measured[OURS.name].rates, self.measured[name].rates
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))

    @property
    def reached(self) -> bool:
        """Whether every ratio is at least its goal."""
        return all(self.ratio(name) >= goal for name, goal in self.goals.items())

    def table(self) -> Table:
        """A row a side."""
        # Not of DPO: a side that computes a pair's prompt once does fewer operations a token.
        peak = self.measured[PEAK.name].rate if PEAK.name in self.measured and self.workload.kind == "sft" else None
        shares = ["share of the peak"] if peak else []
        table = Table(self.label, ["", f"{self.unit}/s", "least", "most", "workbench / it", "MiB", *shares])
        for name, side in self.measured.items():
            unit = 1e9 if name == PEAK.name else 1.0
            cells = [f"{rate / unit:,.0f}" for rate in (side.rate, min(side.rates), max(side.rates))]
            if name == PEAK.name:
                table.rows.append([f"{name} (GFLOP/s)", *cells])
                continue
            ratio = "" if name == OURS.name else f"{self.ratio(name):.2f}"
            share = [f"{self.workload.token_flops * side.rate / peak:.0%}"] if peak else []
            table.rows.append([name, *cells, ratio, f"{side.peak_mib:,.0f}", *share])
        return table

    def summary(self) -> list[str]:
        """A row of the table in docs/benchmarks.md."""

        def rates(*names: str) -> str:
            return "; ".join(f"{self.measured[name].rate:,.0f}" for name in names if name in self.measured)

        # transformers' generate() stands in TRL's column: it is what TRL samples with.
        peers = [name for name in self.measured if name not in (OURS.name, LOOP.name, PEAK.name)]
        ratios = [f"{self.ratio(name):.2f} {name} ({goal:g})" for name, goal in self.goals.items()]
        verdict = "yes" if self.reached else "no"
        return [self.label, rates(OURS.name), rates(*peers), rates(LOOP.name), "; ".join(ratios), verdict]

    def values(self) -> dict[str, Any]:
        """Every measured number."""
        return {
            name: {"units": side.units, "seconds": side.seconds, "first": side.first[:8], **side.facts}
            for name, side in self.measured.items()
        }


def result_of(name: str, goal: str, comparisons: Sequence[Comparison], notes: Sequence[str]) -> Result:
    """One benchmark's, from its comparisons."""
    versions: dict[str, str] = {}
    for comparison in comparisons:
        for side in comparison.measured.values():
            versions |= side.facts.get("versions", {})
    return Result(
        name,
        goal=goal,
        reached=all(comparison.reached for comparison in comparisons),
        tables=[comparison.table() for comparison in comparisons],
        values={"versions": versions} | {comparison.label: comparison.values() for comparison in comparisons},
        notes=list(notes),
        summary=[comparison.summary() for comparison in comparisons],
    )
