"""What each held-out measure depends on: two settings are comparable in it where all of this is the same.

Exact match depends on prompts, verifier, sampling and length, and not on the pairs that another measure is taken on.
What a measure does not depend on keeps nothing apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from analysis.study import Study, name_of_start
from workbench.tracking.names import (
    COMPLETION_TOKENS,
    EXACT_MATCH_GREEDY,
    EXACT_MATCH_SAMPLED,
    HELD_OUT_LOSS,
    KL_START,
    LENGTH_CORRELATION,
    PAIR_ACCURACY,
    PAIR_MARGIN,
    SCORE_MEAN,
    SCORE_SD,
    of_samples,
)

UNKNOWN = "not recorded"
NONE = "none"
REWARD = "version of reward "
START = "start"
PAIRS = (PAIR_ACCURACY, PAIR_MARGIN, SCORE_MEAN, SCORE_SD, LENGTH_CORRELATION)
PROMPTS = ("task", "digits", "numbers", "gym", "gym_version", "gym_config", "path", "split", "prompts", "seed")
"""Fields of evaluate that say which prompts are held out."""
FIELDS = {
    EXACT_MATCH_SAMPLED: (*PROMPTS, "verifier", "sampling", "max_new_tokens"),
    EXACT_MATCH_GREEDY: (*PROMPTS, "verifier", "max_new_tokens"),
    COMPLETION_TOKENS: (*PROMPTS, "sampling", "max_new_tokens"),
    KL_START: (*PROMPTS, "max_new_tokens"),
    HELD_OUT_LOSS: PROMPTS,
    **dict.fromkeys(PAIRS, ("pairs", "split")),
}
VERSIONS = {
    EXACT_MATCH_SAMPLED: ("task", "verifier", "sampling"),
    EXACT_MATCH_GREEDY: ("task", "verifier", "sampling"),
    COMPLETION_TOKENS: ("task", "sampling"),
    KL_START: ("task", "sampling", KL_START),
    HELD_OUT_LOSS: ("task",),
    **dict.fromkeys(PAIRS, ("task", "verifier", "sampling")),
}
"""First words of the names of versions; those of rewards count for every measure."""
OF_TASK = {
    "digits": "sort",
    "numbers": "countdown",
    **dict.fromkeys(("gym", "gym_version", "gym_config"), "reasoning_gym"),
}
"""Fields that one task alone reads."""
COLLECTED = ("task", "digits", "numbers", "gym", "gym_config", "held_out_pairs", "samples_per_prompt", "from",
             "no_correct", "temperature", "seed")  # fmt: skip
"""Fields of data.collect that decide the held-out pairs."""
PREFERENCE = "held-out preference"
"""What prefers one completion of a held-out pair: pair accuracy has one name, and two scores are behind it."""
COUNTED = ("held-out rows", "held-out pairs")
"""Conditions that are counts of what was read: where a run has none, nothing is known to differ."""
Conditions = dict[str, str]


def conditions_of(study: Study, run: str, column: str) -> Conditions:
    """What this run's value of a measure depends on, by name. A field that its task does not read is left out.

    pass@k and majority@k depend on what sampled exact match does; not on K, because they are unbiased whatever it is.
    """
    column = column if of_samples(column) is None else EXACT_MATCH_SAMPLED
    record = study.loaded.records[run]
    evaluate = record["definition"].get("evaluate")
    if evaluate is None:
        return {"evaluate": "nothing"}
    found = _pairs(record, evaluate) if column in PAIRS else _fields(record, evaluate, column)
    found |= {f"version of {name}": value for name, value in versions(record).items() if _counts(name, column)}
    found |= _counted(study, run, column)
    if column in (PAIR_ACCURACY, PAIR_MARGIN):
        found |= {PREFERENCE: _preference(study, run)}
    if column == KL_START:
        found |= {"version of the KL estimator": versions(record).get(KL_START, UNKNOWN)}
    # KL and pairs are measured against the start; and a method cannot be told from the start that it had, unless one
    # definition gave its arms different ones.
    if len(study.plans) > 1 or column in (KL_START, *PAIRS):
        found |= _start(study, run)
    return found


def _preference(study: Study, run: str) -> str:
    """A reward model tells of its scores beside its pair accuracy; everything else is measured against the start."""
    own = study.finals[study.finals["run"] == run]
    by_score = SCORE_MEAN in own and bool(own[SCORE_MEAN].notna().any())
    return "by a reward model's score" if by_score else "by the log-probability above the start's"


def _counts(name: str, column: str) -> bool:
    """Whether the version of that name is of something that the measure depends on."""
    return name != KL_START and name.split(" ")[0] in (*VERSIONS.get(column, ()), "reward")


def _fields(record: Mapping[str, Any], evaluate: Mapping[str, Any], column: str) -> Conditions:
    """evaluate's fields as they were resolved: files by the hashes of their contents where the run recorded them."""
    identity = (record["status"].get("identity") or {}).get("evaluate") or {}
    found = {}
    for key in FIELDS.get(column, PROMPTS):
        drawn = evaluate.get("task") is not None or column in (EXACT_MATCH_SAMPLED, KL_START, COMPLETION_TOKENS)
        if evaluate.get("task") != OF_TASK.get(key, evaluate.get("task")) or (key == "seed" and not drawn):
            continue
        found[f"evaluate.{key}"] = _text(identity.get(key, evaluate.get(key)))
    return found


def _pairs(record: Mapping[str, Any], evaluate: Mapping[str, Any]) -> Conditions:
    """Held-out pairs of a file, collected with the training's own, or of a split."""
    if evaluate.get("pairs") is not None:
        identity = (record["status"].get("identity") or {}).get("evaluate") or {}
        return {"evaluate.pairs": _text(identity.get("pairs", evaluate["pairs"]))}
    collect = (record["definition"].get("data") or {}).get("collect") or {}
    if not collect:
        return _fields(record, evaluate, PAIRS[0])
    own = [key for key in COLLECTED if collect.get("task") == OF_TASK.get(key, collect.get("task"))]
    return {"evaluate.pairs": NONE} | {f"data.collect.{key}": _text(collect.get(key)) for key in own}


def _text(value: object) -> str:
    if value is None:
        return NONE
    return value[:12] if isinstance(value, str) and len(value) == 64 else json.dumps(value, sort_keys=True)


def _counted(study: Study, run: str, column: str) -> Conditions:
    """How much was read: another tokeniser, cut or form of learning gives another number of tokens."""
    if column == HELD_OUT_LOSS and (rows := study.loaded.held_out_rows.get(run)) is not None:
        return {COUNTED[0]: f"{rows[0]:,} of {rows[1]:,} learned tokens"}
    counts = (study.loaded.records[run]["provenance"].get("counts") or {}).get("held_out_pairs") or {}
    if column in PAIRS and counts.get("learned"):
        return {COUNTED[1]: f"{counts.get('rows'):,} of {counts['learned']:,} learned tokens"}
    return {}


def versions(record: Mapping[str, Any]) -> Conditions:
    """Versions by name as provenance has them; of older runs those that their identity lists."""
    named = record["provenance"].get("measured_by")
    if isinstance(named, dict):
        return {str(name): str(version) for name, version in named.items()}
    evaluate = (record["status"].get("identity") or {}).get("evaluate") or {}
    listed = evaluate.get("versions") or []
    places = [f"task {evaluate.get('task')}"] if len(listed) == 3 else []
    places += [f"verifier {evaluate.get('task') or evaluate.get('verifier')}", "sampling"]
    return {name: str(version) for name, version in zip(places, listed, strict=False)}


def flops_version(record: Mapping[str, Any]) -> str:
    """The version by which a run counted its FLOPs; in older runs only a budget's identity names it."""
    budget = (record["status"].get("identity") or {}).get("budget") or {}
    return versions(record).get("cost/flops") or str(budget.get("costs_version") or UNKNOWN)


def _start(study: Study, run: str) -> Conditions:
    """The start by its name and by the weights that the setting's lowest seed began from; without one, the model."""
    record = study.loaded.records[run]
    given = record["definition"].get("start_from")
    if given is None:
        model = record["definition"].get("model") or {}
        return {START: ", ".join(f"{key} {value}" for key, value in sorted(model.items()) if value) or "no model"}
    if not isinstance(given, dict):
        return {START: str(given)}
    runs = study.loaded.runs
    variant = runs.loc[runs["run"] == run, "variant"].iloc[0]
    seeds = runs[runs["variant"] == variant].sort_values("seed")["run"]
    starts = [study.loaded.records[name]["provenance"].get("start") for name in seeds]
    weights = next((str(start["model_sha256"]) for start in starts if start and start.get("model_sha256")), UNKNOWN)
    return {START: f"{name_of_start(record['definition'])} ({weights[:10]})"}
