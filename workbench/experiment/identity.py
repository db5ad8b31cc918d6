"""What decides a run's numbers, as one plain dict: its fingerprint says whether a folder still holds what is asked.

Paths, device, machine, time and labels never count; resolved precision, threads and the inputs' contents do. Nothing
here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.config import file_sha256, fingerprint
from workbench.data import tasks
from workbench.data.epochs import VERSION as EPOCHS_VERSION
from workbench.data.hub import dataset_identity
from workbench.data.settings import MIX_VERSION, CollectData, DatasetData, FileData, MixData, ReadData, TaskData
from workbench.data.sources import SUFFIXES
from workbench.errors import DataError, ModelError
from workbench.evaluation.settings import KL_VERSION
from workbench.experiment.definition.schema import START, WRITTEN_AS, RunSpec, dump, rewards_of
from workbench.experiment.running.run_folder import RunFolder
from workbench.experiment.stages.cache import VERSIONS
from workbench.generation.sampling import VERSION as SAMPLING_VERSION
from workbench.models.folder import settings_identity
from workbench.models.settings import ModelSettings
from workbench.rewards import BY_ANSWERS, verifier_version
from workbench.rewards.build import reward_files, rewards_identity
from workbench.rewards.gym import gym_version
from workbench.rewards.settings import RewardSettings
from workbench.tracking.reader import read_json
from workbench.trainer.grpo_settings import DYNAMIC_SAMPLING_VERSION
from workbench.trainer.settings import COSTS_VERSION

VERSION = 1
NOWHERE_ELSE: Mapping[str, RunFolder] = {}
"""Every run that another begins from stands in the place of its key."""
_BESIDE = {*WRITTEN_AS, "precision"}
"""Facts of a run that stand in the dict beside the hyperparameters."""
_WHEN_ASKED = ("spikes", "micro_batch_rows")
"""Settings that are left out where they are None: the runs from before they were written here are still valid."""
_LEFT_OUT_OF_MIXES = {"collect": 2}
"""Versions of stages that are left out for mixes of collected completions: the runs from before they were written here
are still valid. Later versions are written."""
_LEFT_OUT_OF_OWN_PAIRS = {"ref_logprobs": 3}
"""Likewise those that are left out where held-out pairs, collected beside the training's own, are scored for a method
whose data holds no reference's log-probabilities."""


@dataclass(frozen=True)
class Identity:
    """fields: every value that counts. None: an input does not exist yet (`waits_for` names the run that makes it)."""

    fields: dict[str, Any] | None
    waits_for: str | None = None

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the fields."""
        return None if self.fields is None else fingerprint(self.fields)


def identify(
    spec: RunSpec,
    runs: Path,
    precision: str,
    *,
    remade: frozenset[str] = frozenset(),
    coming: Mapping[str, RunFolder] = NOWHERE_ELSE,
) -> Identity:
    """The identity of a run. precision: as resolved. remade: keys of runs that will be made anew before it. coming:
    by key, the folders of finished runs that will be in the place of their keys before it."""
    for key in spec.needs:
        if key in remade or not _folder(runs, key, coming).is_finished():
            return Identity(None, key)
    model = model_identity(spec.model, spec.start, runs, coming)
    hyperparameters = dump(spec.hyperparameters)
    left_out = spec.hyperparameters.free_fields() | _BESIDE
    left_out |= {name for name in _WHEN_ASKED if hyperparameters[name] is None}
    if spec.hyperparameters.steps is None:
        hyperparameters["epochs_version"] = EPOCHS_VERSION
    if spec.form.is_sampled or spec.hyperparameters.own_completions:
        hyperparameters["sampling_version"] = SAMPLING_VERSION
    if spec.form.is_sampled:
        found = [reward for part in spec.parts for reward in _rewards_identity(part, rewards_in(part, runs, coming))]
        hyperparameters["rewards"] = [reward for place, reward in enumerate(found) if reward not in found[:place]]
        if getattr(spec.hyperparameters, "dynamic_sampling", 0):
            hyperparameters["dynamic_sampling_version"] = DYNAMIC_SAMPLING_VERSION
    others = {str(own.set_name): _evaluate_identity(own) for own in spec.by_set[1:]}
    return Identity(
        {
            "version": VERSION,
            "trainer": spec.trainer,
            "seed": spec.seed,
            "model": model,
            "lora": dump(spec.lora),
            **teacher_identity(spec, runs, coming),
            "data": data_identity(spec, model, runs, coming),
            "stages": _stages_identity(spec),
            "hyperparameters": {k: v for k, v in hyperparameters.items() if k not in left_out},
            "precision": precision,
            "evaluate": _evaluate_identity(spec),
            **({"other_sets": others} if others else {}),
            "budget": spec.budget and dump(spec.budget) | {"costs_version": COSTS_VERSION},
            "threads": spec.threads,
        }
    )


def _stages_identity(spec: RunSpec) -> dict[str, int]:
    """The version of each stage that a run reads, or that a run of its kind may read."""
    asked = {"collect", "ref_logprobs"} if _asks_for_pairs(spec) else set()
    names = training_stages(spec) | measuring_stages(spec)
    return {
        name: version
        for name, version in VERSIONS.items()
        if name in names and (name in asked or version != stage_before(spec, name))
    }


def training_stages(spec: RunSpec) -> set[str]:
    """The stages that weights depend on; of preference pairs also those that only some of them are made of."""
    collects = any(isinstance(part.data, CollectData) for part in spec.parts)
    return {
        "data",
        *(("collect", "ref_logprobs") if spec.form.takes_reference else ()),
        *(("collect",) if collects else ()),
        *(("teacher_logprobs",) if spec.hyperparameters.stores_teacher else ()),
    }


def measuring_stages(spec: RunSpec) -> set[str]:
    """The stages that what is measured depends on, of whichever held-out set."""
    own = isinstance(spec.data, CollectData) and spec.data.collect.held_out_pairs and spec.evaluate is not None
    return {"collect", "ref_logprobs"} if own or _asks_for_pairs(spec) else set()


def _asks_for_pairs(spec: RunSpec) -> bool:
    """Whether evaluate names held-out pairs, of whichever set."""
    return any(bool(own.evaluate and own.evaluate.pairs) for own in spec.by_set)


def stage_before(spec: RunSpec, name: str) -> int | None:
    """The version that a run's identity leaves out, because runs were made before it named that stage."""
    left_out = _LEFT_OUT_OF_MIXES if isinstance(spec.data, MixData) else _LEFT_OUT_OF_OWN_PAIRS
    return None if spec.form.takes_reference else left_out.get(name)


def task_of(spec: RunSpec) -> str | None:
    """The built-in task that the training data is of."""
    return spec.data.task if isinstance(spec.data, TaskData) else None


def rewards_in(spec: RunSpec, runs: Path, coming: Mapping[str, RunFolder] = NOWHERE_ELSE) -> tuple[RewardSettings, ...]:
    """What judges completions, the reward models of runs by their folders."""
    keys = iter(spec.judges)
    return tuple(
        entry if entry.model_from is None else entry.of_folder(str(_folder(runs, next(keys), coming).model))
        for entry in rewards_of(spec.hyperparameters)
    )


def _rewards_identity(spec: RunSpec, rewards: tuple[RewardSettings, ...]) -> list[dict[str, Any]]:
    """What decides their values. A folder that is no reward model is named by the line of the definition."""
    try:
        return rewards_identity(rewards, task_of(spec))
    except ModelError as error:
        place = spec.origins.get("hyperparameters.rewards")
        raise ModelError(f"{place}: {error}" if place is not None else str(error)) from error


def model_identity(
    settings: ModelSettings | None, start: str | None, runs: Path, coming: Mapping[str, RunFolder] = NOWHERE_ELSE
) -> Any:
    """What decides the weights a run begins with."""
    if start is not None:
        return _made_model(runs, start, coming)
    assert settings is not None, "a run, and a teacher, is a start or a model"
    return settings_identity(settings)


def teacher_identity(spec: RunSpec, runs: Path, coming: Mapping[str, RunFolder] = NOWHERE_ELSE) -> dict[str, Any]:
    """What decides the teacher's weights, by the name `teacher`; empty where there is none."""
    if spec.teacher is None:
        return {}
    key, settings = (spec.teacher, None) if isinstance(spec.teacher, str) else (None, spec.teacher)
    return {"teacher": model_identity(settings, key, runs, coming)}


def _folder(runs: Path, key: str, coming: Mapping[str, RunFolder]) -> RunFolder:
    return coming.get(key) or RunFolder(runs, key)


def _made_model(runs: Path, key: str, coming: Mapping[str, RunFolder]) -> Any:
    found = _folder(runs, key, coming).status().get("model_fingerprint")
    if found is None:
        raise ModelError(f"{runs / key}: its status names no model, or was taken away; FRESH=1 trains {key} anew")
    return found


def data_identity(
    spec: RunSpec, model: Any, runs: Path, coming: Mapping[str, RunFolder] = NOWHERE_ELSE
) -> dict[str, Any]:
    """What the training data is made of."""
    data = spec.data
    if isinstance(data, MixData):
        return _mix_identity(spec, data, model, runs, coming)
    if isinstance(data, TaskData):
        return {**task_fields(dump(data)), "version": tasks.VERSION}
    if isinstance(data, ReadData):
        return {**reading_identity(data), **source_identity(data)}
    return collect_identity(spec, data, model, runs, coming)


def _mix_identity(
    spec: RunSpec, data: MixData, model: Any, runs: Path, coming: Mapping[str, RunFolder]
) -> dict[str, Any]:
    """What each source is made of, what records call it, and how they are drawn."""
    drawn = {name: value for name, value in dump(data).items() if name != "mix" and value is not None}
    if "curriculum" in drawn and drawn["curriculum"]["pass_rate"] is None:
        del drawn["curriculum"]["pass_rate"]  # as it was before there were any
    sources = [
        {
            "name": source.label,
            "loss_weight": source.loss_weight,
            "data": data_identity(part, model, runs, coming),
            "rewards": _rewards_identity(part, rewards_in(part, runs, coming)) if spec.form.is_sampled else [],
        }
        for source, part in zip(data.mix, spec.parts, strict=True)
    ]
    return {"mix": sources, **drawn, "version": MIX_VERSION}


def reading_identity(data: ReadData) -> dict[str, Any]:
    """How the rows are read; what was not asked for is left out."""
    fields = dump(data)
    kept = {name: fields[name] for name in ("max_tokens", "bad_rows", "chat_template")}
    return kept | {name: fields[name] for name in ("columns", "rows", "ignore_columns") if fields[name]}


def source_identity(data: ReadData) -> dict[str, Any]:
    """What decides the rows themselves: contents, or a commit of the hub."""
    if isinstance(data, FileData):
        return {"file": file_identity(data.path)}
    assert isinstance(data, DatasetData)
    return dataset_identity(data)


def data_files(data: ReadData) -> dict[str, str]:
    """What was read, and the hash or commit of its contents, for the record."""
    identity = source_identity(data)
    if isinstance(data, FileData):
        return {data.path: identity["file"]}
    assert isinstance(data, DatasetData)
    return {f"{data.dataset} ({data.split})": identity.get("revision") or fingerprint(identity)}


def own_code(spec: RunSpec) -> dict[str, str]:
    """The files of own code that rewards are, and the hashes of their contents, for the record."""
    return {file: sha for part in spec.parts for file, sha in reward_files(rewards_of(part.hyperparameters)).items()}


def held_out_split(spec: RunSpec) -> DatasetData | None:
    """The split of its own data set that a run is evaluated on, whole."""
    if spec.evaluate is None or spec.evaluate.split is None:
        return None
    assert isinstance(spec.data, DatasetData), "definition/sections.py allows a split with data.dataset alone"
    return spec.data.model_copy(update={"split": spec.evaluate.split, "rows": None})


def collect_identity(
    spec: RunSpec, data: CollectData, model: Any, runs: Path, coming: Mapping[str, RunFolder] = NOWHERE_ELSE
) -> dict[str, Any]:
    """What collected pairs depend on: the samplers' weights among it."""
    collect = {key: value for key, value in task_fields(dump(data.collect)).items() if key != "from"}
    if collect["completions"] is None:  # as it was before there were any
        del collect["completions"]
    samplers = [model if key == START else _made_model(runs, key, coming) for key in samplers_of(spec)]
    versions = [tasks.VERSION, verifier_version(data.collect.task), SAMPLING_VERSION]
    return {**collect, "samplers": samplers, "versions": versions}


def task_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that name a task: a generator's with its package's version; left out where there is no generator."""
    if fields["gym"] is not None:
        return fields | {"gym_version": gym_version()}
    return {key: value for key, value in fields.items() if key not in ("gym", "gym_config")}


def samplers_of(spec: RunSpec) -> tuple[str, ...]:
    """Keys of the runs whose samples are collected; START is the run's own start."""
    return spec.sources or (START,)


def file_identity(path: str) -> str:
    """SHA-256 of a data file. Raises DataError when it is not there."""
    file = Path(path).expanduser()
    if file.is_dir():
        raise DataError(f"{path}: found a folder, allowed a data file; data.dataset names a folder of them")
    if not file.is_file():
        raise DataError(f"{path}: no such file; a data file is one of {', '.join(SUFFIXES)}")
    return file_sha256(file)


def _evaluate_identity(spec: RunSpec) -> dict[str, Any] | None:
    evaluate = spec.evaluate
    if evaluate is None:
        return None
    fields = task_fields(dump(evaluate))
    for name in ("path", "pairs"):
        if fields[name] is not None:
            fields[name] = file_identity(fields[name])
    split = held_out_split(spec)
    if split is not None:
        fields["split"] = source_identity(split)
    if evaluate.task is not None:
        fields["versions"] = [tasks.VERSION, verifier_version(evaluate.task), SAMPLING_VERSION]
    elif evaluate.path is not None or split is not None:
        checks = [evaluate.verifier] if evaluate.verifier else list(BY_ANSWERS)
        fields["versions"] = [*map(verifier_version, checks), SAMPLING_VERSION]
    return fields


def versions_of_others(spec: RunSpec) -> dict[str, Any]:
    """The versions that the held-out sets beside the deciding one are measured by, by set, for the record."""
    found = {str(own.set_name): measuring_versions(own) for own in spec.by_set[1:]}
    return {"measured_by_other_sets": found} if found else {}


def measuring_versions(spec: RunSpec) -> dict[str, int | str]:
    """Versions of everything that a run's numbers are measured by, by name: a report compares none across two. Of the
    held-out sets those of the deciding one."""
    found: dict[str, int | str] = {"cost/flops": COSTS_VERSION}
    evaluate = spec.evaluate
    if evaluate is not None:
        found |= {"sampling": SAMPLING_VERSION, "eval/kl_start": KL_VERSION}
        if evaluate.task is not None:
            found |= {
                f"task {evaluate.task}": tasks.VERSION,
                f"verifier {evaluate.task}": verifier_version(evaluate.task),
            }
        elif evaluate.path is not None or evaluate.split is not None:
            for check in [evaluate.verifier] if evaluate.verifier else BY_ANSWERS:
                found[f"verifier {check}"] = verifier_version(check)
    if spec.form.is_sampled:
        parts = [rewards_identity(rewards_of(part.hyperparameters), task_of(part)) for part in spec.parts]
        for reward in (reward for rewards in parts for reward in rewards):
            version = reward.get("version") or reward.get("file")
            if version is not None:
                found[f"reward {reward.get('name') or reward.get('reward') or 'file'}"] = version
    return found


def counted_before(folder: RunFolder, status: Mapping[str, Any]) -> dict[str, str]:
    """The versions by which the FLOPs were counted of a run that goes on from a checkpoint of another version."""
    before = read_json(folder.path / "provenance.json") if status else None
    if before is None or not any((folder.path / "checkpoints").glob("*")):
        return {}
    known = str((before.get("measured_by") or {}).get("cost/flops", "not recorded"))
    if str(COSTS_VERSION) in known.split(" and "):
        return {"cost/flops": known} if " and " in known else {}
    return {"cost/flops": f"{known} and {COSTS_VERSION}"}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of everything that differs, in the new one's order."""
    for key in [*new, *(key for key in old if key not in new)]:
        before, after = old.get(key), new.get(key)
        name = f"{path}.{key}" if path else key
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, name)
        elif before != after:
            yield name, before, after
