"""Makes runs of a definition file: everything is checked, every problem is told at once, nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import DefinitionError
from workbench.experiment.definition.files import check_shape, load_tree
from workbench.experiment.definition.grid import (
    Point,
    apply_overrides,
    arm_classes,
    arm_trees,
    points,
    read_axes,
    refuse_lost,
)
from workbench.experiment.definition.held_out_sets import origins_of_sets
from workbench.experiment.definition.merge import merge_sections, nest
from workbench.experiment.definition.overrides import Override, experiment_folder, parse_overrides
from workbench.experiment.definition.schema import Chosen, Experiment, RunSpec, Search, whole_length
from workbench.experiment.definition.search import DeclaredSearch, read_search
from workbench.experiment.definition.sections import Sections, check_sections
from workbench.experiment.definition.source import Node
from workbench.experiment.definition.starts import Resolver, resolve_judges, resolve_sources
from workbench.experiment.definition.validate import Problems, suggest
from workbench.experiment.search.design import drawn

MAX_CHAIN = 40
# Overrides of these are laid over the whole definition, all others over each arm.
ROOT_KEYS = ("sweep", "arms", "track", "question")


def load_experiment(
    name: str, overrides: Sequence[str] = (), folder: Path = Path("experiments"), chosen: Chosen | None = None
) -> Experiment:
    """The experiment of that name with its runs and every run that they begin from.

    overrides: key=value as for --set; they change the named experiment only, never those it starts from. chosen: what
    its search has chosen so far; without it, the settings that are drawn before there is any result.
    Raises DefinitionError with every problem found, one line each.
    """
    problems = Problems()
    parsed = parse_overrides(overrides, problems)
    loader = _Loader(folder, problems, chosen)
    experiment = loader.load(Node(name, "command line", "NAME"), parsed)
    if problems.lines or experiment is None:
        raise DefinitionError(problems.sorted())
    return replace(experiment, overrides=tuple(overrides), ancestors=loader.ancestors_of(experiment))


class _Loader:
    """Loads definitions by name, each once, and knows which are being loaded."""

    def __init__(self, folder: Path, problems: Problems, chosen: Chosen | None = None) -> None:
        """chosen: by the search of the experiment that is loaded first."""
        self.folder, self.problems, self.chosen = folder, problems, chosen
        self.loaded: dict[str, Experiment | None] = {}
        self.stack: list[str] = []

    def load(self, asked: Node, overrides: Sequence[Override] = ()) -> Experiment | None:
        """The experiment named in asked; None after its problems were added."""
        name = asked.value
        if name in self.stack:
            circle = " -> ".join([*self.stack[self.stack.index(name) :], name])
            self.problems.add(asked, f"found a circle ({circle}), allowed a chain that ends in a model")
            return None
        if len(self.stack) >= MAX_CHAIN:
            self.problems.add(asked, f"found a chain of more than {MAX_CHAIN} starts, allowed a shorter one")
            return None
        if name not in self.loaded:
            self.stack.append(name)
            experiment = self._resolve(asked, overrides)
            self.stack.pop()
            self.loaded[name] = experiment
        return self.loaded[name]

    def ancestors_of(self, experiment: Experiment) -> dict[str, RunSpec]:
        """Every run that must exist before this experiment's, by key, each after those it needs itself."""
        runs = {run.key: run for other in self.loaded.values() if other is not None for run in other.runs}
        ordered: dict[str, RunSpec] = {}

        def visit(run: RunSpec) -> None:
            for key in run.needs:
                if key not in ordered:
                    visit(runs[key])
                    ordered[key] = runs[key]

        for run in experiment.runs:
            visit(run)
        return ordered

    def _resolve(self, asked: Node, overrides: Sequence[Override]) -> Experiment | None:
        before = len(self.problems.lines)
        loaded = load_tree(asked, self.folder, self.problems)
        if loaded is None:
            return None
        root, text = loaded
        root = self._lay_over_root(root, overrides)
        sound = len(self.problems.lines) == before
        folder_name = experiment_folder(str(asked.value), overrides)
        return self._runs(root, text, str(asked.value), folder_name, list(overrides), sound)

    def _lay_over_root(self, root: Node, overrides: Sequence[Override]) -> Node:
        """The definition with the overrides of arms, sweep, track and question laid over it."""
        laid = [item for item in overrides if item.key.split(".")[0] in ROOT_KEYS]
        for override in laid:
            first, *rest = override.key.split(".")
            arms = root.get("arms")
            names = list(arms.value) if arms is not None else []
            if first == "arms" and (not rest or rest[0] not in names):
                near = suggest(rest[0], names) if rest else ""
                self.problems.add(override.value, f"found an unknown arm, allowed {', '.join(names) or 'none'}{near}")
            else:
                root = replace(merge_sections(root, nest((first, *rest), override.value)), where=root.where, field="")
        return check_shape(root, self.problems) if laid else root

    def _runs(
        self, root: Node, text: str, name: str, folder_name: str, overrides: list[Override], sound: bool
    ) -> Experiment | None:
        before = len(self.problems.lines)
        sweep = root.get("sweep")
        seeds = _seeds(sweep, self.problems)
        arms = arm_trees(root)
        classes = arm_classes(arms, overrides)
        axes = read_axes(sweep, classes, overrides, self.problems)
        declared = read_search(sweep, classes, overrides, len(seeds), self.problems)
        swept = {axis.name for axis in axes} | set(_grid_names(sweep))
        rest = [item for item in overrides if item.key not in swept and item.key.split(".")[0] not in ROOT_KEYS]
        refuse_lost(rest, axes, self.problems)
        arms = apply_overrides(arms, classes, rest, self.problems)
        search = self._search(declared, arms, seeds, sound) if declared is not None else None
        if search is not None and declared is not None:
            trials = search.chosen.trials.items()
            found: Iterable[Point] = (
                declared.point(arm, arms[arm], setting) for arm, settings in trials for setting in settings
            )
        else:
            found = points(arms, axes, len(seeds), self.problems, sweep)
        variants: list[tuple[Point, Sections]] = []
        for point in found:
            sections = check_sections(point.tree, self.problems, sound=sound)
            if sections is not None:
                variants.append((point, sections))
        runs = []
        for point, sections in variants:
            fresh = search.fresh_seeds if search is not None and point.name in search.chosen.confirmed else ()
            runs += self._seeded(root, folder_name, point, sections, [*seeds, *fresh])
        if search is not None and not search.chosen.confirmed:  # before hours of trials, not after them
            for point, sections in {point.arm: (point, sections) for point, sections in variants}.values():
                self._seeded(root, folder_name, point, sections, search.fresh_seeds)
        if search is not None:
            search = self._judged(search, sweep, runs)
        if len(self.problems.lines) > before or not sound:
            return None
        return Experiment(
            name=folder_name,
            definition=name,
            question=root.value["question"].value,
            file=root.where.rpartition(":")[0],
            axes=_searched(search) or {axis.name: tuple(node.plain() for node in axis.values) for axis in axes},
            arms=tuple(arm for arm in arms if arm is not None),
            seeds=tuple(seeds),
            runs=tuple(replace(run, hyperparameters=run.hyperparameters.revised(seed=run.seed)) for run in runs),
            ancestors={},
            overrides=(),
            text=text,
            search=search,
            folder=self.folder,
        )

    def _search(
        self, declared: DeclaredSearch, arms: Mapping[str | None, Node], seeds: list[int], sound: bool
    ) -> Search | None:
        """The search as far as it has come; None where the ends of its ranges are refused."""
        before = len(self.problems.lines)
        for point in declared.corners(arms):
            check_sections(point.tree, self.problems, sound=sound)
        if len(self.problems.lines) > before:
            return None
        settings, spaces = declared.settings, {arm: declared.space(arm) for arm in arms}
        chosen = self.chosen if len(self.stack) == 1 else None
        if chosen is None:
            chosen = Chosen({arm: drawn(space, settings) for arm, space in spaces.items()})
        first = max(seeds) + 1
        fresh = tuple(range(first, first + settings.confirm.seeds)) if settings.confirm is not None else ()
        return Search(settings, spaces, tuple(seeds), fresh, chosen, dict.fromkeys(spaces, (None,)))

    def _judged(self, search: Search, sweep: Node | None, runs: list[RunSpec]) -> Search:
        """The search with the rungs of each arm; a problem where nothing is measured, or a rung cannot be told."""
        node = sweep.get("search") if sweep is not None else None
        if node is None:
            return search
        halving, rungs = search.settings.halving, dict(search.rungs)
        for arm in dict.fromkeys(run.arm for run in runs):
            own, of = [run for run in runs if run.arm == arm], f" of arm {arm}" if arm else ""
            at = node.get("halving") or node
            if own[0].evaluate is None:
                self.problems.add(node, f"found without evaluate{of}, allowed with a held-out measure, which decides")
            elif halving is not None:
                wholes = {whole_length(run, halving.by) for run in own}
                whole = wholes.pop()
                needed = "steps" if halving.by == "steps" else f"budget: {{{halving.by}: ...}}"
                if whole is None or wholes:
                    self.problems.add(at, f"found runs{of} without one length, allowed the same {needed} in all")
                elif not own[0].evaluate.every:
                    self.problems.add(at, f"found without evaluate.every{of}, allowed with it: a rung is an evaluation")
                elif not halving.first < whole:
                    allowed = f"numbers < {whole:g}, the length of a run{of}"
                    self.problems.add(at.get("first") or at, f"found {halving.first:g}, allowed {allowed}")
                else:
                    rungs[arm] = halving.rungs(whole)
        return replace(search, rungs=rungs)

    def _seeded(
        self, root: Node, folder_name: str, point: Point, sections: Sections, seeds: Sequence[int]
    ) -> list[RunSpec]:
        question, track = root.get("question"), root.get("track")
        resolver = Resolver(self.load, self.problems)
        rest = {name: node for name, node in root.value.items() if name in ("sweep", "track")}
        origins = _origins(replace(root, value={**rest, **point.tree.value}))
        runs = []
        for seed in seeds:
            start = resolver.start(sections.start, seed) if sections.start is not None else None
            sources = resolve_sources(point.tree, seed, resolver)
            judges = resolve_judges(point.tree, seed, resolver)
            teacher = resolver.start(sections.teacher, seed) if isinstance(sections.teacher, Node) else sections.teacher
            runs.append(
                RunSpec(
                    experiment=folder_name,
                    question=question.value if question is not None else "",
                    arm=point.arm,
                    variant=point.name,
                    seed=seed,
                    point=point.values,
                    trainer=sections.trainer,
                    start=start,
                    model=sections.model,
                    lora=sections.lora,
                    data=sections.data,
                    hyperparameters=sections.hyperparameters,
                    evaluate=sections.held_out[0] if sections.held_out else None,
                    other_sets=sections.held_out[1:],
                    threads=sections.threads,
                    track=tuple(track.plain()) if track is not None else ("tensorboard",),
                    sources=sources,
                    judges=judges,
                    teacher=teacher,
                    origins=origins,
                )
            )
        return runs


def _seeds(sweep: Node | None, problems: Problems) -> list[int]:
    """The seeds of every variant; [0] where the file's are broken, which was reported."""
    node = sweep.get("seeds") if sweep is not None else None
    value: Any = node.plain() if node is not None else 1
    if node is not None and isinstance(value, list):
        if len(set(map(str, value))) < len(value):
            problems.add(node, "found a seed twice, allowed each once")
        return [seed for seed in value if isinstance(seed, int)]
    if node is not None and isinstance(value, int) and value > 1_000:
        problems.add(node, f"found {value}, allowed numbers <= 1000")
        return [0]
    return list(range(value)) if isinstance(value, int) else [0]


def _searched(search: Search | None) -> dict[str, tuple[Any, ...]]:
    """What is searched, in words by name: shown where a grid's values are."""
    spaces = search.spaces.values() if search is not None else ()
    texts: dict[str, dict[str, None]] = {}
    for space in spaces:
        for name, dimension in space.items():
            texts.setdefault(name, {})[dimension.text] = None
    return {name: (" or ".join(found),) for name, found in texts.items()}


def _grid_names(sweep: Node | None) -> Mapping[str, Node]:
    grid = sweep.get("grid") if sweep is not None else None
    if grid is None or not isinstance(grid.value, dict):
        return {}
    return {name.removeprefix("hyperparameters."): node for name, node in grid.value.items()}


def _origins(tree: Node, path: str = "") -> dict[str, str]:
    """Place by dotted path of everything that the tree says."""
    found: dict[str, str] = {}
    if isinstance(tree.value, dict):
        for key, item in tree.value.items():
            below = f"{path}.{key}" if path else key
            found[below] = item.where
            found |= _origins(item, below)
            if below == "evaluate" and isinstance(item.value, list):
                found |= origins_of_sets(item)
    return found
