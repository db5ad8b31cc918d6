"""Methods side by side: what each is and needs, and what it was measured to do here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import stats
from analysis.inference import budget, claims
from analysis.inference.checkpoints import interval_of
from analysis.measures import COSTS, Measure, format_number, join, number_or_nan
from analysis.report.document import Cell, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import with_interval
from analysis.report.sections.rollouts import num_completions
from analysis.study import Study, Variant
from workbench.tracking.names import KL_START
from workbench.tracking.words import plural

NOT_TOLD = "not recorded when this was run"
TO_LEVEL = ("cost/flops", "cost/trained_tokens", "cost/generated_tokens", "time/seconds")


@dataclass(frozen=True)
class Method:
    """A trainer by its best setting here."""

    name: str
    told: Mapping[str, Any]
    """What the method said of itself when the run was made; empty for a run that was made before methods did."""
    online: bool
    """Whether it samples what it learns from."""
    variant: Variant
    settings: int
    """How many settings of this trainer finished a run."""
    runs: Sequence[str]
    """Finished runs of the setting."""


def section(study: Study, canvas: Canvas) -> Section | None:
    """A column a trainer; None where no run finished."""
    found = methods(study)
    if not found:
        return None
    text = (
        "What each method is and needs, and what it was measured to do here, by its best setting. The measured rows "
        "are means over finished seeds"
    )
    places = _machines(study, [run for method in found for run in method.runs])
    if len(places) == 1:
        text += f", all on {places[0]}; speeds hold for this machine and for what ran beside it."
    else:
        text += f". Speeds are not comparable: the runs were made on {join(places)}."
    return Section("Methods", [Prose(text), table(study, found)])


def methods(study: Study) -> list[Method]:
    """Every trainer that finished a run, in the order of the settings."""
    runs = study.loaded.runs
    trainers = dict(zip(runs["variant"], runs["trainer"], strict=True))
    by_trainer: dict[str, list[Variant]] = {}
    for variant in study.variants:
        by_trainer.setdefault(str(trainers.get(variant.name)), []).append(variant)
    found = []
    for trainer, variants in by_trainer.items():
        done = [variant for variant in variants if _finished(study, variant)]
        if not done:
            continue
        best = claims.best_among(study, study.deciding, done) if study.deciding else None
        chosen = best or done[0]
        finished = _finished(study, chosen)
        record = study.loaded.records[finished[0]]
        told = record["provenance"].get("method") or {}
        online = told.get("samples", "batch_prompts" in (record["definition"].get("hyperparameters") or {}))
        found.append(Method(str(told.get("name") or trainer), told, online, chosen, len(done), finished))
    return found


def table(study: Study, found: Sequence[Method]) -> Table:
    """Facts as rows, methods as columns."""
    rows: list[list[Cell]] = []
    flat: list[dict[str, Any]] = []

    def add(what: str, unit: str, cells: Sequence[Cell]) -> None:
        if all(cell.text in ("", "–") for cell in cells):
            return
        rows.append([Cell(what, what, (unit,) if unit else ()), *cells])
        values = {method.variant.name: cell.sort if isinstance(cell.sort, float) else cell.text
                  for method, cell in zip(found, cells, strict=True)}  # fmt: skip
        flat.append({"what": what, "unit": unit, **values})

    def words(what: str, say: Callable[[Method], str]) -> None:
        add(what, "", [Cell(say(method)) for method in found])

    def numbers(what: str, unit: str, kind: str, give: Callable[[Method], float]) -> None:
        values = [give(method) for method in found]
        add(what, unit, [Cell(format_number(value, kind), value) for value in values])

    words("loss", lambda m: m.told.get("formula", NOT_TOLD))
    words("needs", lambda m: _data(study, m))
    words("reference model", lambda m: _reference(study, m))
    words("reward", lambda m: _reward(study, m))
    words("critic", lambda m: m.told.get("critic") or "–")
    words("samples as it trains", lambda m: _sampling(study, m))
    numbers("trained parameters", "", "count", lambda m: _status(study, m, "trained_parameters"))
    for what, unit, kind, amount, seconds in _SPEEDS:
        numbers(what, unit, kind, lambda m, a=amount, s=seconds: _rate(study, m, a, s))  # type: ignore[misc]
    numbers("peak memory", "MB, of the process", "count", lambda m: _status(study, m, "peak_memory_bytes") / 1e6)
    measure = study.deciding
    if measure is not None:
        add(
            measure.label, measure.unit, [with_interval(interval_of(study, m.variant, measure), measure) for m in found]
        )
        numbers("KL from the start", "nats per sequence", "nats", lambda m: _mean(study, m, KL_START))
        _add_levels(study, measure, found, add)
        words("won here", lambda m: _won(study, measure, m))
    words("in general, when", lambda m: m.told.get("when", ""))
    heads = [("", ""), *((_title(study, method), method.name) for method in found)]
    caption = (
        "One column a method, by the setting with the best mean where it has several. Speeds are of training time, "
        "evaluation left out; peak memory is that of the process, libraries included. “In general, when” is advice and "
        "no result of these runs; “won here” rests on the tests above."
    )
    return Table("methods", heads, rows, flat, label="Methods side by side", caption=caption, broad=True)


_SPEEDS = (
    ("trained tokens", "a second", "count", "cost/trained_tokens", "time/seconds"),
    ("generated tokens", "a second of sampling", "count", "cost/generated_tokens", "time/sample_seconds"),
    ("completions learned from", "a second", "count", "completions", "time/seconds"),
    ("rows or pairs", "a second", "count", "rows", "time/seconds"),
    ("steps", "a second", "nats", "step", "time/seconds"),
)


def _title(study: Study, method: Method) -> str:
    return f"{method.variant.label} (best of {method.settings})" if method.settings > 1 else method.variant.label


def _finished(study: Study, variant: Variant) -> list[str]:
    own = study.finals[(study.finals["variant"] == variant.name) & study.finals["finished"]]
    return list(own.sort_values("seed")["run"])


def _definition(study: Study, method: Method) -> dict[str, Any]:
    definition: dict[str, Any] = study.loaded.records[method.runs[0]]["definition"]
    return definition


def _settings(study: Study, method: Method) -> dict[str, Any]:
    return dict(_definition(study, method).get("hyperparameters") or {})


def _data(study: Study, method: Method) -> str:
    data = _definition(study, method).get("data") or {}
    collected = data.get("collect") or {}
    rows, amount = data.get("rows"), ""
    if collected:
        times = collected.get("samples_per_prompt")
        amount = f"{collected.get('pairs'):,} collected from {times} samples a prompt of the start"
    elif isinstance(rows, int):
        amount = f"{rows:,}"
    return ": ".join(part for part in (method.told.get("learns_from", ""), amount) if part)


def _reference(study: Study, method: Method) -> str:
    status = study.loaded.records[method.runs[0]]["status"]
    if "ref_logprobs" in ((status.get("costs") or {}).get("inherited") or {}):
        return "the start; its log-probabilities were computed once, no model in memory"
    return method.told.get("reference", "") or "none" if method.told else ""


def _reward(study: Study, method: Method) -> str:
    if not method.online:
        return "none"
    identity = (study.loaded.records[method.runs[0]]["status"].get("identity") or {}).get("hyperparameters") or {}
    entries = identity.get("rewards") or []
    fingerprints = dict.fromkeys(reward["model"] for reward in entries if reward.get("model"))
    models = dict(zip(fingerprints, _reward_models(_definition(study, method)), strict=False))
    named = []
    for reward in entries:
        kind = next((kind for kind in ("format", "regex", "length") if reward.get(kind)), "own code")
        name = reward.get("name") or reward.get("reward") or models.get(reward.get("model")) or kind
        version = reward.get("version")
        named.append(f"{name}, version {version}" if version else str(name))
    return join(named) or str(method.told.get("reward", ""))


def _reward_models(definition: Mapping[str, Any]) -> list[str]:
    """The run or folder of each reward model, each once, in the order in which an identity has them: source by source,
    and where a source has no rewards of its own, those of all."""
    judges = iter(definition.get("judges") or [])

    def models(rewards: Sequence[Mapping[str, Any]]) -> list[str]:
        scorers = [reward for reward in rewards if reward.get("model") or reward.get("model_from")]
        return [f"reward model {reward.get('model') or next(judges, reward['model_from'])}" for reward in scorers]

    common = models((definition.get("hyperparameters") or {}).get("rewards") or [])
    sources = (definition.get("data") or {}).get("mix") or [{}]
    return list(dict.fromkeys(name for own in sources for name in models(own.get("rewards") or []) or common))


def _sampling(study: Study, method: Method) -> str:
    if not method.online:
        return "no"
    given = _settings(study, method)
    share = _mean(study, method, "time/sample_seconds") / _mean(study, method, "time/seconds")
    part = "" if math.isnan(share) else f", {share:.0%} of the time"
    return f"{given.get('batch_prompts')} prompts × {given.get('group_size')} completions a rollout{part}"


def _status(study: Study, method: Method, name: str) -> float:
    values = [number_or_nan(study.loaded.records[run]["status"].get(name)) for run in method.runs]
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _mean(study: Study, method: Method, column: str) -> float:
    values = study.values(method.variant, column)
    return float(np.mean(values)) if values else math.nan


def _rate(study: Study, method: Method, amount: str, seconds: str) -> float:
    own = study.finals[study.finals["run"].isin(method.runs)]
    if seconds not in own or (method.online and amount == "rows"):
        return math.nan
    if amount == "completions":
        amounts = own["run"].map(lambda run: num_completions(study, run)).astype(float)
    elif amount == "rows":
        given = _settings(study, method)
        size = given.get("batch_rows") or given.get("batch_pairs")
        amounts = own["step"] * (size if isinstance(size, int) else math.nan)
    elif amount not in own:
        return math.nan
    else:
        amounts = own[amount]
    rates = (amounts / own[seconds]).replace([np.inf, -np.inf], math.nan)
    mean = float(rates.mean())
    return mean if mean > 0 else math.nan


def _add_levels(
    study: Study, measure: Measure, found: Sequence[Method], add: Callable[[str, str, Sequence[Cell]], None]
) -> None:
    """What each method spent to reach one level, which half of the best gain is."""
    level = budget.threshold(study, measure)
    if measure.higher_is_better is not True or math.isnan(level) or len(found) < 2:
        return
    for cost in (cost for column in TO_LEVEL for cost in COSTS if cost.column == column):
        curves = budget.curves(study, measure, cost)
        cells = []
        for method in found:
            own = [curve for curve in curves if curve.variant.name == method.variant.name]
            crossed = [stats.first_held(c.costs, c.values, level, budget.HELD) for c in own]
            reached = [value for value in crossed if not math.isnan(value)]
            if not own:
                cells.append(Cell("–", math.nan))
            elif not reached:
                cells.append(Cell("never", math.nan, (f"in {len(own)} of {plural(len(own), 'seed')}",)))
            else:
                median = float(np.median(reached))
                cells.append(
                    Cell(format_number(median, cost.kind), median, (f"{len(reached)} of {plural(len(own), 'seed')}",))
                )
        add(f"{cost.label} to {measure.text(level)}", cost.unit or "median of seeds that reached it", cells)


def _won(study: Study, measure: Measure, method: Method) -> str:
    """Names the methods against which its final value is better, by the tests of the report."""
    better: list[str] = []
    for comparison in claims.compare_all(study, measure):
        names = (comparison.first.name, comparison.second.name)
        if method.variant.name not in names or not comparison.separated:
            continue
        other = comparison.second if names[0] == method.variant.name else comparison.first
        sign = 1.0 if measure.higher_is_better else -1.0
        ahead = comparison.test.difference * sign * (1 if names[0] == method.variant.name else -1)
        if ahead > 0:
            better.append(other.label)
    if not better:
        return "nothing that can be told apart"
    return f"better than {join(better)}"


def _machines(study: Study, runs: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for run in runs:
        record: Mapping[str, Any] = study.loaded.records[run]
        hardware = record["provenance"].get("hardware") or {}
        threads = record["status"].get("threads")
        what = hardware.get("gpu") or hardware.get("cpu") or "an unknown machine"
        found[f"{what}, {threads} thread{'' if threads == 1 else 's'} a run"] = None
    return list(found)
