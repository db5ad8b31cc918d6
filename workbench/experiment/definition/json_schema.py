"""The JSON Schema of a definition file, for editors; experiments/schema.json is kept equal to it by a test."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from workbench.data.settings import DataSettings
from workbench.evaluation.settings import EvaluateSettings
from workbench.experiment.definition.files import NAME
from workbench.experiment.definition.schema import Definition, StartFrom, hyperparameter_names
from workbench.models.settings import LoraSettings, ModelSettings
from workbench.trainer.registry import get_settings_class, trainer_names
from workbench.trainer.settings import Budget

SECTIONS: dict[str, Any] = {
    "data": DataSettings,
    "model": ModelSettings,
    "lora": LoraSettings,
    "evaluate": EvaluateSettings,
    "budget": Budget,
}


def definition_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a definition file."""
    shared: dict[str, Any] = {}
    schema = _schema_of(Definition, shared)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Experiment definition", **schema}
    shared["StartFrom"] = _schema_of(StartFrom, shared)
    for name, cls in SECTIONS.items():
        shared[name] = _schema_of(cls, shared)
    for trainer in trainer_names():
        shared[f"{trainer}_hyperparameters"] = _hyperparameters(trainer, shared)
    _fill(schema)
    _fill(shared["Arm"])
    schema["properties"]["arms"]["propertyNames"] = {"pattern": f"^{NAME.pattern}$"}
    schema["required"] = []  # what a file leaves out may come from the one it extends
    schema["anyOf"] = [{"required": ["question"]}, {"required": ["extends"]}]
    schema["$defs"] = dict(sorted(shared.items()))
    return schema


def schema_text() -> str:
    """The schema as the text of experiments/schema.json."""
    return json.dumps(definition_schema(), indent=2, ensure_ascii=False) + "\n"


def _schema_of(cls: Any, shared: dict[str, Any]) -> dict[str, Any]:
    """The schema of cls; what it refers to is moved to shared."""
    schema = TypeAdapter(cls).json_schema(by_alias=True)
    shared |= schema.pop("$defs", {})
    return schema


def _hyperparameters(trainer: str, shared: dict[str, Any]) -> dict[str, Any]:
    cls = get_settings_class(trainer)
    schema = _schema_of(cls, shared)
    properties = schema["properties"]
    return schema | {"properties": {name: properties[name] for name in hyperparameter_names(cls)}}


def _fill(schema: dict[str, Any]) -> None:
    """Point the sections of a definition or arm at their own schemas, hyperparameters at those of the trainer named."""
    properties = schema["properties"]
    for name in SECTIONS:
        description = {"description": text} if (text := properties[name].get("description")) else {}
        own = {"$ref": f"#/$defs/{name}"}
        several = [{"type": "array", "items": own}] if name == "evaluate" else []
        properties[name] = {"anyOf": [own, *several, {"type": "null"}], **description}
    run = [{"type": "string"}, {"$ref": "#/$defs/StartFrom"}]
    properties["start_from"]["anyOf"] = [*run, {"type": "null"}]
    properties["teacher"]["anyOf"] = [*run, {"$ref": "#/$defs/model"}, {"type": "null"}]
    properties["trainer"] = {"enum": trainer_names(), "description": properties["trainer"]["description"]}
    schema["allOf"] = [
        {
            "if": {"properties": {"trainer": {"const": trainer}}, "required": ["trainer"]},
            "then": {"properties": {"hyperparameters": {"$ref": f"#/$defs/{trainer}_hyperparameters"}}},
        }
        for trainer in trainer_names()
    ]
