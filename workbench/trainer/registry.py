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
    settings_class: type[TrainerSettings] = _find(name, "settings")
    if (problem := settings_class.batch_problem()) is not None:
        raise DefinitionError(f"{_path(name, 'settings')}: {settings_class.__name__}: {problem}")
    return settings_class


def create_trainer(name: str, **arguments: Any) -> BaseTrainer:
    """A trainer by name: create_trainer("sft", model=..., optimizer=..., train_loader=...)."""
    return get_trainer_class(name)(**arguments)


def _find(name: str, kind: str) -> Any:
    if not isinstance(name, str) or name not in trainer_names():
        near = difflib.get_close_matches(str(name), trainer_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DefinitionError(f"trainer is {name!r}; there are {', '.join(trainer_names())}{hint}")
    wanted = f"{name.replace('_', '')}{kind}"
    shown = f"{''.join(part.capitalize() for part in name.split('_'))}{kind.capitalize()}"
    try:
        module = importlib.import_module(f"workbench.trainer.{name}_{kind}")
    except ModuleNotFoundError as error:
        if error.name != f"workbench.trainer.{name}_{kind}":
            raise
        raise DefinitionError(f"trainer {name} has no {_path(name, kind)}; it defines a class {shown}") from None
    found = [value for key, value in vars(module).items() if key.lower() == wanted]
    base: Any = TrainerSettings
    if kind == "trainer":
        from workbench.trainer.base_trainer import BaseTrainer as base
    if len(found) != 1 or not isinstance(found[0], type) or not issubclass(found[0], base):
        raise DefinitionError(f"{_path(name, kind)} defines no class {shown}({base.__name__}); name it so, in any case")
    if missing := sorted(getattr(found[0], "__abstractmethods__", ())):
        raise DefinitionError(f"{_path(name, kind)}: {shown} lacks {', '.join(missing)}; define each of them")
    return found[0]


def _path(name: str, kind: str) -> str:
    return f"workbench/trainer/{name}_{kind}.py"
