"""The page in Chromium: no console error, no request, no sideways scroll on a phone, tables that sort."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.report.pages import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

LISTEN = """<script>
window.found = {errors: []};
addEventListener("error", (event) => found.errors.push(String(event.message)), true);
addEventListener("securitypolicyviolation", (event) => found.errors.push("refused " + event.blockedURI));
</script>"""

PROBE = """<script>
addEventListener("load", () => {
  const page = document.documentElement;
  document.querySelectorAll("details").forEach((folded) => { folded.open = true; });
  const table = document.querySelector("table.sortable");
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[1].dataset.sort);
  table.tHead.rows[0].cells[1].querySelector("button").click();
  found.rising = column();
  table.tHead.rows[0].cells[1].querySelector("button").click();
  found.falling = column();
  found.width = innerWidth;
  found.overflow = page.scrollWidth - page.clientWidth;
  found.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const letters = [...document.querySelectorAll(".panels svg text")];
  found.smallest = Math.min(...letters.map((text) => text.getBoundingClientRect().height));
  parent.document.documentElement.dataset.found = JSON.stringify(found);
});
</script>"""


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    "shape", ["sweep", *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("methods", "two groups"))]
)
@pytest.mark.slow
def test_the_page_is_quiet_offline_and_fits_a_phone(
    make_experiment: Callable[..., Path], make_budget_experiment: Callable[..., Path], tmp_path: Path, shape: str
) -> None:
    if shape == "methods":
        page = write_report(make_budget_experiment(steps=20, prompts=8))
    else:
        folder = make_experiment(betas=(0.1, 1.0, 10.0), prompts=8, steps=12, every=4)
        for path in folder.glob("beta=10/*/definition.yaml") if shape == "two groups" else ():
            path.write_text(path.read_text().replace("prompts: 48", "prompts: 99"))
        page = write_report(folder)
    text = page.read_text()
    probed = text.replace("<head>", "<head>" + LISTEN, 1).replace("</body>", PROBE + "</body>", 1)
    for width in (420, 1400):
        # A frame, because a window of headless Chromium is never narrower than 500.
        frame = tmp_path / f"frame{width}.html"
        style = f"border: 0; width: {width}px; height: 900px"
        frame.write_text(f'<!doctype html><iframe style="{style}" srcdoc="{html.escape(probed)}"></iframe>')
        command = [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *(
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--enable-logging=stderr",
            ),
            *(f"--user-data-dir={tmp_path / f'chromium{width}'}", f"--window-size={width + 100},1000", "--dump-dom"),
            frame.as_uri(),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        seen = re.search(r'data-found="([^"]*)"', done.stdout)
        assert seen, done.stderr[-2000:]
        found = json.loads(html.unescape(seen.group(1)))
        assert found["errors"] == []
        assert found["requests"] == []
        assert not re.search(r"CONSOLE", done.stderr), done.stderr[-2000:]
        assert found["width"] == width
        assert found["overflow"] <= 0
        assert found["smallest"] >= 9
        rising = [float(value) for value in found["rising"] if value]
        assert rising == sorted(rising)
        assert [float(value) for value in found["falling"] if value] == rising[::-1]
