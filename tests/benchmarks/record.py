"""What a benchmark found, and the page and JSON it is kept as."""

from __future__ import annotations

import html
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench.experiment.provenance import hardware, package_versions


@dataclass(frozen=True)
class Record:
    """rows: (what, figure with its unit)."""

    name: str
    title: str
    rows: list[tuple[str, str]]

    def text(self) -> str:
        """As a terminal shows it."""
        width = max(len(what) for what, _ in self.rows)
        return "\n".join([self.title, *(f"  {what:{width}}  {figure}" for what, figure in self.rows)])


def keep(records: list[Record], folder: Path) -> Path:
    """Write <name>.json of each and index.html of all; the page."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = hardware()
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "command": "make bench" + (f' BENCH="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else ""),
        "machine": f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_bytes'] / 2**30:.0f} GiB",
        "versions": ", ".join(f"{name} {version}" for name, version in package_versions().items()),
    }
    for record in records:
        (folder / f"{record.name}.json").write_text(json.dumps(about | asdict(record), indent=1) + "\n")
    page = folder / "index.html"
    sections = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    page.write_text(_page(sections), encoding="utf-8")
    return page


def _page(sections: list[dict]) -> str:
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"]
    parts.append(
        "<title>Benchmarks</title><style>body{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em}"
    )
    parts.append("td{padding:.2em 1em .2em 0;border-top:1px solid #ccc}small{color:#666}</style><h1>Benchmarks</h1>")
    for section in sections:
        rows = "".join(f"<tr><td>{html.escape(a)}<td>{html.escape(b)}" for a, b in section["rows"])
        about = html.escape(f"{section['date']}, {section['command']}, {section['machine']}; {section['versions']}")
        parts.append(f"<h2>{html.escape(section['title'])}</h2><table>{rows}</table><p><small>{about}</small>")
    return "".join(parts)
