"""Training on prompts that are drawn by their pass rates: what a checkpoint holds, and what no number depends on."""

from __future__ import annotations

import numpy as np
import pytest

from tests.batches import make_rows
from tests.trainers import ONLINE, VARIANTS, make_trainer, outcome, without_clocks
from workbench.data.curriculum import Curriculum
from workbench.data.mix import MixedSet, Source
from workbench.data.pass_rates import PassRateLoader
from workbench.data.ragged import Ragged
from workbench.data.sets import PromptSet, Texts
from workbench.errors import CheckpointError
from workbench.trainer.machine.distributed import get_rank, get_world_size

STEPS = 6


def _prompts(seed, number):
    ids = Ragged.from_rows([prompt for prompt, _, _ in make_rows(number, seed)])
    texts = Texts.of([f"{seed}-{row}" for row in range(number)])
    return PromptSet(ids, texts, Texts.of([None] * number), texts)


@pytest.fixture
def make(small_llama):
    """make(variant, folder, **settings) -> a trainer on two sources of prompts, drawn by their pass rates."""

    def trainer(variant, folder, **settings):
        rate = {"within": [0.2, 0.8], "passes_at": 0.4, "forget_after": 3}
        curriculum = Curriculum.model_validate({"pass_rate": rate})
        data = MixedSet([Source("a", _prompts(1, 7)), Source("b", _prompts(2, 5))])
        shares = lambda step: [share * band for share in (0.6, 0.4) for band in curriculum.shares(step)]  # noqa: E731
        processes = {"rank": get_rank(), "world_size": get_world_size()}
        loader = PassRateLoader(data, 4, 7, shares, curriculum, **processes)
        settings = {"batch_prompts": 4, "steps": STEPS} | settings
        given = {"val_loader": None}
        return make_trainer(variant, folder, make_model=small_llama, batches=loader, arguments=given, **settings)

    return trainer


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ONLINE if name != "grpo"]


@pytest.mark.parametrize("variant", ["grpo", "grpo-dynamic", *SLOW])
def test_a_run_resumes_exactly_wherever_it_was_stopped(make, tmp_path, variant):
    whole = make(variant, tmp_path / "whole")
    whole.train()
    row = whole.last_row
    assert {"pass_rate/a", "unmeasured/b", "prompts/a-2", "rows/b-2"} <= row.keys()
    assert sum(row[f"prompts/a-{band}"] for band in (1, 2, 3)) == pytest.approx(1.0)
    for step in (1, 3):
        folder = tmp_path / f"part{step}"
        part = make(variant, folder)
        part.progress.num_steps = step
        part.train()
        again = make(variant, folder)
        assert again.resume()
        again.train()
        assert outcome(again, folder) == outcome(whole, tmp_path / "whole")
        for name, values in again.train_loader.state_dict().items():
            assert np.array_equal(values, whole.train_loader.state_dict()[name]), name


def test_what_is_drawn_depends_on_no_micro_batch(make, tmp_path):
    found = []
    for rows in (None, 2):
        trainer = make("grpo", tmp_path / f"{rows}", micro_batch_rows=rows, learning_rate=0.0)
        trainer.train()
        found.append({name: values.tolist() for name, values in trainer.train_loader.state_dict().items()})
    assert found[0] == found[1]


@pytest.mark.multi
def test_what_is_drawn_and_measured_is_the_same_in_several_processes(make, in_processes, tmp_path):
    def state(number):
        def run(rank):
            trainer = make("grpo", None, learning_rate=0.0, minibatches=1, passes=1)
            for _ in range(STEPS):
                trainer.train_step()
            rows = {n: v.tolist() for n, v in trainer.train_loader.state_dict().items()}
            return rows, without_clocks(trainer.state.pending_row)["pass_rate/a"]

        return in_processes(number, run)

    [alone], [first, second] = state(1), state(2)
    assert first == second == alone


def test_a_step_that_is_repeated_draws_the_same_prompts(make, tmp_path):
    trainer = make("grpo", tmp_path / "run")
    trainer.train_step()
    batches = VARIANTS["grpo"].settings["passes"] * VARIANTS["grpo"].settings["minibatches"]
    for _ in range(batches - 1):
        trainer.train_step()
    before = trainer.train_loader.state_dict()["times"].tolist()
    trainer.feed.begin()
    first = trainer.feed.next()["row_ids"].tolist()
    trainer.feed.begin()
    assert trainer.feed.next()["row_ids"].tolist() == first
    assert trainer.train_loader.state_dict()["times"].tolist() == before


def test_a_rollback_keeps_what_was_drawn_and_measured(make, tmp_path):
    settings = {"checkpoint_every": 2, "non_finite": "rollback", "passes": 1, "minibatches": 1}
    trainer = make("grpo", tmp_path, **settings)
    fourth = lambda: trainer.step == 3 and not trainer.guard.rollbacks  # noqa: E731
    for parameter in trainer.parameters:
        parameter.register_hook(lambda gradient: gradient * float("nan") if fourth() else gradient)
    trainer.train()
    assert (trainer.step, trainer.guard.rollbacks, trainer.feed.taken) == (STEPS, 1, STEPS + 2)
    kept = trainer.train_loader.state_dict()
    assert kept["times"].sum() == 4 * trainer.feed.taken, "the rows of the batches taken back are drawn as well"


@pytest.mark.parametrize("saved", [True, False])
def test_a_checkpoint_of_another_kind_of_loader_is_refused(make, tmp_path, saved):
    observing, other = make("grpo", None), make("grpo", None)
    other.feed.loader = []
    by, of = (observing, other) if saved else (other, observing)
    by.save_checkpoint(tmp_path / "c")
    found = "state of the loader, this run has no such part" if saved else "no state of the loader, this run has that"
    with pytest.raises(CheckpointError, match=f"the checkpoint has {found}.*FRESH=1"):
        of.load_checkpoint(tmp_path / "c", inexact=True)
