"""What was optimised beside what was wanted: how the reward in training and held-out exact match moved, by setting."""

from __future__ import annotations

from analysis.inference.over_optimisation import Drift, drifts
from analysis.measures import BY_COLUMN, Measure
from analysis.report.document import Cell, Prose, Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections.cells import setting, signed
from analysis.stats import Interval
from analysis.study import Study

ABOUT = (
    "A learned reward is a sign of the task only as far as it was taught. Where it goes on rising and the held-out "
    "measure does not, the policy has learned what the reward gets wrong. Rewards of different settings have different "
    "scales: each is compared with itself."
)


def section(study: Study, _: Canvas) -> Section | None:
    """The changes over each setting's seeds; None where nothing was rewarded or no setting has several seeds."""
    measure, found = study.deciding, drifts(study)
    if measure is None or not found:
        return None
    reward = BY_COLUMN["reward"]
    rows = [_cells(drift, reward, measure) for drift in found]
    flat = [
        {
            "variant": drift.variant.name,
            "since": drift.since,
            **{f"reward_{name}": getattr(drift.reward, name) for name in ("mean", "low", "high")},
            **{f"held_out_{name}": getattr(drift.held_out, name) for name in ("mean", "low", "high")},
        }
        for drift in found
    ]
    heads = [("setting", ""), ("", ""), ("change of reward", reward.unit), (f"change of {measure.label}", measure.unit)]
    caption = "Means over seeds with 95 % t intervals."
    table = Table("optimised", heads, rows, flat, label="Reward and what was wanted", caption=caption)
    return Section("Reward against what was wanted", [Prose(ABOUT), table])


def _cells(drift: Drift, reward: Measure, measure: Measure) -> list[Cell]:
    changes = [_change(drift.reward, reward), _change(drift.held_out, measure)]
    return [setting(drift.variant), Cell(drift.since), *changes]


def _change(change: Interval, measure: Measure) -> Cell:
    """With its sign, and below it its limits, which for a share may be negative too."""
    low, high = (signed(value, measure) for value in (change.low, change.high))
    return Cell(signed(change.mean, measure), change.mean, (f"{low} to {high}",))
