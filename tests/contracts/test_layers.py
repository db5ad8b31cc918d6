"""Law 1: modules import their own folder and lower floors; no cycles; files and functions stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = {
    "workbench.errors": 0,
    "workbench.decimals": 0,
    "workbench.files": 0.1,  # over errors
    "workbench.config": 0.2,  # over files
    "workbench.inputs": 0.5,  # over config and errors
    "workbench.own_code": 0,
    "workbench.permissions": 0,
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
    "workbench.cli": 9,
}
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


def imports_at_start(tree: ast.Module, name: str) -> set[str]:
    """What importing the module imports: neither inside functions nor under TYPE_CHECKING."""
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body.append(node)
    return imports(name, ast.Module(body, []))


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


@pytest.mark.parametrize("name", FILES)
def test_a_module_imports_its_own_folder_and_lower_floors(name):
    assert name in ("workbench", "analysis") or name.startswith("analysis") or floor_of(name) is not None, name
    assert [t for t in sorted(imports(name, TREES[name])) if not allowed(name, t)] == []


def test_sideways_and_upward_imports_are_seen():
    assert not allowed("workbench.rewards.sort", "workbench.trainer.loss")
    assert not allowed("workbench.objectives.kl", "workbench.tracking.values")
    assert not allowed("analysis.load", "workbench.config")
    assert not allowed("workbench.experiment.runner", "analysis.load")
    assert allowed("workbench.cli", "analysis.report")
    assert allowed("workbench.trainer.loss", "workbench.models.load")


def test_no_import_cycle():
    graph = {name: imports_at_start(tree, name) & FILES.keys() for name, tree in TREES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


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
