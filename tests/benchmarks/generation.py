"""Sampling against transformers' generate(): same weights, prompts and limits."""

from __future__ import annotations

from tests.benchmarks.comparison import Comparison, result_of
from tests.benchmarks.measure import BenchmarkError
from tests.benchmarks.page import Result
from tests.benchmarks.turns import OURS, Measured, Side
from tests.benchmarks.workload import THREADS, Workload

PEER = Side("transformers", "loop")
GOALS = {PEER.name: 1.0}
PROMPT, LIMIT = 32, 128
QUICK_LIMIT = 32
TURN_SECONDS = 1.5
ROWS = (1, 32, 256)
NUM_ENDS = 16
"""Of 512 tokens, all about as likely under random weights: a completion has 31 tokens in the mean, 128 at most."""
LEAST_SAME, ALIKE, LEAST_COMPLETIONS = 0.95, 0.2, 64


def run(*, quick: bool, repeats: int | None) -> Result:
    """Batches of 1, 32 and 256 prompts, to the full length and with an early end. BenchmarkError on other tokens."""
    comparisons = []
    for rows in ROWS:
        for num_ends in (0, NUM_ENDS):
            how = "sampled, early ends" if num_ends else "greedy, full length"
            compared = Comparison.measure(
                f"generate, {rows} {'prompt' if rows == 1 else 'prompts'}, {how}, tokens/s",
                Workload(
                    "generate",
                    rows=rows,
                    prompt=PROMPT,
                    length=PROMPT + (QUICK_LIMIT if quick else LIMIT),
                    num_ends=num_ends,
                    warm_up=1,
                    num_batches=101,
                ),
                (OURS, PEER),
                GOALS,
                quick=quick,
                repeats=repeats,
                turn_seconds=TURN_SECONDS,
            )
            _check(compared, num_ends)
            comparisons.append(compared)
    notes = (
        f"Prompts of {PROMPT} tokens, {LIMIT} new ones at most, float32, {THREADS} threads, a KV cache on both sides, "
        "turn by turn. To the full length: greedy, and both sides give the same tokens. With early ends: drawn at "
        f"temperature 1 with {NUM_ENDS} of the 512 tokens as ends; only tokens up to the end count.",
        "workbench: workbench.generation.generate, given the prompts as lists. transformers: model.generate under "
        "inference_mode, given a tensor.",
    )
    return result_of("generation", "at least the tokens/s of transformers' generate()", comparisons, notes)


def _check(compared: Comparison, num_ends: int) -> None:
    ours, theirs = (compared.measured[name] for name in (OURS.name, PEER.name))
    if not num_ends:
        same = sum(a == b for a, b in zip(ours.first, theirs.first, strict=True)) / len(ours.first)
        if same < LEAST_SAME:
            raise BenchmarkError(f"{compared.label}: only {same:.0%} of the tokens are the same")
        return
    a, b = _tokens(ours), _tokens(theirs)
    # Few completions differ by chance.
    if min(a, b) > LEAST_COMPLETIONS * NUM_ENDS and not abs(a / b - 1) <= ALIKE:
        raise BenchmarkError(f"{compared.label}: {a:,.0f} and {b:,.0f} tokens in as many completions")


def _tokens(side: Measured) -> float:
    return sum(side.units)
