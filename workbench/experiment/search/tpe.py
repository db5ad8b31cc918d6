"""The next setting by the tree-structured Parzen estimator (Bergstra 2011) of Optuna, asked and told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.config import canonical_json, fingerprint
from workbench.disk import make_folder, writing
from workbench.experiment.search.design import Setting, Space
from workbench.experiment.search.settings import Dimension

Told = Sequence[tuple[Setting, float | None]]
"""Settings in the order in which they were asked, each with what it gave, more being better; NaN: it failed; None: it
is not known yet."""


def suggest(space: Space, told: Told, seed: int) -> Setting:
    """The setting to try next: it depends on the space, the results and the seed alone, so that a search that was
    killed asks for the same one again."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(dimension) for name, dimension in space.items()}
    # A sampler of its own for each trial has no state to be kept between commands.
    own_seed = int(fingerprint([seed, len(told)]), 16) % 2**31
    sampler = optuna.samplers.TPESampler(seed=own_seed, n_startup_trials=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_trial(setting, value, space, distributions) for setting, value in told])
    asked = study.ask(distributions).params
    return {name: _value(asked[name], dimension) for name, dimension in space.items()}


def keep_journal(space: Space, told: Told, path: Path, study_name: str) -> None:
    """Adds each trial that has ended to Optuna's own journal, where its tools find them."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    make_folder(path.parent)
    distributions = {name: _distribution(dimension) for name, dimension in space.items()}
    with writing(path):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(
            storage=storage,
            study_name=f"{study_name}-{fingerprint(_plain(space))}",
            direction="maximize",
            load_if_exists=True,
        )
        kept = {trial.user_attrs["setting"] for trial in study.trials}
        for setting, value in told:
            if value is not None and fingerprint(setting) not in kept:
                study.add_trial(_trial(setting, value, space, distributions))


def _plain(space: Space) -> dict[str, Any]:
    return {name: dimension.model_dump(mode="json") for name, dimension in space.items()}


def _distribution(dimension: Dimension) -> Any:
    import optuna

    if dimension.choice is not None:  # by its text, for Optuna compares what it stores
        return optuna.distributions.CategoricalDistribution([canonical_json(value) for value in dimension.choice])
    if dimension.int_ is not None:
        return optuna.distributions.IntDistribution(*dimension.int_)
    low, high = dimension.log or dimension.linear or (0.0, 1.0)
    return optuna.distributions.FloatDistribution(low, high, log=dimension.log is not None)


def _value(asked: Any, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return next(value for value in dimension.choice if canonical_json(value) == asked)
    return asked if dimension.int_ is not None else dimension.rounded(asked)


def _trial(setting: Setting, value: float | None, space: Space, distributions: Mapping[str, Any]) -> Any:
    from optuna.trial import TrialState, create_trial

    ended = TrialState.FAIL if value is None or not math.isfinite(value) else TrialState.COMPLETE
    return create_trial(
        state=TrialState.RUNNING if value is None else ended,
        params={
            name: canonical_json(given) if space[name].choice is not None else given for name, given in setting.items()
        },
        distributions=dict(distributions),
        value=value if ended is TrialState.COMPLETE else None,
        user_attrs={"setting": fingerprint(setting)},
    )
