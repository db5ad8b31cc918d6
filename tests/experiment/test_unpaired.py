"""A method of its own on labelled completions: a data form beside rows, pairs and prompts, from file to model."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.commands import Command
from workbench.tracking.reader import read_rows

SETTINGS = '''
from workbench.trainer.batch_format import UNPAIRED
from workbench.trainer.settings import TrainerSettings


class PushSettings(TrainerSettings):
    """Likelihood up where a completion is wanted, down where it is not."""

    batch = UNPAIRED
'''
TRAINER = """
from torch.nn.functional import cross_entropy

from workbench.tracking.values import Mean
from workbench.trainer import BaseTrainer
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.push_settings import PushSettings


class PushTrainer(BaseTrainer):
    settings_class = PushSettings

    def _prepare_batch(self, batch):
        return self._checked(batch)

    def _forward(self, batch):
        return self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def _compute_loss(self, outputs, batch):
        labels = batch["labels"][:, 1:]
        nats = cross_entropy(outputs[:, :-1].transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)
        wanted = batch["desirable"].double()
        terms = {"loss": LossTerm(((2 * wanted - 1) * nats).sum(), len(labels))}
        return LossResult(terms, {"wanted": Mean(wanted.sum(), len(labels))})
"""
ROWS = [{"prompt": f"{n}+1=", "completion": str(n + 1 + n % 2), "label": n % 2 == 0} for n in range(12)]
COMMANDS = """
from workbench import cli
for arguments in (["plan", "push"], ["data", "push"], ["run", "push"], ["plan", "push"], ["plan", "task"]):
    print("code", cli.main(arguments))
"""


@pytest.mark.slow
def test_labelled_rows_are_planned_shown_and_trained_on(lab, define, definitions):
    """Twelve rows, of which every second is wanted; and a task's rows, which have no labels."""
    (lab / "methods").mkdir()
    (lab / "methods/push_settings.py").write_text(SETTINGS)
    (lab / "methods/push_trainer.py").write_text(TRAINER)
    (lab / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    hyperparameters = {"steps": 2, "batch_rows": 12, "learning_rate": 1e-3, "precision": "float32"}
    own = definitions["start"] | {"trainer": "push", "hyperparameters": hyperparameters}
    define("task", own)
    define("push", own | {"data": {"path": "rows.jsonl"}})
    program = (sys.executable, "-c", COMMANDS)
    said = Command(lab, cold=True, program=program, WORKBENCH_TRAINERS="methods").completed().stdout
    assert re.findall(r"^code (\d+)$", said, re.MULTILINE) == ["0", "0", "0", "0", "2"], said
    assert "12 rows = 1 step an epoch" in said
    assert "    label: false|" in said.splitlines()
    assert "nothing to train: every run is finished" in said
    assert "found rows of a task for trainer push, allowed path or dataset, of rows of prompt, comp" in said
    rows = read_rows(lab / "runs/push/main/seed0/metrics.jsonl")
    assert [row["wanted"] for row in rows if "wanted" in row] == [0.5] * 2
    assert "eval/exact_match_greedy" in rows[-1]
