"""Searches in plans: which runs were trials, and which confirm the best of them on fresh seeds and may be claimed
from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def set_trials_apart(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan with the runs of its trials as `trials`, where it has a search. Its runs are those that confirm; where
    there are none yet, the trials, of which nothing may be claimed (is_unconfirmed)."""
    search = plan.get("search")
    if not isinstance(search, Mapping):
        return plan
    fresh = set(search.get("fresh_seeds") or ())
    confirming = [run for run in plan["runs"] if run.get("seed") in fresh]
    trials = [run for run in plan["runs"] if run.get("seed") not in fresh]
    return {**plan, "runs": confirming or trials, "trials": trials, "unconfirmed": not confirming}


def is_unconfirmed(plan: Mapping[str, Any]) -> bool:
    """Whether what stands as the plan's runs are trials."""
    return bool(plan.get("unconfirmed"))


def num_tried(plans: Sequence[Mapping[str, Any]], variant: str) -> int | None:
    """With how many settings the arm of a variant was tried; None where no search chose it. variant: its name, led by
    that of its experiment where there are several."""
    for plan in plans:
        for run in plan.get("trials") or ():
            if variant in (run["variant"], f"{plan['experiment']}/{run['variant']}"):
                return len({other["variant"] for other in plan["trials"] if other.get("arm") == run.get("arm")})
    return None
