"""A sweep of two axes or more as a grid: the measure over two of them, a slice for every value of the others."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.inference.checkpoints import interval_of
from analysis.measures import Measure, capital, join, plain
from analysis.report.document import Block, Cell, Figure, Prose, Section, Table
from analysis.report.plots import Canvas, slug
from analysis.report.sections.cells import with_interval
from analysis.study import Study, Variant
from workbench.tracking.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 9
MAX_NUMBERS = 8
"""Columns up to which every cell of a drawing bears its number."""


@dataclass(frozen=True)
class Slice:
    """The settings that differ in two axes alone. name: what they share of the others; empty where there are none."""

    name: str
    cells: dict[tuple[Any, Any], Variant]


@dataclass(frozen=True)
class Grid:
    """Two axes, each with its values in order (rows, columns), and the slices of the rest."""

    rows: tuple[str, list[Any]]
    columns: tuple[str, list[Any]]
    slices: list[Slice]


def section(study: Study, canvas: Canvas) -> Section | None:
    """Shows a sweep of two axes as a grid; None where fewer than two axes are swept, or nothing was measured."""
    found, measure = grid_of(study), study.deciding
    if found is None or measure is None or not study.compared(measure.column):
        return None
    rows, columns = found.rows[0], found.columns[0]
    text = f"{capital(measure.label)} over {rows} (rows) and {columns} (columns)"
    if len(found.slices) > 1:
        text += f"; {plural(len(found.slices), 'slice')}, one for each {_slicing(study, found)}"
    blocks: list[Block] = [Prose(f"{text}."), figure(study, canvas, measure, found)]
    blocks += [table(study, measure, found, index) for index in range(len(found.slices))]
    return Section(f"Grid of {rows} by {columns}", blocks)


def grid_of(study: Study) -> Grid | None:
    """The two axes with the most values, in the order of the definition; None with fewer than two of several values."""
    values: dict[str, list[Any]] = {}
    for variant in study.variants:
        for name, value in variant.point:
            if value not in values.setdefault(name, []):
                values[name].append(value)
    swept = [name for name in values if len(values[name]) > 1]
    if len(swept) < 2:
        return None
    chosen = sorted(swept, key=lambda name: -len(values[name]))[:2]
    rows, columns = (name for name in swept if name in chosen)
    slices: dict[str, dict[tuple[Any, Any], Variant]] = {}
    for variant in study.variants:
        point = dict(variant.point)
        others = [f"{name} = {plain(value)}" for name, value in point.items() if name in swept and name not in chosen]
        if rows in point and columns in point:
            name = ", ".join([variant.arm, *others] if variant.arm else others)
            slices.setdefault(name, {})[point[rows], point[columns]] = variant
    return Grid(
        (rows, _in_order(values[rows])),
        (columns, _in_order(values[columns])),
        [Slice(name, cells) for name, cells in slices.items()],
    )


def _in_order(values: list[Any]) -> list[Any]:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return sorted(values) if numbers else values


def _slicing(study: Study, grid: Grid) -> str:
    """What tells the slices apart."""
    names = [name for name, _ in study.variants[0].point if name not in (grid.rows[0], grid.columns[0])]
    return join([*(["arm"] if study.variants[0].arm else []), *names])


def figure(study: Study, canvas: Canvas, measure: Measure, grid: Grid) -> Figure:
    """A drawing a slice, all with one scale of colours."""
    panels = []
    for index, part in enumerate(grid.slices[:MAX_PANELS]):
        name = f"{slug(measure.label)}_grid{f'_{index}' if len(grid.slices) > 1 else ''}"
        alt = f"{measure.label} over {grid.rows[0]} and {grid.columns[0]}{f', {part.name}' if part.name else ''}"
        draw = functools.partial(_draw, study=study, measure=measure, grid=grid, part=part)
        height = max(2.4, 1.1 + 0.36 * len(grid.rows[1]))
        panels.append(canvas.panel(name, alt, draw, (3.7, height)))
    see = "Where the measure is high, and whether the best value of one axis depends on the other."
    if len(grid.slices) > MAX_PANELS:
        see += f" The first {MAX_PANELS} of {len(grid.slices)} slices; the tables have all."
    mean = "The value of each checkpoint" if canvas.single_seed else "Means over finished seeds"
    how = (
        f"{mean}; yellow is high and dark is low, on one scale in all slices; an empty cell has no finished run. "
        "Colours rank nothing: the tables give the intervals, and the tests say what can be told apart."
    )
    return Figure(panels, see, how)


def _draw(axes: Axes, study: Study, measure: Measure, grid: Grid, part: Slice) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    every = [_mean(study, variant, measure) for one in grid.slices for variant in one.cells.values()]
    known = [value for value in every if not math.isnan(value)]
    low, high = min(known), max(known)
    shown = len(grid.columns[1]) <= MAX_NUMBERS
    for y, row in enumerate(grid.rows[1]):
        for x, column in enumerate(grid.columns[1]):
            variant = part.cells.get((row, column))
            value = math.nan if variant is None else _mean(study, variant, measure)
            if math.isnan(value):
                continue
            share = (value - low) / (high - low) if high > low else 0.5
            axes.fill([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5],
                      color=to_hex(colormaps["viridis"](share)), linewidth=0)  # fmt: skip
            if shown:  # not the page's ink, which is light on a dark page
                ink = "#000000" if share > 0.55 else "#ffffff"
                axes.text(x, y, measure.text(value), ha="center", va="center", color=ink, fontsize=7.5)
    axes.set_xticks(range(len(grid.columns[1])), [plain(value) for value in grid.columns[1]], fontsize=7.5)
    axes.set_yticks(range(len(grid.rows[1])), [plain(value) for value in grid.rows[1]], fontsize=7.5)
    axes.set_xlim(-0.5, len(grid.columns[1]) - 0.5)
    axes.set_ylim(len(grid.rows[1]) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.set_xlabel(grid.columns[0])
    axes.set_ylabel(grid.rows[0])
    axes.set_title(f"{measure.axis_label}{f', {part.name}' if part.name else ''}", loc="left", fontsize=8.5)
    longest = max(len(plain(value)) for value in grid.rows[1])
    box, left = axes.get_position(), min(0.5, 0.12 + 0.0165 * longest)
    axes.set_position((left, box.y0, 0.97 - left, box.height))


def _mean(study: Study, variant: Variant, measure: Measure) -> float:
    values = study.values(variant, measure.column)
    return float(np.mean(values)) if values else math.nan


def table(study: Study, measure: Measure, grid: Grid, index: int) -> Table:
    """One slice: a row for each value of the first axis, a column for each of the second."""
    part = grid.slices[index]
    rows, flat = [], []
    for row in grid.rows[1]:
        cells = []
        for column in grid.columns[1]:
            variant = part.cells.get((row, column))
            values = study.values(variant, measure.column) if variant else []
            if variant is None or not values:
                cells.append(Cell("–", math.nan, (), "muted"))
                continue
            planned = int((study.loaded.runs["variant"] == variant.name).sum())
            few = (f"{len(values)} of {plural(planned, 'seed')}",) if len(values) < planned else ()
            interval = interval_of(study, variant, measure)
            cells.append(with_interval(interval, measure, few))
            flat.append(
                {"slice": part.name, grid.rows[0]: row, grid.columns[0]: column, "measure": measure.column}
                | {"mean": interval.mean, "low": interval.low, "high": interval.high, "seeds": len(values)}
            )
        rows.append([Cell(plain(row), float(row) if isinstance(row, int | float) else plain(row)), *cells])
    heads = [(grid.rows[0], ""), *((f"{grid.columns[0]} = {plain(value)}", "") for value in grid.columns[1])]
    name = f"grid_{index}" if len(grid.slices) > 1 else "grid"
    label = f"{capital(measure.label)}{f', {part.name}' if part.name else ''}"
    return Table(name, heads, rows, flat, label=label, caption="Below each mean its 95 % interval.", broad=True)
