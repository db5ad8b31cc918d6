"""A trainer holds parts and the order of a run: few attributes, and a part with state is one entry of `parts`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tests.trainers import ONLINE, TRAINERS
from workbench.trainer import SFTTrainer

ROOT = Path(__file__).parents[2]
MOST = 20
"""Attributes of a trainer, those that its method adds among them."""
MOST_ONLINE = 24
"""Of one that samples: rewards, signals and the functions of its loss."""


@pytest.mark.parametrize("name", TRAINERS)
def test_a_trainer_holds_few_attributes(name, make_trainer, tmp_path):
    trainer = make_trainer(name, tmp_path, steps=1, ema_decay=0.9)
    trainer.train()
    assert len(vars(trainer)) <= (MOST_ONLINE if name in ONLINE else MOST), sorted(vars(trainer))


class Seen:
    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class Counting(SFTTrainer):
    def _set_up_model(self, model: Any) -> Any:
        self.seen = Seen()
        return super()._set_up_model(model)

    def parts(self) -> Any:
        return {**super().parts(), "seen": self.seen}

    def _watch(self, row: dict[str, Any]) -> Any:
        self.seen.steps += 1
        return super()._watch(row)


def test_a_new_part_with_state_is_one_entry(small_llama, collate, make_rows, tmp_path):
    def make() -> Counting:
        batches = [collate("sft", make_rows(3))]
        settings = {"steps": 2, "device": "cpu", "precision": "float32"}
        return Counting(small_llama(), None, batches, settings=settings, output_dir=tmp_path)

    make().train()
    again = make()
    assert again.resume()
    assert again.seen.steps == 3  # rows 0 to 2


def test_what_was_given_is_there_when_a_method_sets_up_its_model(small_llama, collate, make_rows):
    class Looking(SFTTrainer):
        def _set_up_model(self, model: Any) -> Any:
            assert (self.train_loader, self.val_loader, self.evaluators) == (batches, batches, [])
            return super()._set_up_model(model)

    batches = [collate("sft", make_rows(3))]
    Looking(small_llama(), None, batches, val_loader=batches, settings={"steps": 1, "device": "cpu"})


@pytest.mark.parametrize("folder", ["workbench", "analysis", "tests"])
def test_nothing_outside_of_the_trainers_reads_a_private_name_of_one(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.is_relative_to(ROOT / "workbench/trainer"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trainer":
                is_private = node.attr.startswith("_") and not node.attr.endswith("__")
                found += [f"{path.relative_to(ROOT)}:{node.lineno}"] if is_private else []
    assert not found


def test_no_part_takes_a_trainer():
    found = []
    for path in sorted((ROOT / "workbench/trainer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.arg) and node.annotation is not None and "Trainer" in ast.unparse(node.annotation):
                annotation = ast.unparse(node.annotation)
                if "TrainerSettings" not in annotation and "TrainerState" not in annotation:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.arg}: {annotation}")
    assert not found
