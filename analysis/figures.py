"""Which figures a study gets, each with a caption that says what to see and how it was computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from analysis import budget
from analysis.claims import over_optimisation
from analysis.measures import Measure, join, measure_of
from analysis.plots import Canvas, Panel
from analysis.study import Study, starts_of


@dataclass(frozen=True)
class Figure:
    """Panels under one number; the legend names the variants where colours mean them."""

    title: str
    panels: list[Panel]
    see: str
    how: str
    legend: bool = False
    remarks: list[str] = field(default_factory=list)


LEARNING = ("loss", "rewards/margins", "grad_norm")
ROLLOUTS = (
    *("groups_with_signal", "completions/mean_length", "completions/clipped_ratio", "entropy", "objective/entropy"),
    *("kl", "objective/kl", "clip_ratio/region_mean", "policy/clipfrac_avg", "loss/value_avg"),
)
MAX_ROLLOUT_PANELS = 9
HELD_OUT = ("eval/exact_match_sampled", "eval/exact_match_greedy", "eval/kl_start", "eval/pair_accuracy", "eval/loss")


def all_figures(study: Study, canvas: Canvas) -> list[Figure]:
    """Outcome over the axis, exact match against KL, learning curves: those that the study has the data for."""
    figures = []
    if study.finals.empty:
        return []
    if len(study.variants) > 1:
        figures.append(_outcome(study, canvas))
    measure = study.deciding
    if measure is not None and "exact_match" in measure.column and study.has("eval/kl_start"):
        references = starts_of(study)
        if len(references) == 1:
            figures.append(_frontier(study, canvas, measure))
    if measure is not None and budget.compares_costs(study):
        figures.append(_equal_cost(study, canvas, measure))
    figures.append(_learning(study, canvas))
    figures.append(_rollouts(study, canvas))
    return [figure for figure in figures if figure.panels]


def _outcome(study: Study, canvas: Canvas) -> Figure:
    panels = canvas.over_axis()
    along = study.axis or "setting"
    exact = study.has("eval/exact_match_sampled") or study.has("eval/exact_match_greedy")
    pairs = study.has("eval/pair_accuracy")
    names = [name for name, there in (("exact match", exact), ("pair accuracy and margin", pairs)) if there]
    title = f"{' beside '.join(names) or 'held-out measures'} by {along}"
    remarks = over_optimisation(study)
    if remarks:
        see = (
            "The pair measures and the task disagree: where pair accuracy and margin are highest, exact match is not. "
            "Training there fits the preferences better and does the task worse (over-optimisation)."
        )
    elif exact and pairs:
        see = (
            "If pair accuracy or margin rose where exact match fell, the preferences would be over-optimised; no "
            "setting with a margin above the best one's is separated from it in exact match."
        )
    else:
        see = f"How the held-out measures change with {along}."
    how = (
        "Large marks: mean over finished seeds of the model each run left; bars: 95 % t interval; small dots: every "
        "seed; dashed: the start. Margin is the mean over held-out pairs of h, the policy-minus-reference difference "
        "of summed log-probs between chosen and rejected; accuracy is the share with h > 0, ties one half."
    )
    if canvas.single_seed:
        see = f"One checkpoint for each {along}: marks are not joined, for one seed shows no trend."
        over = (
            "Marks: the model each run left; bars: 95 % interval over its held-out items (Wilson for a rate, t for a "
        )
        how = over + "margin); dashed: the start. " + how.split("the start. ")[1]
    if not pairs:
        how = how.split(" Margin is")[0]
    return Figure(_capital(title), panels, see, how, legend=False, remarks=remarks)


def _frontier(study: Study, canvas: Canvas, measure: Measure) -> Figure:
    from analysis import stats

    points = []
    for variant in study.compared(measure.column):
        kl, value = study.values(variant, "eval/kl_start"), study.values(variant, measure.column)
        if kl and value:
            points.append((variant.label, sum(kl) / len(kl), sum(value) / len(value)))
    start = study.start_value(measure.column)
    everything = [("the start", 0.0, start), *points]
    best = [everything[i][0] for i in stats.frontier([p[1] for p in everything], [p[2] for p in everything])]
    beaten = [label for label, *_ in points if label not in best]
    see = f"On the frontier (no other mean has both less KL and more exact match): {join(best)}."
    if beaten:
        see += f" {join(beaten)} {'pay' if len(beaten) > 1 else 'pays'} more KL for no more exact match than another."
    how = (
        "KL is the report's one estimator: on held-out prompts, samples at temperature 1 from the model, the "
        "full-vocabulary KL to the start summed over positions, mean over prompts, in nats. Left: final means with "
        "95 % t intervals both ways, dots for seeds, + for the start, dotted the non-dominated set of means. Right: "
        "the mean over seeds at each evaluation. The frontier is drawn through means and carries no test of its own."
    )
    return Figure(f"{_capital(measure.label)} against KL from the start", canvas.against_kl(measure), see, how, True)


def _learning(study: Study, canvas: Canvas) -> Figure:
    deciding = study.deciding.column if study.deciding else ""
    held_out = [c for c in HELD_OUT if study.has(c)]
    held_out.sort(key=lambda column: column != deciding)
    held_out = held_out[:3]
    training = [c for c in LEARNING if study.has(c)]
    # Beside what was optimised what was wanted.
    beside = [*held_out[:1], *(["reward"] if study.has("reward") else []), *held_out[1:]]
    columns = [*beside, *training[: 6 - len(beside)]]
    panels = canvas.learning(columns)
    shown = join([measure_of(c).label for c in columns])
    see = (
        f"{_capital(shown)} as training goes on: whether curves have levelled off, and whether any setting turned back."
    )
    how = (
        "Faint: every run's raw values. Bold: the mean over a setting's seeds, with an exponential moving average over "
        "a tenth of the steps for the training measures and none for the held-out ones. Smoothing is for the eye only; "
        "every number elsewhere is from raw values. Unfinished runs are drawn as far as they came."
    )
    return Figure("Learning curves", panels, see, how, len(study.variants) > 1)


def _rollouts(study: Study, canvas: Canvas) -> Figure:
    names = sorted(
        c for c in map(str, study.finals) if c.startswith("rewards/") and c.endswith("/mean") and study.has(c)
    )
    columns = [*(names if len(names) > 1 else []), *(c for c in ROLLOUTS if study.has(c))][:MAX_ROLLOUT_PANELS]
    see = (
        "Whether there was something to learn from: a group whose completions all earn the same teaches nothing. "
        "Entropy that falls towards 0 ends exploration; a length that grows to the limit and rollouts that are cut off "
        "are rewarded for what they did not say."
    )
    how = (
        "Training measures: faint every run, bold the mean over a setting's seeds, smoothed over a tenth of the "
        "steps. Groups with signal: 1 less frac_reward_zero_std. KL in training is the trainer's own "
        "estimate and not the held-out KL from the start."
    )
    return Figure("Rollouts in training", canvas.learning(columns), see, how, len(study.variants) > 1)


def _equal_cost(study: Study, canvas: Canvas, measure: Measure) -> Figure:
    shown = budget.axes(study, measure)
    see = (
        f"{_capital(measure.label)} for what it cost, one axis at a time: a curve that lies above another reaches more "
        "for the same."
    )
    how = (
        "Every cost is charged in full to every setting that needs it: collecting pairs, reference, rollouts; so a "
        "curve begins at what was spent before its first step. The shared start is charged to none. Faint: every run; "
        "bold: the mean over seeds, between evaluations on straight lines and never beyond them; dotted: where the "
        "common range of all settings ends. A setting that spends none of a cost as it trains is not on that axis."
    )
    panels = budget.panels(study, canvas, measure, shown)
    remarks = budget.refusals(study) + budget.uncovered(study, measure)
    return Figure("At equal cost", panels, see, how, True, remarks)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
