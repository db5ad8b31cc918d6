"""Law 5: the same completions, weights and settings through TRL 1.16's own GRPO and RLOO code agree within 1e-5."""

from __future__ import annotations

import pytest

from tests import parity
from tests.parity import first_step, gradient_distance, pytestmark, weight_distance  # noqa: F401

# Two groups of three, completions of 1 to 9 tokens; the prompts need padding.
ROWS = [
    ("12ab", ["21ba", "9", "ab12 21ba"]),
    ("a longer prompt", ["short", "not so short", "33"]),
]
REWARDS = [1.0, 0.0, 0.25, 0.5, -1.0, 2.0]
LIMIT = 16
THEIRS = parity.THEIRS | {
    "num_generations": 3,
    "per_device_train_batch_size": 6,
    "temperature": 0.7,
    "top_p": 1.0,
    "top_k": 0,
}
OURS = parity.OURS | {"steps": 1, "max_grad_norm": None, "max_new_tokens": LIMIT, "temperature": 0.7}


@pytest.fixture
def make_peer(tokenizer, tmp_path):
    """make_peer(kind, model, reward=..., **settings) -> TRL's trainer, in evaluation mode: it accumulates nothing."""

    def make(kind, model, reward=lambda completions, **_: [0.0] * len(completions), **settings):
        import datasets
        import trl

        peer = getattr(trl, f"{kind}Trainer")(
            model,
            reward_funcs=reward,
            args=getattr(trl, f"{kind}Config")(
                output_dir=str(tmp_path), max_completion_length=LIMIT, **THEIRS, **settings
            ),
            train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt, _ in ROWS]),
            processing_class=tokenizer,
        )
        peer.model.eval()
        return peer

    return make


@pytest.fixture
def batch(torch, tokenizer):
    """Ours, with log-probabilities of a policy and a reference that are neither the policy's nor each other's."""
    prompts = [tokenizer(prompt)["input_ids"] for prompt, completions in ROWS for _ in completions]
    responses = [tokenizer(text)["input_ids"] + [1] for _, completions in ROWS for text in completions]
    made = {"rewards": torch.tensor(REWARDS), "group_ids": torch.tensor([0, 0, 0, 1, 1, 1])}
    for name, rows, left in (("prompt", prompts, True), ("response", responses, False)):
        width = max(map(len, rows))
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
        for index, row in enumerate(rows):
            place = slice(width - len(row), width) if left else slice(0, len(row))
            ids[index, place], mask[index, place] = torch.tensor(row), True
        made |= {f"{name}s": ids, f"{name}_mask": mask}
    return made


@pytest.fixture
def with_logprobs(torch, batch):
    """with_logprobs(model) -> the batch with old and reference log-probabilities near the model's own."""

    def make(model, noise=0.3):
        from workbench.trainer.online.rollout import rollout_made_elsewhere
        from workbench.trainer.online.scoring import predicting_states, rollout_logprobs

        rows = rollout_made_elsewhere(batch, 1, 0).row_batch()
        with torch.no_grad():
            own = rollout_logprobs(predicting_states(model, rows), rows, OURS["temperature"])
        generator = torch.Generator().manual_seed(3)
        moved = [own + noise * torch.randn(own.shape, generator=generator) for _ in range(2)]
        old, reference = (torch.where(batch["response_mask"], part, 0.0) for part in moved)
        return batch | {"old_logprobs": old, "ref_logprobs": reference}

    return make


def their_inputs(torch, batch, advantages):
    return {
        "prompt_ids": batch["prompts"],
        "prompt_mask": batch["prompt_mask"].long(),
        "completion_ids": batch["responses"],
        "completion_mask": batch["response_mask"].long(),
        "advantages": advantages.float(),
        "old_per_token_logps": batch["old_logprobs"],
        "old_logps": batch["old_logprobs"].sum(1),
        "ref_per_token_logps": batch["ref_logprobs"],
        "num_items_in_batch": batch["response_mask"].sum(),
    }


def our_first_step(model, batch, settings, name="grpo", **arguments):
    """Our metrics row and gradients by name, of the first step."""
    from workbench.trainer import get_trainer_class

    return first_step(get_trainer_class(name)(model, None, [batch], settings=OURS | settings, **arguments))


CLIPS = ({"clip_low": 0.1, "clip_high": 0.25}, {"epsilon": 0.1, "epsilon_high": 0.25})
NARROW = ({"clip_low": 0.04, "clip_high": 0.05}, {"epsilon": 0.04, "epsilon_high": 0.05})
SEQUENCE = {"loss_type": "grpo", "importance_sampling_level": "sequence"}
K3 = {"beta": 0.2, "use_bias_correction_kl": False}
K3_RATIO = {"beta": 0.2, "use_bias_correction_kl": True}
CASES: dict[str, tuple[dict, dict]] = {
    **{
        name: ({"loss": name, **CLIPS[0]}, {"loss_type": name, **CLIPS[1]})
        for name in ("grpo", "dapo", "bnpo", "dr_grpo")
    },
    "cispo": ({"loss": "cispo", "ratio_ceiling": 1.1}, {"loss_type": "cispo", "epsilon_high": 1.1}),
    "gspo": ({"loss": "gspo", **NARROW[0]}, {**SEQUENCE, **NARROW[1]}),
    "luspo": ({"loss": "luspo", **NARROW[0]}, {**SEQUENCE, **NARROW[1], "loss_type": "luspo"}),
    "sapo": ({"loss": "sapo"}, {"loss_type": "sapo"}),
    "sapo-temperatures": (
        {"loss": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0},
        {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0},
    ),
    "gspo-k3-sequence": (
        {"loss": "gspo", **NARROW[0], "beta": 0.2, "kl": "k3_sequence"},
        {**SEQUENCE, **NARROW[1], **K3_RATIO},
    ),
    **{
        f"{name}-k3": ({"loss": name, "beta": 0.2, "kl": "k3"}, {"loss_type": name, **K3})
        for name in ("grpo", "dapo", "dr_grpo")
    },
    "grpo-k3-ratio": ({"loss": "grpo", "beta": 0.2, "kl": "k3_ratio"}, {"loss_type": "grpo", **K3_RATIO}),
    "dapo-k3-ratio": ({"loss": "dapo", "beta": 0.2, "kl": "k3_ratio"}, {"loss_type": "dapo", **K3_RATIO}),
    "dapo-entropy": ({"loss": "dapo", "entropy_bonus": 0.3}, {"loss_type": "dapo", "entropy_coef": 0.3}),
    "grpo-entropy": ({"loss": "grpo", "entropy_bonus": 0.3}, {"loss_type": "grpo", "entropy_coef": 0.3}),
}


@pytest.mark.parametrize("case", CASES)
def test_grpo(torch, models, make_peer, with_logprobs, case):
    from workbench.objectives.advantages import ADVANTAGES

    settings, theirs_settings = CASES[case]
    theirs, own = models(0)
    batch = with_logprobs(own)
    peer = make_peer("GRPO", theirs, **{"beta": 0.0, "epsilon": 0.2} | theirs_settings)
    advantages = ADVANTAGES["group_std"](batch["rewards"], batch["group_ids"])
    loss = peer._compute_loss(peer.model, their_inputs(torch, batch, advantages))
    loss.backward()

    row, gradients = our_first_step(own, batch, settings)
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5
    expected = {name: values[-1] for name, values in peer._metrics["eval"].items()}
    compared = ["kl"] if settings.get("beta") else []
    if case in ("grpo", "dapo", "dr_grpo"):
        compared += ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"]
        assert expected["clip_ratio/region_mean"] > 0.1
    if case == "cispo":
        assert expected["cispo_clip_ratio"] > 0.0
        assert row["clip_ratio/high_mean"] == pytest.approx(expected["cispo_clip_ratio"])
    for name in compared:
        assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize(("ours", "theirs"), [("group_std", "group"), ("batch_std", "batch"), ("mean_only", "none")])
def test_advantages(torch, models, make_peer, ours, theirs):
    """Of rewards by row, through TRL's sampling and scoring."""
    from workbench.objectives.advantages import ADVANTAGES

    peer = make_peer("GRPO", models(0)[0], reward=lambda completions, **_: REWARDS, beta=0.0, scale_rewards=theirs)
    peer.num_generations_eval = THEIRS["num_generations"]
    inputs = [{"prompt": prompt} for prompt, completions in ROWS for _ in completions]
    found = peer._generate_and_score_completions(inputs)["advantages"]
    expected = ADVANTAGES[ours](torch.tensor(REWARDS), torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)


def test_rloo_before_its_first_update(torch, models, make_peer, with_logprobs):
    """With ratio 1 its gradient is the sum of A grad logp over tokens, a mean over completions: dr_grpo's, times the
    limit."""
    from workbench.objectives.advantages import ADVANTAGES

    theirs, own = models(0)
    batch = with_logprobs(own, noise=0.0)
    peer = make_peer("RLOO", theirs, beta=0.0)
    advantages = ADVANTAGES["rloo"](batch["rewards"], batch["group_ids"])
    peer._compute_loss(peer.model, their_inputs(torch, batch, advantages)).backward()
    _, gradients = our_first_step(own, batch, {"loss": "dr_grpo", "advantage": "rloo"})
    assert gradient_distance(gradients, peer.model, scale=LIMIT) <= 1e-5


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_rloo(torch, models, make_peer, with_logprobs, noise):
    """The clipped ratio of the whole completion, within the clip and beyond it."""
    from workbench.objectives.advantages import rloo

    theirs, own = models(0)
    batch = with_logprobs(own, noise)
    peer = make_peer("RLOO", theirs, beta=0.0, epsilon=0.1, epsilon_high=0.25)
    loss = peer._compute_loss(peer.model, their_inputs(torch, batch, rloo(batch["rewards"], batch["group_ids"])))
    loss.backward()
    settings = {"beta": 0.0, "clip_low": 0.1, "clip_high": 0.25}
    row, gradients = our_first_step(own, batch, settings, "rloo")
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5, abs=1e-5)
    assert gradient_distance(gradients, peer.model) <= 1e-5
    assert (peer._metrics["eval"]["clip_ratio/region_mean"][-1] > 0.0) is (noise > 0)


def scores_of(completion_ids):
    return [sum(ids) % 11 / 4 for ids in completion_ids]


@pytest.mark.parametrize("whiten", [False, True])
def test_twenty_steps_of_rloo(torch, models, make_peer, batch, tiny_folder, tmp_path, whiten):
    """Ten rollouts, two passes over each: rewards less the KL to the start, baselines, ratios, clips, and AdamW."""
    from workbench.models.load import load_model
    from workbench.tracking.reader import read_rows
    from workbench.trainer import RLOOTrainer

    generator = torch.Generator().manual_seed(7)
    turns = [
        [[*torch.randint(3, 60, (length,), generator=generator).tolist(), 1] for length in (3, 1, 9, 4, 2, 6)]
        for _ in range(10)
    ]
    theirs, own = models(0)
    settings = {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "max_steps": 20, "optim": "adamw_torch"}
    settings |= {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "shuffle_dataset": False}
    settings |= {"beta": 0.1, "num_iterations": 2, "normalize_advantages": whiten, "max_grad_norm": 1.0}
    peer = make_peer("RLOO", theirs, reward=lambda completion_ids, **_: scores_of(completion_ids), **settings)
    left = iter(turns)
    peer._generate_single_turn = lambda *_: next(left)
    peer.train()

    def batch_of(completions):
        width = max(map(len, completions))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in completions])
        mask = torch.arange(width) < torch.tensor([len(row) for row in completions])[:, None]
        made = {"responses": ids, "response_mask": mask, "rewards": torch.tensor(scores_of(completions))}
        return {name: batch[name] for name in ("prompts", "prompt_mask", "group_ids")} | made

    settings = {"steps": 20, "passes": 2, "beta": 0.1, "whiten_advantages": whiten, "learning_rate": 1e-3}
    settings = OURS | {"max_grad_norm": 1.0} | settings
    before = torch.cat([part.detach().flatten().clone() for part in own.parameters()])
    batches, reference = [batch_of(completions) for completions in turns], load_model(tiny_folder)
    RLOOTrainer(own, None, batches, settings=settings, ref_model=reference, output_dir=tmp_path / "own").train()
    rows = [row for row in read_rows(tmp_path / "own/metrics.jsonl") if "loss" in row]
    logged = [entry for entry in peer.state.log_history if "loss" in entry]
    # TRL rounds a loss to four digits where it logs it.
    assert [row["loss"] for row in rows] == pytest.approx([entry["loss"] for entry in logged], abs=6e-5)
    expected = [entry["kl"] for entry in logged if "kl" in entry]
    assert [row["kl"] for row in rows if "kl" in row] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert len(expected) == 10
    assert any(row["clip_ratio/region_mean"] > 0 for row in rows)
    found = torch.cat([part.detach().flatten() for part in own.parameters()])
    assert (found - before).norm() > 1.0
    assert weight_distance(own, peer.model) <= 1e-5
