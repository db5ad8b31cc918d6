"""Held-out prompt by held-out prompt: which flipped between two checkpoints, and how lengths and rewards moved.

All of it speaks of checkpoints: of each setting that of its lowest finished seed. How many seeds flip the same prompt
is a description beside it, which tells a real regression from the noise of one training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import stats
from analysis.measures import capital
from analysis.study import Study, Variant

if TYPE_CHECKING:
    import pandas as pd

CLUSTER = "cluster"
"""A column of completions that says which prompts share a passage or a template, where an evaluation has it."""


@dataclass(frozen=True)
class Flips:
    """One setting against its start, prompt by prompt, greedily decoded.

    table: a row a prompt, by prompt_id: prompt, before, after (completions), right_before, right_after of the
    checkpoint shown, and over all finished seeds gained_seeds and lost_seeds.
    """

    variant: Variant
    seed: int
    seeds: int
    table: pd.DataFrame

    def of(self, kind: str) -> pd.DataFrame:
        """The prompts "gained" or "lost" by the checkpoint shown, those first that most seeds flip so, then by hash."""
        was, is_now = self.table["right_before"], self.table["right_after"]
        chosen = self.table[is_now & ~was] if kind == "gained" else self.table[was & ~is_now]
        return chosen.sort_index().sort_values(f"{kind}_seeds", ascending=False, kind="stable")

    @property
    def exact(self) -> tuple[int, int, stats.ExactTest]:
        """(lost, gained, exact McNemar) of the checkpoint shown."""
        return stats.mcnemar(list(self.table["right_before"]), list(self.table["right_after"]))


@dataclass(frozen=True)
class Drift:
    """One number of the completions before and after training: its paired difference over prompts, and its p."""

    variant: Variant
    seed: int
    what: str
    unit: str
    before: float
    after: float
    difference: stats.Interval
    p: float


def split_of(study: Study) -> str:
    """How the completions that decide are decoded."""
    return "sampled" if study.deciding is not None and study.deciding.column.endswith("_sampled") else "greedy"


def before_and_after(study: Study, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Completions of the finished runs at their start and from the models that they left."""
    table = study.loaded.completions
    if table.empty or "split" not in table or "exact_match" not in table:
        return table.iloc[:0], table.iloc[:0]
    finals = study.finals[study.finals["finished"]].set_index("run")["step"]
    table = table[(table["split"] == split) & table["run"].isin(finals.index)]
    last = table["run"].map(finals)
    return table[table["step"] == 0], table[(table["step"] == last) & (last > 0)]


def flips(study: Study) -> list[Flips]:
    """The flips of every setting whose finished runs were evaluated greedily before and after training."""
    before, after = before_and_after(study, "greedy")
    found = []
    for variant in study.variants:
        if before.empty or after.empty:
            break
        first, last = (_by_prompt(table[table["variant"] == variant.name]) for table in (before, after))
        if first.empty or last.empty:
            continue
        seeds = sorted(set(first["seed"]) & set(last["seed"]))
        if not seeds:
            continue
        found.append(_flips(variant, seeds, first, last))
    return found


def _by_prompt(table: pd.DataFrame) -> pd.DataFrame:
    """One greedy completion of each prompt and run."""
    return table[table["exact_match"].notna()].drop_duplicates(["run", "prompt_id"])


def _flips(variant: Variant, seeds: list[int], first: pd.DataFrame, last: pd.DataFrame) -> Flips:
    was, became = (
        table.pivot(index="prompt_id", columns="seed", values="exact_match")[seeds].gt(0.5) for table in (first, last)
    )
    was, became = was.align(became, join="inner", axis=0)
    seed = seeds[0]
    texts = [table[table["seed"] == seed].set_index("prompt_id") for table in (first, last)]
    shown = texts[0].loc[was.index, ["prompt", "completion"]].rename(columns={"completion": "before"})
    shown["after"] = texts[1].loc[was.index, "completion"]
    shown["right_before"], shown["right_after"] = was[seed], became[seed]
    shown["gained_seeds"], shown["lost_seeds"] = (became & ~was).sum(axis=1), (was & ~became).sum(axis=1)
    return Flips(variant, int(seed), len(seeds), shown)


def between(first: Flips, second: Flips) -> pd.DataFrame:
    """Prompts that one checkpoint has right and the other wrong, by prompt_id: prompt, first, second (completions),
    first_right (else second_right)."""
    other = second.table[["after", "right_after"]].add_suffix("_second")
    table = first.table[["prompt", "after", "right_after"]].join(other, how="inner")
    table = table[table["right_after"] != table["right_after_second"]].sort_index()
    names = {"after": "first", "after_second": "second", "right_after": "first_right"}
    return table.rename(columns=names)[["prompt", "first", "second", "first_right"]]


def drifts(study: Study) -> list[Drift]:
    """The drifts of every setting: completion length, share cut off, and every reward, as the deciding completions are
    decoded."""
    before, after = before_and_after(study, split_of(study))
    rewards = sorted(str(name) for name in after if str(name).startswith("rewards/") and after[name].notna().any())
    wanted = [("num_tokens", "completion length", "tokens"), ("cut", "completions cut off", "share")]
    wanted += [(name, f"reward {name.removeprefix('rewards/')}", "") for name in rewards]
    found = []
    for variant in study.variants:
        pair = _of_lowest_seed(before, after, variant)
        if pair is None:
            continue
        first, last, seed = pair
        for column, what, unit in wanted:
            drift = _drift(first, last, column)
            if drift is not None:
                found.append(Drift(variant, seed, capital(what), unit, *drift))
    return found


def _of_lowest_seed(
    before: pd.DataFrame, after: pd.DataFrame, variant: Variant
) -> tuple[pd.DataFrame, pd.DataFrame, int] | None:
    first, last = (table[table["variant"] == variant.name] for table in (before, after))
    seeds = set(first["seed"]) & set(last["seed"]) if len(first) and len(last) else set()
    if not seeds:
        return None
    seed = int(min(seeds))
    return first[first["seed"] == seed], last[last["seed"] == seed], seed


def _drift(first: pd.DataFrame, last: pd.DataFrame, column: str) -> tuple[float, float, stats.Interval, float] | None:
    """(before, after, paired difference, p) over the prompts that both have; samples of a prompt averaged first."""
    means = []
    for table in (first, last):
        if column == "cut":
            table = table.assign(cut=1.0 - table["ended"].astype(float)) if "ended" in table else table
        if column not in table:
            return None
        known = table[table[column].notna()]
        means.append(known.groupby("prompt_id")[column].mean())
    was, became = means[0].align(means[1], join="inner")
    if was.empty:
        return None
    clusters = None
    if CLUSTER in last:
        clusters = list(last.drop_duplicates("prompt_id").set_index("prompt_id").loc[was.index, CLUSTER])
    difference, p = stats.mean_difference(list((became - was).astype(float)), clusters)
    return float(was.mean()), float(became.mean()), difference, p


def lengths_by_outcome(study: Study) -> dict[str, tuple[float, float]]:
    """{variant: (mean tokens of right completions, of wrong ones)} of the checkpoints shown; NaN where none are."""
    before, after = before_and_after(study, split_of(study))
    found: dict[str, tuple[float, float]] = {}
    for variant in study.variants:
        pair = _of_lowest_seed(before, after, variant)
        if pair is not None:
            right = pair[1]["exact_match"] > 0.5
            tokens = pair[1]["num_tokens"].astype(float)
            found[variant.name] = (float(tokens[right].mean()), float(tokens[~right].mean()))
    return found
