"""Every trainer's public face: constructor, lookup by file name, closed settings, attributes."""

from __future__ import annotations

import inspect

import pytest
from pydantic import ValidationError

from workbench.errors import DefinitionError
from workbench.trainer import BaseTrainer, create_trainer, get_trainer_class
from workbench.trainer.registry import get_settings_class, trainer_names

KEYWORDS = [
    "settings",
    "val_loader",
    "evaluators",
    "output_dir",
    "scheduler",
    "ref_model",
    "reward_fn",
    "reward_model",
    "tokenizer",
]


def test_the_base_is_abstract_and_names_what_is_missing():
    assert BaseTrainer.__abstractmethods__ == {"_prepare_batch", "_forward", "_compute_loss"}
    with pytest.raises(TypeError, match="abstract"):
        BaseTrainer(None)


@pytest.mark.parametrize("name", trainer_names())
def test_a_trainer_is_found_by_its_file_name(name):
    trainer_class, settings_class = get_trainer_class(name), get_settings_class(name)
    assert issubclass(trainer_class, BaseTrainer)
    assert not inspect.isabstract(trainer_class)
    assert trainer_class.settings_class is settings_class
    assert trainer_class.__module__ == f"workbench.trainer.{name}_trainer"


@pytest.mark.parametrize("name", trainer_names())
def test_the_constructor_takes_the_same_arguments(name):
    parameters = list(inspect.signature(get_trainer_class(name)).parameters.values())
    assert [p.name for p in parameters[:3]] == ["model", "optimizer", "train_loader"]
    assert [p.name for p in parameters[3:]] == KEYWORDS
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters[3:])


@pytest.mark.parametrize("name", trainer_names())
def test_settings_are_frozen_closed_and_described(name):
    settings_class = get_settings_class(name)
    with pytest.raises(ValidationError, match="learning_rat"):
        settings_class.model_validate({"learning_rat": 1.0})
    with pytest.raises(ValidationError, match="frozen"):
        settings_class().learning_rate = 1.0
    assert [field for field, info in settings_class.model_fields.items() if not info.description] == []
    assert settings_class().batch_rows_per_step() >= 1


@pytest.mark.parametrize("name", trainer_names())
def test_trains_evaluates_saves_and_loads_by_the_public_names(name, make_trainer, tmp_path):
    trainer = make_trainer(name, steps=1)
    assert (trainer.rank, trainer.is_main, trainer.is_distributed, trainer.use_ddp) == (0, True, False, False)
    assert trainer.train()["step"] == trainer.step == trainer.num_steps == 1
    assert set(trainer.evaluate()) >= {"eval/loss"}
    trainer.save_checkpoint(tmp_path / "kept/for/later")
    other = make_trainer(name, steps=1)
    other.load_checkpoint(tmp_path / "kept/for/later")
    assert other.step == 1
    assert other.train() == trainer.last_row


def test_create_trainer_is_the_class_by_name(small_llama, collate, make_rows):
    settings = get_settings_class("sft")(steps=1, device="cpu", precision="float32")
    batches = [collate("sft", make_rows(2))]
    trainer = create_trainer("sft", model=small_llama(), optimizer=None, train_loader=batches, settings=settings)
    assert type(trainer) is get_trainer_class("sft")


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(DefinitionError, match=r"trainer is 'dop'; there are .*; did you mean dpo\?"):
        get_trainer_class("dop")
    with pytest.raises(DefinitionError, match=r"there are"):
        get_trainer_class("../base")


def test_an_unknown_public_name_lists_those_there_are():
    import workbench.trainer

    with pytest.raises(AttributeError, match="it has BaseTrainer, "):
        _ = workbench.trainer.PPPOTrainer
