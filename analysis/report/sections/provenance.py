"""How the numbers were made and how to make them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from analysis.measures import BY_COLUMN
from analysis.report.document import Bullets, Facts, Prose, Section
from analysis.report.plots import Canvas
from analysis.study import Study
from workbench.tracking.names import DECIDING
from workbench.tracking.words import plural

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "workbench")


def section(study: Study, canvas: Canvas) -> Section | None:
    """What the runs were made with; what differs between them is marked."""
    rows = facts(study)
    rows += [("definition", plan["definition_file"], False) for plan in study.plans if plan.get("definition_file")]
    commands = [str(plan["command"]) for plan in study.plans if plan.get("command")]
    folder = (
        "Each run's folder holds definition.yaml, provenance.json (with any uncommitted changes), status.json, "
        "metrics.jsonl and completions. Beside this page: report.md, a CSV file for each table, runs_values.csv, and "
        "the figures as SVG and PNG."
    )
    return Section("Provenance and how to repeat", [Facts(rows, commands), Prose(folder, "note")])


def how(study: Study) -> Section:
    """The rules that every number on the page keeps."""
    here = f" Here: {study.deciding.label}" if study.deciding else ""
    order = "; ".join(BY_COLUMN[column].label for column in DECIDING)
    return Section(
        "How this was computed",
        [
            Bullets(
                [
                    f"The deciding measure is fixed before any result is seen: the first of {order} that the runs "
                    f"have.{here}.".replace("..", "."),
                    "Methods and settings are compared by Welch's test on the means of seeds, adjusted by Holm over "
                    "all pairs; with one seed no claim about a method is made. Checkpoints are compared item by item "
                    "and such results are named as being about checkpoints.",
                    "A run that early stopping restored to its best step is read at that step; choosing a step by the "
                    "held-out measure flatters it a little.",
                    "Numbers in tables and tests are from raw values; smoothing is for drawing only. The same run "
                    "folders give the same bytes.",
                ]
            )
        ],
    )


def facts(study: Study) -> list[tuple[str, str, bool]]:
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
            shown = "; ".join(f"{value} ({plural(values.count(value), 'run')})" for value in distinct[:6])
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
