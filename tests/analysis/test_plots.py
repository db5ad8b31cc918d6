"""Drawings that everyone can read: colours apart for every kind of colour vision, and from the ground they lie on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis.measures import BY_COLUMN
from analysis.report.plots import CATEGORIES, CATEGORIES_DARK, Canvas, hold, styles
from analysis.report.sections.results import _draw
from analysis.study import open_study

CSS = (Path(__file__).parents[2] / "analysis" / "report" / "templates" / "page.css").read_text()
GROUNDS = dict(zip(("light", "dark"), re.findall(r"--ground: (#[0-9a-f]{6})", CSS), strict=True))
VISION = {
    # Severe anomalies in linear RGB (Machado, Oliveira and Fernandes 2009).
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
TO_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_OKLAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def _linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _seen(colour: str, vision: str) -> np.ndarray:
    """The colour in OKLab (Ottosson 2020), where distances are about as large as they look."""
    return TO_OKLAB @ np.cbrt(TO_CONES @ np.clip(np.array(VISION[vision]) @ _linear(colour), 0, 1))


def _contrast(first: str, second: str) -> float:
    """WCAG's ratio of luminances."""
    low, high = sorted(float(_linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [CATEGORIES, CATEGORIES_DARK], ids=["light", "dark"])
def test_colours_are_apart_for_every_kind_of_colour_vision(colours: tuple[str, ...], vision: str) -> None:
    # Two hundredths are a difference that is just seen side by side.
    for count, least in ((4, 0.11), (8, 0.08)):
        seen = [_seen(colour, vision) for colour in colours[:count]]
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= least


@pytest.mark.parametrize(("colours", "ground"), [(CATEGORIES, "light"), (CATEGORIES_DARK, "dark")])
def test_marks_stand_out_from_the_ground(colours: tuple[str, ...], ground: str) -> None:
    assert min(_contrast(colour, GROUNDS[ground]) for colour in colours) >= 3


def test_no_two_settings_share_colour_and_marker(make_experiment: Callable[..., Path]) -> None:
    arms = tuple(f"arm{i}" for i in range(20))
    study = open_study(make_experiment(betas=(), arms=arms, seeds=1, prompts=2, steps=2, every=1))
    drawn = styles(study)
    assert len({(style.light, style.marker) for style in drawn.values()}) == 20
    assert len({(style.light, style.symbol) for style in drawn.values()}) == 20


def test_a_panel_takes_its_colours_from_the_page_and_stands_on_white_as_a_file(
    make_experiment: Callable[..., Path],
) -> None:
    canvas = Canvas(open_study(make_experiment(betas=(), arms=("sft", "dpo"), prompts=2, steps=4, every=2)))
    style = canvas.styles["sft"]
    panel = canvas.panel("a", "a line", lambda axes: axes.plot([0, 1], [0, 1], color=style.light))
    assert f"var({style.variable})" in panel.inline
    assert style.light not in panel.inline
    assert style.light in panel.svg
    assert 'fill="#ffffff"' in panel.svg
    assert "date" not in panel.svg.lower()


@pytest.mark.parametrize(
    ("column", "values", "limits"),
    [
        ("eval/exact_match_sampled", [0.0, 1.0], (0.0, 1.0)),
        ("eval/exact_match_sampled", [0.4, 0.5], None),
        ("eval/kl_start", [0.0, 5.0], (0.0, None)),
        ("eval/pair_margin", [0.0, 5.0], None),
    ],
)
def test_an_axis_shows_nothing_that_its_measure_cannot_be(column: str, values: list[float], limits: Any) -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_axes((0, 0, 1, 1))
    axes.plot(values)
    before = axes.get_ylim()
    hold(axes, BY_COLUMN[column])
    low, high = limits or before
    assert axes.get_ylim() == (low, before[1] if high is None else high)


def test_no_measure_of_a_panel_is_cut_by_the_bounds_of_another(make_experiment: Callable[..., Path]) -> None:
    """Sampled exact match near 0, whose interval ends there, beside greedy exact match far above it."""
    from matplotlib.figure import Figure

    folder = make_experiment(seeds=2)
    for record in folder.glob("*/seed*/metrics.jsonl"):
        rows = [json.loads(line) for line in record.read_text().splitlines()]
        low = 0.1 * int(record.parent.name.removeprefix("seed"))
        for row in rows:
            if "eval/exact_match_sampled" in row:
                row |= {"eval/exact_match_sampled": low, "eval/exact_match_greedy": 0.9}
        record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = open_study(folder)
    measures = [BY_COLUMN["eval/exact_match_sampled"], BY_COLUMN["eval/exact_match_greedy"]]
    axes = Figure().add_axes((0, 0, 1, 1))
    _draw(axes, study, Canvas(study), measures)
    low, high = axes.get_ylim()
    assert low == 0.0
    assert high > 0.9


def test_what_ticks_have_in_common_stands_beside_the_title(make_experiment: Callable[..., Path]) -> None:
    def draw(axes: Any) -> None:
        axes.plot([1, 2], [1e-6, 2e-6])
        axes.set_title("loss (nats)", loc="left", fontsize=9)

    svg = Canvas(open_study(make_experiment())).panel("loss_by_step", "loss", draw).svg
    found = re.findall(r'<text style="([^"]*)"[^>]* y="([-\d.]+)"[^>]*>(loss|1e)', svg)
    assert {text: "text-anchor: end" in style for style, _, text in found} == {"loss": False, "1e": True}
    assert min(float(y) for _, y, _ in found) > 9  # no part of them lies above the drawing
