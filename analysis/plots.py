"""Small panels as SVG and PNG, one measure each: they stand three abreast on a desk and one below the other on a phone.

Inline they take their colours from the page (light or dark); as files they are drawn on white. Nothing in them depends
on the clock or on the order of a set, so the same inputs give the same bytes.
"""

from __future__ import annotations

import functools
import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import stats
from analysis.checkpoints import interval_of, one_seed
from analysis.measures import BY_COLUMN, Measure, measure_of, plain
from analysis.study import Study, Variant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1b1f24", "#5d6570", "#e1e4e8"
FIRST, SECOND = "#0063a8", "#c24e00"
CATEGORIES = ("#0072b2", "#d55e00", "#008f68", "#b8568f", "#8f6d00", "#2f8fc4", "#6b4fa0", "#4d4d4d")
CATEGORIES_DARK = ("#4aa8e8", "#f08a48", "#2fc39b", "#e39cc4", "#e0b52f", "#8ccff5", "#b49be6", "#c4c4c4")
MARKERS = "osD^vPX*"
SYMBOLS = "●■◆▲▼✚✖★"
MAX_POINTS = 300


@dataclass(frozen=True)
class Panel:
    """One drawing: its file name without ending, what it shows in words, and both renderings."""

    name: str
    alt: str
    svg: str
    """A whole SVG file on white."""
    inline: str
    """The same drawing for the page: transparent, colours as CSS variables."""
    png: bytes


@dataclass(frozen=True)
class Style:
    """How a variant is drawn: colours on light and on dark ground, a marker, and its CSS variable."""

    light: str
    dark: str
    marker: str
    variable: str
    symbol: str
    """The marker as a character, for text."""


def styles(study: Study) -> dict[str, Style]:
    """A colour in order along a numeric axis, else one a variant; the marker tells them apart without colour."""
    count = len(study.variants)
    if study.axis and count > 1 and len({variant.group for variant in study.variants}) == 1:
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        light = [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.02, 0.80, count)]
        dark = [to_hex(colormaps["viridis"](x)) for x in np.linspace(0.40, 1.0, count)]
    else:
        light = [CATEGORIES[i % len(CATEGORIES)] for i in range(count)]
        dark = [CATEGORIES_DARK[i % len(CATEGORIES)] for i in range(count)]
    return {
        variant.name: Style(light[i], dark[i], MARKERS[i % 8], f"--v{i}", SYMBOLS[i % 8])
        for i, variant in enumerate(study.variants)
    }


class Canvas:
    """Draws panels of one study with its colours."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.styles = styles(study)
        self.single_seed = one_seed(study)
        names = {INK: "--ink", MUTED: "--muted", GRID: "--grid", FIRST: "--first", SECOND: "--second"}
        self.variables = names | {style.light: style.variable for style in self.styles.values()}

    def panel(self, name: str, alt: str, draw: Any, size: tuple[float, float] = (3.7, 2.9)) -> Panel:
        """Call draw(axes) on a fresh panel and render it."""
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        settings: Any = {
            "svg.hashsalt": name,
            "svg.fonttype": "none",
            "font.family": "DejaVu Sans",
            "font.size": 8.5,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "xtick.minor.size": 0,
            "axes.unicode_minus": True,
        }
        with mpl.rc_context(settings):
            figure = Figure(figsize=size)
            FigureCanvasAgg(figure)
            axes = figure.add_axes((0.155, 0.48 / size[1], 0.815, 1 - 0.71 / size[1]))
            draw(axes)
            text, image = io.StringIO(), io.BytesIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            figure.savefig(image, format="png", dpi=144, facecolor="white", metadata={"Software": None})
        svg = _tidy(text.getvalue())
        return Panel(name, alt, _on_white(svg), _inline(svg, alt, self.variables), image.getvalue())

    def over_axis(self) -> list[Panel]:
        """Outcome measures against the numeric axis, or by variant where there is none."""
        study = self.study
        exact = [BY_COLUMN[c] for c in ("eval/exact_match_sampled", "eval/exact_match_greedy") if study.has(c)]
        together = len({v.group for v in study.variants}) == 1 and study.axis is not None and len(exact) == 2
        lists = [exact] if together else [[measure] for measure in exact]
        lists += [[BY_COLUMN[c]] for c in ("eval/pair_accuracy", "eval/pair_margin") if study.has(c)]
        if not exact and study.has("eval/loss"):
            lists.append([BY_COLUMN["eval/loss"]])
        panels = []
        for measures in lists:
            label = "exact match" if len(measures) == 2 else measures[0].label
            along = study.axis or "setting"
            name = f"{slug(label)}_by_{slug(along)}"
            height = 2.9 if study.axis else max(2.9, 0.9 + 0.32 * len(study.variants))
            draw = functools.partial(self._over_axis, measures=measures)
            panels.append(self.panel(name, f"{label} by {along}", draw, (3.7, height)))
        return panels

    def _over_axis(self, axes: Axes, measures: list[Measure]) -> None:
        study = self.study
        for index, measure in enumerate(measures):
            colour = (FIRST, SECOND)[index]
            start = study.start_value(measure.column)
            horizontal = study.axis is not None
            if not math.isnan(start):
                line = axes.axhline if horizontal else axes.axvline
                line(start, color=colour if len(measures) > 1 else MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            if not horizontal:
                self._by_variant(axes, measure)
                continue
            several = len({v.group for v in study.variants}) > 1
            for group, line_variants in study.groups():
                shown = [v for v in line_variants if study.values(v, measure.column) and v.position is not None]
                if shown:
                    style = self.styles[shown[0].name]
                    self._line(axes, measure, shown, style.light if several else colour, index, group)
        labels = [m.label.split()[0] for m in measures]
        if study.axis is not None:
            axes.set_xlabel(study.axis)
            self._axis_ticks(axes)
        if len(measures) > 1:
            axes.set_title("exact match (share)", loc="left", fontsize=9)
            axes.legend(axes.containers[: len(labels)], labels, frameon=False, fontsize=8, loc="best", handlelength=1.6)
        else:
            axes.set_title(measures[0].axis_label, loc="left", fontsize=9)
            if study.axis is not None and len({v.group for v in study.variants}) > 1:
                axes.legend(frameon=False, fontsize=8, loc="best", handlelength=1.6)

    def _line(self, axes: Axes, measure: Measure, variants: list[Variant], colour: str, index: int, group: str) -> None:
        """Means joined by a line (not with one seed: no trend), intervals as bars, every seed as a small dot."""
        x = [float(v.position or 0.0) for v in variants]
        intervals = [interval_of(self.study, v, measure) for v in variants]
        mean = [interval.mean for interval in intervals]
        spread = [[i.mean - i.low for i in intervals], [i.high - i.mean for i in intervals]]
        axes.errorbar(
            x, mean, yerr=np.nan_to_num(np.array(spread)), color=colour, marker=MARKERS[index], markersize=5,
            linewidth=0 if self.single_seed else 1.8, elinewidth=1.2, capsize=2.5, label=group,
        )  # fmt: skip
        for position, variant in zip(x, variants, strict=True):
            seeds = self.study.values(variant, measure.column)
            axes.plot([position] * len(seeds), seeds, ".", color=colour, markersize=4.5, alpha=0.55, zorder=3)

    def _by_variant(self, axes: Axes, measure: Measure) -> None:
        study = self.study
        shown = [v for v in study.variants if study.values(v, measure.column, finished=False)]
        for row, variant in enumerate(shown):
            style = self.styles[variant.name]
            seeds = study.values(variant, measure.column)
            interval = interval_of(study, variant, measure)
            if seeds:
                bar = np.nan_to_num(np.array([[interval.mean - interval.low], [interval.high - interval.mean]]))
                axes.errorbar(
                    [interval.mean], [row], xerr=bar, color=style.light, marker=style.marker, markersize=6, capsize=2.5
                )
                axes.plot(seeds, [row] * len(seeds), ".", color=style.light, markersize=5, alpha=0.55)
        labels = [v.label.replace(": ", ":\n") for v in shown]
        longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
        axes.set_yticks(range(len(shown)), labels, fontsize=7.5)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        left = min(0.5, 0.06 + 0.0165 * longest)
        box = axes.get_position()
        axes.set_position((left, box.y0, 0.97 - left, box.height))

    def _axis_ticks(self, axes: Axes) -> None:
        """The tried values as ticks; logarithmic where they span a factor of eight and are positive."""
        positions = sorted({v.position for v in self.study.variants if v.position is not None})
        if positions[0] > 0 and positions[-1] / positions[0] >= 8:
            axes.set_xscale("log")
        shown = positions if len(positions) <= 8 else positions[:: math.ceil(len(positions) / 8)]
        axes.set_xticks(shown, [plain(position) for position in shown])
        axes.set_xticks([], minor=True)

    def against_kl(self, measure: Measure) -> list[Panel]:
        """Final values against KL with the frontier, and the way there during training."""
        name = slug(measure.label)
        alt = f"{measure.label} against KL from the start"
        return [
            self.panel(
                f"{name}_against_kl", f"{alt}, final values and frontier", lambda ax: self._frontier(ax, measure)
            ),
            self.panel(f"{name}_kl_paths", f"{alt}, path during training", lambda ax: self._paths(ax, measure)),
        ]

    def _frontier(self, axes: Axes, measure: Measure) -> None:
        study, kl = self.study, "eval/kl_start"
        start = study.start_value(measure.column)
        points = [(0.0, start)] if not math.isnan(start) else []
        for variant in study.compared(measure.column):
            style = self.styles[variant.name]
            x, y = study.values(variant, kl), study.values(variant, measure.column)
            if len(x) != len(y) or not x:
                continue
            a, b = stats.t_interval(x), stats.t_interval(y)
            points.append((a.mean, b.mean))
            bars = {"xerr": [[a.mean - a.low], [a.high - a.mean]], "yerr": [[b.mean - b.low], [b.high - b.mean]]}
            known = {key: np.nan_to_num(np.array(value)) for key, value in bars.items()}
            axes.errorbar(
                [a.mean],
                [b.mean],
                **known,
                color=style.light,
                marker=style.marker,
                markersize=6,
                elinewidth=1,
                zorder=4,
            )
            axes.plot(x, y, ".", color=style.light, markersize=4.5, alpha=0.55, zorder=3)
        best = stats.frontier([p[0] for p in points], [p[1] for p in points])
        if len(best) > 1:
            axes.step(
                [points[i][0] for i in best], [points[i][1] for i in best], where="post", color=MUTED, linewidth=1.2,
                linestyle=(0, (2, 2)), zorder=2,
            )  # fmt: skip
        if not math.isnan(start):
            axes.plot([0], [start], marker="+", markersize=9, color=INK, markeredgewidth=1.6, zorder=5)
        axes.set_xlabel("KL from the start (nats per sequence)")
        axes.set_title(f"final {measure.axis_label}", loc="left", fontsize=9)

    def _paths(self, axes: Axes, measure: Measure) -> None:
        columns = ["eval/kl_start", measure.column]
        for variant, table in self._finished_metrics():
            means = table.groupby("step")[columns].mean().dropna()
            style = self.styles[variant.name]
            axes.plot(
                means[columns[0]],
                means[columns[1]],
                color=style.light,
                marker=style.marker,
                markersize=3.5,
                linewidth=1.6,
            )
        start = self.study.start_value(measure.column)
        if not math.isnan(start):
            axes.plot([0], [start], marker="+", markersize=9, color=INK, markeredgewidth=1.6, zorder=5)
        axes.set_xlabel("KL from the start (nats per sequence)")
        axes.set_title(f"{measure.label} during training", loc="left", fontsize=9)

    def _finished_metrics(self) -> list[tuple[Variant, Any]]:
        """Every variant's metrics: of its finished runs, or of all where none finished."""
        study = self.study
        finished = set(study.finals.loc[study.finals["finished"], "run"])
        found = []
        for variant in study.variants:
            table = study.loaded.metrics[study.loaded.metrics["variant"] == variant.name]
            own = table[table["run"].isin(finished)]
            if len(table):
                found.append((variant, own if len(own) else table))
        return found

    def learning(self, columns: Sequence[str]) -> list[Panel]:
        """Each measure over steps: runs faint and raw, the mean over a variant's seeds bold and smoothed."""
        measures = [measure_of(column) for column in columns if column in self.study.loaded.metrics]
        return [
            self.panel(
                f"{slug(m.label)}_by_step", f"{m.label} over steps", functools.partial(self._learning, measure=m)
            )
            for m in measures
        ]

    def _learning(self, axes: Axes, measure: Measure) -> None:
        table = self.study.loaded.metrics
        several = len(self.study.loaded.runs) > 1
        for variant in self.study.variants:
            style = self.styles[variant.name]
            own = table.loc[(table["variant"] == variant.name), ["run", "step", measure.column]].dropna()
            if own.empty:
                continue
            held_out = measure.column.startswith("eval/")
            for _, run in own.groupby("run", sort=False):
                thin = run.iloc[:: max(1, len(run) // MAX_POINTS)]
                axes.plot(
                    thin["step"], thin[measure.column], color=style.light, linewidth=0.8, alpha=0.35 if several else 0.5
                )
            means = own.groupby("step")[measure.column].mean()
            drawn = means.to_numpy() if held_out else stats.smooth(list(means), len(means) / 10)
            thin_by = max(1, len(means) // MAX_POINTS)
            axes.plot(
                means.index[::thin_by], drawn[::thin_by], color=style.light, linewidth=1.9,
                marker=style.marker if held_out else None, markersize=4,
            )  # fmt: skip
        axes.set_xlabel("optimiser step")
        axes.set_title(measure.axis_label, loc="left", fontsize=9)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _tidy(svg: str) -> str:
    """Drop the prologue, metadata and ids that nothing refers to; shorten the numbers nobody can see."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d{2})\d+", r"\1", tag.group(0)), svg)
    return re.sub(r"\n\s*", "\n", svg)


def _on_white(svg: str) -> str:
    head, rest = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>\n<rect width="100%" height="100%" fill="#ffffff"/>{rest}'


def _inline(svg: str, alt: str, variables: dict[str, str]) -> str:
    """For the page: colours by CSS variable, size by the page, a name for those who do not see it."""
    svg = re.sub(
        r"#[0-9a-f]{6}\b", lambda m: f"var({variables[m.group(0)]})" if m.group(0) in variables else m.group(0), svg
    )
    svg = re.sub(
        r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1).strip()
