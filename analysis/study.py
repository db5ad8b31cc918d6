"""The shape of what is compared: variants in their order, the swept axis, and every run's final values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.finals import final_values
from analysis.held_out_sets import deciding_set, other_sets
from analysis.load import Loaded, load_folders
from analysis.measures import BY_COLUMN, Measure, join, measure_of, plain
from analysis.searched import is_unconfirmed, set_trials_apart
from workbench.errors import DefinitionError
from workbench.tracking import reader
from workbench.tracking.names import DECIDING, HELD_OUT_LOSS, of_samples
from workbench.tracking.words import plural

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Variant:
    """One arm at one point of the grid, over its seeds."""

    name: str
    label: str
    group: str
    """The line of a plot it belongs to: everything but the numeric axis."""
    position: float | None
    """Its place on the numeric axis; None where there is none."""
    arm: str = ""
    point: tuple[tuple[str, Any], ...] = ()
    """Every swept setting with its value here."""


@dataclass(frozen=True)
class Study:
    """One experiment, or several side by side, ready to be described."""

    title: str
    question: str
    root: Path
    plans: list[dict[str, Any]]
    variants: list[Variant]
    axis: str | None
    loaded: Loaded
    finals: pd.DataFrame
    """One row a run that wrote metrics: the held-out values of the model it left, start/<column> at its first row,
    means of training metrics over the last tenth of the steps, costs of its own (last less first row), sums of the
    seconds of each phase."""
    deciding: Measure | None
    start: Loaded | None = None
    notes: list[str] = field(default_factory=list)
    common: list[str] = field(default_factory=list)
    """The swept settings that all variants share, and that no label repeats."""

    def values(self, variant: Variant | str, column: str, *, finished: bool = True) -> list[float]:
        """The values of a column in the variant's runs, by seed. Values that are not finite are left out
        (claims.without_value says so), and only finished runs enter a statistic."""
        name = variant if isinstance(variant, str) else variant.name
        if column not in self.finals:
            return []
        key = (name, column, finished)
        if key not in self.memo:
            rows = self.finals[(self.finals["variant"] == name) & (self.finals["finished"] | (not finished))]
            self.memo[key] = [float(value) for value in rows.sort_values("seed")[column] if math.isfinite(value)]
        return list(self.memo[key])

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What was worked out of this study and is asked for again and again, by who asks; a study never changes."""
        return {}

    @property
    def is_unconfirmed(self) -> bool:
        """Whether trials of a search are among the settings: the best of many looks better than it is, so none of them
        is tested, marked as best, or claimed from."""
        return any(is_unconfirmed(plan) for plan in self.plans)

    def measured(self, measure: Measure) -> Measure:
        """The measure with what these runs' values of it cannot be below: a held-out loss of rows is a negative
        log-likelihood; that of other trainers can be less than 0."""
        likelihood = measure.column == HELD_OUT_LOSS and learn_from_rows(self.loaded)
        return replace(measure, least=0.0) if likelihood else measure

    @cached_property
    def own_measures(self) -> dict[str, Measure]:
        """Metrics that the methods of these runs have told of, beside those that many methods have, by column."""
        told = (record["provenance"].get("method") or {} for record in self.loaded.records.values())
        own = (each for method in told for each in method.get("measures") or [])
        better = {"higher": True, "lower": False}
        return {
            each["metric"]: Measure(each["metric"], each["label"], each["unit"], "nats", better.get(each["better"]))
            for each in own
        }

    def measure_of(self, column: str) -> Measure:
        """What a column of these runs means."""
        return self.own_measures.get(column) or measure_of(column)

    @property
    def of_samples(self) -> list[Measure]:
        """The measures of several samples a prompt that some run has: pass@k in the order of k, then majority@k."""
        kinds = {str(column): of_samples(str(column)) for column in self.finals}
        found = [(kind != "pass", k, column) for column, (kind, k) in ((c, own) for c, own in kinds.items() if own)]
        return [measure_of(column) for _, _, column in sorted(found) if self.has(column)]

    def has(self, column: str) -> bool:
        """Whether some run has that column at all."""
        return column in self.finals and bool(self.finals[column].notna().any())

    def start_value(self, column: str) -> float:
        """Mean over the runs of the value before training; NaN where there is none, or no one start for all."""
        name = f"start/{column}"
        return float(self.finals[name].mean()) if self.has(name) and len(starts_of(self)) == 1 else math.nan

    def compared(self, column: str) -> list[Variant]:
        """Variants with at least one finished run that has the column."""
        return [variant for variant in self.variants if self.values(variant, column)]

    @property
    def seeds(self) -> int:
        """The most seeds that a variant was planned with."""
        return max(self._seeds)

    @property
    def seeds_text(self) -> str:
        """How many seeds a variant was planned with: 3, or 1 to 3 where they differ."""
        least, most = min(self._seeds), max(self._seeds)
        return str(most) if least == most else f"{least} to {most}"

    @property
    def _seeds(self) -> list[int]:
        return [len(self.loaded.runs[self.loaded.runs["variant"] == v.name]) for v in self.variants]

    @property
    def other_sets(self) -> list[str]:
        """The names of the held-out sets that stand beside the one that decides."""
        return other_sets(self.loaded.records.values())

    @property
    def deciding_set(self) -> str:
        """The name of the held-out set that decides; empty where none has a name, or not all runs have one."""
        names = {deciding_set(record) for record in self.loaded.records.values() if record["definition"]}
        return str(names.pop()) if len(names) == 1 and None not in names else ""

    def on_set(self, name: str) -> Study:
        """The study as if this held-out set alone had been measured, and decided."""
        if ("set", name) not in self.memo:
            loaded = self.loaded.on_set(name)
            finals = final_values(loaded)
            self.memo["set", name] = replace(self, loaded=loaded, finals=finals, deciding=_deciding(loaded, finals))
        found: Study = self.memo["set", name]
        return found

    def groups(self) -> Iterator[tuple[str, list[Variant]]]:
        """The lines of a plot over the axis."""
        for group in dict.fromkeys(variant.group for variant in self.variants):
            yield group, [variant for variant in self.variants if variant.group == group]


def open_study(folder: Path) -> Study:
    """The study of one experiment's folder. Raises DefinitionError where nothing was planned or run."""
    plan = _plan_of(folder)
    return _of_plans([plan], load_folders(folder.parent, plan["runs"]))


def open_studies(folders: Sequence[Path]) -> Study:
    """Several experiments as one study without an axis; each variant is led by its experiment's name."""
    folders = list(dict.fromkeys(folders))
    root = folders[0].parent
    if any(folder.parent != root for folder in folders):
        raise DefinitionError("the experiments to compare must lie in one folder of runs")
    plans = [_plan_of(folder) for folder in folders]
    return _of_plans(plans, load_folders(root, [run for plan in plans for run in plan["runs"]]))


def trials_of(study: Study, plan: dict[str, Any]) -> Study:
    """The study of a search's trials, of a plan of this study."""
    alone = {**plan, "runs": plan["trials"], "notes": [], "starts": []}
    return _of_plans([alone], load_folders(study.root, plan["trials"]))


def study_of(loaded: Loaded) -> Study:
    """The study of runs that were loaded, of one experiment or several. Raises DefinitionError where there are none.

    What a plan says of them is used where there is one; runs that it names and loaded does not hold are left out.
    """
    names = list(dict.fromkeys(folder.split("/")[0] for folder in loaded.records))
    if not names and loaded.found:
        none = f"the filter (where) left none of its {plural(loaded.found, 'run')}"
        raise DefinitionError(f"{loaded.root}: no runs to compare: {none}; load_runs(folder).runs lists them")
    if not names:
        raise DefinitionError(f"{loaded.root}: no runs to compare; `make exp NAME=...` makes them")
    plans = []
    for name in names:
        plan = _plan_of(loaded.root / name)
        known = {str(run["folder"]).strip("/"): run for run in plan["runs"]}
        trials = {str(run["folder"]).strip("/") for run in plan.get("trials", ())} - known.keys()
        own = [folder for folder in loaded.records if folder.split("/")[0] == name and folder not in trials]
        plans.append(plan | {"runs": [known.get(folder) or _as_planned(folder) for folder in own]})
    order = [run["folder"] for plan in plans for run in plan["runs"]]
    return _of_plans(plans, loaded.of_runs(order, ordered=True))


def _of_plans(plans: list[dict[str, Any]], loaded: Loaded) -> Study:
    """loaded: the plans' runs in their order."""
    names = [str(plan["experiment"]) for plan in plans]
    question = f"How do {join(names)} compare?"
    plans, loaded, apart = _starts_set_apart(plans, loaded)
    if apart:
        rest = join([str(plan["experiment"]) for plan in plans])
        begun = join([f"{short(name)} (the start of {join(labels)})" for name, labels in apart.items()])
        question = f"What came of {rest}, begun from {join([short(name) for name in apart])}?"
        note = f"{begun}: what was measured before training is the baseline, and it is not a rival of those."
        plans = [{**plans[0], "notes": [note, *(plans[0].get("notes") or [])]}, *plans[1:]]
    if len(names) == 1:
        variants, axis, common = _variants(plans[0], loaded)
        study = _study(plans[0]["experiment"], plans[0].get("question") or "", plans, variants, axis, loaded)
        return replace(study, common=common)
    variants = []
    for plan in plans:
        own = list(dict.fromkeys(run["variant"] for run in plan["runs"]))
        for name in own:
            label = plan["experiment"] if own == ["main"] else f"{plan['experiment']}: {_spaced(name)}"
            variants.append(Variant(f"{plan['experiment']}/{name}", label, label, None))
    # This comes before any table is read: each row leads with its run's keys as they stand here.
    experiments = loaded.runs["run"].str.split("/").str[0]
    loaded.runs["variant"] = experiments + "/" + loaded.runs["variant"]
    return _study(" + ".join(names), question, plans, variants, None, loaded)


def _spaced(variant: str) -> str:
    """A variant's name as a label: "a=1,b=2" as "a = 1, b = 2"."""
    return variant.replace(",", ", ").replace("=", " = ")


def _starts_set_apart(
    plans: list[dict[str, Any]], loaded: Loaded
) -> tuple[list[dict[str, Any]], Loaded, dict[str, list[str]]]:
    """The plans and runs without those settings that the others only began from, and whose starts these are.

    A setting that has a rival, another one with the same start as its own, stays to be compared with that.
    """
    own: dict[str, str] = {}
    begun: dict[str, list[str]] = {}
    states = dict(zip(loaded.runs["run"], loaded.runs["state"], strict=True))
    for run, record in loaded.records.items():
        setting, start = run.rsplit("/", 1)[0], name_of_start(record["definition"])
        model = json.dumps(record["definition"].get("model"), sort_keys=True)
        own.setdefault(setting, start or model)
        if states[run] == "finished" and start and short(setting) not in begun.setdefault(start, []):
            begun[start].append(short(setting))
    rivals = list(own.values())
    apart = {name: labels for name, labels in begun.items() if name in own and rivals.count(own[name]) == 1}
    if len(plans) < 2 or not apart:
        return plans, loaded, {}
    kept = [{**plan, "runs": [run for run in plan["runs"] if _setting_of(run) not in apart]} for plan in plans]
    order = [str(run["folder"]).strip("/") for plan in kept for run in plan["runs"]]
    return [plan for plan in kept if plan["runs"]], loaded.of_runs(order, ordered=True), apart


def _setting_of(run: Mapping[str, Any]) -> str:
    """experiment/variant of a planned run."""
    return str(run["folder"]).strip("/").rsplit("/", 1)[0]


def _plan_of(folder: Path) -> dict[str, Any]:
    """plan.json, or what can be told of a plan from the run folders alone."""
    plan = reader.read_sealed(folder / "plan.json")
    if plan and plan.get("runs"):
        return set_trials_apart(plan)
    found = [run for run in reader.find_runs(folder.parent) if run.parent.parent == folder] if folder.is_dir() else []
    if not found:
        raise DefinitionError(f"{folder}: no plan.json and no runs; `make exp NAME={folder.name}` makes them")
    runs = [_as_planned(str(run.relative_to(folder.parent))) for run in found]
    what = "damaged" if (folder / "plan.json").exists() else "missing"
    note = f"plan.json is {what}: only runs whose folders exist are shown."
    return {"experiment": folder.name, "question": "", "axes": [], "arms": [], "runs": runs, "notes": [note]}


def _as_planned(folder: str) -> dict[str, Any]:
    """A run of which only the folder is known."""
    return {"variant": folder.split("/")[-2], "folder": folder, "seed": None, "arm": None}


def _variants(plan: dict[str, Any], loaded: Loaded) -> tuple[list[Variant], str | None, list[str]]:
    """The plan's variants in order, the one axis that is numeric (None with none or several), and what all share."""
    numeric = [
        axis["name"]
        for axis in plan.get("axes") or []
        if len(axis["values"]) > 1 and all(_is_number(value) for value in axis["values"])
    ]
    axis = numeric[0] if len(numeric) == 1 else None
    points: dict[str, tuple[str, dict[str, Any]]] = {}
    for run, row in zip(plan["runs"], loaded.runs.to_dict("records"), strict=True):
        swept = run.get("point") or reader.swept_values(loaded.records[row["run"]]["definition"])
        # A list or a mapping is known by its text.
        point = {key: plain(value) if isinstance(value, list | dict) else value for key, value in swept.items()}
        points.setdefault(row["variant"], (str(run.get("arm") or ""), point))
    said = {name: {f"{key} = {plain(value)}" for key, value in point.items()} for name, (_, point) in points.items()}
    shared = set.intersection(*said.values()) if len(said) > 1 else set()
    variants = []
    for name, (arm, point) in points.items():
        parts = {key: f"{key} = {plain(value)}" for key, value in point.items()}
        parts = {key: text for key, text in parts.items() if text not in shared}
        others = [text for key, text in parts.items() if key != axis]
        arms = [arm] if arm else []
        position = float(point[axis]) if axis in point else None
        label, group = ", ".join([*arms, *parts.values()]), ", ".join([*arms, *others])
        variants.append(Variant(name, label or name, group, position, arm, tuple(point.items())))
    if axis:
        groups = list(dict.fromkeys(variant.group for variant in variants))
        variants.sort(key=lambda v: (groups.index(v.group), v.position if v.position is not None else math.inf))
    return variants, axis, sorted(shared)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _study(
    title: str,
    question: str,
    plans: list[dict[str, Any]],
    variants: list[Variant],
    axis: str | None,
    loaded: Loaded,
) -> Study:
    loaded = loaded.on_set()
    finals = final_values(loaded)
    own = {run["folder"] for plan in plans for run in plan["runs"]}
    starts = [start for plan in plans for start in plan.get("starts") or [] if start["folder"] not in own]
    starts = list({start["folder"]: start for start in starts}.values())
    notes = [note for plan in plans for note in plan.get("notes") or []]
    start = load_folders(loaded.root, starts) if starts else None
    deciding = _deciding(loaded, finals)
    return Study(title, question, loaded.root, plans, variants, axis, loaded, finals, deciding, start, notes)


def _deciding(loaded: Loaded, finals: pd.DataFrame) -> Measure | None:
    """The measure that decides, of those that the runs have. A preference loss depends on beta and on the kind of loss,
    so it ranks nothing; that of rows does."""
    columns = [column for column in DECIDING if column != HELD_OUT_LOSS or learn_from_rows(loaded)]
    return next((BY_COLUMN[c] for c in columns if c in finals and finals[c].notna().any()), None)


def learn_from_rows(loaded: Loaded) -> bool:
    """Whether every run learns from rows: a held-out row's loss is its negative log-likelihood."""
    definitions = [record["definition"] for record in loaded.records.values()]
    return all("batch_rows" in (each.get("hyperparameters") or {}) for each in definitions if each)


def starts_of(study: Study) -> set[str]:
    """The starts that the runs were made from, without their seeds: more than one means KL has no common reference."""
    found = set()
    for record in study.loaded.records.values():
        if not record["definition"]:
            continue
        start = record["definition"].get("start_from")
        model = json.dumps(record["definition"].get("model"), sort_keys=True)
        found.add(name_of_start(record["definition"]) or str(start or model))
    return found


def name_of_start(definition: Mapping[str, Any]) -> str:
    """experiment/variant of the run that a definition begins from; empty for none."""
    start = definition.get("start_from")
    return f"{start.get('experiment')}/{start.get('variant')}" if isinstance(start, dict) else ""


def begun_from(study: Study) -> dict[str, list[Variant]]:
    """The settings that begin from another run, by that run's experiment/variant."""
    found: dict[str, list[Variant]] = {}
    runs = study.loaded.runs
    for variant in study.variants:
        for run in runs.loc[runs["variant"] == variant.name, "run"]:
            name = name_of_start(study.loaded.records[run]["definition"])
            if name and variant not in found.setdefault(name, []):
                found[name].append(variant)
    return found


def short(name: str) -> str:
    """experiment/variant as a label: the experiment alone where it has no variants."""
    return name.removesuffix("/main")
