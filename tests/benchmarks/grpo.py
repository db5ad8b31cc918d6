"""Whole GRPO steps: sample, reward, update."""

from __future__ import annotations

import math
import statistics

from tests.benchmarks.comparison import Comparison, result_of
from tests.benchmarks.measure import BenchmarkError
from tests.benchmarks.page import Result, Table
from tests.benchmarks.turns import TRL, Measured, Side
from tests.benchmarks.workload import THREADS, Workload

OURS = Side("workbench", "ours_grpo")
PROMPTS, GROUP, COMPLETION = 8, 8, 32
GOALS = {32: {TRL.name: 1.6}, 128: {TRL.name: 2.5}}
"""By the prompt's tokens: the longer it is, the more there is to be shared."""
SAMPLES = "samples"
ENTROPY_WITHIN = {"float32": 2e-3, "bf16": 1e-2}
"""Nats. The sides draw other tokens from the same weights; the means of 2,048 entropies differed by 5e-5 before the
first update and by 3e-4 after two."""
PHASES = ("sample", "reward", "rest")


def run(*, quick: bool, repeats: int | None) -> Result:
    """Short and long prompts in both precisions. BenchmarkError where a side does not do the whole work."""
    comparisons = []
    for prompt, goals in GOALS.items():
        for precision in ("float32", "bf16"):
            compared = Comparison.measure(
                f"GRPO {PROMPTS} x {GROUP} completions, {prompt} + {COMPLETION} tokens, {precision}, {SAMPLES}/s",
                Workload(
                    "grpo",
                    rows=PROMPTS,
                    group=GROUP,
                    length=prompt + COMPLETION,
                    prompt=prompt,
                    precision=precision,
                    num_batches=64,
                ),
                (OURS, TRL),
                goals,
                quick=quick,
                repeats=repeats,
                unit=SAMPLES,
            )
            for name, side in compared.measured.items():
                check_whole_work(f"{compared.label}: {name}", side, PROMPTS * GROUP)
            check_alike(compared)
            comparisons.append(compared)
    notes = (
        f"A step: {PROMPTS} prompts, {GROUP} completions of each, sampled at temperature 1 without truncation, judged, "
        "and one update (loss dapo, beta 0). Every completion has all its tokens: the end of sequence has no row in "
        "the model. The reward is a hash of the text, so every completion has an advantage and is trained on, on both "
        "sides; how many tokens were is counted.",
        f"Every side is a process of its own with {THREADS} threads and GOMP_SPINCOUNT=1000, has made its first steps, "
        "and takes turns with the other; a number is the median of its turns, a ratio the median of the ratios within "
        "a round. Same weights (a Llama of hidden 256, 4 layers, 4 heads, intermediate 1,024, vocabulary 512), same "
        "prompts at the same step; fused AdamW, gradients clipped at norm 1. bf16 is autocast over float32 weights.",
        "workbench: GRPOTrainer without output folder. TRL 1.16: GRPOTrainer, its rollout in one batch of 64, "
        "steps_per_generation 1, num_iterations 1, generate() of transformers, without logging, saving or gradient "
        "checkpointing.",
        "Phases: medians of all steps but the first. sample: from token ids (TRL: text) to sampled ids (workbench: and "
        "text); rest: the whole step without sample and reward.",
    )
    result = result_of("grpo", _goal(), comparisons, notes)
    result.tables.append(phase_table(comparisons))
    return result


def check_whole_work(label: str, side: Measured, completions: int) -> None:
    """BenchmarkError where completions were cut short, or not all were trained on."""
    trained = set(side.facts["trained_tokens"])
    lengths = set(side.first[2::3])
    if trained != {completions * COMPLETION} or lengths != {COMPLETION}:
        raise BenchmarkError(
            f"{label}: trained on {sorted(trained)} tokens a step, expected {completions * COMPLETION}; completions "
            f"have {sorted(lengths)} tokens in the mean, expected {COMPLETION}"
        )


def check_alike(compared: Comparison) -> None:
    """BenchmarkError where entropies or rewards of the first steps differ by more than chance."""
    ours, theirs = (compared.measured[name].first for name in (OURS.name, TRL.name))
    within = ENTROPY_WITHIN[compared.workload.precision]
    entropies = list(zip(ours[::3], theirs[::3], strict=True))
    # A hash is uniform: a mean of n rewards has the deviation 1 / sqrt(12 n), and five of them are never seen.
    allowed = 5 / math.sqrt(12 * PROMPTS * GROUP)
    rewards = [*ours[1::3], *theirs[1::3]]
    if not all(abs(a - b) <= within for a, b in entropies) or not all(abs(r - 0.5) <= allowed for r in rewards):
        raise BenchmarkError(
            f"{compared.label}: not the same work: entropies {entropies} (within {within:g}), rewards {rewards} "
            f"(0.5 within {allowed:.3f})"
        )


def phase_table(comparisons: list[Comparison]) -> Table:
    """Milliseconds a step by phase."""
    table = Table("Milliseconds a step", ["", "step", *PHASES])
    for compared in comparisons:
        for name in (OURS.name, TRL.name):
            facts = compared.measured[name].facts
            whole, sample, reward = (
                1e3 * statistics.median(facts[f"{phase}_seconds"][1:]) for phase in ("step", "sample", "reward")
            )
            cells = [f"{value:,.1f}" for value in (whole, sample, reward, whole - sample - reward)]
            table.rows.append([f"{name}: {compared.label.removesuffix(f', {SAMPLES}/s')}", *cells])
    return table


def _goal() -> str:
    parts = [f"{ratio[TRL.name]} at {prompt} + {COMPLETION} tokens" for prompt, ratio in GOALS.items()]
    return f"at least {' and '.join(parts)} times TRL's {SAMPLES}/s"
