"""experiments/schema.json is what the code says, and every shipped definition obeys it."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.experiment.definition.json_schema import definition_schema, schema_text
from workbench.experiment.definition.schema import hyperparameter_names
from workbench.trainer.registry import get_settings_class, trainer_names

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def test_the_committed_schema_is_current() -> None:
    committed = (EXPERIMENTS / "schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), "run `workbench schema > experiments/schema.json`"


@pytest.mark.parametrize("trainer", trainer_names())
def test_each_trainer_s_hyperparameters_are_closed_and_described(trainer: str) -> None:
    schema = definition_schema()["$defs"][f"{trainer}_hyperparameters"]
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == hyperparameter_names(get_settings_class(trainer))
    assert [name for name, item in schema["properties"].items() if not item.get("description")] == []


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    schema = definition_schema()
    found: list[str] = []

    def walk(item: object) -> None:
        if isinstance(item, dict):
            found.extend(value for key, value in item.items() if key == "$ref")
            for value in item.values():
                walk(value)
        elif isinstance(item, list):
            for value in item:
                walk(value)

    walk(schema)
    assert {reference.removeprefix("#/$defs/") for reference in found} <= set(schema["$defs"])


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_definition_names_the_schema_for_editors(path: Path) -> None:
    assert path.read_text().splitlines()[0] == "# yaml-language-server: $schema=schema.json"
