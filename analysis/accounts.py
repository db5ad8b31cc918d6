"""What the runs cost, how they ended, and what they were made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from analysis.measures import COSTS, Measure, format_number, join
from analysis.study import Study, Variant
from analysis.tables import Cell, Table, setting

FIELDS = ("generated_tokens", "trained_tokens", "scored_tokens", "flops", "seconds")
PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "workbench")
STAGES = {"collect": "collecting pairs", "ref_logprobs": "reference log-probs"}


def costs(study: Study) -> Table:
    """The shared start and the inherited stages once each, then each variant's own costs (mean over finished seeds).

    Under a variant's own number stands what it comes to with its inherited costs charged in full.
    """
    rows: list[list[Cell]] = []
    flat: list[dict[str, Any]] = []

    def add(what: Cell, values: Mapping[str, float], total: Mapping[str, float] | None = None) -> None:
        rows.append([what, *_cost_cells(values, total, what.tone)])
        for part, numbers in (("own", values), ("charged in full", total)):
            if numbers is not None:
                fields = {field: numbers.get(field, math.nan) for field in FIELDS}
                flat.append({"what": what.text, "part": part, **fields})

    for run, record in study.start.records.items() if study.start is not None else ():
        spent = dict(record["status"].get("costs") or {})
        spent["seconds"] = record["status"].get("seconds")
        add(
            Cell(f"start {run}", "", ("shared by all, not charged",), "muted"),
            {f: _number(spent.get(f)) for f in FIELDS},
        )
    inherited = {variant.name: inherited_costs(study, variant) for variant in study.variants}
    for stage, values, labels in _distinct_stages(study, inherited):
        everyone = len(labels) == len(study.variants) > 1
        needed = f"inherited by {'every setting' if everyone else join(labels)}"
        add(Cell(STAGES.get(stage, stage), "", (needed,), "muted"), values)
    for variant in study.variants:
        own = _own_costs(study, variant)
        total = dict(own)
        for values in inherited[variant.name].values():
            total = {field: total.get(field, 0.0) + values[field] for field in FIELDS}
        if own:
            add(setting(variant, ("with inherited",) if total != own else ()), own, total if total != own else None)
    return Table("costs", [("what", ""), *((m.label, m.unit) for m in _columns())], rows, plain=flat)


def _distinct_stages(
    study: Study, inherited: Mapping[str, Mapping[str, dict[str, float]]]
) -> list[tuple[str, dict[str, float], list[str]]]:
    """Each stage's costs with the variants that were charged just these."""
    found: list[tuple[str, dict[str, float], list[str]]] = []
    for variant in study.variants:
        for stage, values in inherited[variant.name].items():
            same = next((known for known in found if known[0] == stage and _about_equal(known[1], values)), None)
            if same:
                same[2].append(variant.label)
            else:
                found.append((stage, values, [variant.label]))
    return found


def _about_equal(first: Mapping[str, float], second: Mapping[str, float]) -> bool:
    """Equal but for the rounding of a mean over another number of seeds."""
    return all(math.isclose(first[field], second[field], rel_tol=1e-9) for field in FIELDS)


def _columns() -> list[Measure]:
    by_field = {measure.column.split("/")[1]: measure for measure in COSTS}
    return [by_field[field] for field in FIELDS]


def _cost_cells(values: Mapping[str, float], total: Mapping[str, float] | None, tone: str) -> list[Cell]:
    cells = []
    for field, measure in zip(FIELDS, _columns(), strict=True):
        value = values.get(field, math.nan)
        lines = () if total is None else (format_number(total.get(field), measure.kind),)
        cells.append(Cell(format_number(value, measure.kind), value, lines, tone))
    return cells


def _own_costs(study: Study, variant: Variant) -> dict[str, float]:
    found = {}
    for field, measure in zip(FIELDS, _columns(), strict=True):
        values = study.values(variant, measure.column)
        if values:
            found[field] = float(np.mean(values))
    return found


def inherited_costs(study: Study, variant: Variant) -> dict[str, dict[str, float]]:
    """{stage: costs} that the variant's finished runs were charged, mean over the runs."""
    runs = study.loaded.runs
    names = runs[(runs["variant"] == variant.name) & (runs["state"] == "finished")]["run"]
    stages: dict[str, list[dict[str, float]]] = {}
    for run in names:
        charged = (study.loaded.records[run]["status"].get("costs") or {}).get("inherited") or {}
        for stage, values in charged.items():
            if isinstance(values, dict) and any(_number(values.get(field)) for field in FIELDS if field in values):
                stages.setdefault(stage, []).append(values)
    return {
        stage: {field: float(np.mean([_number(v.get(field, 0.0)) for v in many])) for field in FIELDS}
        for stage, many in stages.items()
    }


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def runs(study: Study) -> Table:
    """Every planned run: its state, how far it came, why it stopped."""
    rows, flat = [], []
    labels = {variant.name: variant.label for variant in study.variants}
    for row in study.loaded.runs.to_dict("records"):
        record = study.loaded.records[row["run"]]
        step, planned = _number(row.get("step")), _number(row.get("num_steps"))
        why = [str(text) for text in (row.get("stopped_by"), row.get("message")) if isinstance(text, str) and text]
        if row.get("restored") is True:
            why.append(f"best step {format_number(_number(row.get('best_step')), 'count')} restored")
        memory = _number(row.get("peak_memory_bytes"))
        sha = str(record["status"].get("model_sha256") or "")
        done = "–" if math.isnan(step) else f"{step:.0f}" + ("" if math.isnan(planned) else f" of {planned:.0f}")
        state = str(row["state"])
        seed = _number(row["seed"])
        rows.append(
            [
                Cell(labels.get(str(row["variant"]), str(row["variant"]))),
                Cell("–" if math.isnan(seed) else f"{seed:.0f}", seed),
                Cell(state, tone="" if state == "finished" else "bad"),
                Cell(done, step),
                Cell("; ".join(why) or "–"),
                Cell(format_number(_number(row.get("seconds")), "seconds"), _number(row.get("seconds"))),
                Cell("–" if math.isnan(memory) else f"{memory / 1e6:,.0f}", memory),
                Cell(sha[:10] or "–"),
            ]
        )
        keys = ("run", "experiment", "variant", "seed", "state", "step", "num_steps", "stopped_by", "message")
        flat.append({key: row.get(key) for key in keys} | {"seconds": row.get("seconds"), "model_sha256": sha})
    columns = [
        ("setting", ""), ("seed", ""), ("state", ""), ("steps", ""), ("stopped by", ""), ("time", "s"),
        ("peak memory", "MB"), ("weights", "sha256"),
    ]  # fmt: skip
    return Table("runs", columns, rows, plain=flat)


def provenance(study: Study) -> list[tuple[str, str, bool]]:
    """(what, value, whether the runs differ in it) of everything the runs were made with."""
    records = [record for record in study.loaded.records.values() if record["provenance"] or record["status"]]
    facts: list[tuple[str, Callable[[dict[str, Any], dict[str, Any]], Any]]] = [
        ("commit", lambda p, _: _commit(p)),
        ("python", lambda p, _: p.get("python")),
        ("packages", lambda p, _: ", ".join(f"{k} {v}" for k, v in (p.get("packages") or {}).items() if k in PACKAGES)),
        ("processor", lambda p, _: (p.get("hardware") or {}).get("cpu")),
        ("cores", lambda p, _: (p.get("hardware") or {}).get("cores")),
        ("GPU", lambda p, _: (p.get("hardware") or {}).get("gpu")),
        ("device", lambda _, s: s.get("device")),
        ("threads a run", lambda p, s: s.get("threads") or p.get("threads")),
        ("precision", lambda _, s: s.get("precision")),
        ("parameters", lambda _, s: _parameters(s)),
        ("start", lambda p, _: _start(p)),
        ("data", lambda p, _: ", ".join(f"{k} {str(v)[:12]}" for k, v in sorted((p.get("data") or {}).items()))),
        ("stages", lambda p, _: ", ".join(f"{k} {str(v)[:12]}" for k, v in sorted((p.get("stages") or {}).items()))),
    ]
    found = []
    for name, get in facts:
        values = [str(value) for r in records if (value := get(r["provenance"], r["status"]))]
        distinct = list(dict.fromkeys(values))
        if len(distinct) == 1:
            found.append((name, distinct[0], False))
        elif distinct:
            shown = "; ".join(f"{value} ({values.count(value)} runs)" for value in distinct[:6])
            more = f"; and {len(distinct) - 6} more" if len(distinct) > 6 else ""
            found.append((name, shown + more, name not in ("start", "stages", "data")))
    return found


def _commit(provenance: Mapping[str, Any]) -> str | None:
    commit = provenance.get("commit")
    return f"{commit}{' with uncommitted changes' if provenance.get('dirty') else ''}" if commit else None


def _parameters(status: Mapping[str, Any]) -> str | None:
    total, trained = status.get("num_parameters"), status.get("trained_parameters")
    if not total:
        return None
    return f"{total:,}" if trained in (None, total) else f"{total:,}, of which {trained:,} trained"


def _start(provenance: Mapping[str, Any]) -> str | None:
    start = provenance.get("start")
    if not isinstance(start, Mapping) or not start.get("folder"):
        return None
    return f"{start['folder']} (sha256 {str(start.get('model_sha256') or '')[:12]})"


def checked_by_number(study: Study) -> bool:
    """Whether completions were compared with a file's answers by their number."""
    evaluated = [record["definition"].get("evaluate") or {} for record in study.loaded.records.values()]
    return any(evaluate.get("path") and evaluate.get("verifier") == "number" for evaluate in evaluated)
