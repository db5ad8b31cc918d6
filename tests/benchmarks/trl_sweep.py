"""The work of dpo_beta_sweep as a TRL user would script it: one process, every run and evaluation in a loop.

`python -m tests.benchmarks.trl_sweep MODEL_FOLDER SETTING_JSON RESULT_JSON`; a program of its own, so that its threads
and memory are not ours.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl

from workbench.data.settings import TaskSettings
from workbench.data.tasks import iterate_rows, make_rows
from workbench.rewards import get_verifier

COMMON = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
    "lr_scheduler_type": "constant",
    "dataset_num_proc": None,
}
BATCH_ROWS = 512


class Sweep:
    """State of the script: tokenizer, held-out sets, seconds by phase."""

    def __init__(self, folder: Path, setting: dict[str, Any]) -> None:
        self.folder, self.setting = folder, setting
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.task = TaskSettings(task="sort", digits=8)
        self.verify = get_verifier("sort")
        self.prompts = make_rows(self.task, "held_out", setting["prompts"], 0)
        self.seconds: dict[str, float] = defaultdict(float)
        self.scratch = tempfile.mkdtemp()

    def timed(self, phase: str, work: Any) -> Any:
        started = time.perf_counter()
        result = work()
        self.seconds[phase] += time.perf_counter() - started
        return result

    @torch.no_grad()
    def generate(self, model: Any, prompts: list[str], *, samples: int = 0, new_tokens: int = 64) -> tuple[Any, int]:
        """Token ids of prompt and completion, (B, T), and the prompt's width; samples 0 decodes greedily."""
        model.eval()
        inputs = self.tokenizer(prompts, return_tensors="pt", padding=True)
        drawn = {"do_sample": True, "top_k": 0, "num_return_sequences": samples} if samples else {"do_sample": False}
        ids = model.generate(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, max_new_tokens=new_tokens, **drawn
        )
        return ids, inputs.input_ids.shape[1]

    def texts(self, ids: torch.Tensor, width: int) -> list[str]:
        """Completions as text, up to the end-of-sequence token."""
        end = self.tokenizer.eos_token
        decoded = self.tokenizer.batch_decode(ids[:, width:])
        return [text.split(end)[0].replace(self.tokenizer.pad_token, "") for text in decoded]

    @torch.no_grad()
    def evaluate(self, model: Any, start: Any | None, pairs: list[dict[str, str]]) -> dict[str, float]:
        """Greedy and sampled exact match, KL from the start, pair accuracy: what our own evaluation measures."""
        prompts = [row.prompt for row in self.prompts]
        found: dict[str, float] = {}
        for name, samples in (("greedy", 0), ("sampled", 1)):
            ids, width = self.generate(model, prompts, samples=samples)
            texts = zip(self.prompts, self.texts(ids, width), strict=True)
            right = [self.verify(row.prompt, text, None) for row, text in texts]
            found[name] = sum(right) / len(right)
        if start is not None:
            logits, reference = model(ids).logits[:, width - 1 : -1], start(ids).logits[:, width - 1 : -1]
            logprobs, ref_logprobs = logits.log_softmax(-1), reference.log_softmax(-1)
            each = (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)
            ends = (ids[:, width:] == self.tokenizer.eos_token_id).long()
            found["kl"] = float((each * (ends.cumsum(-1) - ends == 0)).sum(-1).mean())
        if pairs:
            h = self.margins(model, pairs) - self.margins(start, pairs)
            found["pair_accuracy"] = float(((h > 0).float() + 0.5 * (h == 0).float()).mean())
        return found

    def margins(self, model: Any, pairs: list[dict[str, str]]) -> torch.Tensor:
        sums = []
        for side in ("chosen", "rejected"):
            texts = [pair["prompt"] + pair[side] + self.tokenizer.eos_token for pair in pairs]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
            width = len(self.tokenizer(pairs[0]["prompt"]).input_ids)
            logits = model(inputs.input_ids).logits[:, width - 1 : -1]
            wanted = inputs.input_ids[:, width:]
            logprobs = logits.log_softmax(-1).gather(-1, wanted[..., None]).squeeze(-1)
            sums.append((logprobs * inputs.attention_mask[:, width:]).sum(-1))
        return sums[0] - sums[1]

    def collect(self, model: Any, split: str, number: int) -> list[dict[str, str]]:
        """On-policy pairs from 4 samples a prompt, a right and a wrong one."""
        pairs: list[dict[str, str]] = []
        rows = iterate_rows(self.task, split, 0)  # type: ignore[arg-type]
        while len(pairs) < number:
            block = [next(rows) for _ in range(BATCH_ROWS)]
            ids, width = self.generate(model, [row.prompt for row in block], samples=4, new_tokens=9)
            texts = self.texts(ids, width)
            for index, row in enumerate(block):
                samples = texts[4 * index : 4 * index + 4]
                right = [text for text in samples if self.verify(row.prompt, text, None)]
                wrong = [text for text in samples if not self.verify(row.prompt, text, None) and text]
                if right and wrong:
                    pairs.append({"prompt": row.prompt, "chosen": right[0], "rejected": wrong[0]})
        return pairs[:number]

    def load(self, folder: Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def sft(self) -> Path:
        rows = make_rows(self.task, "train", 128 * self.setting["sft_steps"], 0)
        arguments = trl.SFTConfig(
            output_dir=self.scratch, max_steps=self.setting["sft_steps"], per_device_train_batch_size=128,
            learning_rate=4e-3, max_length=None, completion_only_loss=True, **COMMON,
        )  # fmt: skip
        data = datasets.Dataset.from_list([{"prompt": row.prompt, "completion": row.completion} for row in rows])
        trainer = trl.SFTTrainer(
            self.load(self.folder), args=arguments, train_dataset=data, processing_class=self.tokenizer
        )
        self._train(trainer, "sft", None, [], self.setting["sft_every"])
        # By way of a folder: a copy of a prepared model would still call the original's forward.
        saved = Path(self.scratch) / "sft"
        trainer.save_model(str(saved))
        return saved

    def dpo(
        self, saved: Path, pairs: list[dict[str, str]], held_out: list[dict[str, str]], beta: float, seed: int
    ) -> dict[str, float]:
        arguments = trl.DPOConfig(
            output_dir=self.scratch, max_steps=self.setting["dpo_steps"], per_device_train_batch_size=128, beta=beta,
            learning_rate=3e-4, max_length=None, seed=seed, precompute_ref_log_probs=True, **COMMON,
        )  # fmt: skip
        data = datasets.Dataset.from_list(pairs)
        trainer = self.timed(
            "dpo",
            lambda: trl.DPOTrainer(
                self.load(saved), args=arguments, train_dataset=data, processing_class=self.tokenizer
            ),
        )
        return self._train(trainer, "dpo", self.load(saved).eval(), held_out, self.setting["dpo_every"])

    def _train(self, trainer: Any, phase: str, start: Any, pairs: list[dict[str, str]], every: int) -> dict[str, float]:
        evaluations = []
        sweep = self

        class Evaluate(transformers.TrainerCallback):
            def measure(self, model: Any) -> None:
                before = sweep.seconds["evaluation"]
                evaluations.append(sweep.timed("evaluation", lambda: sweep.evaluate(model, start, pairs)))
                sweep.seconds[phase] -= sweep.seconds["evaluation"] - before
                model.train()

            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                self.measure(model)

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.global_step % every == 0:
                    self.measure(model)

        trainer.add_callback(Evaluate())
        self.timed(phase, trainer.train)
        return evaluations[-1]

    def run(self) -> dict[str, Any]:
        saved = self.sft()
        model = self.load(saved).eval()
        pairs = self.timed("collecting", lambda: self.collect(model, "train", self.setting["pairs"]))
        held_out = self.timed("collecting", lambda: self.collect(model, "held_out", self.setting["held_out_pairs"]))
        results: dict[str, list[dict[str, float]]] = {}
        for beta in self.setting["betas"]:
            for seed in range(self.setting["seeds"]):
                results.setdefault(str(beta), []).append(self.dpo(saved, pairs, held_out, beta, seed))
        return {"results": results, "seconds": dict(self.seconds)}


def main(folder: str, setting: str, out: str) -> None:
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    Path(out).write_text(json.dumps(Sweep(Path(folder), json.loads(setting)).run()))


if __name__ == "__main__":
    main(*sys.argv[1:])
