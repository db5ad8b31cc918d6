"""Law 5: distillation agrees with TRL 1.16's GKDTrainer (experimental there) within 1e-5: loss, gradient, 20 steps."""

from __future__ import annotations

import pytest

from tests.parity import OURS, THEIRS, first_step, gradient_distance, pytestmark, weight_distance  # noqa: F401
from tests.trainers import Watched, watched

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
         "num_key_value_heads": 2, "vocab_size": 17, "tie_word_embeddings": True, "max_position_embeddings": 64,
         "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 3}  # fmt: skip
LARGE = SMALL | {"hidden_size": 48, "num_hidden_layers": 3, "head_dim": 12}
STEPS = 20


@pytest.fixture
def models(torch):
    """models() -> two students with the same weights and a larger teacher, transformers' own classes all three."""
    import transformers

    def make(seed, sizes):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        return model

    with torch.random.fork_rng():
        return make(0, SMALL), make(0, SMALL), make(1, LARGE)


@pytest.fixture
def batches(collate, make_rows):
    return [collate("distill", make_rows(6, seed)) for seed in range(STEPS)]


@pytest.fixture
def make_peer(torch, tiny_folder, tmp_path, monkeypatch):
    """make_peer(student, teacher, batches, **settings) -> TRL's trainer, which takes these batches in turn."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")

    def make(student, teacher, batches, **settings):
        import datasets
        import transformers
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        common = THEIRS | {"lmbda": 0.0}
        common |= {"max_steps": len(batches), "per_device_train_batch_size": 1, "lr_scheduler_type": "constant"}
        common |= {"save_strategy": "no", "disable_tqdm": True, "optim": "adamw_torch", "max_grad_norm": 1.0}

        class InTurn(GKDTrainer):
            def _get_train_sampler(self, *_):
                return torch.utils.data.SequentialSampler(self.train_dataset)

        return InTurn(
            student,
            teacher_model=teacher,
            args=GKDConfig(output_dir=str(tmp_path), **common | settings),
            data_collator=lambda rows: {name: part.clone() for name, part in batches[rows[0]["place"]].items()},
            train_dataset=datasets.Dataset.from_list([{"place": place} for place in range(len(batches))]),
            processing_class=transformers.AutoTokenizer.from_pretrained(tiny_folder),
        )

    return make


def weights(torch, model):
    return torch.cat([part.detach().flatten() for part in model.parameters()])


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 1.0])
def test_loss_and_gradient(models, batches, make_peer, beta):
    from workbench.trainer import DistillTrainer

    theirs, own, teacher = models
    peer = make_peer(theirs, teacher, batches, beta=beta)
    loss = peer.compute_loss(peer.model, {name: part.clone() for name, part in batches[0].items()})
    loss.backward()
    settings = OURS | {"steps": 1, "max_grad_norm": None, "beta": beta}
    trainer = DistillTrainer(own, None, batches, settings=settings, ref_model=teacher)
    row, gradients = first_step(trainer)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_twenty_steps_on_the_same_batches(torch, models, batches, make_peer, beta):
    from workbench.trainer import DistillTrainer

    theirs, own, teacher = models
    before = weights(torch, own)
    peer = make_peer(theirs, teacher, batches, beta=beta, learning_rate=1e-3, logging_steps=1)
    peer.train()
    settings = OURS | {"steps": STEPS, "learning_rate": 1e-3, "beta": beta}
    losses = []

    class Kept(DistillTrainer):
        _work = DistillTrainer._work

        def _check_gradient(self, row):
            losses.append(row["loss"])
            return super()._check_gradient(row)

    Kept(own, None, batches, settings=settings, ref_model=teacher).train()
    expected = [entry["loss"] for entry in peer.state.log_history if "loss" in entry]
    assert losses == pytest.approx(expected, rel=1e-4, abs=6e-5)  # TRL's are rounded to four digits where it logs them
    moved = weights(torch, own) - before
    assert moved.norm() > 0.1
    assert weight_distance(own, theirs) <= 1e-5


def test_own_samples_are_learned_from_as_theirs_are(torch, models, collate, make_rows, make_peer):
    """TRL's loss of the batch that our student's samples make; what is drawn, and by which generator, differs."""
    from workbench.trainer import DistillTrainer

    theirs, own, teacher = models
    batch = collate("distill", make_rows(6))
    settings = {"steps": 1, "precision": "float32", "device": "cpu", "on_policy_share": 1.0, "max_new_tokens": 5}
    trainer = watched(DistillTrainer, Watched)(own, None, [batch], settings=settings, ref_model=teacher)
    (update,) = trainer.updates_of(batch).batches
    peer = make_peer(theirs, teacher, [batch])
    taken = {name: update[name].clone() for name in ("input_ids", "labels", "attention_mask")}
    assert trainer.train()["loss"] == pytest.approx(peer.compute_loss(peer.model, taken).item(), rel=1e-5)


def test_the_temperature_is_a_factor_of_its_square_beside_theirs(torch):
    from trl.experimental.gkd import GKDTrainer

    from workbench.objectives.distillation import divergence_of, projected_divergence

    student, teacher = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0))
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, beta=0.3, temperature=2.0, reduction="sum")
    own = projected_divergence((student, None, None), (teacher, None, None), divergence_of(0.3), temperature=2.0)
    assert own.sum().item() == pytest.approx(4 * theirs.item(), rel=1e-5)
