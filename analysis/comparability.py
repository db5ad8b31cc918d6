"""Which settings may be compared: those whose runs were measured alike. Others are named and kept apart.

Outcomes are compared where evaluation set, sampling, verifier, task and rewards are the same, versions included; across
experiments the start must be the same too, for a method cannot be told from the start that it had. Where arms of one
experiment have different starts its definition gave them: then the start is part of the question. KL is compared where
its estimator and its reference, the start, are the same as well. FLOPs are compared where one version counted them;
outcomes do not depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from analysis.measures import join, join_few
from analysis.study import Study, Variant

FREE = ("every", "versions", "gym_config")
"""Fields of evaluate that change no value, or that stand elsewhere."""
UNKNOWN = "not recorded"
REWARD = "version of reward "
APART = ("eval/kl_start", "cost/flops")
"""Measures whose versions set only what they measure apart."""
Conditions = dict[str, str]


@dataclass(frozen=True)
class Difference:
    """One thing in which settings differ that keeps their values apart: {its value: labels of the settings}."""

    what: str
    values: dict[str, list[str]]

    @property
    def text(self) -> str:
        """As it follows "differs"."""
        return f"{self.what} is {'; '.join(f'{value} for {join_few(labels)}' for value, labels in self.values.items())}"


@dataclass(frozen=True)
class Group:
    """Settings that may be compared with one another. name: "A", "B", ...; empty where there is one group alone."""

    name: str
    study: Study
    """The study of these settings alone."""

    @property
    def labels(self) -> list[str]:
        """Of its settings."""
        return [variant.label for variant in self.study.variants]


def groups(study: Study) -> list[Group]:
    """Settings whose outcomes may be compared, in the order of the first of each."""
    return _grouped(study, _outcome_conditions)


def kl_groups(study: Study) -> list[Group]:
    """Settings whose KL may be compared, a finer division than groups."""
    return _grouped(study, lambda study, run: _outcome_conditions(study, run) | _kl_conditions(study, run))


def differences(study: Study) -> list[Difference]:
    """Everything that keeps outcomes apart."""
    return _differences(study, _outcome_conditions)


def kl_differences(study: Study) -> list[Difference]:
    """What keeps KL apart beyond that."""
    known = {difference.what for difference in differences(study)}
    return [found for found in _differences(study, _kl_conditions) if found.what not in known]


def flops_refusals(study: Study) -> list[str]:
    """Why FLOPs are not compared: different versions counted them; a run that recorded none is older."""
    found: dict[str, list[str]] = {}
    runs = study.loaded.runs
    for variant in study.variants:
        for run in runs.loc[runs["variant"] == variant.name, "run"]:
            record = study.loaded.records[run]
            labels = found.setdefault(_flops_version(record), []) if record["definition"] else []
            labels += [variant.label] if variant.label not in labels else []
    if len(found) < 2 and not any(" and " in version for version in found):  # of both, by what share is not known
        return []
    return [f"FLOPs are not compared: {Difference('version of how they were counted', found).text}."]


def refusals(study: Study) -> list[str]:
    """What is not compared with what, and why; a sentence a difference."""
    apart = groups(study)
    found = []
    if len(apart) > 1:
        parts = [f"{group.name} ({join_few(group.labels)})" for group in apart]
        found.append(
            f"Kept apart, since they were not measured alike: groups {join(parts)}. Nothing is compared across."
        )
        found += [f"Not comparable: {difference.text}." for difference in differences(study)]
    if study.has("eval/kl_start"):
        found += [f"KL is not compared across: {difference.text}." for difference in kl_differences(study)]
    return found + flops_refusals(study)


def _grouped(study: Study, conditions: Callable[[Study, str], Conditions]) -> list[Group]:
    members: dict[str, list[Variant]] = {}
    for variant, own in _by_variant(study, conditions).items():
        members.setdefault(json.dumps(own, sort_keys=True), []).append(variant)
    # A setting of which nothing was made has nothing to compare, and is in no group where there are several.
    if len(members) < 2:
        return [Group("", study)]
    return [
        Group(chr(ord("A") + i % 26) * (1 + i // 26), restrict(study, variants))
        for i, variants in enumerate(members.values())
    ]


def restrict(study: Study, variants: Iterable[Variant]) -> Study:
    """The study of these settings alone, in its own order."""
    kept = {variant.name for variant in variants}
    if len(kept) == len(study.variants):
        return study
    runs = study.loaded.runs[study.loaded.runs["variant"].isin(kept)]
    finals = study.finals[study.finals["variant"].isin(kept)]
    loaded = study.loaded.of_runs(list(runs["run"]))
    own = [variant for variant in study.variants if variant.name in kept]
    return replace(study, variants=own, loaded=loaded, finals=finals)


def _differences(study: Study, conditions: Callable[[Study, str], Conditions]) -> list[Difference]:
    by_variant = _by_variant(study, conditions)
    names = dict.fromkeys(name for own in by_variant.values() for name in own)
    found = []
    for name in names:
        values: dict[str, list[str]] = {}
        for variant, own in by_variant.items():
            values.setdefault(own.get(name, UNKNOWN), []).append(variant.label)
        if len(values) > 1:
            found.append(Difference(name, values))
    return found


def _by_variant(study: Study, conditions: Callable[[Study, str], Conditions]) -> dict[Variant, Conditions]:
    """The conditions of every setting's runs; where seeds differ in one, all of its values."""
    found: dict[Variant, Conditions] = {}
    runs = study.loaded.runs
    for variant in study.variants:
        names = runs.loc[runs["variant"] == variant.name, "run"]
        each = [conditions(study, run) for run in names if study.loaded.records[run]["definition"]]
        if each:
            keys = dict.fromkeys(key for own in each for key in own)
            found[variant] = {key: " and ".join(dict.fromkeys(own.get(key, UNKNOWN) for own in each)) for key in keys}
    return _without_unused_rewards(found)


def _without_unused_rewards(found: dict[Variant, Conditions]) -> dict[Variant, Conditions]:
    """A reward that a setting does not use sets it apart from none: only two versions of one reward do."""
    rewards = {name for own in found.values() for name in own if name.startswith(REWARD)}
    for name in rewards:
        versions = list(dict.fromkeys(own[name] for own in found.values() if name in own))
        for own in found.values():
            if len(versions) == 1:
                own.pop(name, None)
            else:
                own.setdefault(name, versions[0])
    return found


def _outcome_conditions(study: Study, run: str) -> Conditions:
    record = study.loaded.records[run]
    found = _evaluation(record)
    found |= {f"version of {name}": value for name, value in _versions(record).items() if name not in APART}
    if len(study.plans) > 1:
        found |= _start(study, run)
    return found


def _kl_conditions(study: Study, run: str) -> Conditions:
    record = study.loaded.records[run]
    estimator = _versions(record).get("eval/kl_start", UNKNOWN)
    return {"version of the KL estimator": estimator, **_start(study, run)}


def _evaluation(record: Mapping[str, Any]) -> Conditions:
    """evaluate's fields as they were resolved: files by the hashes of their contents where the run recorded them."""
    definition = record["definition"].get("evaluate")
    if definition is None:
        return {"evaluate": "nothing"}
    identity = (record["status"].get("identity") or {}).get("evaluate") or {}
    found = {}
    for key in sorted({*definition, *identity} - set(FREE)):
        value = identity.get(key, definition.get(key))
        if value is not None:
            found[f"evaluate.{key}"] = value[:12] if key in identity and _is_hash(value) else json.dumps(value)
    return found


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64


def _versions(record: Mapping[str, Any]) -> Conditions:
    """Versions by name as provenance has them; of older runs those that their identity lists."""
    named = record["provenance"].get("measured_by")
    if isinstance(named, dict):
        return {str(name): str(version) for name, version in named.items()}
    evaluate = (record["status"].get("identity") or {}).get("evaluate") or {}
    listed = evaluate.get("versions") or []
    places = [f"task {evaluate.get('task')}"] if len(listed) == 3 else []
    places += [f"verifier {evaluate.get('task') or evaluate.get('verifier')}", "sampling"]
    return {name: str(version) for name, version in zip(places, listed, strict=False)}


def _flops_version(record: Mapping[str, Any]) -> str:
    """Of older runs, a budget's identity alone names it."""
    budget = (record["status"].get("identity") or {}).get("budget") or {}
    return _versions(record).get("cost/flops") or str(budget.get("costs_version") or UNKNOWN)


def _start(study: Study, run: str) -> Conditions:
    """The start by its name and by the weights that the setting's lowest seed began from; without one, the model."""
    record = study.loaded.records[run]
    given = record["definition"].get("start_from")
    if given is None:
        model = record["definition"].get("model") or {}
        return {"start": ", ".join(f"{key} {value}" for key, value in sorted(model.items()) if value) or "no model"}
    if not isinstance(given, dict):
        return {"start": str(given)}
    runs = study.loaded.runs
    variant = runs.loc[runs["run"] == run, "variant"].iloc[0]
    seeds = runs[runs["variant"] == variant].sort_values("seed")["run"]
    starts = [study.loaded.records[name]["provenance"].get("start") for name in seeds]
    weights = next((str(start["model_sha256"]) for start in starts if start and start.get("model_sha256")), UNKNOWN)
    return {"start": f"{given.get('experiment')}/{given.get('variant')} ({weights[:10]})"}
