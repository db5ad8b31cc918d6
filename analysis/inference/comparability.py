"""Which settings may be compared: those whose runs were measured alike. Others are named and kept apart.

It is asked measure by measure: what one measure depends on (conditions.py) keeps no other apart. Of what differs the
line to change is named. FLOPs are compared where one version counted them; outcomes do not depend on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from analysis.inference.conditions import COUNTED, REWARD, UNKNOWN, Conditions, conditions_of, flops_version
from analysis.inference.remedies import remedies
from analysis.measures import BY_COLUMN, OUTCOMES, capital, join, join_few
from analysis.study import Study, Variant
from workbench.tracking.names import KL_START


@dataclass(frozen=True)
class Difference:
    """One thing in which settings differ that keeps their values apart: {its value: labels of the settings}."""

    what: str
    values: dict[str, list[str]]
    remedies: tuple[str, ...] = ()
    """The lines to change, or commands to give, after which nothing differs here."""

    @property
    def text(self) -> str:
        """The condition in words, as they follow "differs"."""
        return f"{self.what} is {'; '.join(f'{value} for {join_few(labels)}' for value, labels in self.values.items())}"

    @property
    def sentences(self) -> str:
        """The condition as the end of a sentence, and what to change."""
        return f"{self.text}." + (f" To compare them: {'; '.join(self.remedies)}." if self.remedies else "")


@dataclass(frozen=True)
class Group:
    """Settings that may be compared with one another. name: "A", "B", ...; empty where there is one group alone."""

    name: str
    study: Study
    """The study of these settings alone."""

    @property
    def labels(self) -> list[str]:
        """The labels of its settings."""
        return [variant.label for variant in self.study.variants]


def groups(study: Study, *columns: str) -> list[Group]:
    """Settings that may be compared in these measures (default: the deciding one), in the order of the first of each.

    A setting without a value has nothing to compare, and is in no group where there are several.
    """
    members: dict[str, list[Variant]] = {}
    for variant, own in _by_variant(study, columns or _deciding(study)).items():
        members.setdefault(json.dumps(own, sort_keys=True), []).append(variant)
    if len(members) < 2:
        return [Group("", study)]
    key = ("groups", *map(tuple, members.values()))
    if key not in study.memo:
        study.memo[key] = [
            Group(chr(ord("A") + i % 26) * (1 + i // 26), restrict(study, variants))
            for i, variants in enumerate(members.values())
        ]
    return list(study.memo[key])


def kl_groups(study: Study) -> list[Group]:
    """Settings of which the deciding measure may be compared together with KL."""
    return groups(study, *_deciding(study), KL_START)


def group_names(study: Study, column: str) -> dict[str, str]:
    """The group of every setting in a measure, by the setting's name; empty names where there is one group alone."""
    return {variant.name: group.name for group in groups(study, column) for variant in group.study.variants}


def differences(study: Study, *columns: str) -> list[Difference]:
    """Everything that keeps these measures apart (default: the deciding one)."""
    by_variant = _by_variant(study, columns or _deciding(study))
    names = dict.fromkeys(name for own in by_variant.values() for name in own)
    found = []
    for name in names:
        values: dict[str, list[Variant]] = {}
        for variant, own in by_variant.items():
            # A field that the setting's task does not read is no difference: the task itself is.
            if name in own or not name.startswith(("evaluate.", "data.")):
                values.setdefault(own.get(name, UNKNOWN), []).append(variant)
        if len(values) > 1:
            labels = {value: [variant.label for variant in variants] for value, variants in values.items()}
            found.append(Difference(name, labels, tuple(remedies(study, name, values))))
    return found


def start_value(study: Study, column: str) -> float:
    """The measure before training, mean over the runs; NaN where there is no one start, or it was measured unlike."""
    return study.start_value(column) if len(groups(study, column)) == 1 else math.nan


def flops_refusals(study: Study) -> list[str]:
    """Why FLOPs are not compared: different versions counted them (a run that recorded none is older), or there is a
    run whose FLOPs could not be counted."""
    uncounted = _uncounted(study)
    if uncounted:
        parts = [
            f"of {join_few(labels)}, which could not be counted ({reason})" for reason, labels in uncounted.items()
        ]
        return [f"FLOPs are not compared: there are none {'; none '.join(parts)}."]
    found: dict[str, list[str]] = {}
    runs = study.loaded.runs
    for variant in study.variants:
        for run in runs.loc[runs["variant"] == variant.name, "run"]:
            record = study.loaded.records[run]
            labels = found.setdefault(flops_version(record), []) if record["definition"] else []
            labels += [variant.label] if variant.label not in labels else []
    if len(found) < 2 and not any(" and " in version for version in found):  # of both, by what share is not known
        return []
    return [f"FLOPs are not compared: {Difference('version of how they were counted', found).text}."]


def _uncounted(study: Study) -> dict[str, list[str]]:
    """Labels of the settings that have a run whose FLOPs could not be counted, by reason."""
    found: dict[str, list[str]] = {}
    runs = study.loaded.runs
    for variant in study.variants:
        names = runs.loc[runs["variant"] == variant.name, "run"]
        reasons = [study.loaded.records[run]["status"].get("uncounted_flops") for run in names]
        for reason in dict.fromkeys(str(reason) for reason in reasons if reason):
            found.setdefault(reason, []).append(variant.label)
    return found


def refusals(study: Study) -> list[str]:
    """What is not compared with what, and why; a sentence a difference."""
    apart = groups(study)
    found = []
    told: list[Difference] = []
    if len(apart) > 1:
        parts = [f"{group.name} ({join_few(group.labels)})" for group in apart]
        by = f" in {study.deciding.label}" if study.deciding else ""
        found.append(f"Kept apart{by}, since they were not measured alike: groups {join(parts)}. Nothing is compared "
                     "across.")  # fmt: skip
        told = differences(study)
        found += [f"Not comparable: {difference.sentences}" for difference in told]
    others: dict[str, tuple[Difference, list[str]]] = {}
    for column in (measure.column for measure in OUTCOMES if study.has(measure.column)):
        if (column,) != _deciding(study):
            for difference in differences(study, column):
                if difference not in told:
                    others.setdefault(json.dumps([difference.what, difference.values]), (difference, []))[1].append(
                        column
                    )
    for difference, columns in others.values():
        labels = ["KL" if column == KL_START else BY_COLUMN[column].label for column in columns]
        verb = "is" if len(labels) == 1 else "are"
        found.append(f"{capital(join(labels))} {verb} not compared across: {difference.sentences}")
    return found + flops_refusals(study)


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


def _deciding(study: Study) -> tuple[str, ...]:
    """The deciding measure; without one, all that was measured."""
    if study.deciding is not None:
        return (study.deciding.column,)
    return tuple(measure.column for measure in OUTCOMES if study.has(measure.column))


def _by_variant(study: Study, columns: tuple[str, ...]) -> dict[Variant, Conditions]:
    """The conditions of every setting that has the measures; where seeds differ in one, all of its values."""
    if ("conditions", columns) not in study.memo:
        study.memo["conditions", columns] = _conditions_by_variant(study, columns)
    known: dict[Variant, Conditions] = study.memo["conditions", columns]
    return known


def _conditions_by_variant(study: Study, columns: tuple[str, ...]) -> dict[Variant, Conditions]:
    found: dict[Variant, Conditions] = {}
    runs = study.loaded.runs
    for variant in study.variants:
        if not all(study.values(variant, column, finished=False) for column in columns):
            continue
        names = runs.loc[runs["variant"] == variant.name, "run"]
        each = [_of_all(study, run, columns) for run in names if study.loaded.records[run]["definition"]]
        if each:
            keys = dict.fromkeys(key for own in each for key in own)
            found[variant] = {
                key: " and ".join(
                    dict.fromkeys(own.get(key, UNKNOWN) for own in each if key in own or key not in COUNTED)
                )
                for key in keys
            }
    return _without_unused(found)


def _of_all(study: Study, run: str, columns: tuple[str, ...]) -> Conditions:
    found: Conditions = {}
    for column in columns:
        found |= conditions_of(study, run, column)
    return found


def _without_unused(found: dict[Variant, Conditions]) -> dict[Variant, Conditions]:
    """A reward that a setting does not use sets it apart from none, nor does a count that it has not: only two versions
    of one reward do, or two counts."""
    names = {name for own in found.values() for name in own if name.startswith(REWARD) or name in COUNTED}
    for name in names:
        known = list(dict.fromkeys(own[name] for own in found.values() if name in own))
        for own in found.values():
            if len(known) == 1:
                own.pop(name, None)
            else:
                own.setdefault(name, known[0])
    return found
