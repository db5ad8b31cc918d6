"""The report: whole for any experiment, offline, the same bytes twice, and nothing dropped in silence."""

from __future__ import annotations

import csv
import hashlib
import html.parser
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import study
from analysis.load import load_folders
from analysis.report.pages import MAX_PAGE_BYTES, write_comparison, write_report
from workbench.errors import DefinitionError, StorageError

Make = Callable[..., Path]
SMALL = {"prompts": 4, "steps": 6, "every": 3}


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _csv_rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


class _Outside(html.parser.HTMLParser):
    """Collects what a page would fetch, and the tags left open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "img", "input", "hr", "path", "use", "line", "rect", "circle"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data") and not (value or "").startswith(("#", "data:")):
                self.found.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_a_report_built_twice_is_byte_identical_in_another_process_too(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0, 10.0), **SMALL)
    write_report(folder)
    first = _digests(folder / "report")
    code = "import sys, pathlib, analysis.report.pages as r; r.write_report(pathlib.Path(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, env=environment)
    assert _digests(folder / "report") == first
    assert {"index.html", "report.md", "results.csv", "comparisons.csv", "runs.csv", "costs.csv"} <= set(first)
    page, text = ((folder / "report" / name).read_text() for name in ("index.html", "report.md"))
    assert page.count("Click a heading to sort") == 1
    assert "heading to sort" not in text, "there is nothing to click"
    assert sum(name.endswith(".svg") for name in first) == sum(name.endswith(".png") for name in first) >= 6


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"betas": (0.1, 1.0), "arms": ("sft", "dpo")}, id="arms x axis"),
        pytest.param({"betas": (1.0,), "states": {("beta=1", s): "missing" for s in range(3)}}, id="nothing made"),
        *(
            pytest.param(shape, id=name, marks=pytest.mark.slow)
            for name, shape in {
                "axis": {"betas": (0.1, 1.0, 10.0)},
                "arms": {"betas": (), "arms": ("sft", "dpo", "grpo")},
                "single": {"betas": (), "seeds": 1},
                "pairs": {"betas": (0.05, 0.5), "seeds": 1, "pairs": 30},
                "half failed": {"betas": (0.1, 1.0), "states": {("beta=1", s): "failed" for s in range(3)}},
            }.items()
        ),
    ],
)
def test_every_shape_of_experiment_gets_a_whole_offline_page(make_experiment: Make, shape: dict) -> None:
    page = write_report(make_experiment(**{**SMALL, **shape}))
    text = page.read_text()
    outside = _Outside()
    outside.feed(text)
    assert outside.found == []
    assert outside.open == []
    assert not re.search(r"@import|url\(\s*['\"]?http|\bfetch\(|\bnan\b", text)
    assert page.stat().st_size < MAX_PAGE_BYTES
    assert "How tightly should DPO be tied to its reference model?" in text


def test_every_state_is_counted_and_every_run_listed(make_experiment: Make) -> None:
    states = {("beta=0.1", 0): "diverged", ("beta=1", 1): "missing", ("beta=1", 2): "interrupted"}
    page = write_report(make_experiment(betas=(0.1, 1.0), states=states, **SMALL))
    assert "6 planned: 1 diverged, 3 finished, 1 missing, 1 interrupted" in " ".join(page.read_text().split())
    assert "diverged for the test" in page.read_text()
    rows = _csv_rows(page.parent / "runs.csv")
    assert [row["state"] for row in rows] == ["diverged", "finished", "finished", "finished", "missing", "interrupted"]


def test_completions_are_text_and_never_markup(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1,), seeds=1, question="Does <script>alert(1)</script> run?", **SMALL)
    path = folder / "beta=0.1" / "seed0" / "completions.jsonl"
    path.write_text(re.sub(r'"completion": "[^"]*"', '"completion": "<img src=x onerror=alert(1)>|"', path.read_text()))
    page = write_report(folder)
    assert "<img" not in page.read_text()
    assert "&lt;img src=x onerror=alert(1)&gt;" in page.read_text()
    assert "<script>alert" not in page.read_text()
    assert r"\<img src=x onerror=alert(1)\>\|" in (page.parent / "report.md").read_text()


def test_the_table_s_numbers_are_those_of_the_run_folders(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    page = write_report(folder)
    rows = _csv_rows(page.parent / "results.csv")
    row = next(r for r in rows if r["variant"] == "beta=1" and r["measure"] == "eval/kl_start")
    runs = [{"folder": f"{folder.name}/beta=1/seed{seed}"} for seed in range(3)]
    metrics = load_folders(folder.parent, runs).metrics
    last = list(metrics.loc[metrics["step"] == 6, "eval/kl_start"])
    assert [float(value) for value in row["values"].split()] == pytest.approx(last)
    assert float(row["mean"]) == pytest.approx(sum(last) / 3)


def test_inherited_costs_are_charged_in_full_and_the_start_is_not(make_experiment: Make) -> None:
    page = write_report(make_experiment(betas=(0.1, 1.0), **SMALL))
    rows = {(r["what"], r["part"]): r for r in _csv_rows(page.parent / "costs.csv")}
    own, full = rows["beta = 1", "own"], rows["beta = 1", "charged in full"]
    assert float(own["flops"]) == 2.1e9 * 6
    assert float(full["flops"]) == pytest.approx(2.1e9 * 6 + 7.4e10 + 3.6e10)
    assert ("collecting samples", "own") in rows
    assert ("start sft_sort/main/seed0", "charged in full") not in rows


def test_the_start_of_one_report_is_no_leftover_of_another(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), **SMALL)
    page = write_report(folder)
    stale = page.parent / "figures" / "old.svg"
    stale.write_text("<svg/>")
    write_report(folder)
    assert not stale.exists()


def test_a_report_that_cannot_be_written_is_one_line(make_experiment: Make) -> None:
    folder = make_experiment(betas=(), seeds=1, **SMALL)
    (folder / "report").write_text("in the way")
    with pytest.raises(StorageError, match="report cannot be written"):
        write_report(folder)


def test_experiments_side_by_side_keep_their_names(make_experiment: Make, tmp_path: Path) -> None:
    folders = [make_experiment(name, betas=(0.1, 1.0), **SMALL) for name in ("first", "second")]
    page, _ = write_comparison(folders, tmp_path / "runs" / "reports" / "first+second")
    text = page.read_text()
    assert "How do first and second compare?" in text
    assert "first: beta = 0.1" in text
    assert "second: beta = 1" in text
    assert "12 finished" in text
    assert "start of 4 settings" in text


def test_settings_of_two_axes_are_labelled_with_a_space_after_each_comma() -> None:
    assert study._spaced("dpo,beta=0.1,learning_rate=0.0001") == "dpo, beta = 0.1, learning_rate = 0.0001"


def test_comparing_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="at least one"):
        write_comparison([], tmp_path)


def test_heavy_libraries_wait_until_a_report_is_asked_for() -> None:
    heavy = ("pandas", "matplotlib", "scipy.stats", "jinja2", "torch")
    code = f"import sys, analysis.report.pages; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
