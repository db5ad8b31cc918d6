"""Methods of one's own on other data forms than rows, pairs and prompts, from a file to a model: labelled completions,
which no trainer here learns from yet, and scored ones, whose form is from outside too."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.commands import Command
from workbench.tracking.reader import read_rows

PUSH = '''
from workbench.trainer.batch_format import UNPAIRED
from workbench.trainer.settings import TrainerSettings


class PushSettings(TrainerSettings):
    """Likelihood up where a completion is wanted, down where it is not."""

    batch = UNPAIRED
'''
WEIGH = '''
from dataclasses import dataclass

from workbench.data.formats import Format, Judged, parse_completion
from workbench.data.forms.judged import JudgedRows
from workbench.data.wanted import Wanted
from workbench.trainer.batch_format import ROWS, BatchField
from workbench.trainer.settings import TrainerSettings


@dataclass(frozen=True, slots=True)
class Scored(Judged):
    score: float


def parse(fields):
    return Scored(parse_completion(fields), float(fields["score"]))


class ScoredRows(JudgedRows):
    name = "scored"
    wanted = Wanted(
        (Format("scored", frozenset({"prompt", "completion", "score"}), parse),), "prompt, completion, score"
    )
    value = "score"

    def judge(self, example):
        return example.score


class WeighSettings(TrainerSettings):
    """Likelihood by score."""

    batch = ROWS.and_also(BatchField("score", "B", "numbers", "what the completion is worth"), data_form=ScoredRows())
'''
TRAINER = """
from torch.nn.functional import cross_entropy

from workbench.tracking.values import Mean
from workbench.trainer import BaseTrainer
from workbench.trainer.loss import LossResult, LossTerm
from workbench.trainer.NAME_settings import TITLESettings


class TITLETrainer(BaseTrainer):
    settings_class = TITLESettings

    def _prepare_batch(self, batch):
        return self._checked(batch)

    def _forward(self, batch):
        return self.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits

    def _compute_loss(self, outputs, batch):
        labels, value = batch["labels"][:, 1:], batch["VALUE"].double()
        nats = cross_entropy(outputs[:, :-1].transpose(1, 2), labels, ignore_index=-100, reduction="none").sum(1)
        term = LossTerm(((2 * value - 1) * nats).sum(), len(nats))
        return LossResult({"loss": term}, {"VALUE": Mean(value.sum(), len(nats))})
"""
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "push": (PUSH, "desirable", {"label": (True, False)}),
    "weigh": (WEIGH, "score", {"score": (0.75, 0.25)}),
}
COMMANDS = """
from workbench import cli
for name in ("push", "weigh"):
    for command in ("plan", "data", "run", "plan"):
        print("code", cli.main([command, name]))
print("code", cli.main(["plan", "task"]))
"""


@pytest.mark.slow
def test_rows_of_other_forms_are_planned_shown_and_trained_on(lab, define, definitions):
    """Twelve rows, of which every second is wanted, or worth more; and a task's rows, which have no labels."""
    (lab / "methods").mkdir()
    hyperparameters = {"steps": 2, "batch_rows": 12, "learning_rate": 1e-3, "precision": "float32"}
    for name, (settings, value, column) in METHODS.items():
        trainer = TRAINER.replace("NAME", name).replace("TITLE", name.title()).replace("VALUE", value)
        (lab / f"methods/{name}_settings.py").write_text(settings)
        (lab / f"methods/{name}_trainer.py").write_text(trainer)
        [(key, both)] = column.items()
        rows = [{"prompt": f"{n}+1=", "completion": str(n + 1 + n % 2), key: both[n % 2]} for n in range(12)]
        (lab / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        own = definitions["start"] | {"trainer": name, "hyperparameters": hyperparameters}
        define(name, own | {"data": {"path": f"{name}.jsonl"}})
    define("task", definitions["start"] | {"trainer": "push", "hyperparameters": hyperparameters})
    program = (sys.executable, "-c", COMMANDS)
    said = Command(lab, cold=True, program=program, WORKBENCH_TRAINERS="methods").completed().stdout
    assert re.findall(r"^code (\d+)$", said, re.MULTILINE) == [*"00000000", "2"], said
    assert said.count("12 rows = 1 step an epoch") == 4
    assert {"    desirable: false|", "    score: 0.25|"} <= set(said.splitlines())
    assert said.count("nothing to train: every run is finished") == 2
    assert "found rows of a task for trainer push, allowed path or dataset, of rows of prompt, comp" in said
    for name, (_, value, _) in METHODS.items():
        rows = read_rows(lab / f"runs/{name}/main/seed0/metrics.jsonl")
        assert [row[value] for row in rows if value in row] == [0.5] * 2
        assert "eval/exact_match_greedy" in rows[-1]
