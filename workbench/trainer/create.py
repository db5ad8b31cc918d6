"""Trainers by name, as registry.py finds them; importing it loads torch."""

from __future__ import annotations

from typing import Any

from workbench.trainer.base_trainer import BaseTrainer
from workbench.trainer.registry import find


def get_trainer_class(name: str) -> type[BaseTrainer]:
    """The trainer named, such as "dpo". Unknown names raise DefinitionError with a suggestion."""
    return find(name, "trainer", BaseTrainer)


def create_trainer(name: str, **arguments: Any) -> BaseTrainer:
    """A trainer by name: create_trainer("sft", model=..., optimizer=..., train_loader=...)."""
    return get_trainer_class(name)(**arguments)
