"""Laws of every trainer that samples its own data: seeds, rewards, records, failures, and what was made elsewhere."""

from __future__ import annotations

import warnings

import pytest

from tests.batches import VOCABULARY, Letters
from tests.trainers import ONLINE, watched
from workbench.errors import DataError, DefinitionError, DivergenceError, RewardError
from workbench.generation.costs import sampling_flops
from workbench.tracking.reader import read_rows
from workbench.trainer.online.metrics import earned_by_row
from workbench.trainer.online.rollout import rollout_made_elsewhere
from workbench.trainer.online.scoring import predicting_states, rollout_entropies

MADE = {"steps": 1, "precision": "float32", "device": "cpu", "max_grad_norm": None}


def column(trainer, name, batch=None):
    """A column of the completions that a trainer makes of a batch, or of its first one."""
    return [entry[name] for entry in trainer.updates_of(batch).completions]


@pytest.mark.parametrize("name", ONLINE)
def test_without_updates_sampler_and_trainer_agree_at_every_step(name, rollout_trainer):
    trainer = rollout_trainer(name, steps=4, learning_rate=0.0, passes=2, temperature=0.8, arguments={})
    trainer.train()
    gaps = [
        ((trainer.logprobs_of(batch) - batch["old_logprobs"]) * batch["completion_mask"]).abs().max().item()
        for batch in (updates.batches[0] for updates in trainer.made)
        if "old_logprobs" in batch
    ]
    assert name == "online_dpo" or (len(gaps) == 2 and max(gaps) < 1e-4)


def test_a_prompts_samples_do_not_depend_on_the_batch_it_is_met_in(torch, rollout_trainer, prompt_batch):
    batch = prompt_batch(3)
    order = [2, 0]
    fewer = {
        "prompts": torch.nn.functional.pad(batch["prompts"][order], (2, 0)),
        "prompt_mask": torch.nn.functional.pad(batch["prompt_mask"][order], (2, 0)),
        **{name: [batch[name][row] for row in order] for name in ("texts", "answers", "prompt_ids")},
    }
    whole, part = (rollout_trainer().updates_of(chosen).completions for chosen in (batch, fewer))
    by_prompt = [whole[4 * prompt : 4 * prompt + 4] for prompt in order]
    for name in ("completion", "reward"):
        assert [entry[name] for entry in part] == [entry[name] for group in by_prompt for entry in group]


def test_a_prompt_is_answered_anew_at_every_step_and_where_it_is_met_twice(rollout_trainer, prompt_batch):
    batch = prompt_batch(1)
    twice = {name: [*value, *value] if isinstance(value, list) else value.repeat(2, 1) for name, value in batch.items()}
    trainer = rollout_trainer()
    first = column(trainer, "completion", twice)
    assert first[:4] != first[4:]
    trainer.state.step = 1
    assert column(trainer, "completion", twice) != first
    trainer.state.step = 0
    assert column(trainer, "completion", twice) == first


def test_completions_are_recorded_with_what_they_earned(rollout_trainer, tmp_path):
    trainer = rollout_trainer(steps=2, logged_prompts=2, arguments={"output_dir": tmp_path})
    trainer.train()
    rows = read_rows(tmp_path / "completions.jsonl")
    assert [(row["step"], row["prompt_id"], row["sample_index"]) for row in rows] == [
        (step, f"{step - 1}-{prompt}", sample) for step in (1, 2) for prompt in range(2) for sample in range(4)
    ]
    for row in rows:
        text = row["completion"]
        assert row["split"] == "train"
        assert "d" not in text  # its end is no part of the answer
        assert row["num_tokens"] == len(text) + row["ended"]
        assert row["ended"] or row["num_tokens"] == 6
        assert row["reward"] == row["rewards"]["share_of_late_letters"]
        assert row["reward"] == sum(letter > "i" for letter in text) / (len(text) + 1)
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert sum(row["advantage"] for row in group) == pytest.approx(0.0, abs=1e-5)
        assert len({row["prompt"] for row in group}) == 1


def test_metrics_of_a_rollout_by_hand(torch, rollout_trainer):
    trainer = rollout_trainer(steps=1)
    rewards = torch.tensor(column(trainer, "reward")).double().view(3, 4)
    lengths, ended = (torch.tensor(column(trainer, name)).double() for name in ("num_tokens", "ended"))
    row = rollout_trainer(steps=1).train()
    assert row["reward"] == pytest.approx(rewards.mean().item())
    assert row["reward_std"] == pytest.approx(rewards.std(1).mean().item())
    assert row["rewards/share_of_late_letters/mean"] == row["reward"]
    assert row["rewards/share_of_late_letters/std"] == pytest.approx(rewards.std().item())
    assert row["frac_reward_zero_std"] == (rewards.max(1).values == rewards.min(1).values).double().mean().item()
    assert row["completions/mean_length"] == pytest.approx(lengths.mean().item())
    assert (row["completions/min_length"], row["completions/max_length"]) == (lengths.min(), lengths.max())
    assert row["completions/clipped_ratio"] == pytest.approx(1 - ended.mean().item())
    assert row["completions/mean_terminated_length"] == pytest.approx(lengths[ended.bool()].mean().item())
    whole = rollout_trainer("ppo").updates_of().batches[0]  # PPO learns from every completion, of the same samples
    with torch.no_grad():
        states = predicting_states(trainer.policy, whole)
    entropies = rollout_entropies(states, whole, 1.0)
    assert row["entropy"] == pytest.approx(entropies.sum().item() / lengths.sum().item(), rel=1e-5)
    assert {"time/sample_seconds", "time/reward_seconds", "time/update_seconds"} <= row.keys()


@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize(
    ("reward_fn", "message"),
    [
        (lambda completions: [1 / 0 for _ in completions], "ZeroDivisionError"),
        (lambda completions: [float("nan")] * len(completions), "found nan"),
        (lambda completions: [0.0], r"found 1 numbers for 12 samples"),
        (lambda completions: [None] * len(completions), "found None"),
    ],
    ids=["raises", "nan", "count", "none"],
)
def test_a_failing_reward_stops_the_run_at_once_with_the_prompt_shown(name, reward_fn, message, rollout_trainer):
    trainer = rollout_trainer(name, reward_fn=reward_fn)
    with pytest.raises(RewardError, match=message) as stopped:
        trainer.train()
    assert stopped.value.exit_code == 6
    assert f"prompt '{trainer.train_loader[0]['texts'][0]}'" in str(stopped.value)
    assert trainer.step == 0


@pytest.mark.parametrize("name", ONLINE)
def test_a_rollout_of_which_overlong_mask_leaves_nothing_stops_the_run(name, rollout_trainer):
    class NeverEnds(Letters):
        eos_ids = (VOCABULARY + 1,)

    arguments = {"tokenizer": NeverEnds()}
    with pytest.raises(DivergenceError, match=r"^step 1: all completions of the rollout were cut at max_new_tokens 2"):
        rollout_trainer(name, arguments=arguments, max_new_tokens=2, overlong="mask").train()
    rollout_trainer(name, arguments=arguments, max_new_tokens=2, overlong="keep").train()


def test_rewards_without_a_tokenizer_are_refused(rollout_trainer):
    with pytest.raises(DefinitionError, match="pass tokenizer"):
        rollout_trainer(arguments={"tokenizer": None}).train()


def test_an_empty_prompt_is_refused(rollout_trainer, prompt_batch):
    batch = prompt_batch(3)
    batch["prompt_mask"][1] = False
    with pytest.raises(DataError, match=r"batch 1: rows \[1\] have an empty prompt"):
        rollout_trainer(batches=[batch]).train()


def test_a_batch_without_prompts_is_refused(rollout_trainer, prompt_batch):
    empty = {name: value[:0] for name, value in prompt_batch(2).items()}
    with pytest.raises(DataError, match="batch 1 has no row for process 0"):
        rollout_trainer(batches=[empty]).train()


class LastToken:
    """A reward model's logits: each row's last real token."""

    def __new__(cls, torch):
        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = torch.nn.Parameter(torch.ones(1))

            def forward(self, input_ids, attention_mask):
                last = attention_mask.sum(1) - 1
                assert bool((attention_mask.cumsum(1)[:, -1] == last + 1).all() & attention_mask[:, 0].all())
                logits = input_ids.gather(1, last[:, None]).float() * self.scale
                return type("Outputs", (), {"logits": logits})()

        return Model()


@pytest.mark.parametrize("name", ONLINE)
def test_a_reward_model_scores_prompt_and_completion_without_padding(torch, name, rollout_trainer):
    trainer = rollout_trainer(name, reward_fn=None, steps=1, arguments={"reward_model": LastToken(torch)})
    made = trainer.updates_of().completions
    [end] = Letters.eos_ids
    last = [end if entry["ended"] else ord(entry["completion"][-1]) - ord("a") for entry in made]
    assert [entry["reward"] for entry in made] == last
    assert [entry["rewards"] for entry in made] == [{"reward_model": token} for token in last]
    assert "rewards/reward_model/mean" in trainer.train()


def test_what_a_reward_model_reads_is_charged(torch, rollout_trainer):
    trainer = rollout_trainer(reward_fn=None, arguments={"reward_model": LastToken(torch), "tokenizer": None})
    made = trainer.updates_of()
    entries = made.completions
    assert made.costs.scored_tokens == sum(len(entry["prompt"]) + entry["num_tokens"] for entry in entries)
    groups = [entries[start : start + 4] for start in range(0, len(entries), 4)]
    ids = [[3] * len(group[0]["prompt"]) for group in groups]
    sampled = [[entry["num_tokens"] for entry in group] for group in groups]
    sampling = sampling_flops(trainer.flops, trainer.policy, ids, sampled, trainer.settings.max_new_tokens)
    assert made.costs.flops == pytest.approx(sampling)  # it multiplies no matrix


@pytest.mark.parametrize("ends", [3, [3, 5]])
def test_without_a_tokenizer_the_models_own_ids_end_a_completion(torch, ends, rollout_trainer, small_llama):
    arguments = {"reward_model": LastToken(torch), "tokenizer": None}
    trainer = rollout_trainer("ppo", model=small_llama(eos_token_id=ends), reward_fn=None, arguments=arguments)
    made = trainer.updates_of()
    batch, ended = made.batches[0], torch.tensor([entry["ended"] for entry in made.completions])
    last = batch["completion_ids"].gather(1, batch["completion_mask"].sum(1)[:, None] - 1)[:, 0]
    assert ended.any()
    assert torch.equal(ended, torch.isin(last, torch.tensor(ends).flatten()))


@pytest.mark.parametrize("name", ONLINE)
def test_a_reward_model_beside_rewards_adds_to_them(torch, name, rollout_trainer):
    made = rollout_trainer(name, arguments={"reward_model": LastToken(torch)}).updates_of().completions
    assert all(entry["rewards"].keys() == {"share_of_late_letters", "reward_model"} for entry in made)
    assert [entry["reward"] for entry in made] == pytest.approx([sum(entry["rewards"].values()) for entry in made])


@pytest.mark.parametrize("name", ONLINE)
def test_under_lora_in_bf16_the_reference_is_the_adapter_switched_off(torch, name, rollout_trainer, small_llama):
    more = {} if name == "online_dpo" else {"beta": 0.1}
    trainer = rollout_trainer(name, model=small_llama("bfloat16"), lora=True, precision="bf16", **more)
    frozen = {n: p.detach().clone() for n, p in trainer.policy.named_parameters() if not p.requires_grad}
    row = trainer.train()
    assert row["loss"] == row["loss"]
    assert trainer.reference.model is None  # no second model is kept
    assert frozen
    assert all(torch.equal(trainer.policy.get_parameter(n), value) for n, value in frozen.items())
    with trainer.reference.scoring() as reference, torch.no_grad():
        ids = torch.tensor([[1, 2, 5]])
        torch.testing.assert_close(reference(ids).logits, small_llama("bfloat16")(ids).logits)


# Completions made elsewhere.


def made_by(name, batch, model, **settings):
    from workbench.trainer import get_trainer_class

    trainer_class = watched(get_trainer_class(name))
    return trainer_class(model, None, [batch], settings=trainer_class.settings_class(**MADE | settings))


@pytest.fixture
def made(torch, collate, make_rows):
    return collate("grpo", make_rows(6))


@pytest.fixture
def first_gradient(torch, small_llama):
    """first_gradient(batch, **settings) -> GRPO's first row and gradient."""

    def run(batch, **settings):
        trainer, seen = made_by("grpo", batch, small_llama(), **settings), []
        trainer.optimizer.register_step_pre_hook(
            lambda *_: seen.append(torch.cat([p.grad.flatten() for p in trainer.parameters]))
        )
        return trainer.train(), seen[0]

    return run


def test_without_group_ids_equal_prompts_are_a_group(torch, made, first_gradient):
    (_, expected), (_, found) = (
        first_gradient(batch) for batch in (made, {k: v for k, v in made.items() if k != "group_ids"})
    )
    assert expected.norm() > 1e-3
    assert torch.equal(found, expected)


def test_a_group_may_span_prompts_and_lie_in_pieces(torch, made, first_gradient):
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    _, expected = first_gradient(made)
    _, found = first_gradient({name: value[order] for name, value in made.items()})
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    _, other = first_gradient(made | {"group_ids": torch.tensor([0, 0, 0, 1, 1, 1])})
    assert not torch.allclose(other, expected, rtol=1e-2)


def test_summed_old_logprobs_are_a_completions_mean_under_gspo(torch, made, first_gradient):
    clips = {"loss": "gspo", "clip_low": 0.05, "clip_high": 0.05}
    summed = made | {"old_logprobs": made["old_logprobs"].sum(1)}
    (row, expected), (other_row, found) = (first_gradient(batch, **clips) for batch in (made, summed))
    assert other_row["loss"] == pytest.approx(row["loss"], rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_correction_of_whole_completions_takes_sums_and_keeps_ratios_of_tokens(torch, made, first_gradient):
    settings = {"loss": "grpo", "importance_correction": "sequence_truncate", "passes": 2, "steps": 1}
    summed = made | {"old_logprobs": made["old_logprobs"].sum(1)}
    (_, expected), (_, found) = (first_gradient(batch, **settings) for batch in (made, summed))
    assert expected.norm() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_without_old_logprobs_they_are_the_policys_own_before_the_first_update(torch, made, small_llama):
    trainer = made_by("grpo", {k: v for k, v in made.items() if k != "old_logprobs"}, small_llama(), passes=2, steps=2)
    assert trainer.train()["clip_ratio/region_mean"] >= 0.0
    trainer = made_by("grpo", {k: v for k, v in made.items() if k != "old_logprobs"}, small_llama(), passes=2, steps=2)
    first, second = trainer.updates_of().batches
    own = trainer.logprobs_of(first)
    assert torch.equal(first["old_logprobs"], second["old_logprobs"])
    torch.testing.assert_close(first["old_logprobs"], own * first["completion_mask"], rtol=1e-5, atol=1e-6)


def test_a_group_of_one_has_no_advantage_and_is_warned_of(torch, made, small_llama):
    lone = {name: value[1:] for name, value in made.items()}
    trainer = made_by("grpo", lone, small_llama(), steps=2)
    advantages = trainer.updates_of().batches[0]["advantages"]
    assert len(advantages) == len(lone["rewards"]) - 1, "what has no advantage is left out"
    assert (advantages != 0).all()
    trainer.train()
    assert [warning for warning in trainer.warnings if "group of one" in warning] == [
        "step 1: group of one: 1 of 3 groups have a single completion, whose advantage is 0: bring several completions "
        "of a prompt, with equal group_ids"
    ]


def test_where_groups_are_not_compared_a_group_of_one_is_not_warned_of(made, small_llama):
    lone = {name: value[1:] for name, value in made.items()}
    trainer = made_by("ppo", lone, small_llama())
    trainer.train()
    assert not any("group of one" in warning for warning in trainer.warnings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b["rewards"].__setitem__(2, float("nan")), r"batch 1: rewards\[2\] is nan"),
        (lambda b: b["response_mask"].__setitem__(1, False), r"batch 1: rows \[1\] have an empty completion"),
        (lambda b: b.pop("rewards"), "responses without rewards"),
    ],
)
def test_completions_that_do_not_fit_are_refused(change, message, made, small_llama):
    batch = {name: value.clone() for name, value in made.items()}
    change(batch)
    with pytest.raises(DataError, match=message):
        made_by("grpo", batch, small_llama()).train()


@pytest.mark.parametrize("name", ONLINE)
def test_nothing_is_warned_of_in_a_sound_run(name, rollout_trainer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = rollout_trainer(name)
        trainer.train()
    assert trainer.warnings == []


def test_completions_made_elsewhere_tell_what_each_row_of_the_data_earned(torch):
    batch = {
        "prompts": torch.tensor([[5], [3], [5]]),
        "prompt_mask": torch.ones(3, 1, dtype=torch.bool),
        "responses": torch.ones(3, 2, dtype=torch.long),
        "rewards": torch.tensor([1.0, 0.5, 0.0]),
        "row_ids": torch.tensor([7, 4, 7]),
    }
    assert earned_by_row(rollout_made_elsewhere(batch, 1, 0)) == {7: [1.0, 0.0], 4: [0.5]}
