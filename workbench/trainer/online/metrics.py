"""What a rollout says of itself: metrics under TRL's names, over all processes, and rows of completions.jsonl."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from workbench.errors import RewardError
from workbench.objectives.advantages import group_spread
from workbench.trainer.loop.sources import ROW, SOURCE
from workbench.trainer.machine import distributed
from workbench.trainer.online.rollout import Rollout

REWARD = "reward"
REWARD_STD = "reward_std"
EQUAL_REWARDS = "frac_reward_zero_std"
LONE_GROUPS, GROUPS = "groups_of_one", "groups"
LENGTH = "completions/mean_length"
ENTROPY = "entropy"
KL = "kl"
PAIRS = "pairs"
GAP = "sampling/sampling_logp_difference/mean"
LARGEST_GAP = "sampling/sampling_logp_difference/max"
ROUNDS = "sampling/rounds"


def rollout_metrics(rollout: Rollout, source_name: Callable[[int], str] = str, *, by_group: bool) -> dict[str, float]:
    """What is recorded of a rollout. Every process must call it, and gets the same numbers.

    by_group: rewards are compared within their group, so reward_std is the mean of the groups'; else it is that of all
    rewards. source_name: of a source of prompts by its number.
    """
    own = {
        "rewards": rollout.rewards.tolist(),
        "groups": rollout.group_ids.tolist(),
        "lengths": rollout.lengths.tolist(),
        "sources": rollout.of_prompt[SOURCE][rollout.prompt_index].tolist() if SOURCE in rollout.of_prompt else [],
        "ended": rollout.ended.tolist(),
        "by_name": rollout.by_name,
        "logged": rollout.logged,
        "entropy": 0.0 if rollout.entropies is None else float(rollout.entropies.double().sum()),
    }
    found = distributed.gather_objects(own)
    rewards, groups, lengths, ended = (
        [value for part in found for value in part[name]]  # type: ignore[attr-defined]
        for name in ("rewards", "groups", "lengths", "ended")
    )
    values = torch.tensor(rewards, dtype=torch.float64)
    alone = int((torch.tensor(groups).unique(return_counts=True)[1] == 1).sum()) if by_group else 0
    spread, equal = group_spread(values, torch.tensor(groups) if by_group else torch.zeros(len(rewards)).long())
    terminated = [length for length, end in zip(lengths, ended, strict=True) if end]
    row = {
        REWARD: statistics.fmean(rewards),
        REWARD_STD: float(spread.mean()),
        **({EQUAL_REWARDS: float(equal.double().mean())} if by_group else {}),
        **({LONE_GROUPS: float(alone), GROUPS: float(len(equal))} if alone else {}),
        **_of_lengths("completions/{}_length", lengths),
        "completions/clipped_ratio": 1.0 - len(terminated) / len(lengths),
        **(_of_lengths("completions/{}_terminated_length", terminated) if terminated else {}),
    }
    sources = [value for part in found for value in part["sources"]]  # type: ignore[attr-defined]
    for place in sorted(set(sources)):
        name, its = source_name(place), [i for i, source in enumerate(sources) if source == place]
        row[f"{REWARD}/{name}"] = statistics.fmean(rewards[i] for i in its)
        row[f"generated_tokens/{name}"] = float(sum(lengths[i] for i in its))
    for name in rollout.by_name:
        own_values = [v for part in found for v in part["by_name"][name] if v is not None]  # type: ignore[index]
        if own_values:
            row[f"rewards/{name}/mean"] = statistics.fmean(own_values)
            row[f"rewards/{name}/std"] = statistics.stdev(own_values) if len(own_values) > 1 else 0.0
    for name in sorted({name for part in found for name in part["logged"]}):  # type: ignore[attr-defined]
        if name in row:
            raise RewardError(f"log_metric has the name {name}, which is taken; allowed another")
        logged = [value for part in found for value in part["logged"].get(name, [])]  # type: ignore[attr-defined]
        row[name] = statistics.fmean(logged)
    if rollout.entropies is not None:
        row[ENTROPY] = sum(part["entropy"] for part in found) / sum(lengths)  # type: ignore[misc]
    return row


def earned_by_row(rollout: Rollout) -> dict[int, list[float]]:
    """What the completions of each row of the data earned, where the loader tells which rows its prompts are. Every
    process must call it, and gets the same."""
    rows = rollout.of_prompt[ROW][rollout.prompt_index].tolist() if ROW in rollout.of_prompt else []
    found: dict[int, list[float]] = {}
    for part in distributed.gather_objects(list(zip(rows, rollout.rewards.tolist(), strict=False))):
        for row, reward in part:
            found.setdefault(row, []).append(reward)
    return found


def _of_lengths(name: str, lengths: list[int]) -> dict[str, float]:
    values = {"mean": statistics.fmean(lengths), "min": float(min(lengths)), "max": float(max(lengths))}
    return {name.format(kind): value for kind, value in values.items()}


def completion_rows(rollout: Rollout, advantages: torch.Tensor, num_prompts: int) -> list[dict[str, Any]]:
    """Rows of completions.jsonl (without their step) for some prompts' completions; none where no text is known.

    Which prompts, their hashes decide: a rollout may be sorted by length.

    advantages: (N,).
    """
    if not rollout.texts or not num_prompts:
        return []
    rewards, lengths, ended = rollout.rewards.tolist(), rollout.lengths.tolist(), rollout.ended.tolist()
    shown = set(sorted(range(len(rollout.texts)), key=rollout.prompt_ids.__getitem__)[:num_prompts])
    met: dict[int, int] = {}
    rows: list[dict[str, Any]] = []
    for row, (prompt, advantage) in enumerate(zip(rollout.prompt_index.tolist(), advantages.tolist(), strict=True)):
        index = met[prompt] = met.get(prompt, -1) + 1
        if prompt not in shown:
            continue
        rows.append(
            {
                "split": "train",
                "prompt_id": rollout.prompt_ids[prompt],
                "sample_index": index,
                "prompt": rollout.texts[prompt],
                "completion": rollout.completions[row],
                "num_tokens": lengths[row],
                "ended": ended[row],
                "rewards": {name: values[row] for name, values in rollout.by_name.items()},
                **({"extra": {name: values[row] for name, values in rollout.extra.items()}} if rollout.extra else {}),
                "reward": rewards[row],
                "advantage": advantage,
            }
        )
    return rows
