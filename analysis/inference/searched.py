"""What a search allows to be claimed: nothing from its trials, of which the best looks better than it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.inference.claims import Answer, best_of
from analysis.measures import join
from analysis.searched import is_unconfirmed, num_tried
from analysis.study import Study
from workbench.tracking.words import plural


def qualified(study: Study, answer: Answer) -> Answer:
    """The answer of a study with searches: without confirmation nothing is claimed; with it, it is said with how many
    settings each arm was tried, and that the claims rest on fresh seeds alone."""
    if study.is_unconfirmed:
        return _unconfirmed(study, answer)
    chosen: dict[int, list[str]] = {}
    for variant in study.variants:
        number = num_tried(study.plans, variant.name)
        if number is not None:
            chosen.setdefault(number, []).append(variant.label)
    told = [f"{join(labels)} of the {plural(number, 'setting')} tried" for number, labels in chosen.items()]
    if not told:
        return answer
    ground = f"Chosen by a search: {'; '.join(told)}. Claims rest on fresh seeds alone, which it has not seen."
    return replace(answer, grounds=[ground, *answer.grounds])


def _unconfirmed(study: Study, answer: Answer) -> Answer:
    measure = study.deciding
    best = best_of(study, measure) if measure is not None else None
    if measure is None or best is None:
        return answer
    tried = num_tried(study.plans, best.name)
    of = f"the {plural(tried, 'setting')} tried" if tried is not None else "all settings"
    mean = measure.text(float(np.mean(study.values(best, measure.column))))
    searches = [plan["search"] for plan in study.plans if is_unconfirmed(plan)]
    remedy = "the same command goes on with the search, and then confirms the best"
    if any(search.get("complete") for search in searches):
        remedy = "it could not be confirmed: no trial gave a value"
    if any(search.get("confirm") is None for search in searches):
        remedy = "sweep.search.confirm: {top: 2, seeds: 5} trains the best again on fresh seeds"
    certainty = f"Nothing is claimed, for the best of many looks better than it is; {remedy}."
    return Answer(f"{measure.subject} is best at {best.label} of {of}: {mean}.", certainty, [], answer.flags)
