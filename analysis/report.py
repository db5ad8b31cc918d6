"""A study as one offline page, as Markdown for a pull request, as CSV, and as figure files."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis import accounts, before_after, budget, checkpoints, claims, notices, range_test, rollouts, tables
from analysis.figures import all_figures
from analysis.measures import BY_COLUMN, DECIDING
from analysis.plots import Canvas
from analysis.samples import side_by_side
from analysis.study import Study, open_studies, open_study, starts_of
from analysis.tables import Table
from workbench.errors import DefinitionError, StorageError

TEMPLATES = Path(__file__).parent / "templates"
MAX_PAGE_BYTES = 5_000_000
OPTIONAL = (
    *("comparisons", "equal_cost", "checkpoints", "paired_checkpoints", "results", "range_test", "before_after"),
    *("phases", "throughput"),
)


def write_report(experiment_folder: Path) -> Path:
    """Write <experiment folder>/report/ (index.html, report.md, *.csv, figures/) and return index.html's path.

    Raises DefinitionError where nothing was planned or run, StorageError where the folder cannot be written. Runs that
    are missing, failed or unfinished are counted and shown.
    """
    folder = Path(experiment_folder)
    return _write(open_study(folder), folder / "report")


def write_comparison(experiment_folders: Sequence[Path], out: Path) -> Path:
    """The same over several experiments of one folder of runs, written to out; returns index.html's path."""
    folders = [Path(folder) for folder in experiment_folders]
    if not folders:
        raise DefinitionError("compare: name at least one experiment")
    return _write(open_studies(folders), Path(out))


def _write(study: Study, out: Path) -> Path:
    context = describe(study)
    files: dict[str, str | bytes] = {}
    for figure in context["figures"]:
        for panel in figure.panels:
            files[f"figures/{panel.name}.svg"] = panel.svg
            files[f"figures/{panel.name}.png"] = panel.png
    for table in context["tables"].values():
        if table is not None and table.plain:
            files[f"{table.name}.csv"] = _csv(table)
    files["runs_values.csv"] = _frame_csv(study)
    files["report.md"] = _render("report.md.j2", context)
    files["index.html"] = _render("report.html.j2", context)
    try:
        for name, content in files.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            data = content.encode() if isinstance(content, str) else content
            partial = path.with_name(path.name + ".partial")
            partial.write_bytes(data)
            partial.replace(path)
        _remove_stale(out, set(files))
    except OSError as error:
        raise StorageError(f"{out}: the report cannot be written: {error.strerror or error}") from error
    return out / "index.html"


def _remove_stale(out: Path, written: set[str]) -> None:
    """Figures and tables of an earlier report that this one no longer has would be read as its own."""
    for path in [*out.glob("*.csv"), *out.glob("figures/*.svg"), *out.glob("figures/*.png")]:
        if str(path.relative_to(out)) not in written:
            path.unlink()


def describe(study: Study) -> dict[str, Any]:
    """Everything that the templates show."""
    canvas = Canvas(study)
    measure = study.deciding
    differ = bool(claims.differences_in_evaluation(study))
    single_seed = checkpoints.one_seed(study)
    best = claims.best_of(study, measure) if measure and not differ and not single_seed else None
    shown: dict[str, Table | None] = dict.fromkeys(OPTIONAL)
    ranging = range_test.is_range_test(study)
    if ranging:
        shown["range_test"] = range_test.suggestions(study)
    else:
        shown["results"] = tables.results(study, best if len(study.variants) > 1 else None)
    if measure is not None:
        pairs = claims.compare_all(study, measure)
        if pairs:
            shown["comparisons"] = tables.comparisons(pairs, measure)
        if not differ:
            shown["equal_cost"] = budget.table(study, measure)
    counted, apart = "", False
    if single_seed:
        scores = checkpoints.pair_scores(study)
        counted, tests = checkpoints.paired_tests(study)
        apart = not checkpoints.cannot_tell_apart(tests)
        if changes := before_after.changes(study):
            shown["before_after"] = tables.before_after(changes)
        if scores:
            shown["checkpoints"] = tables.pair_scores(scores)
        if tests:
            shown["paired_checkpoints"] = tables.paired_tests(tests)
    shown["phases"], shown["throughput"] = rollouts.phases(study), rollouts.throughput(study)
    shown["costs"] = accounts.costs(study)
    shown["runs"] = accounts.runs(study)
    runs = study.loaded.runs
    return {
        "study": study,
        "answer": range_test.answer(study) if ranging else answer_of(study),
        "notes": notices.notes(study),
        "warnings": notices.warnings(study),
        "repeats": rollouts.repeats(study),
        "deciding": measure,
        "deciding_order": [BY_COLUMN[column].label for column in DECIDING],
        "tables": shown,
        "figures": [range_test.figure(study, canvas)] if ranging else all_figures(study, canvas),
        "samples": side_by_side(study),
        "legend": [(variant.label, canvas.styles[variant.name]) for variant in study.variants],
        "styles": canvas.styles,
        "counted": counted,
        "by_number": accounts.checked_by_number(study),
        "inherits": any(accounts.inherited_costs(study, variant) for variant in study.variants),
        "told_apart": apart,
        "single_seed": single_seed,
        "kl_refused": len(starts_of(study)) > 1,
        "states": {str(state): int(n) for state, n in runs["state"].value_counts(sort=False).items()},
        "num_runs": len(runs),
        "provenance": accounts.provenance(study),
        "commands": [plan.get("command") for plan in study.plans if plan.get("command")],
        "trainers": sorted({str(t) for t in runs["trainer"] if isinstance(t, str)}),
    }


def answer_of(study: Study) -> claims.Answer:
    """The answer, led by what an online run's reward or a budget makes doubtful."""
    answer = claims.answer(study)
    # Without a held-out measure, what the reward did; with one, whether it was had at one price.
    more = budget.unlike_costs(study) if study.deciding else rollouts.in_words(study)
    grounds = [*answer.grounds, *more]
    flags = [*rollouts.over_optimisation(study), *answer.flags, *budget.flags(study)]
    return replace(answer, grounds=grounds, flags=flags)


def _render(name: str, context: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _markdown_text
    return environment.get_template(name).render(**context)


def _markdown_text(text: object) -> str:
    """Text that Markdown and a table cell show as it is."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", str(text)).replace("\n", " ⏎ ")


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(table.plain[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value != value else value for key, value in row.items()} for row in table.plain)
    return out.getvalue()


def _frame_csv(study: Study) -> str:
    text: str = study.finals.to_csv(index=False, lineterminator="\n")
    return text
