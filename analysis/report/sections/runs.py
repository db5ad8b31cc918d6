"""Every planned run: its state, how far it came, why it stopped, what went wrong. None is dropped in silence."""

from __future__ import annotations

import math

from analysis.measures import format_number, number_or_nan
from analysis.report.document import Cell, Prose, Section, Table
from analysis.report.notices import Incident, incidents
from analysis.report.plots import Canvas
from analysis.study import Study

SHOWN = 20
"""Runs up to which the table is not folded."""


SHOWN_INCIDENTS = 200


def section(study: Study, canvas: Canvas) -> Section | None:
    """Counts of all states, and the table."""
    counted = states(study)
    text = f"{len(study.loaded.runs)} planned: {', '.join(f'{number} {state}' for state, number in counted.items())}."
    if counted.get("finished", 0) < len(study.loaded.runs):
        text += (
            " Runs that did not finish are in no mean and no test; their last values are marked unfinished in the "
            "results and their curves are drawn as far as they came."
        )
    found = incidents(study)
    return Section("Runs", [Prose(text), table(study), *([_incident_table(study, found)] if found else [])])


def _incident_table(study: Study, found: list[Incident]) -> Table:
    labels = {variant.name: variant.label for variant in study.variants}
    rows = [
        [
            Cell(labels.get(incident.variant, incident.variant)),
            _seed_cell(incident.seed),
            Cell(str(incident.step), float(incident.step)),
            Cell(incident.what),
            Cell(incident.action, tone="bad" if incident.action == "stop" else ""),
            Cell(incident.at.removesuffix("+00:00").replace("T", " ")),
        ]
        for incident in found[:SHOWN_INCIDENTS]
    ]
    cut = f" The first {SHOWN_INCIDENTS} of {len(found):,}; incidents.csv has all." if len(found) > len(rows) else ""
    return Table(
        "incidents",
        [("setting", ""), ("seed", ""), ("step", ""), ("what happened", ""), ("what was done", ""), ("when", "UTC")],
        rows,
        [vars(incident) for incident in found],
        label="Steps in trouble",
        caption="skip: the step counts and the weights stay as they were; rollback: the run went on from a checkpoint, "
        f"past the batches since; stop: the run ended.{cut}",
        broad=True,
        folded="All steps in trouble" if len(found) > SHOWN else "",
    )


def _seed_cell(value: object) -> Cell:
    seed = number_or_nan(value)
    return Cell("–" if math.isnan(seed) else f"{seed:.0f}", seed)


def states(study: Study) -> dict[str, int]:
    """How many runs ended in which state, in the order met."""
    return {str(state): int(n) for state, n in study.loaded.runs["state"].value_counts(sort=False).items()}


def table(study: Study) -> Table:
    """Every planned run: its state, how far it came, why it stopped."""
    rows, flat = [], []
    labels = {variant.name: variant.label for variant in study.variants}
    for row in study.loaded.runs.to_dict("records"):
        record = study.loaded.records[row["run"]]
        step, planned = number_or_nan(row.get("step")), number_or_nan(row.get("num_steps"))
        why = [str(text) for text in (row.get("stopped_by"), row.get("message")) if isinstance(text, str) and text]
        if row.get("restored") is True:
            why.append(f"best step {format_number(number_or_nan(row.get('best_step')), 'count')} restored")
        memory = number_or_nan(row.get("peak_memory_bytes"))
        sha = str(record["status"].get("model_sha256") or "")
        done = "–" if math.isnan(step) else f"{step:.0f}" + ("" if math.isnan(planned) else f" of {planned:.0f}")
        state = str(row["state"])
        rows.append(
            [
                Cell(labels.get(str(row["variant"]), str(row["variant"]))),
                _seed_cell(row["seed"]),
                Cell(state, tone="" if state == "finished" else "bad"),
                Cell(done, step),
                Cell("; ".join(why) or "–"),
                Cell(format_number(number_or_nan(row.get("seconds")), "seconds"), number_or_nan(row.get("seconds"))),
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
    folded = "All runs" if len(rows) > SHOWN else ""
    return Table("runs", columns, rows, flat, label="Runs", folded=folded)
