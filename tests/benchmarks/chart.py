"""Lines over logarithmic axes, as SVG to be set into the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLOURS = ("#0b6e99", "#d9730d", "#6b6b6b")


@dataclass(frozen=True)
class Line:
    """One side's."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_charts(panels: Mapping[str, Sequence[Line]], y_label: str) -> str:
    """Side by side, a panel for each x axis; one legend, one y axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), sharey=True, layout="constrained")
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        for line, colour in zip(lines, COLOURS, strict=True):
            axis.plot(line.x, line.y, marker="o", markersize=4, color=colour, label=line.name)
        axis.set(xscale="log", yscale="log", xlabel=title)
        axis.grid(which="major", color="#ddd", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xticks(lines[0].x, [_short(x) for x in lines[0].x])
        axis.minorticks_off()
    axes[0].yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes[0].set_ylabel(y_label)
    axes[0].legend(frameon=False)
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return written.getvalue()[written.getvalue().index("<svg") :]


def _short(value: float) -> str:
    return f"{value / 1e6:.1f}M" if value >= 1e5 else f"{value:,.0f}"
