"""Gradient checkpointing: the same numbers from less memory, whatever mode the trainer keeps its model in."""

from __future__ import annotations

import pytest

from tests.trainers import Variant
from workbench.errors import DefinitionError
from workbench.models.adapters import add_lora
from workbench.models.settings import LoraSettings


@pytest.fixture
def make_model(torch, small_llama):
    """make(name) -> our own Llama, or a model of transformers, of four layers; "+lora" adds an adapter."""

    def make(name):
        import transformers

        kind, *adapter = name.split("+")
        torch.manual_seed(0)
        size = {"vocab_size": 17, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
        if kind == "llama":
            model = small_llama(num_hidden_layers=4)
        elif kind == "gpt2":
            config = transformers.GPT2Config(n_embd=16, n_layer=4, n_head=2, n_positions=32, **size)
            model = transformers.GPT2LMHeadModel(config)
        elif kind == "mistral":
            config = transformers.MistralConfig(
                hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
                intermediate_size=24, **size,
            )  # fmt: skip
            model = transformers.MistralForCausalLM(config)
        else:
            config = transformers.OPTConfig(
                hidden_size=16, num_hidden_layers=4, num_attention_heads=2, ffn_dim=32, max_position_embeddings=32,
                word_embed_proj_dim=16, dropout=0.5, **size,
            )  # fmt: skip
            model = transformers.OPTForCausalLM(config)
        if adapter:
            add_lora(model, LoraSettings(rank=2, dropout=0.25 if "dropout" in adapter[0] else 0.0), seed=1)
        return model

    return make


@pytest.fixture
def build(make_trainer, collate, make_rows, make_model):
    """build(trainer, model, steps=1, **settings) -> a trainer of one batch of four rows."""

    def build(name, model="llama", steps=1, **settings):
        batches, arguments = [collate(name, make_rows(4))], {"val_loader": None}
        return make_trainer(
            Variant(name), model=make_model(model), batches=batches, arguments=arguments, steps=steps, **settings
        )

    return build


@pytest.fixture
def first_step(torch, build):
    """first_step(trainer, model, recomputed) -> the first step's gradient, and the bytes that its forward kept."""

    def measure(name, model, recomputed, **settings):
        trainer = build(name, model, gradient_checkpointing=recomputed, max_grad_norm=None, **settings)
        gradients, kept = [], {}
        trainer.optimizer.register_step_pre_hook(
            lambda *_: gradients.append(torch.cat([parameter.grad.flatten() for parameter in trainer.parameters]))
        )

        def keep(tensor):
            # What is saved twice, or is a parameter, takes no more room.
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.train()
        weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
        return gradients[0], sum(size for place, (size, _) in kept.items() if place not in weights)

    return measure


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("sft", "llama"),
        ("dpo", "gpt2"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("dpo", "llama+lora"), ("sft", "mistral+lora"), ("dpo", "opt"))
        ),
    ],
)
def test_the_gradient_is_the_same_and_less_is_kept(first_step, name, model):
    plain, kept = first_step(name, model, recomputed=False)
    recomputed, kept_less = first_step(name, model, recomputed=True)
    assert plain.norm() > 1e-3
    assert ((recomputed - plain).norm() / plain.norm()).item() <= 1e-6
    assert kept_less < 0.5 * kept


@pytest.mark.parametrize("model", ["llama+lora with dropout", "gpt2"])
def test_dropout_is_drawn_once_for_both_forwards(first_step, model):
    plain, _ = first_step("sft", model, recomputed=False, dropout=0.25)
    recomputed, _ = first_step("sft", model, recomputed=True, dropout=0.25)
    assert ((recomputed - plain).norm() / plain.norm()).item() <= 1e-6


def test_only_a_step_raises_the_layers_mode(torch, build):
    trainer = build("dpo", "gpt2", steps=2, gradient_checkpointing=True)
    modes = set()
    for layer in trainer.model.transformer.h:
        layer.register_forward_pre_hook(
            lambda layer, _: modes.add((torch.is_grad_enabled(), layer.training, layer.attn.training))
        )
    trainer.train()
    # With gradients the policy's layers, and not what is inside them; without, the reference's.
    assert modes == {(True, True, False), (False, False, False)}
    assert not any(module.training for module in trainer.model.modules())


def test_what_is_computed_again_is_charged(build):
    plain, again = (build("sft", gradient_checkpointing=on).train() for on in (False, True))
    assert again["loss"] == plain["loss"]
    assert 1.2 < again["cost/flops"] / plain["cost/flops"] < 4 / 3


def test_a_model_that_cannot_do_it_is_refused(torch, sft):
    with pytest.raises(DefinitionError, match=r"Linear cannot do it .* set gradient_checkpointing: false"):
        sft(model=torch.nn.Linear(2, 2), gradient_checkpointing=True)
