"""Definition files by name: which names there may be, what a file extends, and its shape before it is resolved."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.experiment.definition.merge import merge_sections
from workbench.experiment.definition.schema import Arm, Definition
from workbench.experiment.definition.sections import unknown_section
from workbench.experiment.definition.source import Node, describe, read_source, show
from workbench.experiment.definition.validate import MAX_LISTED, Problems, suggest, validate

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
ALLOWED_NAME = "letters, digits, - and _, at most 100"
FEW = 6
SECTIONS = ("model", "lora", "data", "hyperparameters", "evaluate", "budget")

_SHAPES: dict[str, Any] = dict.fromkeys(SECTIONS, dict | None)
_SHAPES |= dict.fromkeys(("start_from", "teacher"), dict | str | None)
_SHAPES |= {"evaluate": dict | list | None, "trainer": str | None, "threads": int, "track": list}


def experiment_names(folder: Path) -> list[str]:
    """Names of the definitions there are, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml") if NAME.fullmatch(path.stem))


def find_file(asked: Node, folder: Path, problems: Problems) -> Path | None:
    """The file that the name in asked stands for: inside the folder, a regular file, no link out of it."""
    name = asked.value
    if not isinstance(name, str) or not NAME.fullmatch(name):
        if name == "" and asked.where == "command line":
            problems.add(asked, f"found nothing, allowed {_known_names(folder)}")
            return None
        near = suggest(Path(str(name)).stem, experiment_names(folder)) if name and isinstance(name, str) else ""
        allowed = f"the name of a file in {folder.name}/ ({ALLOWED_NAME})"
        if isinstance(name, str) and NAME.fullmatch(name.partition("+")[0]) and "+" in name and "/" not in name:
            allowed += f"; a run made with SET is begun from by its folder: model.path=runs/{name}/main/seed0/model"
        problems.add(asked, f"found {describe(asked)}, allowed {allowed}{near}")
        return None
    path = folder / f"{name}.yaml"
    if not path.exists():
        names = experiment_names(folder)
        problems.add(asked, f"found {show(name)}, allowed {_known_names(folder)}{suggest(name, names)}")
        return None
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        problems.add(asked, f"found {show(name)}, a link out of {folder.name}/ or no file, allowed a file in it")
        return None
    return path


def _known_names(folder: Path) -> str:
    """The names of the definitions there are; of many the first and where the others stand."""
    names = experiment_names(folder)
    if len(names) > MAX_LISTED:
        few = ", ".join(names[:FEW])
        return f"one of the {len(names)} files of {folder.name}/ without .yaml: {few}, ... (ls {folder.name})"
    return ", ".join(names) or f"nothing: {folder.name}/ has no file"


def load_tree(asked: Node, folder: Path, problems: Problems, chain: tuple[str, ...] = ()) -> tuple[Node, str] | None:
    """The definition's tree, laid over those it extends and of known shape, and the file's text, then theirs; None when
    unreadable.

    Parts of the wrong shape are left out after they were reported, so that the rest can still be checked.
    """
    path = find_file(asked, folder, problems)
    if path is None:
        return None
    name = str(asked.value)
    if name in chain:
        circle = " -> ".join([*chain[chain.index(name) :], name])
        problems.add(asked, f"found a circle ({circle}), allowed a chain that ends")
        return None
    tree, text = read_source(path, f"{folder.name}/{path.name}", problems.lines)
    if tree is None:
        return None
    extends = tree.value.pop("extends", None)
    if extends is not None:
        base = load_tree(extends, folder, problems, (*chain, name))
        if base is None:
            tree.value.setdefault("question", Node("?", tree.where, "question"))
        else:
            tree, text = merge_sections(base[0], tree), f"{text}\n{base[1]}"
    return check_shape(tree, problems), text


def check_shape(tree: Node, problems: Problems) -> Node:
    """The parts of a definition that have the shape they must have; the others are reported and left out."""
    validate(Definition, tree, problems, lambda name: unknown_section(name, Definition.model_fields))
    kept = _keep_sections(tree, tuple(Definition.model_fields))
    arms = kept.get("arms")
    if arms is not None:
        sound: dict[str, Node] = {}
        for name, arm in arms.value.items() if isinstance(arms.value, dict) else ():
            if not NAME.fullmatch(name):
                problems.add(arm, f"found the name {show(name)}, allowed {ALLOWED_NAME}")
            if isinstance(arm.value, dict):
                sound[name] = replace(arm, value=_keep_sections(arm, tuple(Arm.model_fields)))
        kept["arms"] = replace(arms, value=sound)
    sweep = kept.get("sweep")
    if sweep is not None:
        kept["sweep"] = replace(sweep, value=sweep.value if isinstance(sweep.value, dict) else {})
    return replace(tree, value=kept)


def _keep_sections(tree: Node, names: tuple[str, ...]) -> dict[str, Node]:
    def sound(name: str, node: Node) -> bool:
        return name in names and isinstance(node.value, _SHAPES.get(name, object))

    return {name: node for name, node in tree.value.items() if sound(name, node)}
