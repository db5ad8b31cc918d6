"""What the README shows of Python runs, and its table of batches is what the trainers declare."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.analysis.conftest import write_experiment
from workbench.trainer.batch_format import table
from workbench.trainer.registry import get_settings_class, trainer_names

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
ORDER = ("sft", "pretrain", "dpo", "grpo", "ppo", "online_dpo")


def test_every_python_block_of_the_readme_runs(torch, tmp_path, monkeypatch):
    from workbench.models.presets import make_preset

    make_preset("tiny", tmp_path / "runs/sft_sort/main/seed0/model", seed=0)
    write_experiment(tmp_path / "runs", name="dpo_beta_sweep")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
        if "MySettings" in names:  # the README's trainer reads it from its own file
            monkeypatch.setitem(sys.modules, "workbench.trainer.my_settings", SimpleNamespace(**names))
    assert (tmp_path / "my_run/model/model.safetensors").exists()
    assert (tmp_path / "my_model_2/tokenizer.json").exists()
    assert names["trainer"].evaluate()["eval/loss"] < 3  # 4.4 at the start
    own = names["MyTrainer"](names["model"], None, [names["batch"]], settings={"steps": 2})
    assert own.train()["step"] == 2


def test_the_table_of_batches_is_what_the_trainers_declare():
    assert sorted(ORDER) == trainer_names()
    found = README.split("<!-- batches: begin -->\n\n")[1].split("\n<!-- batches: end -->")[0]
    assert found == table({name: get_settings_class(name).batch for name in ORDER})
