"""Trainers by name: `dpo` is DPOTrainer in dpo_trainer.py with DPOSettings in dpo_settings.py. Lookup is by file name.

Settings stand apart from trainers so that a definition is checked, planned and explained without loading torch.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import DefinitionError
from workbench.trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from workbench.trainer.base_trainer import BaseTrainer

_SUFFIX = "_trainer"


def trainer_names() -> list[str]:
    """Every trainer there is a file for, sorted."""
    names = (path.stem.removesuffix(_SUFFIX) for path in Path(__file__).parent.glob(f"*{_SUFFIX}.py"))
    return sorted(name for name in names if name != "base")


def get_trainer_class(name: str) -> type[BaseTrainer]:
    """The trainer named, such as "dpo". Unknown names raise DefinitionError with a suggestion."""
    return _find(name, "trainer")


def get_settings_class(name: str) -> type[TrainerSettings]:
    """The closed settings class of the trainer named."""
    return _find(name, "settings")


def create_trainer(name: str, **arguments: Any) -> BaseTrainer:
    """A trainer by name: create_trainer("sft", model=..., optimizer=..., train_loader=...)."""
    return get_trainer_class(name)(**arguments)


def _find(name: str, kind: str) -> Any:
    if not isinstance(name, str) or name not in trainer_names():
        near = difflib.get_close_matches(str(name), trainer_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DefinitionError(f"trainer is {name!r}; there are {', '.join(trainer_names())}{hint}")
    module = importlib.import_module(f"workbench.trainer.{name}_{kind}")
    wanted = f"{name.replace('_', '')}{kind}"
    found = [value for key, value in vars(module).items() if key.lower() == wanted]
    assert len(found) == 1, f"{module.__name__} must define one class named like {wanted}"
    return found[0]
