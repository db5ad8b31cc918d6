"""DPO with the reference scored beforehand on every side."""

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
from tests.benchmarks.sft import WITHIN
from tests.benchmarks.turns import LOOP, OURS, PEAK, TRL, check_agree
from tests.benchmarks.workload import Workload

PAIRS = 32
GOALS = {TRL.name: 1.1}
NUM_BATCHES = 24
"""Fewer than elsewhere: every side scores all of them with its reference before it begins."""


def run(*, quick: bool, repeats: int | None) -> Result:
    """Short pairs in both precisions, and pairs with a long prompt. BenchmarkError where the losses differ."""
    comparisons = []
    for prompt, length, precision in ((16, 64, "float32"), (16, 64, "bf16"), (192, 256, "float32")):
        compared = Comparison.measure(
            f"DPO {PAIRS} pairs x {length} (prompt {prompt}), {precision}, tokens/s",
            Workload(
                "dpo",
                rows=PAIRS,
                length=length,
                prompt=prompt,
                precision=precision,
                num_batches=6 if quick else NUM_BATCHES * 64 // length + 8,
            ),
            (OURS, TRL, LOOP, PEAK),
            GOALS,
            quick=quick,
            repeats=repeats,
        )
        check_agree(compared.measured, (OURS.name, TRL.name, LOOP.name), WITHIN[precision])
        comparisons.append(compared)
    notes = (
        "Tokens are those of both sides of a pair, the prompt with each, whether a side computes it once or twice.",
        SIDES_NOTE,
        WORKBENCH_NOTE + " The reference's log-probabilities are in the batches, as its stage leaves them.",
        TRL_NOTE + " precompute_ref_log_probs=True.",
        LOOP_NOTE + " Only the completions' positions are projected.",
        PEAK_NOTE,
    )
    return result_of("dpo", f"at least {GOALS[TRL.name]} times TRL's tokens/s", comparisons, notes)
