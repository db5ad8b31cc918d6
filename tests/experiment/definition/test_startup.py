"""A definition is refused, or resolved, within a second and without torch or any heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone
PROBE = """
import sys, time, types
class Lazy(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise AssertionError(f"torch.{name} was used")
sys.modules["torch"] = Lazy("torch")
started = time.perf_counter()
from workbench.errors import DefinitionError
from workbench.experiment.definition.resolve import load_experiment
try:
    load_experiment("x")
    print("sound")
except DefinitionError as error:
    print(error)
print(f"{time.perf_counter() - started:.2f} seconds", file=sys.stderr)
assert time.perf_counter() - started < 1
heavy = {"transformers", "peft", "pandas", "pyarrow", "wandb", "tensorboard", "matplotlib", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""
DEFINITION = """question: How well does it sort?
trainer: sft
model: {preset: tiny}
data: {task: sort, rows: 128}
hyperparameters: {steps: STEPS}
"""


def probe(tmp_path: Path, steps: str) -> str:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/x.yaml").write_text(DEFINITION.replace("STEPS", steps))
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_broken_definition_is_refused_without_heavy_libraries(tmp_path: Path) -> None:
    assert probe(tmp_path, "-1") == "experiments/x.yaml:5: hyperparameters.steps: found -1, allowed numbers > 0\n"


def test_a_sound_definition_is_resolved_without_heavy_libraries(tmp_path: Path) -> None:
    assert probe(tmp_path, "5") == "sound\n"
