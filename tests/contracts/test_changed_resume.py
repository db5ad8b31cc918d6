"""A resume that cannot be exact, for every trainer: other settings, data, libraries or devices are refused by name."""

from __future__ import annotations

import os
import signal

import pytest

from tests.contracts.points import EVERY, Points
from tests.trainers import TRAINERS, VARIANTS, batch_of, outcome
from workbench.errors import CheckpointError, Interrupted
from workbench.own_code import hash_of
from workbench.trainer.records import snapshot, surroundings


def test_changed_settings_are_refused_with_the_difference(build, tmp_path):
    build("sft", tmp_path).train()
    with pytest.raises(CheckpointError, match=r"learning_rate 0.001, this run has 0.5"):
        build("sft", tmp_path, learning_rate=0.5).resume()
    with pytest.raises(CheckpointError, match="SFTTrainer checkpoint"):
        build("dpo", tmp_path).resume()
    assert build("sft", tmp_path, micro_batch_rows=1, keep_checkpoints=5).resume()


@pytest.fixture
def stopped(build, tmp_path):
    """stopped(variant) -> the folder of a run that SIGTERM ended after its third update."""

    def stop(variant):
        points = Points("update", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            build(variant, tmp_path / "run", points).train()
        return tmp_path / "run"

    return stop


@pytest.mark.parametrize(
    ("change", "variant"), [("device", "sft"), ("threads", "sft"), *(("numpy", name) for name in TRAINERS)]
)
def test_a_resume_that_cannot_be_exact_is_refused_or_marked(variant, change, build, stopped, monkeypatch, whole):
    expected = whole(variant)
    folder = stopped(variant)
    own = surroundings.surroundings_of
    monkeypatch.setattr(snapshot, "surroundings_of", lambda *given: own(*given) | {change: "77"})
    with pytest.raises(CheckpointError, match=f"written under {change} .*, now 77: .*--inexact"):
        build(variant, folder).resume()
    again = build(variant, folder)
    assert again.resume(inexact=True)
    assert again.inexact[0].startswith("not exact from step ")
    assert again.warnings == again.inexact
    again.train()
    # Here nothing but the record of it differed.
    assert outcome(again, folder) == expected
    monkeypatch.undo()
    later = build(variant, folder)
    with pytest.raises(CheckpointError, match=f"written under {change} 77, now"):
        later.resume()
    later.resume(inexact=True)
    assert len(later.inexact) == 2, "what made a run inexact stays in its checkpoints"


def test_a_resume_under_other_code_is_refused_or_marked(build, stopped, monkeypatch, whole):
    folder, expected = stopped("sft"), whole("sft")
    monkeypatch.setattr(surroundings, "own_hash", lambda: "77")
    with pytest.raises(CheckpointError, match=r"under code of the workbench \w{16}, now 77: .*FRESH=1.*INEXACT=1"):
        build("sft", folder).resume()
    again = build("sft", folder)
    assert again.resume(inexact=True)
    assert "code of the workbench" in again.inexact[0]
    again.train()
    assert outcome(again, folder) == expected


def test_a_checkpoint_that_does_not_say_of_what_code_it_is_is_of_other_code():
    own = {surroundings.CODE: "77", "numpy": "2"}
    assert surroundings.differences({"numpy": "2"}, own) == ["code of the workbench before it was recorded, now 77"]
    assert surroundings.differences(own, own) == []


def test_code_is_that_of_every_python_file_of_the_package_and_of_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("")
    seen = [hash_of(tmp_path)]
    (tmp_path / "notes.md").write_text("word")
    (tmp_path / "__pycache__").mkdir()
    assert hash_of(tmp_path) == seen[0]
    (tmp_path / "deep/a.py").write_text("x = 2\n")
    seen.append(hash_of(tmp_path))
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    seen.append(hash_of(tmp_path))
    assert len(set(seen)) == 3


@pytest.mark.parametrize("name", TRAINERS)
def test_a_resume_on_other_data_is_refused(name, make_trainer, tmp_path):
    def train(*seeds):
        batches = [batch_of(VARIANTS[name], 3, seed) for seed in seeds]
        return make_trainer(name, tmp_path, batches=batches, **EVERY)

    train(0, 1, 2).train()
    with pytest.raises(CheckpointError, match="written under data of 1 processes "):
        train(0, 1, 5).resume()
    assert train(0, 1, 2).resume()


def test_an_exact_resume_is_not_marked(build, stopped):
    trainer = build("sft", stopped("sft"))
    trainer.resume()
    trainer.train()
    assert trainer.inexact == []
    assert not any("exact" in warning for warning in trainer.warnings)


def test_another_order_or_another_row_is_other_data(collate, make_rows, torch):
    def digest(batches):
        return surroundings._data_digest(batches)

    batches = [collate("sft", make_rows(3, index)) for index in range(4)]
    other = [collate("sft", make_rows(3, index)) for index in (0, 1, 2, 9)]
    assert digest(batches) == digest([dict(batch) for batch in batches])
    assert len({digest(batches), digest(other), digest(batches[::-1]), digest(batches[:3])}) == 4
    assert digest(iter(batches)) == ""
