"""Own Python that a definition names as a reward: run only where whoever runs it says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from workbench.data.settings import MixData
from workbench.errors import DefinitionError
from workbench.experiment.definition.schema import Experiment, RunSpec, rewards_of
from workbench.experiment.running.run_folder import RunFolder
from workbench.permissions import Permissions
from workbench.rewards.settings import RewardSettings

OPTION = "--allow-reward-code (make: REWARD_CODE=1)"


def reward_files(specs: Iterable[RunSpec]) -> dict[str, str]:
    """Reward files by path as it is written, with the place that names each first."""
    found: dict[str, str] = {}
    for spec in specs:
        for place, rewards in reward_lists(spec):
            for index, reward in enumerate(rewards):
                if reward.file is not None:
                    field = f"{place}[{index}].file"
                    names = (field, field.split("[")[0])
                    origin = next((spec.origins[name] for name in names if name in spec.origins), "")
                    found.setdefault(reward.file, f"{origin or spec.key}: {field}")
    return found


def reward_lists(spec: RunSpec) -> Iterator[tuple[str, Sequence[RewardSettings]]]:
    """The places where a run's rewards stand, and those."""
    yield "hyperparameters.rewards", rewards_of(spec.hyperparameters)
    if isinstance(spec.data, MixData):
        yield from ((f"data.mix[{index}].rewards", source.rewards) for index, source in enumerate(spec.data.mix))


def refuse_reward_code(experiment: Experiment, runs: Path, permissions: Permissions) -> None:
    """Raises DefinitionError where the experiment, or what is made before it, names reward files and they are not
    allowed."""
    if permissions.reward_code:
        return
    before = (spec for key, spec in experiment.ancestors.items() if not RunFolder(runs, key).is_finished())
    files = reward_files([*experiment.runs, *before])
    if files:
        allowed = f"allowed with {OPTION}: it runs with your rights, so read it first"
        raise DefinitionError([f"{where}: found own code ({path}), {allowed}" for path, where in files.items()])
