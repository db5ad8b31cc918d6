"""What TensorBoard's own readers find in the event files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.tracking.reader import read_run
from workbench.tracking.sinks.replay import Replay
from workbench.tracking.sinks.sink import FINAL
from workbench.tracking.sinks.tensorboard import TensorBoardSink, completion_texts

Row = dict[str, Any]


def _replay(run: Any) -> Replay:
    replay = Replay(run.folder, "tensorboard", TensorBoardSink)
    replay.poll()
    return replay


def _accumulator(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})


def _scalars(accumulator: Any) -> dict[str, list[tuple[int, float]]]:
    accumulator.Reload()
    tags = [tag for tag in accumulator.Tags()["scalars"] if not tag.startswith(FINAL)]
    return {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags}


def _expected(run: Any) -> dict[str, list[tuple[int, float]]]:
    return {name: list(values.items()) for name, values in run.series().items()}


def test_event_files_hold_the_record_rounded_to_float32(make_run: Callable[..., Any]) -> None:
    run = make_run().train(20).end()
    _replay(run)
    assert _scalars(_accumulator(run.folder)) == _expected(run)


def test_rows_read_one_by_one_and_at_once_are_the_same_scalars(make_run: Callable[..., Any]) -> None:
    run = make_run()
    replay = Replay(run.folder, "tensorboard", TensorBoardSink)
    for step in range(12):
        run.train(step)
        replay.poll()
    replay.close()
    assert _scalars(_accumulator(run.folder)) == _expected(run)


def test_a_rebuild_writes_the_same_bytes(make_run: Callable[..., Any]) -> None:
    run = make_run().train(20).end()
    _replay(run)
    (first,) = (run.folder / "tensorboard").glob("*.tfevents.*")
    data = first.read_bytes()
    (run.folder / "tensorboard" / "replayed.json").unlink()
    _replay(run)
    emptied, second = sorted((run.folder / "tensorboard").glob("*.tfevents.*"))
    assert emptied == first
    assert first.stat().st_size == 0
    assert second.read_bytes() == data
    assert second.name > first.name, "a running TensorBoard goes on to later names only"


def test_a_resume_that_cut_rows_leaves_each_step_once(make_run: Callable[..., Any]) -> None:
    run = make_run().train(17)
    replay = _replay(run)
    open_reader = _accumulator(run.folder)
    assert _scalars(open_reader) == _expected(run)
    run.cut(10).train(20)
    replay.poll()
    run.end()
    replay.poll()
    assert _scalars(_accumulator(run.folder)) == _expected(run)
    assert _scalars(open_reader) == _expected(run), "also in a TensorBoard that was open all the while"


def test_wall_times_are_those_of_the_run(make_run: Callable[..., Any]) -> None:
    run = make_run().train(20).end()
    _replay(run)
    accumulator = _accumulator(run.folder)
    accumulator.Reload()
    events = accumulator.Scalars("grad_norm")
    assert events[20].wall_time - events[0].wall_time == pytest.approx(2.0, abs=1e-6)


def _session_groups(root: Path) -> tuple[Any, list[Any]]:
    """The HParams tab's own requests, over a folder: what is declared, and a group a trial."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(root))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(root))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    every = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=every, start_index=0, slice_size=100, aggregation_type=api_pb2.AGGREGATION_AVG
    )
    experiment = get_experiment.Handler(RequestContext(), context, "", api_pb2.GetExperimentRequest()).run()
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run()
    return experiment, list(groups.session_groups)


def test_the_seeds_of_a_variant_are_one_trial_with_mean_metrics(make_run: Callable[..., Any], tmp_path: Path) -> None:
    runs = [
        make_run(beta=beta, seed=seed, hyperparameters={"beta": beta, "seed": seed}).train(20)
        for beta in (0.1, 1.0)
        for seed in (0, 1, 2)
    ]
    for run in runs:
        run.end("failed" if run is runs[-1] else "finished")
        _replay(run)
    experiment, groups = _session_groups(tmp_path / "runs")
    assert [group.name for group in groups] == ["dpo_beta/beta=0.1", "dpo_beta/beta=1"]
    assert [len(group.sessions) for group in groups] == [3, 3]
    assert groups[0].hparams["beta"].number_value == 0.1
    assert groups[0].hparams["trainer"].string_value == "dpo"
    assert "seed" not in groups[0].hparams
    ends = [run.rows()[-1]["eval/exact_match_sampled"] for run in runs[:3]]
    shown = {value.name.tag: value.value for value in groups[0].metric_values}
    assert shown["final/exact_match_sampled"] == pytest.approx(sum(ends) / 3, rel=1e-6)
    assert [session.status for session in groups[1].sessions] == [1, 1, 2], "success, success, failure"
    declared = {info.name: info.differs for info in experiment.hparam_infos}
    assert declared.pop("beta") is True
    assert not any(declared.values())
    assert [info.name.tag for info in experiment.metric_infos] == ["final/exact_match_sampled", "final/kl_start"]


def test_variants_of_equal_name_in_two_experiments_stay_apart(make_run: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        _replay(make_run(experiment=name).train(5).end())
    experiment, groups = _session_groups(tmp_path / "runs")
    assert [group.name for group in groups] == ["one/beta=0.1", "two/beta=0.1"]
    assert "experiment" in {info.name for info in experiment.hparam_infos if info.differs}
    assert len(list((tmp_path / "runs").glob(".hparams/*"))) == 1, "of several declarations TensorBoard takes any"


def test_texts_say_right_or_wrong_and_cannot_leave_their_fence(make_run: Callable[..., Any]) -> None:
    run = make_run().train(10).end()
    _replay(run)
    accumulator = _accumulator(run.folder)
    accumulator.Reload()
    events = accumulator.Tensors("completions/sampled")
    assert [event.step for event in events] == [0, 5, 10]
    text = events[0].tensor_proto.string_val[0].decode()
    assert text.startswith("**right** (sort 1, 3 tokens)\n\n~~~\nsort 21: 12\n~~~")
    assert "**wrong**" in text
    assert "~~~~\nsort 31: 31 ~~~ <b>\n~~~~" in text


def test_further_samples_of_a_prompt_are_not_shown() -> None:
    rows: list[Row] = [
        {"split": "s", "sample_index": index, "prompt": "p", "completion": str(index)} for index in (0, 1)
    ]
    assert completion_texts(rows) == {"s": "**unknown** ()\n\n~~~\np0\n~~~"}


def test_secrets_of_a_definition_are_hidden(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-in-the-mine")
    hyperparameters = {"url": "https://me:hunter22@host/x canary-in-the-mine", "api_key": "abcdefgh"}
    run = make_run(hyperparameters=hyperparameters).train(5).end()
    _replay(run)
    data = b"".join(path.read_bytes() for path in run.folder.parents[2].rglob("*.tfevents.*"))
    assert b"https://***@host/x ***" in data
    assert not any(secret in data for secret in (b"canary-in", b"hunter22", b"abcdefgh"))


def test_without_provenance_the_definition_dates_the_run(make_run: Callable[..., Any]) -> None:
    run = make_run().train(1)
    (run.folder / "provenance.json").unlink()
    TensorBoardSink(read_run(run.folder)).abandon()
