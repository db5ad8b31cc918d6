"""Small panels as SVG and PNG, one measure each: they stand three abreast on a desk and one below the other on a phone.

Inline they take their colours from the page (light or dark); as files they are drawn on white. Nothing in them depends
on the clock or on the order of a set, so the same inputs give the same bytes.
"""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import stats
from analysis.inference.checkpoints import one_seed
from analysis.measures import Measure
from analysis.report.document import Panel, slug
from analysis.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1b1f24", "#5d6570", "#e1e4e8"
FIRST, SECOND = "#0063a8", "#c24e00"
CATEGORIES = ("#345992", "#a66102", "#03917b", "#f64db5", "#9c58f8", "#b08e13", "#86470e", "#615559")
CATEGORIES_DARK = ("#7eaaee", "#c68d55", "#80e4cd", "#e041a4", "#a166f7", "#fbd870", "#f1a976", "#b9a8ad")
"""Found by search: apart for every kind of colour blindness, the first most, and apart from their ground."""
MARKERS = "osD^vPX*"
SYMBOLS = "●■◆▲▼✚✖★"
MAX_POINTS = 300


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
    # Where colours come round again the marker has moved on, so that no two of the first 64 look alike.
    shapes = [(i + i // len(MARKERS)) % len(MARKERS) for i in range(count)]
    return {
        variant.name: Style(light[i], dark[i], MARKERS[shapes[i]], f"--v{i}", SYMBOLS[shapes[i]])
        for i, variant in enumerate(study.variants)
    }


class Canvas:
    """Draws panels of one study with its colours."""

    def __init__(self, study: Study, drawn_as: dict[str, Style] | None = None) -> None:
        """drawn_as: the styles of a larger study that this is a part of."""
        self.study = study
        self.styles = drawn_as or styles(study)
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
            "axes.titley": 1.0,
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
            # Known places: to look for them, matplotlib lays out all ticks again, three times a drawing. What the ticks
            # have in common (1e−6) stands above the axis too, so it leaves the title the left side.
            axes.yaxis.set_offset_position("right")
            if not axes.get_ylabel():
                axes.yaxis.set_label_coords(0, 0.5)
            text, image = io.StringIO(), io.BytesIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            # A fifth of the time of an image was its compression: at level 1 it is a seventh larger.
            png: Any = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 1}}
            figure.savefig(image, format="png", dpi=144, facecolor="white", **png)
        svg = _tidy(text.getvalue())
        return Panel(name, alt, _on_white(svg), _inline(svg, alt, self.variables), image.getvalue())

    def learning(self, columns: Sequence[str]) -> list[Panel]:
        """Each measure over steps: runs faint and raw, the mean over a variant's seeds bold and smoothed."""
        measures = [self.study.measure_of(column) for column in columns if column in self.study.loaded.metrics]
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
        hold(axes, self.study.measured(measure))


def hold(axes: Axes, measure: Measure, along: str = "y") -> None:
    """Let an axis show nothing that its measure cannot be: a rate beyond 0 and 1, a length below 0. Call it last."""
    limits = axes.get_ylim() if along == "y" else axes.get_xlim()
    least, most = measure.bounds
    low, high = min(limits), max(limits)
    low = low if least is None else max(low, least)
    high = high if most is None else min(high, most)
    if (low, high) == (min(limits), max(limits)) or not low < high:
        return
    held = (low, high) if limits[0] < limits[1] else (high, low)
    (axes.set_ylim if along == "y" else axes.set_xlim)(held)
    for line in axes.lines:  # a mark on the frame is drawn whole
        line.set_clip_on(False)


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
    """Makes a drawing for the page: colours by CSS variable, size by the page, a name for those who do not see it."""
    svg = re.sub(
        r"#[0-9a-f]{6}\b", lambda m: f"var({variables[m.group(0)]})" if m.group(0) in variables else m.group(0), svg
    )
    svg = re.sub(
        r'(<svg [^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1), count=1
    )
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1).strip()
