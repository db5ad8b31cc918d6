"""Options by name: what each says of itself, and that nothing of it takes torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import ValidationError

from workbench.config import Settings
from workbench.objectives.advantages import ADVANTAGES
from workbench.objectives.kl import KL_ESTIMATORS, KL_LOSSES, KL_PENALTIES
from workbench.objectives.options import Options
from workbench.objectives.policy_gradient import CORRECTIONS, POLICY_LOSSES
from workbench.objectives.preference import PREFERENCE_LOSSES

TABLES = (ADVANTAGES, KL_ESTIMATORS, POLICY_LOSSES, CORRECTIONS, PREFERENCE_LOSSES)
NEVER_TORCH = """
import sys
sys.modules["torch"] = None
from workbench.experiment.definition.json_schema import schema_text
from workbench.trainer.registry import get_settings_class
assert '"hinge"' in schema_text()
assert get_settings_class("dpo")(loss="hinge").loss == "hinge"
"""


def test_a_table_without_torch_gives_the_schema_its_names_and_checks_settings():
    subprocess.run([sys.executable, "-c", NEVER_TORCH], check=True, timeout=60)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.title)
def test_every_option_has_a_formula(table):
    assert [name for name, option in table.all.items() if not option.formula] == []


def test_a_setting_takes_the_names_of_its_table_alone():
    colours: Options[int] = Options("colour", off="none")
    colours.add("red", 1, "r", reads=("shade",))
    colours.add("blue", 2, "b")

    class Own(Settings):
        colour: Annotated[str, colours] = "red"

    assert (Own(colour="blue").colour, Own(colour="none").colour) == ("blue", "none")
    with pytest.raises(ValidationError, match="'none', 'red' or 'blue'"):
        Own(colour="green")
    assert Own.model_json_schema()["properties"]["colour"]["enum"] == ["none", "red", "blue"]
    assert colours.that_read("shade") == ["red"]
    assert (colours["blue"], colours.about("none")) == (2, None)


def test_every_estimator_of_kl_has_its_place():
    assert set(KL_ESTIMATORS) == set(KL_LOSSES) | set(KL_PENALTIES)
