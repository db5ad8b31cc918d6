"""What the README and the pages of docs/ show runs, what they list is whole, and their links lead somewhere."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.analysis.conftest import write_experiment
from tests.documents import DOCUMENTS, PAGES, ROOT, blocks
from tests.pages import BATCHES, METHODS, PAIRWISE, batches_table
from workbench.experiment.definition.methods import methods_table, options_table
from workbench.objectives.preference import PREFERENCE_LOSSES

OWN_TRAINER = ROOT / "docs/own_trainer.md"
"""Its code is run by tests/trainer/test_own_trainer.py."""


def test_every_python_block_runs(torch, tmp_path, monkeypatch):
    from workbench.models.presets import make_preset

    make_preset("tiny", tmp_path / "runs/sft_sort/main/seed0/model", seed=0)
    write_experiment(tmp_path / "runs", name="dpo_beta_sweep")
    monkeypatch.chdir(tmp_path)
    names = {}
    for path in DOCUMENTS:
        for block in blocks(path, "python") if path != OWN_TRAINER else ():
            exec(compile(block, str(path), "exec"), names)
    assert (tmp_path / "my_run/model/model.safetensors").exists()
    assert (tmp_path / "my_model_2/tokenizer.json").exists()
    assert names["trainer"].evaluate()["eval/loss"] < 3  # 4.4 at the start
    assert names["reward"](completions=["2 + 2 = 4", "5"], answers=["4", "4"], num_tokens=[9, 1]) == [1.0, 0.0]
    assert len(names["loaded"].runs) > 0


@pytest.mark.parametrize(
    ("page", "mark", "made"),
    [
        ("methods.md", METHODS, lambda: methods_table(ROOT / "experiments")),
        ("methods.md", PAIRWISE, lambda: options_table(PREFERENCE_LOSSES)),
        ("python.md", BATCHES, batches_table),
    ],
)
def test_generated_tables_are_what_the_code_says(page, mark, made):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = text.split(f"<!-- {mark}: begin -->\n\n")[1].split(f"\n<!-- {mark}: end -->")[0]
    assert found == made(), "python -m tests.pages writes it anew"


def test_the_table_of_definitions_is_what_is_shipped():
    page = (ROOT / "docs/definitions.md").read_text(encoding="utf-8").split("## Shipped definitions")[1]
    shipped = {path.stem: yaml.safe_load(path.read_text())["question"] for path in ROOT.glob("experiments/*.yaml")}
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)) == shipped


def test_every_page_is_listed():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []


def anchors(path):
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_every_link_leads_to_a_file_and_a_heading_of_it(path):
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", path.read_text(encoding="utf-8")):
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if "://" not in link and (not target.exists() or (anchor and anchor not in anchors(target))):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_every_path_of_the_code_that_a_page_names_is_there(path):
    text = path.read_text(encoding="utf-8") if path.name != "log.md" else ""  # the log speaks of what was
    named = re.findall(r"`((?:workbench|analysis|tests|docs)/[\w./]*)`", text)
    own = {"workbench/verdicts"}  # in the user's cache folder
    assert [name for name in named if name not in own and not (ROOT / name).exists()] == []


def test_the_readme_stays_on_one_screen():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140
