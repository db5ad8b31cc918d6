"""Shows the same held-out prompts before training and after it, every variant side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.report.document import Completions, Prose, Section, Text
from analysis.report.plots import Canvas
from analysis.study import Study, Variant

if TYPE_CHECKING:
    import pandas as pd

MAX_VARIANTS = 6
MAX_CHARACTERS = 700


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows completions side by side; None where none were kept."""
    found = side_by_side(study)
    if found is None:
        return None
    text = (
        f"{len(found.shown.rows)} of {found.num_prompts} held-out prompts, those whose hash comes first (nobody chose "
        f"them), {found.split} decoding, seed {found.seed}: before training and from the model that each setting left."
    )
    if found.left_out:
        text += f" Not shown for width: {'; '.join(found.left_out)}."
    return Section("Completions side by side", [Prose(text), found.shown])


@dataclass(frozen=True)
class SideBySide:
    """Columns are the start and the variants; a row is a prompt with one completion a column."""

    shown: Completions
    split: str
    seed: int
    num_prompts: int
    left_out: list[str]


def side_by_side(study: Study, prompts: int = 8) -> SideBySide | None:
    """Completions of the lowest seed that most variants finished, for the prompts whose hash comes first.

    The hash picks the prompts, so nobody's favourite examples are shown. None where no completions were kept.
    """
    table = study.loaded.completions
    finals = study.finals
    if table.empty or "split" not in table or finals.empty:
        return None
    usable = finals[finals["run"].isin(table["run"].unique())]
    usable = usable[usable["finished"]] if usable["finished"].any() else usable
    if usable.empty:
        return None
    counts = usable.groupby("seed")["variant"].nunique()
    seed = counts[counts == counts.max()].index.min()
    runs = usable[usable["seed"] == seed].set_index("variant")
    variants = [variant for variant in study.variants if variant.name in runs.index]
    shown = _spread(variants)
    if not shown:  # the runs that were finished are of no variant that their definitions still tell of
        return None
    split = "greedy" if (table["split"] == "greedy").any() else str(table["split"].iloc[0])
    table = table[(table["split"] == split) & (table["sample_index"] == 0)]
    finals_by_run = {v.name: table[_at(table, runs.loc[v.name, "run"], runs.loc[v.name, "step"])] for v in shown}
    first = table[_at(table, runs.loc[shown[0].name, "run"], 0)]
    sources = ([("start", first)] if len(first) else []) + [(v.label, finals_by_run[v.name]) for v in shown]
    by_prompt = [(label, rows.drop_duplicates("prompt_id").set_index("prompt_id")) for label, rows in sources]
    asked = [set(rows.index) for _, rows in by_prompt if len(rows)]
    identities = sorted(set.intersection(*asked) or set.union(*asked)) if asked else []
    texts = table.drop_duplicates("prompt_id").set_index("prompt_id")["prompt"]
    rows = [
        (str(texts[identity]), [_text(table, identity) for _, table in by_prompt]) for identity in identities[:prompts]
    ]
    left_out = [variant.label for variant in variants if variant not in shown]
    if not rows:
        return None
    shown_rows = Completions([label for label, _ in sources], rows)
    return SideBySide(shown_rows, split, int(seed), len(identities), left_out)


def _at(table: pd.DataFrame, run: str, step: float) -> pd.Series:
    return (table["run"] == run) & (table["step"] == step)


def _spread(variants: list[Variant]) -> list[Variant]:
    if len(variants) <= MAX_VARIANTS:
        return variants
    last = len(variants) - 1
    return [variants[round(i * last / (MAX_VARIANTS - 1))] for i in range(MAX_VARIANTS)]


def _text(table: pd.DataFrame, identity: str) -> Text | None:
    if identity not in table.index:
        return None
    row: Any = table.loc[identity]
    text = str(row["completion"])
    exact = row.get("exact_match")
    right = None if exact is None or math.isnan(exact) else float(exact) > 0.5
    return Text(text[:MAX_CHARACTERS], right, len(text) > MAX_CHARACTERS)
