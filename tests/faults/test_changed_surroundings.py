"""A run that was interrupted, gone on with under another definition, data, stage version, library or number of
threads: never silently. What makes it another run is made anew and the old one kept; the rest is refused."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
import time

import pytest

from tests.commands import ROOT, Command
from tests.faults.labs import START, define, make_lab, outcomes
from workbench.experiment.stages.cache import VERSIONS
from workbench.trainer.records.surroundings import installed_version

pytestmark = [pytest.mark.slow, pytest.mark.multi]
ROWS = [{"prompt": f"say {n}: ", "completion": str(n % 7)} for n in range(64)]
RUN = "long/main/seed0"
LONG = START | {"data": {"path": "rows.jsonl"}, "track": []}
LONG["hyperparameters"] = START["hyperparameters"] | {"steps": 60, "checkpoint_every": 5}


@pytest.fixture
def lab(once, tmp_path):
    """A lab with a run on a data file that was stopped half-way."""
    return shutil.copytree(once("interrupted", interrupt), tmp_path / "lab")


def interrupt(folder):
    lab = make_lab(folder / "lab")
    write_data(lab, ROWS)
    define(lab, "long", LONG)
    command = Command(lab, "run", "long")
    while not list((lab / "runs" / RUN / "checkpoints").glob("step_*[0-9]/manifest.json")):
        assert command.is_running(), command.end()
        time.sleep(0.01)
    command.send(signal.SIGTERM)
    assert command.end()[0] == 128 + signal.SIGTERM
    assert 5 <= status(lab)["step"] < 60
    return lab


def write_data(lab, rows):
    (lab / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def status(lab):
    return json.loads((lab / "runs" / RUN / "status.json").read_text())


def other_stage_version():
    VERSIONS["data"] += 1


def other_library():
    version = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.0.1" if name == "numpy" else version(name)
    installed_version.cache_clear()


def assert_made_anew(call, lab, words, before=lambda: None):
    code, said = call("plan", "long", before=before)
    assert (code, words in said) == (0, True), said
    code, said = call("run", "long", before=before)
    assert code == 0, said
    assert words in said
    assert len(list((lab / "runs/.superseded/long/main").iterdir())) == 1, "the old one is kept"
    made = outcomes(lab / "runs")
    code, said = call("run", "long", "--runs", "whole", before=before)
    assert code == 0, said
    assert outcomes(lab / "whole") == made


def test_another_stage_version_makes_it_anew(call, lab):
    was = VERSIONS["data"]
    assert_made_anew(call, lab, f"stages.data was {was}, is {was + 1}", other_stage_version)


def test_other_data_makes_it_anew(call, lab):
    write_data(lab, ROWS[1:])
    assert_made_anew(call, lab, "data.")


def test_another_definition_makes_it_anew(call, lab):
    define(lab, "long", LONG | {"hyperparameters": LONG["hyperparameters"] | {"weight_decay": 0.1}})
    assert_made_anew(call, lab, "hyperparameters.weight_decay was 0.0, is 0.1")


@pytest.mark.alone  # beside another process, two threads on two cores wait for one another
def test_another_number_of_threads_is_not_gone_on_with(call, lab):
    define(lab, "long", LONG | {"threads": 2})
    code, said = call("run", "long")
    assert "threads" in said, said
    assert code == 3 or list((lab / "runs/.superseded/long/main").iterdir())


def test_another_library_is_refused_by_name_and_marked_where_it_was_asked_for(call, lab):
    stopped_at, numpy = status(lab)["step"], importlib.metadata.version("numpy")
    code, said = call("run", "long", before=other_library)
    assert (code, f"numpy {numpy}, now 0.0.1" in said, "INEXACT=1" in said) == (3, True, True), said
    assert status(lab)["state"] == "failed"
    assert list((lab / "runs" / RUN / "checkpoints").glob(f"step_*{stopped_at}")), "nothing is lost"
    code, said = call("run", "long", "--inexact", before=other_library)
    assert code == 0, said
    found = status(lab)
    assert (found["state"], found["step"]) == ("finished", 60)
    assert found["inexact"] == [f"numpy {numpy}, now 0.0.1"] or "numpy" in str(found["inexact"])
    assert "numpy" in (lab / "runs/long/report/report.md").read_text()


def test_the_same_surroundings_go_on_to_the_same_bits(call, lab):
    assert call("run", "long")[0] == 0
    assert call("run", "long", "--runs", "whole")[0] == 0
    assert outcomes(lab / "runs") == outcomes(lab / "whole")


@pytest.mark.long
def test_other_code_of_the_workbench_is_refused_by_name_and_marked_where_it_was_asked_for(lab, tmp_path):
    """A copy of the package with one comment more, as a pull, an edit or another installed version would be."""
    for name in ("workbench", "analysis"):
        shutil.copytree(ROOT / name, tmp_path / "other" / name, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "other/workbench/trainer/records/costs.py", "a") as file:
        file.write("# changed\n")
    code, said = Command(lab, "run", "long", cold=True, PYTHONPATH=str(tmp_path / "other")).end()
    assert (code, "code of the workbench" in said, "INEXACT=1" in said) == (3, True, True), said
    assert "Traceback" not in said
    code, said = Command(lab, "run", "long", "--inexact", cold=True, PYTHONPATH=str(tmp_path / "other")).end()
    assert code == 0, said
    assert "code of the workbench" in status(lab)["inexact"][0]
