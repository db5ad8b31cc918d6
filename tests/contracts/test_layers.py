"""Law 1: modules import their own folder and lower floors; no cycles; files and functions stay short."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLOORS = {
    "workbench.errors": 0,
    "workbench.decimals": 0,
    "workbench.files": 0.1,  # over errors
    "workbench.config": 0.2,  # over files
    "workbench.inputs": 0.5,  # over config and errors
    "workbench.own_code": 0,
    "workbench.permissions": 0,
    "workbench.processor": 0,
    "workbench.disk": 1,
    "workbench.redaction": 0,
    "workbench.interrupts": 0.5,  # over errors
    "workbench.locks": 0.5,  # over errors, and under tracking
    "workbench.objectives": 1,
    "workbench.tracking": 1,
    "workbench.models": 2,
    "workbench.rewards": 3,
    "workbench.data": 4,
    "workbench.generation": 5,
    "workbench.trainer": 6,
    "workbench.evaluation": 7,
    "workbench.experiment": 8,
    "workbench.argument_types": 0.5,  # over config
    "workbench.command_line": 1.5,  # over argument_types and tracking
    "workbench.cli": 9,
    "workbench.__main__": 10,
}
ROOMS = ("machine", "records", "loop", "online")
"""The rooms of the trainer, each of which imports itself and those before it."""
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(p): p for folder in ("workbench", "analysis") for p in sorted((ROOT / folder).rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def imports(name: str, tree: ast.AST) -> set[str]:
    """Own modules that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            module = node.module or ""
            found |= {f"{module}.{a.name}" if f"{module}.{a.name}" in FILES else module for a in node.names}
    return {module for module in found if module.split(".")[0] in ("workbench", "analysis")}


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of modules that all reach one another (Tarjan 1972)."""
    found: set[frozenset[str]] = set()
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        path.append(name)
        for target in graph[name] & graph.keys():
            if target not in number:
                visit(target)
                lowest[name] = min(lowest[name], lowest[target])
            elif target in path:
                lowest[name] = min(lowest[name], number[target])
        if lowest[name] == number[name]:
            members = path[path.index(name) :]
            del path[path.index(name) :]
            if len(members) > 1:
                found.add(frozenset(members))

    for name in graph:
        if name not in number:
            visit(name)
    return found


def floor_of(module: str) -> float | None:
    folder = ".".join(module.split(".")[:2])
    return FLOORS.get(folder)


def allowed(name: str, target: str) -> bool:
    own_folder, other_folder = name.split(".")[:2], target.split(".")[:2]
    if own_folder[0] == "analysis":
        return target.startswith("analysis") or other_folder[1] in ("tracking", "errors")
    if target.startswith("analysis"):
        return name == "workbench.cli"
    if target == "workbench" or own_folder == other_folder:
        return True
    own, other = floor_of(name), floor_of(target)
    return own is not None and other is not None and other < own


def test_every_module_stands_on_a_floor():
    assert [
        name for name in FILES if name.split(".")[0] != "analysis" and name != "workbench" and floor_of(name) is None
    ] == []


def test_a_module_imports_its_own_folder_and_lower_floors():
    wrong = {
        name: [target for target in sorted(imports(name, tree)) if not allowed(name, target)]
        for name, tree in TREES.items()
    }
    assert {name: targets for name, targets in wrong.items() if targets} == {}


def room_of(module: str) -> int:
    """The number of the trainer's room that a module stands in; -1 where it stands in none."""
    parts = module.split(".")
    return ROOMS.index(parts[2]) if parts[:2] == ["workbench", "trainer"] and parts[2] in ROOMS else -1


def test_a_room_of_the_trainer_imports_those_before_it():
    inside = {
        name: [t for t in imports(name, TREES[name]) if t.count(".") > 1] for name in TREES if name.count(".") > 2
    }
    wrong = {name: [t for t in found if room_of(t) > room_of(name) > -1] for name, found in inside.items()}
    assert {name: targets for name, targets in wrong.items() if targets} == {}


def test_sideways_and_upward_imports_are_seen():
    assert not allowed("workbench.rewards.sort", "workbench.trainer.loss")
    assert not allowed("workbench.objectives.kl", "workbench.tracking.values")
    assert not allowed("analysis.load", "workbench.config")
    assert not allowed("workbench.experiment.running.runner", "analysis.load")
    assert allowed("workbench.cli", "analysis.report.pages")
    assert allowed("workbench.trainer.loss", "workbench.models.load")


def test_no_modules_import_one_another_in_a_circle():
    """Wherever an import stands: at the start, in a function, or for the types alone."""
    graph = {name: imports(name, tree) - {name} for name, tree in TREES.items()}
    assert circles(graph) == set()


def test_a_circle_is_seen_however_long():
    ring = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert circles(ring) == {frozenset("abc")}
    assert circles(ring | {"e": {"d"}}) == {frozenset("abc"), frozenset("de")}
    assert circles(ring | {"e": {"b"}}) == {frozenset("abcde")}
    assert circles(ring | {"c": {"d"}}) == set()


def test_no_file_over_400_lines():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_over_60_lines():
    long = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}
