"""An epoch is every row once: what is trained, counted and resumed."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import DataError


@pytest.fixture
def rows_of_one_epoch(small_llama):
    """rows_of_one_epoch(dtype="float64", folder=None, **settings) -> an SFT trainer of 9 rows in steps of 4."""

    def make(folder=None, number=9, batch_rows=4, **settings):
        from workbench.data.batches import BatchLoader
        from workbench.data.ragged import Ragged
        from workbench.data.sets import RowSet
        from workbench.trainer import SFTTrainer

        ids = Ragged.from_rows([[1 + row % 16, 2 + row % 15, 3, 4 + row % 7][: 2 + row % 3] for row in range(number)])
        loader = BatchLoader(RowSet(ids, np.ones(len(ids.values), bool)), batch_rows, seed=1)
        chosen = {"precision": "float32", "device": "cpu", "max_grad_norm": None, "learning_rate": 0.01} | settings
        model = small_llama("float64")
        return SFTTrainer(model, None, loader, settings=SFTTrainer.settings_class(**chosen), output_dir=folder)

    return make


def test_an_epoch_trains_each_token_once(rows_of_one_epoch):
    trainer = rows_of_one_epoch()
    assert trainer.num_steps == 3
    trainer.train()
    assert (trainer.step, trainer.costs.trained_tokens) == (3, sum(2 + row % 3 for row in range(9)))


def test_the_last_smaller_steps_gradient_is_divided_by_its_own_units(torch, rows_of_one_epoch):
    trainer, seen = rows_of_one_epoch(learning_rate=0.0), []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
    )
    trainer.train()
    loader = trainer.train_loader
    [row] = loader.rows_of(2)
    alone = loader.data.batch(np.array([row]))
    model = trainer.policy.train()
    logits = model(alone["input_ids"]).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), alone["labels"][:, 1:].flatten())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, trainer.parameters)])
    torch.testing.assert_close(seen[2], gradient, rtol=1e-6, atol=1e-9)


def test_a_run_of_epochs_resumes_exactly(torch, rows_of_one_epoch, tmp_path):
    whole = rows_of_one_epoch(tmp_path / "whole", epochs=1.5)
    whole.train()
    assert (whole.num_steps, len(whole.train_loader.rows_of(3))) == (4, 2)  # 13.5 rows: 4, 4, 4, 2
    part = rows_of_one_epoch(tmp_path / "part", epochs=1.5)
    part.progress.num_steps = 3
    part.train()
    part.save_checkpoint(tmp_path / "at3")
    again = rows_of_one_epoch(tmp_path / "again", epochs=1.5)
    again.load_checkpoint(tmp_path / "at3")
    again.train()
    for found, expected in zip(again.parameters, whole.parameters, strict=True):
        assert torch.equal(found, expected)


def test_prompts_and_their_updates_are_counted_alike(rollout_trainer, prompt_batch):
    class Prompts:
        lengths = np.full(5, 3)

        def __len__(self):
            return 5

        def batch(self, rows):
            return prompt_batch(len(rows), int(rows[0]))

    from workbench.data.batches import BatchLoader

    loader = BatchLoader(Prompts(), 3, seed=0)
    trainer = rollout_trainer("grpo", batches=loader, steps=None, epochs=1.0, passes=2, minibatches=2)
    assert trainer.num_steps == 2 * 2 * 2  # rollouts of 3 and of 2 prompts
    trainer.train()
    assert trainer.batches_taken == 2
    with pytest.raises(DataError, match="end with a batch of 2, and one needs 3 here"):
        rollout_trainer("grpo", batches=loader, steps=None, minibatches=3)
