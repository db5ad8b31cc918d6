"""Methods by name: `dpo` is DPOTrainer in dpo_trainer.py with DPOSettings in dpo_settings.py. Lookup is by file name,
in this folder and in the one that WORKBENCH_TRAINERS names.

Settings stand apart from trainers so that a definition is checked, planned and explained without loading torch: they
are found here, trainers in create.py.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any

import workbench.trainer
from workbench.errors import DefinitionError, WorkbenchError
from workbench.own_code import TRAINERS_VARIABLE, own_trainers
from workbench.trainer.settings import TrainerSettings

_SUFFIX = "_trainer"


def trainer_names() -> list[str]:
    """Every trainer there is a file for, sorted. Raises DefinitionError where the folder of own ones is not there, or
    has a name that is taken."""
    found = ["base"]
    for folder in map(Path, workbench.trainer.__path__):
        if not folder.is_dir():
            raise DefinitionError(f"{TRAINERS_VARIABLE}: found {folder}, allowed a folder of <name>_trainer.py files")
        names = [path.stem.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}.py")]
        if folder == own_trainers() and (taken := sorted(set(names) & set(found))):
            path = folder / f"{taken[0]}{_SUFFIX}.py"
            raise DefinitionError(f"{path}: the workbench has {taken[0]}{_SUFFIX}.py itself; choose another name")
        found += names
    return sorted(set(found) - {"base"})


def get_settings_class(name: str) -> type[TrainerSettings]:
    """The closed settings class of the trainer named."""
    settings_class: type[TrainerSettings] = find(name, "settings", TrainerSettings)
    if (problem := settings_class.batch_problem()) is not None:
        raise DefinitionError(f"{_path(name, 'settings')}: {settings_class.__name__}: {problem}")
    return settings_class


def find(name: str, kind: str, base: type) -> Any:
    """The class of that kind, "trainer" or "settings", in the file of that name; derived from base. Raises
    DefinitionError."""
    if not isinstance(name, str) or name not in trainer_names():
        near = difflib.get_close_matches(str(name), trainer_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DefinitionError(f"trainer is {name!r}; there are {', '.join(trainer_names())}{hint}")
    wanted = f"{name.replace('_', '')}{kind}"
    shown = f"{''.join(part.capitalize() for part in name.split('_'))}{kind.capitalize()}"
    try:
        module = importlib.import_module(f"workbench.trainer.{name}_{kind}")
    except WorkbenchError:
        raise
    except Exception as error:  # whatever a file of a user's own may raise
        if isinstance(error, ModuleNotFoundError) and error.name == f"workbench.trainer.{name}_{kind}":
            raise DefinitionError(f"trainer {name} has no {_path(name, kind)}; it defines a class {shown}") from None
        told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DefinitionError(f"{_path(name, kind)} cannot be imported: {told}") from error
    found = [value for key, value in vars(module).items() if key.lower() == wanted]
    if len(found) != 1 or not isinstance(found[0], type) or not issubclass(found[0], base):
        raise DefinitionError(f"{_path(name, kind)} defines no class {shown}({base.__name__}); name it so, in any case")
    if missing := sorted(getattr(found[0], "__abstractmethods__", ())):
        raise DefinitionError(f"{_path(name, kind)}: {shown} lacks {', '.join(missing)}; define each of them")
    return found[0]


def _path(name: str, kind: str) -> str:
    """The file of a trainer or of its settings, as a message names it."""
    outside = own_trainers()
    own = outside is not None and (outside / f"{name}{_SUFFIX}.py").exists()
    return f"{outside if own else 'workbench/trainer'}/{name}_{kind}.py"
