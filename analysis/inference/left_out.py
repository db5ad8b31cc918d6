"""What enters no mean and no test, said before anything is claimed."""

from __future__ import annotations

from analysis.measures import Measure, join
from analysis.study import Study


def unfinished(study: Study) -> list[str]:
    """A sentence on the runs that did not finish; none where all did."""
    counts = study.loaded.runs["state"].value_counts(sort=False)
    total = int(counts.sum())
    finished = int(counts.get("finished", 0))
    if finished == total:
        return []
    others = [f"{number} {state}" for state, number in counts.items() if state != "finished"]
    lost = []
    for variant in study.variants:
        own = study.loaded.runs.loc[study.loaded.runs["variant"] == variant.name, "state"]
        done = int((own == "finished").sum())
        if done < len(own):
            lost.append(f"{variant.label} ({done} of {len(own)})")
    return [
        f"{finished} of {total} planned runs finished ({', '.join(others)}). Only finished runs enter means and tests: "
        f"these are conditional on finishing, and flatter a setting that lost runs: {join(lost)}. The others are "
        "listed under Runs."
    ]


def without_value(study: Study, measure: Measure) -> list[str]:
    """A sentence on finished runs whose value is no finite number; none where all have one."""
    lost = []
    for variant in study.variants:
        rows = study.finals[(study.finals["variant"] == variant.name) & study.finals["finished"]]
        missing = len(rows) - len(study.values(variant, measure.column))
        if missing:
            lost.append(f"{variant.label} ({missing} of {len(rows)})")
    if not lost or not study.compared(measure.column):
        return []
    return [
        f"Some finished runs have no finite {measure.label}: {join(lost)}. Means and tests leave them out, which "
        "flatters a setting that lost runs."
    ]
