"""The methods beside SFT, DPO and GRPO that TRL has too: ORPO, SimPO, KTO, reward models and distillation."""

from __future__ import annotations

from tests.benchmarks.comparison import SIDES_NOTE, TRL_NOTE, WORKBENCH_NOTE, Comparison, result_of
from tests.benchmarks.page import Result
from tests.benchmarks.sft import PRECISIONS, WITHIN
from tests.benchmarks.turns import TRL, Side, check_agree
from tests.benchmarks.workload import Workload

SIDES = (Side("workbench", "ours_family"), Side(TRL.name, "trl_family"))
TEXTS, PROMPT = 16, 32
GOALS = {TRL.name: 1.0}
TURN_SECONDS = 1.0
IN_PAIRS = ("orpo", "simpo", "reward")
NOTES = {
    "orpo": "ORPOTrainer of trl.experimental; the likelihood term is over prompt and response on both sides.",
    "simpo": "CPOTrainer of trl.experimental with loss_type simpo and cpo_alpha 0.",
    "kto": "Both sides score rows and mismatched rows with the reference at each step; tokens are those of the rows.",
    "reward": "The score head begins with the same weights.",
    "distill": "GKDTrainer of trl.experimental with lmbda 0: a teacher of the student's shape is asked at each step.",
}


def run(method: str, *, quick: bool, repeats: int | None) -> Result:
    """A method in both precisions. BenchmarkError where the losses differ."""
    rows = TEXTS // 2 if method in IN_PAIRS else TEXTS
    unit = "pairs" if method in IN_PAIRS else "rows"
    comparisons = []
    for precision in PRECISIONS:
        compared = Comparison.measure(
            f"{method}: {rows} {unit}, prompts of {PROMPT}, GSM8K's lengths, {precision}, real tokens/s",
            Workload(method, rows=rows, prompt=PROMPT, lengths="gsm8k", precision=precision, num_batches=48),
            SIDES,
            GOALS,
            quick=quick,
            repeats=repeats,
            turn_seconds=TURN_SECONDS,
        )
        check_agree(compared.measured, [side.name for side in SIDES], WITHIN[precision])
        comparisons.append(compared)
    notes = (
        NOTES[method],
        "Completions are as long as GSM8K's answers; tokens are the real ones that are trained on, a pair's prompt "
        "with each of its completions, whether a side computes it once or twice.",
        SIDES_NOTE,
        WORKBENCH_NOTE,
        TRL_NOTE,
    )
    return result_of(f"family_{method}", "at least TRL's tokens/s", comparisons, notes)
