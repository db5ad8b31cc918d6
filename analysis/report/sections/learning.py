"""Learning curves: held-out measures and training's own, over steps."""

from __future__ import annotations

from analysis.measures import capital, join
from analysis.report.document import Figure, Section
from analysis.report.plots import Canvas
from analysis.study import Study
from workbench.tracking.names import EXACT_MATCH_GREEDY, EXACT_MATCH_SAMPLED, HELD_OUT_LOSS, KL_START, PAIR_ACCURACY

LEARNING = ("loss", "rewards/margins", "grad_norm")
HELD_OUT = (EXACT_MATCH_SAMPLED, EXACT_MATCH_GREEDY, KL_START, PAIR_ACCURACY, HELD_OUT_LOSS)


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows the measures over steps; None where no run wrote a measure."""
    if study.finals.empty:
        return None
    drawn = figure(study, canvas)
    return Section("Learning curves", [drawn]) if drawn.panels else None


def figure(study: Study, canvas: Canvas) -> Figure:
    deciding = study.deciding.column if study.deciding else ""
    held_out = [c for c in HELD_OUT if study.has(c)]
    held_out.sort(key=lambda column: column != deciding)
    held_out = held_out[:3]
    training = [c for c in (*LEARNING, *study.own_measures) if study.has(c)]
    # What was wanted is drawn beside what was optimised.
    beside = [*held_out[:1], *(["reward"] if study.has("reward") else []), *held_out[1:]]
    columns = [*beside, *training[: 6 - len(beside)]]
    panels = canvas.learning(columns)
    shown = join([study.measure_of(c).label for c in columns])
    see = (
        f"{capital(shown)} as training goes on: whether curves have levelled off, and whether any setting turned back."
    )
    how = (
        "Faint: every run's raw values. Bold: the mean over a setting's seeds, with an exponential moving average over "
        "a tenth of the steps for the training measures and none for the held-out ones. Smoothing is for the eye only; "
        "every number elsewhere is from raw values. Unfinished runs are drawn as far as they came."
    )
    return Figure(panels, see, how, len(study.variants) > 1)
