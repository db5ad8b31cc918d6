"""What TensorBoard's HParams tab shows of an experiment: its hyperparameters and its final held-out values."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workbench.redaction import redact
from workbench.tracking.reader import RunRecord, read_run, swept_values
from workbench.tracking.sinks.sink import FINAL, Row

FIRST_METRICS = tuple(
    f"{FINAL}{name}" for name in ("exact_match_sampled", "exact_match_greedy", "kl_start", "pair_accuracy")
)
Scalar = bool | int | float | str


def hyperparameter_values(definition: Row) -> dict[str, Scalar]:
    """Scalars that a variant's seeds share: swept axes, hyperparameters, trainer, arm, experiment."""
    named = {name: definition.get(name) for name in ("experiment", "trainer", "arm")}
    values = redact({**swept_values(definition), **named, **(definition.get("hyperparameters") or {})})
    values.pop("seed", None)  # a group shows the values of its first session
    return {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}


def session_start(run: RunRecord, start_seconds: float) -> Any:
    """A summary that opens a run's session, grouped with the other seeds of its variant.

    The seed is not among the values: TensorBoard shows a group with those of its first session.
    """
    from tensorboard.plugins.hparams import summary_v2

    variant = "/".join(run.folder.resolve().parts[-3:-1])
    return summary_v2.hparams_pb(hyperparameter_values(run.definition), variant, start_seconds)


def session_end(success: bool, end_seconds: float) -> Any:
    """A summary that closes a run's session (tensorboard's own maker of it needs TensorFlow)."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    outcome = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=outcome, end_time_secs=end_seconds)
    return _summary(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end))


def declaration(runs: Iterable[Path]) -> Any:
    """A summary that declares every hyperparameter and final held-out value of these runs; what differs comes first."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    values: dict[str, list[Scalar]] = {}
    metrics: dict[str, None] = {}
    for run in sorted(runs):
        for name, value in _values_of(run, _changed(run / "definition.yaml")).items():
            values.setdefault(name, []).append(value)
        metrics |= dict.fromkeys(_held_out_of(run, _changed(run / "metrics.jsonl")))
    # The values of the models that the runs left, which the report compares: a last evaluation may be of another.
    metrics = {f"{FINAL}{name.removeprefix('eval/')}": None for name in metrics}
    infos = sorted((_info(name, found) for name, found in values.items()), key=lambda info: not info.differs)
    names = [*(name for name in FIRST_METRICS if name in metrics), *sorted(metrics.keys() - {*FIRST_METRICS})]
    experiment = api_pb2.Experiment(
        hparam_infos=infos,
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name), display_name=name) for name in names],
    )
    return _summary(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _summary(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata

    content = metadata.create_summary_metadata(data)
    return Summary(value=[Summary.Value(tag=tag, metadata=content, tensor=metadata.NULL_TENSOR)])


def _info(name: str, values: list[Scalar]) -> Any:
    from tensorboard.plugins.hparams import api_pb2

    distinct = sorted(set(values), key=lambda value: (str(type(value)), value))
    info = api_pb2.HParamInfo(name=name, display_name=name, differs=len(distinct) > 1)
    if all(isinstance(value, bool) for value in values):
        info.type = api_pb2.DATA_TYPE_BOOL
        info.domain_discrete.extend(distinct)
    elif all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = float(distinct[0]), float(distinct[-1])
    else:
        info.type = api_pb2.DATA_TYPE_STRING
        info.domain_discrete.extend(map(str, distinct))
    return info


def _changed(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4096)
def _values_of(run: Path, changed: object) -> dict[str, Scalar]:
    return hyperparameter_values(read_run(run).definition)


@functools.lru_cache(maxsize=4096)
def _held_out_of(run: Path, changed: object) -> tuple[str, ...]:
    try:
        rows = (run / "metrics.jsonl").read_bytes()
    except OSError:
        return ()
    return tuple(sorted({name.decode() for name in re.findall(rb'"(eval/[^"\\]+)":', rows)}))
