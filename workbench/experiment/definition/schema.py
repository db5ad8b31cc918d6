"""What a definition file may say (Definition), and what it becomes (RunSpec, Experiment)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo

from workbench.config import PositiveInt, Seed, Settings
from workbench.data.forms import DataForm
from workbench.data.settings import CollectData, DataSettings, MixData
from workbench.evaluation.settings import EvaluateSettings
from workbench.experiment.search.design import Setting, Space
from workbench.experiment.search.settings import Pause, SearchSettings
from workbench.models.settings import LoraSettings, ModelSettings
from workbench.rewards.settings import RewardSettings
from workbench.trainer.online.settings import RolloutSettings
from workbench.trainer.registry import get_settings_class
from workbench.trainer.settings import Budget, RunSettings, TrainerSettings

START = "start"
Tracker = Literal["tensorboard", "wandb"]
NAMES_ONLY = ("experiment", "question", "arm", "variant", "seed", "axes", "sources", "judges", "track")
"""Entries of a run's record that no number depends on, or that are written elsewhere in it."""
WRITTEN_AS = {"evaluate_every": "evaluate.every", "seed": "sweep.seeds", "budget": "budget"}
"""Facts of a run that a definition, and a run's record, have elsewhere than under `hyperparameters`."""


class StartFrom(Settings):
    """The run that a run begins from."""

    experiment: str
    """Name of the experiment, which is that of its file."""
    variant: str | None = None
    """Name of its variant, such as beta=0.1; may be absent where there is only one."""
    seed: Seed | Literal["match"] | None = None
    """Its seed, or match for the same seed as the run that starts; may be absent where there is only one."""


class Sweep(Settings):
    """What is repeated, and with which values."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    """Axes: values by hyperparameter, or by dotted path such as data.collect.pairs. Axes and arms multiply."""
    search: SearchSettings | None = None
    """Instead of a grid: settings that are chosen one after another from a space."""
    seeds: PositiveInt | Annotated[list[Seed], Field(min_length=1)] = 1
    """How many seeds (0, 1, ...), or a list of them."""


class Arm(Settings):
    """Settings of one alternative. Naming another trainer replaces hyperparameters and data, else they are merged."""

    trainer: str | None = None
    """Name of a trainer: pretrain, sft, dpo, ..."""
    start_from: str | dict[str, Any] | None = None
    """The run to begin from, instead of `model`: the name of its experiment, or {experiment, variant, seed}."""
    model: dict[str, Any] | None = None
    """The model to begin from, instead of `start_from`."""
    teacher: str | dict[str, Any] | None = None
    """The model that distillation learns from: an experiment as in `start_from`, or a model as in `model`."""
    lora: dict[str, Any] | None = None
    """Train low-rank adapters and leave the weights frozen."""
    data: dict[str, Any] | None = None
    """Training data: a built-in task, a file, or pairs collected from a model's samples."""
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    """The trainer's settings."""
    evaluate: dict[str, Any] | list[dict[str, Any]] | None = None
    """Held-out evaluation: what, and every how many steps; of a list of several named sets one decides."""
    budget: dict[str, Any] | None = None
    """Ends every run at so many flops, tokens or seconds; collecting, reference and rollouts count."""
    threads: Annotated[int, Field(ge=1, le=1024)] = 1
    """CPU threads of a run; results depend on it."""


class Definition(Arm):
    """One experiment, named after what it asks."""

    question: Annotated[str, Field(min_length=1)]
    """What the experiment asks, in one sentence; the report answers it."""
    extends: str | None = None
    """Name of another definition whose settings this one starts from."""
    arms: dict[str, Arm] = Field(default_factory=dict)
    """Named alternatives; each is merged over the settings of the file."""
    sweep: Sweep = Sweep()
    """Grid or search, and seeds."""
    track: list[Tracker] = Field(default=["tensorboard"])
    """Where metrics are replayed to, besides metrics.jsonl."""


SECTION_CLASSES: dict[str, Any] = {
    "model": ModelSettings,
    "lora": LoraSettings,
    "data": DataSettings,
    "evaluate": EvaluateSettings,
}


def _of_trainer(value: Any, read: ValidationInfo) -> Any:
    """The hyperparameters of a spec that is read from a record, in the class of the trainer that stands before them."""
    return get_settings_class(read.data["trainer"]).model_validate(value) if isinstance(value, dict) else value


@dataclass(frozen=True)
class RunSpec:
    """One run, fully resolved. running/planned_run.py writes and reads it by its types."""

    experiment: str
    """Name of the experiment, overrides included."""
    question: str
    arm: str | None
    variant: str
    seed: int
    point: Mapping[str, Any]
    """Value by axis of the grid."""
    trainer: str
    start: str | None
    """Key of the run to begin from; None where `model` is given."""
    model: ModelSettings | None
    lora: LoraSettings | None
    data: DataSettings
    hyperparameters: Annotated[SerializeAsAny[TrainerSettings], BeforeValidator(_of_trainer)]
    """The hyperparameters, with the run's seed and budget, and evaluate.every as evaluate_every."""
    evaluate: EvaluateSettings | None
    """The held-out set that decides."""
    threads: int
    track: tuple[str, ...]
    other_sets: tuple[EvaluateSettings, ...] = ()
    """The held-out sets that are shown beside it; each has a name."""
    sources: tuple[str, ...] = ()
    """The runs that lists at data.collect.from name, by key; "start" is the run's own start."""
    judges: tuple[str, ...] = ()
    """The runs whose reward models judge completions, by key, in the order of the rewards that name them."""
    teacher: str | ModelSettings | None = None
    """The model that is learned from, where the trainer learns from one: a run's, by its key, or one by its place."""
    pause: Pause | None = field(default=None, compare=False)
    """Where its search pauses it to judge it; None: nowhere, or no more."""
    difficulty: str | None = None
    """The column with the rows' difficulty, of a source of a mix whose curriculum names one."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """The places where values were written, by dotted path; a value without a place is a default."""

    @property
    def key(self) -> str:
        """experiment/variant/seedK, the name of the run everywhere."""
        return f"{self.experiment}/{self.variant}/seed{self.seed}"

    @property
    def folder(self) -> str:
        """The run's folder, relative to the runs folder."""
        return self.key

    @property
    def form(self) -> DataForm:
        """What a row of its training data is."""
        return self.hyperparameters.data_form

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the runs that must be finished before this one begins."""
        teacher = self.teacher if isinstance(self.teacher, str) else None
        named = (self.start, *self.sources, *self.judges, teacher)
        return tuple(key for key in named if key is not None and key != START)

    @property
    def parts(self) -> tuple[RunSpec, ...]:
        """The run as each source of its mix alone would make it, with the rewards of that source; of other data, the
        run itself."""
        if not isinstance(self.data, MixData):
            return (self,)
        found, named, scorers = [], iter(self.sources), iter(self.judges)
        column = self.data.curriculum.column if self.data.curriculum is not None else None
        common = tuple(itertools.islice(scorers, _num_judges(rewards_of(self.hyperparameters))))
        for source in self.data.mix:
            settings, judges, data = self.hyperparameters, common, source.data
            if source.rewards:
                settings = settings.revised(rewards=source.rewards)
                judges = tuple(itertools.islice(scorers, _num_judges(source.rewards)))
            samplers = data.collect.from_ if isinstance(data, CollectData) else START
            sources = () if samplers == START else tuple(itertools.islice(named, len(samplers)))
            part = replace(self, data=data, hyperparameters=settings, sources=sources, judges=judges)
            found.append(replace(part, difficulty=column))
        return tuple(found)

    @property
    def budget(self) -> Budget | None:
        """What ends the run early."""
        return self.hyperparameters.budget

    @property
    def by_set(self) -> tuple[RunSpec, ...]:
        """The run as it is measured on each of its held-out sets alone, the deciding one first; itself where there is
        but one, or none. Pairs that are collected with the training's own are of the deciding set."""
        if not self.other_sets:
            return (self,)
        data: Any = self.data
        if isinstance(data, CollectData):
            data = data.model_copy(update={"collect": data.collect.model_copy(update={"held_out_pairs": 0})})
        others = (replace(self, evaluate=each, other_sets=(), data=data) for each in self.other_sets)
        return (replace(self, other_sets=()), *others)

    @property
    def set_name(self) -> str | None:
        """The name of the deciding set, or of the one that `by_set` leaves; None where it has none."""
        return self.evaluate.name if self.evaluate is not None else None

    def to_definition(self) -> dict[str, Any]:
        """Plain data for definition.yaml."""
        said = dump(self.hyperparameters)
        teacher = split_key(self.teacher) if isinstance(self.teacher, str) else dump(self.teacher)
        others = {"other_sets": {str(each.name): dump(each) for each in self.other_sets}} if self.other_sets else {}
        return {
            "experiment": self.experiment,
            "question": self.question,
            "arm": self.arm,
            "variant": self.variant,
            "seed": self.seed,
            "axes": list(self.point),
            "trainer": self.trainer,
            "start_from": split_key(self.start) if self.start else None,
            "model": dump(self.model),
            "lora": dump(self.lora),
            **({"teacher": teacher} if teacher is not None else {}),
            "data": dump(self.data),
            "sources": list(self.sources),
            "judges": list(self.judges),
            "hyperparameters": {name: said[name] for name in hyperparameter_names(type(self.hyperparameters))},
            "evaluate": dump(self.evaluate),
            **others,
            "budget": said["budget"],
            "threads": self.threads,
            "track": list(self.track),
        }


@dataclass(frozen=True)
class Chosen:
    """What a search has chosen so far."""

    trials: Mapping[str | None, Sequence[Setting]]
    """The settings that were begun, by arm, in their order."""
    confirmed: tuple[str, ...] = ()
    """The variants that are trained again on fresh seeds, of each arm the best first."""
    complete: bool = False
    """Whether no trial will follow."""


@dataclass(frozen=True)
class Search:
    """A search as it stands in an experiment."""

    settings: SearchSettings
    spaces: Mapping[str | None, Space]
    """What each arm searches."""
    seeds: tuple[int, ...]
    """Those of every trial."""
    fresh_seeds: tuple[int, ...]
    """Those that the best are confirmed on; none where nothing is confirmed."""
    chosen: Chosen
    rungs: Mapping[str | None, Sequence[Pause | None]]
    """Where the trials of each arm are judged; the last, None, is their end."""

    @property
    def num_confirmed(self) -> int:
        """How many variants are, or will be, confirmed: the report compares these alone."""
        confirm = self.settings.confirm
        return sum(min(confirm.top, self.num_trials(arm)) for arm in self.spaces) if confirm is not None else 0

    def num_trials(self, arm: str | None) -> int:
        """How many trials an arm has at most: one, where nothing of it is searched."""
        return self.settings.trials if self.spaces[arm] else 1


@dataclass(frozen=True)
class Experiment:
    """One definition file, resolved."""

    name: str
    """Name of the runs' folder: that of the file, with +overrides where there are any."""
    definition: str
    """Name of the definition file, without folder and ending."""
    question: str
    file: str
    """experiments/x.yaml, as messages name it."""
    axes: Mapping[str, tuple[Any, ...]]
    """Values of the grid by axis, in the order of the file."""
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[RunSpec, ...]
    ancestors: Mapping[str, RunSpec]
    """Every run that these begin from or collect from, recursively, by key, in the order they must be made."""
    overrides: tuple[str, ...]
    text: str
    """The file as it was written, then those that it extends."""
    search: Search | None = None
    """How its variants are chosen; None where the file names them all."""
    folder: Path = Path("experiments")
    """Where the file lies."""


def dump(settings: Settings | None) -> Any:
    """Settings as plain data, by the names a definition uses."""
    return settings.model_dump(mode="json", by_alias=True) if settings is not None else None


def hyperparameter_names(cls: type[TrainerSettings]) -> list[str]:
    """What may stand under `hyperparameters` for this trainer; the facts of the run come last."""
    names = [name for name in cls.model_fields if name not in WRITTEN_AS]
    return sorted(names, key=lambda name: name in RunSettings.model_fields)


def rewards_of(settings: TrainerSettings) -> tuple[RewardSettings, ...]:
    """What a trainer of prompts judges completions by; empty for others, and where the task's own check does."""
    return settings.rewards if isinstance(settings, RolloutSettings) else ()


def _num_judges(rewards: Sequence[RewardSettings]) -> int:
    """The number of reward models of runs among these rewards."""
    return sum(reward.model_from is not None for reward in rewards)


def scores_reference(spec: RunSpec) -> bool:
    """Whether its training data is scored under a reference before the run, which is charged for it."""
    settings = spec.hyperparameters
    return spec.form.takes_reference and settings.needs_reference and not settings.reference_moves


def whole_length(spec: RunSpec, by: str) -> float | None:
    """The steps, tokens or FLOPs at which a run ends; None where it does not say so."""
    return spec.hyperparameters.steps if by == "steps" else getattr(spec.budget, by, None)


def make_key(experiment: str, variant: str, seed: int) -> str:
    """The name of a run everywhere."""
    return f"{experiment}/{variant}/seed{seed}"


def split_key(key: str) -> dict[str, Any]:
    """{experiment, variant, seed} of a run's key."""
    experiment, variant, seed = key.split("/")
    return {"experiment": experiment, "variant": variant, "seed": int(seed.removeprefix("seed"))}
