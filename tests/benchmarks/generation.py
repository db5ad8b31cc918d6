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
GROUPS, GROUP, GROUP_LIMIT = 8, 8, 32
GROUP_PROMPTS = (32, 128)
GROUP_GOALS = {"llama": 1.5, "gpt2": 1.25}
"""By family. The same shape; gpt2 is sampled from by transformers' own forward on both sides."""
MEAN_TOKENS = 25
"""At most this far apart lie the mean ids of both sides' 2,048 tokens: 5 standard errors, if all 512 are as likely."""
LEAST_SAME, ALIKE, LEAST_COMPLETIONS = 0.95, 0.2, 64


def run(*, quick: bool, repeats: int | None) -> Result:
    """Batches of 1, 32 and 256 prompts, to the full length and with an early end, and groups as online trainers draw
    them. BenchmarkError on other tokens."""
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
    comparisons += _groups(quick=quick, repeats=repeats)
    notes = (
        f"Prompts of {PROMPT} tokens, {LIMIT} new ones at most, float32, {THREADS} threads, a KV cache on both sides, "
        "turn by turn. To the full length: greedy, and both sides give the same tokens. With early ends: drawn at "
        f"temperature 1 with {NUM_ENDS} of the 512 tokens as ends; only tokens up to the end count.",
        "workbench: workbench.generation.generate, given the prompts as lists. transformers: model.generate under "
        "inference_mode, given a tensor.",
        f"64 = {GROUPS} prompts x group {GROUP}: {GROUP_LIMIT} new tokens each, drawn at temperature 1 without ends. "
        "workbench: workbench.generation.sample, log-probabilities and entropies included. transformers: "
        "num_return_sequences, no scores. bf16 is autocast over float32 weights on both sides.",
    )
    return result_of("generation", "at least the tokens/s of transformers' generate()", comparisons, notes)


def _groups(*, quick: bool, repeats: int | None) -> list[Comparison]:
    comparisons = []
    for family, goal in GROUP_GOALS.items():
        for prompt in GROUP_PROMPTS:
            for precision in ("float32", "bf16"):
                compared = Comparison.measure(
                    f"sample, 64 = {GROUPS} prompts of {prompt} x group {GROUP}, {family}, {precision}, tokens/s",
                    Workload(
                        "generate",
                        rows=GROUPS,
                        prompt=prompt,
                        length=prompt + GROUP_LIMIT,
                        group=GROUP,
                        family=family,
                        precision=precision,
                        warm_up=1,
                        num_batches=101,
                    ),
                    (OURS, PEER),
                    {PEER.name: goal},
                    quick=quick,
                    repeats=repeats,
                    turn_seconds=TURN_SECONDS,
                )
                _check_group(compared)
                comparisons.append(compared)
    return comparisons


def _check_group(compared: Comparison) -> None:
    """As many tokens, from like distributions."""
    ours, theirs = (compared.measured[name] for name in (OURS.name, PEER.name))
    if ours.units != theirs.units or len(ours.first) != len(theirs.first):
        raise BenchmarkError(f"{compared.label}: {ours.units} and {theirs.units} tokens")
    a, b = (sum(side.first) / len(side.first) for side in (ours, theirs))
    if abs(a - b) > MEAN_TOKENS:
        raise BenchmarkError(f"{compared.label}: tokens whose mean ids are {a:.0f} and {b:.0f}")


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
