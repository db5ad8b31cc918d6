"""The data of an experiment as one offline page, runs/<experiment>/data/<split>.html, beside the terminal's account."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import jinja2

from workbench.data.tasks import Split
from workbench.errors import StorageError
from workbench.experiment.definition.schema import Experiment
from workbench.experiment.look.text import facts, first_rows, listed, print_sections
from workbench.experiment.look.view import Section, look_at_data
from workbench.tracking.sinks.console import Console
from workbench.tracking.terminal import say

PAGE_ROWS = 40
WIDTH, HEIGHT = 720, 150


@dataclass(frozen=True)
class Bar:
    """One bin in the drawing's units, and what it says when it is pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


def show_data(experiment: Experiment, runs: Path, split: Split, num_rows: int) -> None:
    """The sections on standard output, with num_rows rows each, and the page with more; its place is the last line."""
    with Console() as console:
        sections = look_at_data(experiment, runs, split, max(num_rows, PAGE_ROWS), console)
    print_sections(replace(section, rows=section.rows[:num_rows]) for section in sections)
    say(write_page(experiment, sections, runs / experiment.name / "data" / f"{split}.html"))


def write_page(experiment: Experiment, sections: list[Section], path: Path) -> Path:
    """The page, whole or not at all. Raises StorageError when the disk fails."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("data.html.j2").render(
        experiment=experiment, sections=sections, facts=facts, first_rows=first_rows, listed=listed,
        bars=bars, limit=limit_line, ticks=ticks, width=WIDTH, height=HEIGHT,
    )  # fmt: skip
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def bars(section: Section) -> list[Bar]:
    """The histogram; a bin that holds anything is at least one unit high."""
    found = section.histogram
    most, wide = max(*found.counts, 1), WIDTH / len(found.counts)
    drawn = []
    for index, count in enumerate(found.counts):
        height = max(HEIGHT * count / most, 1.0) if count else 0.0
        title = f"{found.edges[index]:,} to {found.edges[index + 1] - 1:,} tokens: {count:,} {section.unit}"
        drawn.append(Bar(index * wide + 1, HEIGHT - height, wide - 2, height, title))
    return drawn


def limit_line(section: Section) -> float | None:
    """The place of max_tokens in the drawing; None beyond it."""
    edges = section.histogram.edges
    return _place(section.max_tokens, edges) if section.max_tokens <= edges[-1] else None


def ticks(section: Section) -> list[tuple[float, int]]:
    """Places and lengths of at most 7 marks under the drawing."""
    edges = section.histogram.edges
    every = max(1, -(-(len(edges) - 1) // 6))
    return [(_place(edge, edges), edge) for edge in edges[::every]]


def _place(length: int, edges: tuple[int, ...]) -> float:
    return WIDTH * (length - edges[0]) / (edges[-1] - edges[0])
