"""How the sides' speed changes with the model's size, a step's rows and their length: a few steps a point."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.benchmarks.chart import Line, line_charts
from tests.benchmarks.comparison import Comparison
from tests.benchmarks.page import Result, Table
from tests.benchmarks.turns import LOOP, OURS, TRL, take_turns
from tests.benchmarks.workload import Shape, Workload

SIDES = (OURS, TRL, LOOP)
GOALS = {TRL.name: 0.95}
BASE = Workload("sft", rows=8, length=128, warm_up=2, num_batches=40)
SHAPES = (
    Shape(64, 2, 4, 128),
    Shape(128, 4, 4, 512),
    Shape(),
    Shape(512, 6, 8, 1408),
    Shape(1024, 8, 16, 2816),
)
ROWS, LENGTHS = (1, 4, 16, 64), (32, 128, 512, 1024)
ROUNDS, TURN_SECONDS = 2, 1.5
AXES = {"parameters": "8 x 128", "rows": "128 tokens each, 4M model", "length": "8 rows, 4M model"}


def run(*, quick: bool, repeats: int | None) -> Result:
    """Tokens a second of every side at every point; quick: the ends of each axis without the largest."""
    shapes, rows, lengths = (SHAPES[:3:2], ROWS[:2], LENGTHS[:2]) if quick else (SHAPES, ROWS, LENGTHS)
    points = [("parameters", shape.parameters, replace(BASE, shape=shape)) for shape in shapes]
    points += [("rows", number, replace(BASE, rows=number)) for number in rows]
    points += [("length", number, replace(BASE, length=number)) for number in lengths]
    rounds, seconds = (1, 0.5) if quick else (repeats or ROUNDS, TURN_SECONDS)
    known: dict[Workload, Comparison] = {}
    for axis, at, workload in points:
        if workload not in known:
            print(f"scaling: {axis} {at:,}", flush=True)
            measured = take_turns(SIDES, workload, rounds=rounds, turn_seconds=seconds)
            known[workload] = Comparison(f"{axis} {at:,}", workload, measured, GOALS)
    compared = [(axis, at, known[workload]) for axis, at, workload in points]
    return Result(
        "scaling",
        goal="at least 0.95 of TRL's tokens/s at every point",
        reached=all(comparison.reached for *_, comparison in compared),
        tables=[_table(axis, compared) for axis in AXES],
        values={comparison.label: comparison.values() for comparison in known.values()},
        notes=["SFT in float32, every token real; sides, turns and medians as in sft_padded, fewer steps."],
        charts=[_chart(compared)],
    )


def _table(axis: str, compared: list[tuple[str, int, Comparison]]) -> Table:
    head = [axis, *(f"{side.name}, tokens/s" for side in SIDES), "workbench / TRL", "workbench / plain loop"]
    table = Table(f"By {axis} ({AXES[axis]})", head)
    for own, at, comparison in compared:
        if own == axis:
            rates = [f"{comparison.measured[side.name].rate:,.0f}" for side in SIDES]
            ratios = [f"{comparison.ratio(side.name):.2f}" for side in SIDES[1:]]
            table.rows.append([f"{at / 1e6:.1f}M" if axis == "parameters" else f"{at:,}", *rates, *ratios])
    return table


def _chart(compared: list[tuple[str, int, Comparison]]) -> str:
    panels: dict[str, list[Line]] = {}
    for axis, told in AXES.items():
        own: list[Any] = [(at, comparison) for name, at, comparison in compared if name == axis]
        panels[f"{axis} ({told})"] = [
            Line(side.name, [at for at, _ in own], [c.measured[side.name].rate for _, c in own]) for side in SIDES
        ]
    return line_charts(panels, "tokens/s")
