"""Rewards in a file of the user's own: Python, run only where the command line says that it may."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.errors import DefinitionError
from workbench.files import read_file
from workbench.permissions import Permissions
from workbench.rewards.reward import describe_failure

VERSION = 3


def check_allowed(path: str, permissions: Permissions) -> None:
    """Raises DefinitionError where own code was not allowed."""
    if not permissions.reward_code:
        raise DefinitionError(
            f"rewards: {path} is Python that would be run: read it, and allow it with --allow-reward-code"
        )


def find_file(path: str) -> Path:
    """The file, which is there. Raises DefinitionError."""
    file = Path(path).expanduser()
    if file.suffix != ".py" or not file.is_file():
        found = "no such file" if not file.is_file() else "no .py file"
        raise DefinitionError(f"rewards: {path}: {found}, allowed a Python file with the reward's function")
    return file


def load_function(path: str, function: str, code: bytes | None = None) -> Callable[..., Any]:
    """The function, its file run once, which `check_allowed` let through. Raises DefinitionError where the file fails
    or has no such function. code: what the file held when it was read before, which is run whatever it holds now."""
    code = read_file(find_file(path)) if code is None else code
    name = f"workbench_reward_{hashlib.sha256(code).hexdigest()[:16]}"
    module = sys.modules.get(name) or _run_code(code, Path(path).expanduser(), name, path)
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise DefinitionError(
            f"rewards: {path}: no function {function}, allowed {', '.join(names) or 'a file that has one'}"
        )
    return found


def _run_code(code: bytes, file: Path, name: str, shown: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a path that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        exec(compile(code, file, "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        del sys.modules[name]
        raise DefinitionError(f"rewards: {shown}: {describe_failure(error)}, allowed a file that runs") from error
    return module
