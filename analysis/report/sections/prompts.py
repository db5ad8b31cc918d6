"""Prompt by prompt: flips with both completions, the worst regressions, length drift, and each reward's change."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import stats
from analysis.inference import checkpoints, prompts
from analysis.inference.claims import best_of
from analysis.inference.prompts import Drift, Flips
from analysis.measures import Measure, format_number, format_p
from analysis.report.document import Block, Cell, Completions, Heading, Prose, Section, Table, Text
from analysis.report.plots import Canvas
from analysis.report.sections.cells import limits_text, setting, signed
from analysis.report.sections.checkpoints import paired_tests
from analysis.study import Study
from workbench.tracking.words import plural

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 6
"""Prompts of a kind that are shown for a setting; the CSV file holds all."""
MAX_CHARACTERS = 500
MAX_SETTINGS = 6
MAX_ROWS = 20_000
"""How many rows the CSV file has at most."""


def section(study: Study, canvas: Canvas) -> Section | None:
    """Compares prompt by prompt; None without completions from before and after training."""
    flipped, drifted = prompts.flips(study), prompts.drifts(study)
    if not flipped and not drifted:
        return None
    found = Section("Prompts", [Prose(_about(canvas.single_seed))])
    if flipped:
        found.blocks.append(_flips_table(flipped))
        found.blocks += _side_by_side(study, flipped)
    if not canvas.single_seed:
        counted, tests = checkpoints.paired_tests(study)
        if tests:
            table = paired_tests(
                tests, counted, folded=f"Checkpoint against checkpoint: {len(tests)} exact McNemar tests"
            )
            found.blocks.append(table)
    if drifted:
        found.blocks += [Heading("Length and rewards"), _drift_table(study, drifted)]
    return found


def _about(single: bool) -> str:
    text = (
        "The same held-out prompts, from the start and from the model that each setting left: of each setting the "
        "checkpoint of its lowest finished seed. These are statements about these weights on these prompts, not about "
        "methods."
    )
    return (
        text
        if single
        else text + " In how many seeds a prompt flips alike tells what training does from what one run did."
    )


def _flips_table(flipped: list[Flips]) -> Table:
    adjusted = stats.holm([flips.exact[2].p for flips in flipped])
    rows, flat = [], []
    for flips, p in zip(flipped, adjusted, strict=True):
        lost, gained, exact = flips.exact
        n, right, seeds = len(flips.table), int(flips.table["right_before"].sum()), flips.seeds
        always = [int((flips.table[f"{kind}_seeds"] == seeds).sum()) for kind in ("gained", "lost")]
        rows.append(
            [
                setting(flips.variant, (f"seed {flips.seed}",)),
                *(_count(number, n) for number in (right, right + gained - lost, gained, lost)),
                Cell(format_p(exact.p), exact.p),
                Cell(format_p(p), p, tone="best" if p < 0.05 else ""),
                *(
                    Cell(str(number), float(number), (f"of {plural(seeds, 'seed')}",) if seeds > 1 else ())
                    for number in always
                ),
            ]
        )
        flat.append(
            {"variant": flips.variant.name, "seed": flips.seed, "prompts": n, "right_before": right, "gained": gained}
            | {"lost": lost, "p_mcnemar": exact.p, "p_holm": p, "seeds": seeds}
            | {"gained_in_every_seed": always[0], "lost_in_every_seed": always[1]}
        )
    names = ["checkpoint", "right at the start", "right after", "gained", "lost", "McNemar", f"Holm, m = {len(rows)}"]
    if any(flips.seeds > 1 for flips in flipped):
        names += ["gained in every seed", "lost in every seed"]
    rows = [row[: len(names)] for row in rows]
    caption = (
        "Greedy decoding, one completion a prompt. McNemar's exact test asks whether gains and losses are equally "
        "likely for these weights. Every flip with both completions is in flips.csv."
    )
    label = "Prompts that flipped from the start to each setting"
    return Table("prompt_flips", [(name, "") for name in names], rows, flat, label=label, caption=caption, broad=True)


def _count(number: int, n: int) -> Cell:
    return Cell(str(number), float(number), (f"{number / n:.1%}" if n else "–",))


def _side_by_side(study: Study, flipped: list[Flips]) -> list[Block]:
    """Regressions first; of the best setting open, of the others folded."""
    best = best_of(study, study.deciding) if study.deciding else None
    ordered = sorted(flipped, key=lambda flips: best is None or flips.variant.name != best.name)
    blocks: list[Block] = []
    for place, flips in enumerate(ordered[:MAX_SETTINGS]):
        for kind in ("lost", "gained"):
            rows = flips.of(kind)
            if len(rows):
                shown = _completions(flips, kind, rows)
                text = f"{shown.label}: {min(SHOWN, len(rows))} of {len(rows)}"
                if place or kind == "gained":
                    blocks.append(Completions(shown.columns, shown.rows, shown.label, folded=text))
                else:
                    blocks += [Prose(f"{text}."), shown]
    if best is not None and len(ordered) > 1 and study.deciding is not None:
        blocks += _best_two(study, ordered)
    if blocks:
        order = "those first that most seeds flip alike, then by hash: nobody chose them"
        blocks.insert(0, Heading("What changed, side by side"))
        blocks.insert(1, Prose(f"Regressions first; {order}."))
    blocks.append(_all_flips(flipped))
    return blocks


def _best_two(study: Study, ordered: list[Flips]) -> list[Block]:
    """The prompts on which the best setting's checkpoint and the next best's differ."""
    measure = study.deciding
    assert measure is not None, "the caller asks"
    sign = 1.0 if measure.higher_is_better else -1.0
    means = {f.variant.name: sign * float(np.mean(study.values(f.variant, measure.column))) for f in ordered}
    first, second = sorted(ordered, key=lambda flips: -means[flips.variant.name])[:2]
    table = prompts.between(first, second)
    found: list[Block] = []
    for right, wrong, rows in (
        (first, second, table[table["first_right"]]),
        (second, first, table[~table["first_right"]]),
    ):
        shown = [
            (
                _cut(str(row["prompt"]))[0],
                [_text(row["first"], bool(row["first_right"])), _text(row["second"], not row["first_right"])],
            )
            for row in rows.head(SHOWN).to_dict("records")
        ]
        if shown:
            label = f"{right.variant.label} right, {wrong.variant.label} wrong"
            columns = [f"{flips.variant.label}, seed {flips.seed}" for flips in (first, second)]
            found.append(Completions(columns, shown, label, folded=f"{label}: {len(shown)} of {len(rows)}"))
    return found


def _completions(flips: Flips, kind: str, rows: pd.DataFrame) -> Completions:
    shown = []
    for row in rows.head(SHOWN).to_dict("records"):
        times = int(row[f"{kind}_seeds"])
        note = f"{kind} in {times} of {plural(flips.seeds, 'seed')}" if flips.seeds > 1 else ""
        pair = [_text(row["before"], bool(row["right_before"])), _text(row["after"], bool(row["right_after"]), note)]
        shown.append((_cut(str(row["prompt"]))[0], pair))
    label = f"{'Lost' if kind == 'lost' else 'Gained'} by {flips.variant.label}"
    return Completions(["start", f"{flips.variant.label}, seed {flips.seed} ({kind})"], shown, label)


def _text(text: object, right: bool, note: str = "") -> Text:
    shown, cut = _cut(str(text))
    return Text(shown, right, cut, note)


def _cut(text: str) -> tuple[str, bool]:
    return text[:MAX_CHARACTERS], len(text) > MAX_CHARACTERS


def _all_flips(flipped: list[Flips]) -> Table:
    """Every flip, for the CSV file alone: a table without rows is not shown."""
    flat: list[dict[str, Any]] = []
    for flips in flipped:
        for kind in ("lost", "gained"):
            rows = flips.of(kind).head(MAX_ROWS - len(flat)).reset_index()
            for row in rows.to_dict("records"):
                flat.append(
                    {"variant": flips.variant.name, "seed": flips.seed, "change": kind, "prompt_id": row["prompt_id"]}
                    | {"prompt": row["prompt"], "before": row["before"], "after": row["after"], "seeds": flips.seeds}
                    | {"gained_seeds": row["gained_seeds"], "lost_seeds": row["lost_seeds"]}
                )
    return Table("flips", [], [], flat, label="Every flip")


def _drift_table(study: Study, drifted: list[Drift]) -> Table:
    tested = [drift for drift in drifted if not math.isnan(drift.p)]
    adjusted = dict(zip(map(id, tested), stats.holm([drift.p for drift in tested]), strict=True))
    by_outcome = prompts.lengths_by_outcome(study)
    rows, flat = [], []
    for drift in drifted:
        measure = Measure("", drift.what, drift.unit, "rate" if drift.unit != "tokens" else "nats")
        p = adjusted.get(id(drift), math.nan)
        limits = limits_text(drift.difference, Measure("", "", "", "nats"))
        lines = (limits,) if limits else ()
        if drift.unit == "tokens" and drift.variant.name in by_outcome:
            right, wrong = map(format_number, by_outcome[drift.variant.name])
            what = Cell(drift.what, drift.what, (f"{drift.unit}; after: {right} if right, {wrong} if wrong",))
        else:
            what = Cell(drift.what, drift.what, (drift.unit,) if drift.unit else ())
        rows.append(
            [
                setting(drift.variant, (f"seed {drift.seed}",)),
                what,
                Cell(measure.text(drift.before), drift.before),
                Cell(measure.text(drift.after), drift.after),
                Cell(signed(drift.difference.mean, measure), drift.difference.mean, lines),
                Cell("no change" if math.isnan(drift.p) else format_p(p), p, tone="best" if p < 0.05 else ""),
            ]
        )
        flat.append(
            {"variant": drift.variant.name, "seed": drift.seed, "what": drift.what, "unit": drift.unit}
            | {"before": drift.before, "after": drift.after, "difference": drift.difference.mean}
            | {"low": drift.difference.low, "high": drift.difference.high, "clusters": drift.difference.n}
            | {"p": drift.p, "p_holm": p}
        )
    caption = (
        f"{prompts.split_of(study).capitalize()} decoding. Differences are paired by prompt, the samples of a prompt "
        "averaged first; 95 % t interval over prompts (over clusters where prompts share a passage), Holm over all "
        "rows that have a spread."
    )
    names = ["checkpoint", "what", "start", "after", "difference", f"Holm, m = {len(tested)}"]
    label = "Completion length and each reward, before and after"
    folded = label if len(rows) > 16 else ""
    return Table("drift", [(name, "") for name in names], rows, flat, label=label, caption=caption, folded=folded)
