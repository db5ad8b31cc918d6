"""A study as one offline page, as Markdown for a pull request, as CSV, and as figure files."""

from __future__ import annotations

import csv
import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.inference import budget, claims, comparability, harms, leaks, over_optimisation, searched
from analysis.inference import other_sets as forgetting
from analysis.inference.comparability import Group
from analysis.measures import Measure
from analysis.report import notices
from analysis.report.document import Section, Table
from analysis.report.plots import Canvas
from analysis.report.sections import (
    checkpoints,
    comparisons,
    costs,
    equal_cost,
    frontier,
    grid,
    learning,
    methods,
    optimised,
    other_sets,
    prompts,
    provenance,
    range_test,
    results,
    rollouts,
    runs,
    samples,
    search,
    several_samples,
    sources,
)
from analysis.report.spreadsheet import cell, safe
from analysis.study import Study, open_studies, open_study
from workbench.errors import DefinitionError, StorageError
from workbench.tracking.terminal import visible

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"
MAX_PAGE_BYTES = 5_000_000
Make = Callable[[Study, Canvas], Section | None]
SECTIONS: tuple[Make, ...] = (
    results.section,
    several_samples.section,
    grid.section,
    comparisons.section,
    search.section,
    other_sets.section,
    frontier.section,
    optimised.section,
    equal_cost.section,
    checkpoints.section,
    prompts.section,
    methods.section,
    samples.section,
    learning.section,
    rollouts.section,
    sources.section,
    costs.section,
)
RANGE_TEST: tuple[Make, ...] = (range_test.section, costs.section)
APART = {
    grid.section: comparability.groups,
    frontier.section: comparability.kl_groups,
    equal_cost.section: comparability.groups,
    methods.section: comparability.groups,
}
"""Sections that compare all that they show: made once for each group of settings that may be compared."""


def write_report(experiment_folder: Path) -> Path:
    """Write <experiment folder>/report/ (index.html, report.md, *.csv, figures/) and return index.html's path.

    Raises DefinitionError where nothing was planned or run, StorageError where the folder cannot be written. Runs that
    are missing, failed or unfinished are counted and shown.
    """
    folder = Path(experiment_folder)
    return write(open_study(folder), folder / "report")


def write_comparison(experiment_folders: Sequence[Path], out: Path) -> tuple[Path, list[str]]:
    """Writes one report over several experiments of one folder of runs to `out`. Returns index.html's path and what is
    not compared, with the lines to change."""
    folders = [Path(folder) for folder in experiment_folders]
    if not folders:
        raise DefinitionError("compare: name at least one experiment")
    study = open_studies(folders)
    return write(study, Path(out)), comparability.refusals(study)


def write(study: Study, out: Path) -> Path:
    """The report of any study, written to out; returns index.html's path."""
    context = describe(study)
    sections: list[Section] = context["sections"]
    files: dict[str, str | bytes] = {}
    for section in sections:
        for figure in section.figures:
            for panel in figure.panels:
                files[f"figures/{panel.name}.svg"] = panel.svg
                files[f"figures/{panel.name}.png"] = panel.png
        for table in section.tables:
            if table.plain:
                files[f"{table.name}.csv"] = _csv(table)
    files["runs_values.csv"] = safe(study.finals).to_csv(index=False, lineterminator="\n")
    files["report.md"] = template("report.md.j2").render(**context)
    files["index.html"] = template("report.html.j2").render(**context)
    try:
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, content.encode() if isinstance(content, str) else content)
        _remove_stale(out, set(files))
    except OSError as error:
        raise StorageError(f"{out}: the report cannot be written: {error.strerror or error}") from error
    return out / "index.html"


def _write_whole(path: Path, data: bytes) -> None:
    """Writes a file whole, or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_stale(out: Path, written: set[str]) -> None:
    """Figures and tables of an earlier report that this one no longer has would be read as its own."""
    for path in [*out.glob("*.csv"), *out.glob("figures/*.svg"), *out.glob("figures/*.png")]:
        if str(path.relative_to(out)) not in written:
            path.unlink()


def describe(study: Study) -> dict[str, Any]:
    """Everything that the templates show."""
    canvas = Canvas(study)
    ranging = range_test.is_range_test(study)
    found = [section for make in (RANGE_TEST if ranging else SECTIONS) for section in _made(make, study, canvas)]
    found += [section for section in (runs.section(study, canvas), provenance.how(study)) if section is not None]
    return {
        "study": study,
        "answer": leaks.qualified(study, range_test.answer(study)) if ranging else answer_of(study),
        "notes": notices.notes(study),
        "warnings": notices.warnings(study),
        "facts": _facts(study),
        "sections": [*found, provenance.section(study, canvas)],
        "legend": [(variant.label, canvas.styles[variant.name]) for variant in study.variants],
        "trainers": sorted({str(t) for t in study.loaded.runs["trainer"] if isinstance(t, str)}),
    }


def _made(make: Make, study: Study, canvas: Canvas) -> list[Section]:
    """What a module has to say of the study, or of each group that it may compare."""
    groups = APART[make](study) if make in APART else [Group("", study)]
    found = []
    for group in groups:
        part = canvas if group.study is study else Canvas(group.study, canvas.styles)
        section = make(group.study, part)
        if section is not None:
            found.append(section.of_group(group.name) if group.name else section)
    return found


def _facts(study: Study) -> list[tuple[str, str]]:
    facts = [("runs", ", ".join(f"{number} {state}" for state, number in runs.states(study).items()))]
    if len(study.variants) > 1:
        facts.append(("settings", f"{len(study.variants)}{f' of {study.axis}' if study.axis else ''}"))
    facts.append(("seeds a setting", study.seeds_text))
    if study.common:
        facts.append(("in all settings", ", ".join(study.common)))
    return [*facts, ("decided by", study.deciding.label)] if study.deciding else facts


def answer_of(study: Study) -> claims.Answer:
    """The answer, led by what an online run's reward or a budget makes doubtful."""
    answer = claims.answer(study)
    # Without a held-out measure this says what the reward did; with one, whether it was had at one price.
    measure = study.deciding
    if measure is None:
        more = over_optimisation.reward_in_words(study)
    else:
        more = [text for group in comparability.groups(study, measure.column) for text in _of_costs(group, measure)]
    flags = [*over_optimisation.by_reward(study), *forgetting.flags(study), *answer.flags, *budget.flags(study)]
    answer = searched.qualified(study, answer)
    answer = leaks.qualified(study, replace(answer, grounds=[*answer.grounds, *more], flags=flags))
    return harms.qualified(study, answer)


def _of_costs(group: Group, measure: Measure) -> list[str]:
    found = budget.unlike_costs(group.study) + budget.at_equal_flops(group.study, measure)
    return [f"Group {group.name}: {text}" if group.name else text for text in found]


@functools.cache
def template(name: str) -> Template:
    """A file of templates/, made ready to be filled in."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_written if name.endswith(".md.j2") else None,
    )
    environment.filters["md"] = _markdown_text
    return environment.get_template(name)


def _written(value: object) -> object:
    """What stands unescaped between backticks or tags acts on no reader's terminal either."""
    return visible(value) if type(value) is str else value


def _markdown_text(text: object) -> str:
    """Text that Markdown and a table cell show as it is, its control characters written out."""
    shown = visible(str(text).replace("\n", " ⏎ "))
    # The first character alone makes a line a list, a heading or a table's rule.
    shown = re.sub(r"^(\s*)([#+-]|\d+(?=[.)]))", _escape_first, shown)
    return re.sub(r"([\\`*_|<>\[\]~$])", r"\\\1", shown).replace("&", "&amp;").replace("\0", "\\")


def _escape_first(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}\0" if found[2].isdigit() else f"{found[1]}\0{found[2]}"


def _csv(table: Table) -> str:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in table.plain for name in row))
    writer = csv.DictWriter(out, fieldnames=names, lineterminator="\n")
    writer.writerow({name: cell(name) for name in names})
    writer.writerows({key: "" if _is_nan(value) else cell(value) for key, value in row.items()} for row in table.plain)
    return out.getvalue()


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
