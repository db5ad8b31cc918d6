"""What a user of the Python face can mistake is told in one line; what is expected of it works."""

from __future__ import annotations

import json

import pytest

from tests.trainers import ONLINE
from workbench.errors import DataError, DefinitionError, ModelError, WorkbenchError
from workbench.trainer import BaseTrainer, DPOTrainer, PPOTrainer, SFTTrainer, create_trainer, get_trainer_class
from workbench.trainer.registry import get_settings_class

SETTINGS = {"steps": 2, "device": "cpu", "precision": "float32"}


@pytest.fixture
def batch(collate, make_rows):
    return collate("sft", make_rows(3))


class Mean(BaseTrainer):
    """An own trainer, whose hooks a test may replace."""

    def _prepare_batch(self, batch):
        return batch

    def _forward(self, batch):
        return self.model(batch["input_ids"])

    def _compute_loss(self, outputs, batch):
        return outputs.logits.mean()


def forever(batch):
    while True:
        yield batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"learning_rat": 1.0}}, "learning_rat is no setting of SFTSettings; did you mean learning_rate"),
        ({"settings": {"beta": 1.0}}, "beta is no setting of SFTSettings; it is one of .*dpo, .*ppo"),
        ({"settings": {"lr": 1.0}}, "lr is no setting of SFTSettings; did you mean learning_rate"),
        ({"settings": {"steps": -1}}, "settings: steps is -1: "),
        (
            {"settings": get_settings_class("dpo")()},
            r"settings is a DPOSettings; allowed SFTSettings",
        ),
        ({"settings": get_settings_class("sft")}, "settings is the class SFTSettings"),
        ({"learning_rate": 1e-4}, r"it is a setting; write settings=\{'learning_rate': 0.0001\}"),
        ({"max_steps": 4}, r"it is a setting; write settings=\{'steps': 4\}"),
        ({"beta": 0.1}, "has no argument beta: it is a setting of .*dpo"),
        ({"train_loder": []}, "has no argument train_loder; did you mean train_loader"),
        ({"model": None}, "model is None: allowed a torch.nn.Module"),
        ({"model": "gpt2"}, r"model is the text 'gpt2': .*from_pretrained"),
        ({"optimizer": "adamw"}, r"settings=\{'optimizer': 'adamw'\} names one"),
        ({"optimizer": [1]}, r"optimizer is a list: .* .the loader comes third"),
        ({"scheduler": "cosine"}, r"settings=\{'schedule': 'cosine'\} names one"),
        ({"train_loader": {"input_ids": 1}}, r"train_loader is a dict: that is one batch; .* such as \[batch\]"),
        ({"train_loader": forever}, "train_loader is a function: call it first"),
        ({"evaluators": len}, "evaluators is a builtin_function_or_method: allowed a list of functions"),
        ({"ref_model": "itself"}, "ref_model is the text 'itself': allowed a torch.nn.Module"),
        ({"tokenizer": "gpt2"}, "tokenizer is the text 'gpt2'; allowed a tokenizer of transformers"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(change, message, small_llama, batch):
    arguments = {"model": small_llama(), "train_loader": [batch], "settings": SETTINGS} | change
    with pytest.raises(DefinitionError, match=message) as found:
        create_trainer("sft", **arguments)
    assert "\n" not in str(found.value)


def test_a_missing_model_a_frozen_one_and_a_name_that_is_none_are_told(small_llama):
    with pytest.raises(DefinitionError, match=r"model is missing; write SFTTrainer\(model\)"):
        SFTTrainer()
    with pytest.raises(DefinitionError, match="no trainable parameter"):
        SFTTrainer(small_llama().requires_grad_(False), settings=SETTINGS)
    with pytest.raises(DefinitionError, match="trainer is 3; there are"):
        get_trainer_class(3)
    model = small_llama()
    with pytest.raises(DefinitionError, match="ref_model is the model itself"):
        DPOTrainer(model, ref_model=model, settings=SETTINGS)


def test_a_dict_of_settings_is_the_settings(small_llama):
    trainer = SFTTrainer(small_llama(), settings=SETTINGS | {"early_stopping": {"metric": "eval/loss", "mode": "min"}})
    assert trainer.settings == SFTTrainer.settings_class(
        **SETTINGS, early_stopping={"metric": "eval/loss", "mode": "min"}
    )


def test_an_argument_that_a_trainer_does_not_read_is_told(small_llama, batch, capsys):
    create_trainer("sft", model=small_llama(), train_loader=[batch], settings=SETTINGS, ref_model=small_llama())
    assert capsys.readouterr().err == "SFTTrainer: ref_model is given, and nothing here reads it\n"


def test_the_critic_learns_by_an_optimiser_that_was_made_for_the_policy(torch, small_llama):
    model = small_llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = {"prompts": torch.ones(2, 3, dtype=torch.long), "responses": torch.full((2, 2), 5), "rewards": torch.ones(2)}
    trainer = PPOTrainer(model, optimizer, [rows, rows], settings={"steps": 2, "precision": "float32"})
    before = {name: value.clone() for name, value in trainer.unwrapped_model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.unwrapped_model.named_parameters() if not torch.equal(value, before[name])}
    assert {"value_head.weight", "trunk.model.norm.weight", "policy.model.norm.weight"} <= moved


def test_an_optimiser_that_would_leave_weights_as_they_are_is_refused(torch, small_llama, batch):
    model, other = small_llama(), small_llama()
    with pytest.raises(DefinitionError, match="of the optimizer's 20 parameters are not the model's"):
        SFTTrainer(model, torch.optim.AdamW(other.parameters()), [batch], settings=SETTINGS)
    with pytest.raises(DefinitionError, match="lacks 19 trainable parameters"):
        SFTTrainer(model, torch.optim.AdamW([model.model.norm.weight]), [batch], settings=SETTINGS)
    with pytest.raises(DefinitionError, match="LBFGS: it asks for the loss several times"):
        SFTTrainer(model, torch.optim.LBFGS(model.parameters()), [batch], settings=SETTINGS)


def test_what_is_said_twice_of_the_learning_rate_is_refused(torch, small_llama, batch):
    model = small_llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with pytest.raises(DefinitionError, match=r"learning_rate is 0.2 in settings and 0.1 in the optimizer"):
        SFTTrainer(model, optimizer, [batch], settings=SETTINGS | {"learning_rate": 0.2})
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(DefinitionError, match="schedule is in settings, and scheduler is given"):
        SFTTrainer(model, optimizer, [batch], scheduler=scheduler, settings=SETTINGS | {"schedule": "cosine"})
    with pytest.raises(DefinitionError, match="scheduler without optimizer"):
        SFTTrainer(model, None, [batch], scheduler=scheduler, settings=SETTINGS)
    other = torch.optim.AdamW(model.parameters())
    with pytest.raises(DefinitionError, match="scheduler is of another optimizer"):
        SFTTrainer(model, other, [batch], scheduler=scheduler, settings=SETTINGS)


@pytest.mark.parametrize("loader", [(), [], None])
@pytest.mark.parametrize("steps", [2, None])
def test_training_without_a_batch_is_refused(loader, steps, small_llama, batch):
    trainer = SFTTrainer(small_llama(), None, loader, val_loader=[batch], settings=SETTINGS | {"steps": steps})
    assert trainer.evaluate()["eval/loss"] > 0
    with pytest.raises(DataError, match="SFTTrainer: train_loader gives no batch"):
        trainer.train()


def test_a_generator_that_ends_or_is_read_again_is_refused(small_llama, batch):
    with pytest.raises(DataError, match=r"ended after 1 batches, .* or set steps to 1"):
        SFTTrainer(small_llama(), None, iter([batch]), settings=SETTINGS).train()
    bad = {**batch, "labels": batch["labels"][:, :2]}
    trainer = SFTTrainer(small_llama(), None, iter([bad, batch, batch]), settings=SETTINGS)
    with pytest.raises(DataError, match="labels is"):
        trainer.train()
    with pytest.raises(DataError, match="train_loader is a generator, which can be read only once"):
        trainer.train()


def test_an_error_in_a_batch_moves_no_other_batch_of_a_list(torch, small_llama, collate, make_rows):
    batches = [collate("sft", make_rows(3, seed=seed)) for seed in range(2)]
    whole = SFTTrainer(small_llama(), None, batches, settings=SETTINGS)
    trainer = SFTTrainer(small_llama(), None, [{**batches[0], "labels": None}, batches[1]], settings=SETTINGS)
    with pytest.raises(DataError, match="missing: labels"):
        trainer.train()
    trainer.train_loader[0] = batches[0]
    assert trainer.train()["loss"] == whole.train()["loss"]


def test_an_evaluation_of_nothing_is_refused(small_llama, batch):
    def trainer(**arguments):
        return SFTTrainer(small_llama(), None, [batch], settings=SETTINGS, **arguments)

    with pytest.raises(DefinitionError, match="nothing to evaluate by; pass val_loader"):
        trainer().evaluate()
    with pytest.raises(DataError, match="val_loader gives no batch"):
        trainer(val_loader=[]).evaluate()
    with pytest.raises(DataError, match=r"val_loader is a generator, .* every evaluation reads it"):
        trainer(val_loader=iter([batch])).train()
    early = SETTINGS | {"early_stopping": {"metric": "eval/loss"}}
    with pytest.raises(DefinitionError, match="early_stopping follows eval/loss, and nothing measures it"):
        SFTTrainer(small_llama(), None, [batch], settings=early).train()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "evaluator <lambda> gave a int; allowed a dict"),
        ({"loss": 1.0}, "evaluator <lambda> gave 'loss'; allowed names of held-out metrics, eval/"),
        ({"eval/x": "high"}, "eval/x is the text 'high'; allowed a number"),
    ],
)
def test_an_evaluator_gives_held_out_numbers(found, message, small_llama, batch):
    with pytest.raises(DefinitionError, match=message):
        SFTTrainer(small_llama(), None, [batch], settings=SETTINGS, evaluators=[lambda model, step: found]).train()


def test_an_evaluators_tensor_is_a_number(torch, small_llama, batch):
    evaluators = [lambda model, step: {"eval/x": torch.tensor(0.5)}]
    row = SFTTrainer(small_llama(), None, [batch], settings=SETTINGS, evaluators=evaluators).train()
    assert row["eval/x"] == 0.5
    assert type(row["eval/x"]) is float


@pytest.mark.parametrize(
    ("hook", "given", "message"),
    [
        ("_prepare_batch", lambda b: [b], "_prepare_batch gave a list; allowed a dict of tensors"),
        ("_prepare_batch", lambda b: {"input_ids": [1]}, "a dict in which input_ids is a list"),
        ("_prepare_batch", lambda b: {**b, "labels": b["labels"][:1]}, "tensors of different numbers of rows"),
        ("_make_update_batches", lambda b: [], "_make_update_batches gave no batch"),
        ("_compute_loss", lambda o, b: None, "_compute_loss gave a NoneType; allowed a LossResult"),
        ("_compute_loss", lambda o, b: o.logits, r"_compute_loss gave a Tensor of shape \(3, \d+, 17\)"),
        ("_compute_loss", lambda o, b: o.logits.mean().detach(), "the loss has no gradient"),
    ],
)
def test_an_own_trainers_mistakes_are_told(hook, given, message, small_llama, batch):
    trainer = Mean(small_llama(), None, [batch], settings=SETTINGS)
    setattr(trainer, hook, given)
    with pytest.raises(DefinitionError, match=message):
        trainer.train()


def test_an_id_beyond_an_own_models_vocabulary_is_told(torch):
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5))
    ids = torch.full((2, 3), 5)
    with pytest.raises(DataError, match="a token id has no row in the model's embeddings"):
        SFTTrainer(model, None, [{"input_ids": ids, "labels": ids}], settings=SETTINGS).train()


@pytest.mark.parametrize("name", ONLINE)
def test_an_own_module_that_cannot_be_sampled_from_is_refused_by_name(torch, name, rollout_arguments, prompt_batch):
    model = torch.nn.Sequential(torch.nn.Embedding(17, 4), torch.nn.Linear(4, 17))
    with pytest.raises(ModelError, match=r"Sequential (has no config|tells of no output head)"):
        create_trainer(
            name, model=model, train_loader=[prompt_batch(2)], settings=SETTINGS, **rollout_arguments
        ).train()


def test_a_reward_model_gives_one_number_a_text(small_llama, prompt_batch):
    settings = SETTINGS | {"max_new_tokens": 3, "group_size": 2, "batch_prompts": 2}
    with pytest.raises(WorkbenchError, match=r"reward_model gives logits of .*num_labels=1"):
        create_trainer(
            "grpo",
            model=small_llama(),
            train_loader=[prompt_batch(2)],
            settings=settings,
            reward_model=small_llama(),
        ).train()


# What a run leaves.


@pytest.fixture(scope="module")
def their_tokenizer():
    """transformers' tokenizer of 17 words, the last of which ends a sequence."""
    import tokenizers
    import transformers

    words = {f"w{number}": number for number in range(15)} | {"<unk>": 15, "<end>": 16}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<end>",
        pad_token="<end>",
        unk_token="<unk>",
        chat_template="{{ messages }}",
    )


@pytest.fixture
def their_model(torch):
    """A Llama of transformers'."""
    import transformers

    def make():
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=17, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=64, eos_token_id=3,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)

    return make


def test_a_tokenizer_of_transformers_is_taken_with_its_own_ids(their_tokenizer, their_model, prompt_batch, tmp_path):
    seen = []

    def reward(completions, **_):
        seen.extend(completions)
        return [float(len(text)) for text in completions]

    settings = SETTINGS | {"max_new_tokens": 3, "group_size": 2, "batch_prompts": 2}
    trainer = create_trainer(
        "grpo",
        model=their_model(),
        train_loader=[{"prompts": prompt_batch(2)["prompts"], "prompt_mask": prompt_batch(2)["prompt_mask"]}],
        settings=settings,
        tokenizer=their_tokenizer,
        reward_fn=reward,
        output_dir=tmp_path,
    )
    trainer.train()
    text = "w3 w1 never <end>"
    assert trainer.tokenizer.encode(text) == their_tokenizer.encode(text, add_special_tokens=False) == [3, 1, 15, 16]
    assert trainer.tokenizer.eos_ids == (16, 3)  # its own, and the model's
    assert trainer.tokenizer.chat_template == their_tokenizer.chat_template
    assert all(word.startswith("w") or word == "<unk>" for completion in seen for word in completion.split())
    import transformers

    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert saved.encode(text) == [3, 1, 15, 16]
    ends = json.loads((tmp_path / "model/generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == {3, 16}


def same_logits(torch, folder, model, ids):
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with torch.no_grad():
        own = model.eval()(ids).logits
        return torch.allclose(loaded(ids).logits, own, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own, on making its model
@pytest.mark.parametrize("kind", ["own", "own-lora", "theirs", "theirs-peft"])
def test_output_dir_has_a_model_that_transformers_loads(kind, torch, small_llama, their_model, batch, tmp_path):
    from workbench.models.adapters import add_lora
    from workbench.models.settings import LoraSettings

    model = small_llama() if kind.startswith("own") else their_model()
    if kind == "own-lora":
        add_lora(model, LoraSettings(rank=2, alpha=4), seed=1)
    if kind == "theirs-peft":
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", target_modules=["q_proj"]))
    trainer = SFTTrainer(model, None, [batch], settings=SETTINGS | {"learning_rate": 0.1}, output_dir=tmp_path)
    trainer.train()
    assert {"metrics.jsonl", "model"} <= {path.name for path in tmp_path.iterdir()}
    assert same_logits(torch, tmp_path / "model", model, batch["input_ids"])
    trainer.save_model(tmp_path / "again/here")
    assert same_logits(torch, tmp_path / "again/here", model, batch["input_ids"])


def test_an_own_module_leaves_its_weights(torch, tmp_path):
    from safetensors.torch import load_file

    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5))
    ids = torch.ones(2, 3, dtype=torch.int64)
    SFTTrainer(model, None, [{"input_ids": ids, "labels": ids}], settings=SETTINGS, output_dir=tmp_path).train()
    saved = load_file(tmp_path / "model/model.safetensors")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_nothing_is_written_without_output_dir(small_llama, batch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    SFTTrainer(small_llama(), None, [batch], settings=SETTINGS).train()
    assert list(tmp_path.iterdir()) == []


def test_another_runs_records_are_kept(small_llama, batch, tmp_path):
    def trainer():
        return SFTTrainer(small_llama(), None, [batch], settings=SETTINGS, output_dir=tmp_path)

    row = trainer().train()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(DefinitionError, match=r"holds the records of a run, .* call trainer.resume\(\) before train"):
        trainer().train()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    again = trainer()
    assert again.resume()
    assert again.train() == row
