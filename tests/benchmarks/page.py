"""What a benchmark found: as text, as JSON, as one offline page."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
div{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0 1.5rem}caption{text-align:left;font-weight:600}
td,th{padding:.25rem .8rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}
td:first-child,th:first-child{text-align:left}
.note{color:#666;font-size:.85rem;margin:.4rem 0}.chart svg{max-width:100%;height:auto}.chart{background:#fff}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}td,th{border-color:#444}.note{color:#aaa}}"""
SUMMARY_HEAD = ["", "workbench", "TRL", "plain loop", "workbench / other (goal)", "reached"]


@dataclass
class Table:
    """Rows of text under a head."""

    title: str
    head: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def text(self) -> str:
        """In columns, first one to the left."""
        rows = [self.head, *(row + [""] * (len(self.head) - len(row)) for row in self.rows)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.head))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])

    def html(self) -> str:
        """As a table element."""
        head = "".join(f"<th scope=col>{html.escape(cell)}</th>" for cell in self.head)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row + [''] * (len(self.head) - len(row)))}</tr>"
            for row in self.rows
        )
        return f"<div><table><caption>{html.escape(self.title)}</caption><tr>{head}</tr>{body}</table></div>"


@dataclass
class Result:
    """One benchmark's."""

    name: str
    goal: str
    reached: bool
    tables: list[Table]
    values: dict[str, Any]
    """Every measured number, for the JSON file."""
    notes: list[str] = field(default_factory=list)
    """What each side does, a paragraph each."""
    charts: list[str] = field(default_factory=list)
    """SVG elements."""
    summary: list[list[str]] = field(default_factory=list)
    """Rows of the table in docs/benchmarks.md, under SUMMARY_HEAD."""

    def text(self) -> str:
        """For the terminal."""
        tables = "\n\n".join(table.text() for table in self.tables)
        return f"{tables}\n\n{self.name}: goal {self.goal}: {'reached' if self.reached else 'NOT reached'}"

    def html(self) -> str:
        """A section of the page, kept beside the JSON so that benchmarks run apart share one page."""
        verdict = "reached" if self.reached else "not reached"
        parts = [
            f"<h2 id={self.name}>{html.escape(self.name)}</h2><p>Goal: {html.escape(self.goal)}. <b>{verdict}</b></p>",
            *(f"<div class=chart>{chart}</div>" for chart in self.charts),
            *(table.html() for table in self.tables),
            *(f"<p class=note>{html.escape(note)}</p>" for note in self.notes),
        ]
        return "".join(parts)


def write(folder: Path, result: Result, facts: dict[str, str]) -> Path:
    """Write <name>.json, and over all benchmarks that have one index.html and table.md; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    facts_table = Table("Measured on", ["", ""], [[name, value] for name, value in facts.items()])
    record = {
        "name": result.name,
        "goal": result.goal,
        "reached": result.reached,
        "facts": facts,
        "values": result.values,
        "summary": result.summary,
        "html": result.html() + facts_table.html(),
    }
    (folder / f"{result.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    links = " ".join(f"<a href=#{one['name']}>{one['name']}</a>" for one in records)
    page = folder / "index.html"
    page.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Benchmarks</title><style>{_STYLE}</style><h1>Benchmarks</h1><p>{links}</p>"
        f"{''.join(one['html'] for one in records)}</html>\n",
        encoding="utf-8",
    )
    (folder / "table.md").write_text(_markdown(records), encoding="utf-8")
    return page


def _markdown(records: list[dict[str, Any]]) -> str:
    """The table in docs/benchmarks.md."""
    rows = [row for record in records for row in record.get("summary", [])]
    lines = [SUMMARY_HEAD, ["---"] * len(SUMMARY_HEAD), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def paste_table(page: Path, table: str, of: str = "make bench") -> None:
    """Replace what stands between a page's two marks with the table. Raises ValueError where the page lacks them.

    of: what made the table, as the marks say."""
    begin, end = f"<!-- {of}: begin -->", f"<!-- {of}: end -->"
    text = page.read_text(encoding="utf-8")
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"{page}: found no {begin} ... {end}; put both where the table belongs")
    page.write_text(f"{before}{begin}\n\n{table}\n{end}{after}", encoding="utf-8")
