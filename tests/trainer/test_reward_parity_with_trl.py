"""Law 5: reward models through TRL 1.16's own trainer: loss, gradient and metrics of a batch, and 20 whole steps."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests.parity import OURS, ROWS, THEIRS, first_step, gradient_distance, pytestmark  # noqa: F401
from workbench.data.formats import Preference
from workbench.data.tokenise import tokenise_pairs
from workbench.models.load import load_model
from workbench.models.tokenizer import Tokenizer
from workbench.trainer import RewardTrainer

STEPS, PAIRS = 20, 2


@pytest.fixture
def sides(torch, tiny_folder, tmp_path):
    """sides(margins, coefficient, **theirs) -> TRL's trainer and ours on the same pairs, from the same weights; `ours`
    takes settings."""
    import datasets
    import transformers
    import trl

    tokenizer = Tokenizer.load(tiny_folder)

    def make(margins, coefficient, **theirs):
        rows = [Preference(*row, margin=0.25 * index if margins else None) for index, row in enumerate(ROWS)]
        pairs, _ = tokenise_pairs(rows, tokenizer, 64, as_chat=False)
        own = load_model(tiny_folder)
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in own.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
        config = transformers.AutoConfig.from_pretrained(tiny_folder, num_labels=1)
        model = transformers.AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        batches = [pairs.batch(np.arange(start, start + PAIRS)) for start in range(0, len(ROWS), PAIRS)]

        def ours(**settings):
            chosen = OURS | {"center_rewards_coefficient": coefficient} | settings
            loader = batches if settings.get("steps") == STEPS else [pairs.batch(np.arange(len(ROWS)))]
            return RewardTrainer(own, None, loader, settings=chosen)

        trained = ours().result
        weights = {name.removeprefix("trunk."): value for name, value in trained.state_dict().items()}
        model.load_state_dict({name: value for name, value in weights.items() if not name.startswith("lm_head")})
        columns = [
            {"chosen_ids": [*prompt, *chosen], "rejected_ids": [*prompt, *rejected]}
            | ({"margin": 0.25 * index} if margins else {})
            for index, (prompt, chosen, rejected) in enumerate(
                zip(*([part[row].tolist() for row in range(len(ROWS))] for part in _parts(pairs)), strict=True)
            )
        ]
        arguments = {
            "center_rewards_coefficient": coefficient or None,
            "max_grad_norm": 1.0,
            "max_length": None,
            **THEIRS,
            **theirs,
        }
        peer = trl.RewardTrainer(
            model,
            args=trl.RewardConfig(output_dir=str(tmp_path), **arguments),
            train_dataset=datasets.Dataset.from_list(columns),
            processing_class=transformers.AutoTokenizer.from_pretrained(tiny_folder),
        )
        return SimpleNamespace(peer=peer, ours=ours)

    return make


def _parts(pairs):
    return pairs.prompts, pairs.chosen, pairs.rejected


def weights_of(trainer):
    """Ours under TRL's names."""
    return {n.removeprefix("trunk."): p for n, p in trainer.result.named_parameters() if "lm_head" not in n}


@pytest.mark.parametrize(("margins", "coefficient"), [(False, 0.0), (True, 0.0), (False, 0.01), (True, 0.5)])
def test_loss_gradient_and_metrics_of_a_batch(sides, margins, coefficient):
    both = sides(margins, coefficient)
    peer = both.peer
    peer.model.train()
    rows = [peer.train_dataset[index] for index in range(len(ROWS))]
    loss = peer.compute_loss(peer.model, peer.data_collator(rows))
    loss.backward()
    ours = both.ours(steps=1, max_grad_norm=None)
    row, gradients = first_step(ours, weights_of(ours))
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5
    for name in ("accuracy", "margin", "mean_reward", "min_reward", "max_reward"):
        assert row[name] == pytest.approx(peer._metrics["train"][name][-1], rel=1e-5, abs=1e-5), name


def test_twenty_whole_steps(torch, sides):
    both = sides(
        *(True, 0.01),
        max_steps=STEPS,
        per_device_train_batch_size=PAIRS,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        optim="adamw_torch",
        save_strategy="no",
        disable_tqdm=True,
    )
    peer, losses = both.peer, []
    peer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(peer.train_dataset)
    compute = peer.compute_loss
    peer.compute_loss = lambda *given, **named: losses.append(compute(*given, **named)) or losses[-1]
    ours = both.ours(steps=STEPS, learning_rate=1e-4)
    found = []
    ours.progress.report = lambda _, row, __: found.append(row.get("loss"))
    peer.train()
    ours.train()
    assert [loss for loss in found if loss is not None] == pytest.approx([x.item() for x in losses], abs=1e-5)
    for name, own in weights_of(ours).items():
        torch.testing.assert_close(own.detach(), peer.model.get_parameter(name).detach(), atol=1e-5, rtol=1e-5)
