"""Supervised fine-tuning: rows of one length, and rows of lengths as GSM8K's answers have them."""

from __future__ import annotations

from tests.benchmarks.comparison import (
    LOOP_NOTE,
    PEAK_NOTE,
    SIDES_NOTE,
    TRL_NOTE,
    WORKBENCH_NOTE,
    Comparison,
    result_of,
)
from tests.benchmarks.page import Result
from tests.benchmarks.turns import LOOP, OURS, PEAK, TRL, Side, check_agree
from tests.benchmarks.workload import LONGEST, SHORTEST, Workload

ROWS = 32
PADDED_GOALS = {TRL.name: 1.0, LOOP.name: 0.95}
RAGGED_GOAL, PACKED_GOAL = 1.5, 1.0
PRECISIONS = ("float32", "bf16")
WITHIN = {"float32": 1e-3, "bf16": 2e-2}
"""Nats by which the losses of the first steps may differ."""
PACKED_WAYS = (Side("TRL packed", "peer_trl", "packed"), Side("TRL packed one by one", "peer_trl", "packed_one_by_one"))


def run_padded(*, quick: bool, repeats: int | None) -> Result:
    """32 x 128, all tokens real. BenchmarkError where the losses differ."""
    comparisons = []
    for precision in PRECISIONS:
        compared = Comparison.measure(
            f"SFT {ROWS} x 128, {precision}, tokens/s",
            Workload("sft", rows=ROWS, length=128, precision=precision),
            (OURS, TRL, LOOP, PEAK),
            PADDED_GOALS,
            quick=quick,
            repeats=repeats,
        )
        check_agree(compared.measured, (OURS.name, TRL.name, LOOP.name), WITHIN[precision])
        comparisons.append(compared)
    notes = (SIDES_NOTE, WORKBENCH_NOTE, TRL_NOTE, LOOP_NOTE, PEAK_NOTE)
    return result_of("sft_padded", "at least TRL's tokens/s, at least 0.95 of the plain loop's", comparisons, notes)


def run_ragged(*, quick: bool, repeats: int | None) -> Result:
    """32 rows a step, real tokens counted. BenchmarkError where the losses differ."""
    comparisons = []
    for precision in PRECISIONS:
        compared = Comparison.measure(
            f"SFT {ROWS} rows of GSM8K's lengths, {precision}, real tokens/s",
            Workload("sft", rows=ROWS, lengths="gsm8k", precision=precision),
            (OURS, TRL, *PACKED_WAYS, LOOP, PEAK),
            {},
            quick=quick,
            repeats=repeats,
        )
        check_agree(compared.measured, (OURS.name, TRL.name, LOOP.name), WITHIN[precision])
        fastest = max(PACKED_WAYS, key=lambda side: compared.measured[side.name].rate).name
        goals = {TRL.name: RAGGED_GOAL, fastest: PACKED_GOAL}
        comparisons.append(Comparison(compared.label, compared.workload, compared.measured, goals))
    seen = any(c.measured[side.name].facts["neighbours_seen"] for c in comparisons for side in PACKED_WAYS)
    notes = (
        f"Lengths are drawn from a log-normal distribution fitted to the training answers' ({SHORTEST} to {LONGEST} "
        "tokens, median 115).",
        SIDES_NOTE,
        WORKBENCH_NOTE,
        TRL_NOTE + " Packed: its own best-fit packing into rows of 512 tokens, 8 a step (about as many tokens as 32 "
        "rows have): in one padding-free sequence, or row by row with accumulation; the faster of the two is compared.",
        "TRL packed on this machine, tried with a changed neighbour: a text "
        + ("DOES see what is packed before it." if seen else "does not see what is packed before it."),
        LOOP_NOTE,
        PEAK_NOTE,
    )
    goal = f"at least {RAGGED_GOAL} times TRL unpacked and at least TRL packed, in real tokens/s"
    return result_of("sft_ragged", goal, comparisons, notes)
