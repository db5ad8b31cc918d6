"""The work of dpo_beta_sweep as a TRL user would script it: one process, every run and every evaluation in a loop.

python -m tests.benchmarks.trl_sweep SETTING.json RESULT.json: a program of its own, started fresh. Where TRL leaves a
choice, the faster one is taken: data tokenised once for all runs, reference log-probabilities scored once, no saving,
no logging on the way, large batches in generation. Shapes: B rows, P prompt positions, T completion positions.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()

import datasets  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402

from tests.benchmarks.trl_parts import COMMON, PreparedDPOTrainer, load_model  # noqa: E402
from workbench.data.settings import CollectSettings, TaskSettings  # noqa: E402
from workbench.data.tasks import TaskRow, completion_limit, iterate_rows, make_rows  # noqa: E402
from workbench.models.presets import make_preset  # noqa: E402
from workbench.rewards import get_verifier  # noqa: E402

BLOCK_PROMPTS = 512
"""Prompts of one call of model.generate while collecting: 2,048 rows with 4 samples each."""


class Clock:
    """Seconds by phase; a phase within a phase is taken out of the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before, started = sum(self.seconds.values()), time.perf_counter()
        yield
        within = sum(self.seconds.values()) - before
        self.seconds[name] += time.perf_counter() - started - within


@torch.inference_mode()
def sample(model: Any, tokenizer: Any, prompts: list[str], limit: int, num_samples: int = 0) -> tuple[Any, Any]:
    """Prompts and completions as token ids, (B, P) and (B, T); num_samples 0 decodes greedily."""
    ids = tokenizer(prompts, return_tensors="pt", padding=True)
    drawn: dict[str, Any] = {"do_sample": False}
    if num_samples:
        drawn = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_return_sequences": num_samples}
    generated = model.generate(**ids, max_new_tokens=limit, use_cache=True, **drawn)
    width = ids.input_ids.shape[1]
    return generated[:, :width], generated[:, width:]


def until_end(completions: torch.Tensor, eos_id: int) -> torch.Tensor:
    """(B, T) of bool: the tokens of each completion, its end of sequence included."""
    ends = completions == eos_id
    return ends.cumsum(1) - ends.long() == 0


def completion_logits(model: Any, prompts: torch.Tensor, completions: torch.Tensor) -> torch.Tensor:
    """(B, T, V): what predicts each token of the completions."""
    ids = torch.cat([prompts, completions], 1)
    return model(ids, use_cache=False, logits_to_keep=completions.shape[1] + 1).logits[:, :-1]


class HeldOutPairs:
    """Held-out pairs as tensors, with the start's log-probabilities."""

    def __init__(self, pairs: list[dict[str, list[int]]], start: Any, pad_id: int) -> None:
        self.prompts = torch.tensor([pair["prompt_ids"] for pair in pairs]).repeat(2, 1)
        texts = [torch.tensor(pair[side]) for side in ("chosen_ids", "rejected_ids") for pair in pairs]
        self.completions = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad_id)
        self.scored = self.completions != pad_id
        self.reference = self.score(start)

    @torch.inference_mode()
    def score(self, model: Any) -> torch.Tensor:
        """(2B,): log-probabilities summed over each completion, chosen above rejected."""
        logprobs = completion_logits(model, self.prompts, self.completions).log_softmax(-1)
        return (logprobs.gather(-1, self.completions[..., None])[..., 0] * self.scored).sum(1)

    def margins(self, model: Any) -> torch.Tensor:
        """(B,): how much more than its start the model prefers the chosen one."""
        chosen, rejected = (self.score(model) - self.reference).chunk(2)
        return chosen - rejected


class Evaluation(transformers.TrainerCallback):
    """What our own evaluators measure, before the first step and every so many steps."""

    def __init__(self, sweep: Sweep, run: str, settings: dict[str, Any], pairs: HeldOutPairs | None) -> None:
        self.sweep, self.run, self.settings, self.pairs = sweep, run, settings, pairs

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.measure(kwargs["model"], 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.settings["every"] == 0:
            self.measure(kwargs["model"], state.global_step)

    @torch.inference_mode()
    def measure(self, model: Any, step: int) -> None:
        sweep, limit = self.sweep, self.settings["max_new_tokens"]
        with sweep.clock.phase("evaluation"):
            model.eval()
            found: dict[str, Any] = {"run": self.run, "step": step}
            for name, num_samples in (("greedy", 0), ("sampled", 1)):
                prompts, completions = sample(model, sweep.tokenizer, sweep.prompts, limit, num_samples)
                texts = sweep.texts(completions)
                right = [sweep.verify(prompt, text, None) for prompt, text in zip(sweep.prompts, texts, strict=True)]
                found[f"exact_match_{name}"] = sum(right) / len(right)
            if self.pairs is not None:
                found["kl_start"] = self.divergence(model, prompts, completions)
                margins = self.pairs.margins(model).round(decimals=5)
                found["pair_accuracy"] = ((margins > 0).double() + 0.5 * (margins == 0)).mean().item()
                found["pair_margin"] = margins.mean().item()
            model.train()
        sweep.evaluations.append(found)

    def divergence(self, model: Any, prompts: torch.Tensor, completions: torch.Tensor) -> float:
        """KL to the start over the whole vocabulary, nats per sequence."""
        own, start = (completion_logits(m, prompts, completions).log_softmax(-1) for m in (model, self.sweep.start))
        each = (own.exp() * (own - start)).sum(-1)
        return (each * until_end(completions, self.sweep.tokenizer.eos_token_id)).sum(1).mean().item()


class Sweep:
    """The whole script. sft, dpo: a run's definition as plain data; betas, seeds: of the DPO runs."""

    def __init__(self, setting: dict[str, Any], folder: Path) -> None:
        self.sft, self.dpo, self.setting, self.folder = setting["sft"], setting["dpo"], setting, folder
        self.clock = Clock()
        self.evaluations: list[dict[str, Any]] = []
        make_preset(self.sft["model"]["preset"], folder / "model", self.sft["model"]["seed"])
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
        self.task = TaskSettings(**{name: self.sft["data"][name] for name in ("task", "digits", "numbers")})
        self.verify = get_verifier(self.task.task)
        evaluate = self.dpo["evaluate"]
        rows = make_rows(self.task, "held_out", evaluate["prompts"], evaluate["seed"])
        self.prompts = [row.prompt for row in rows]
        self.start: Any = None

    def run(self) -> None:
        """SFT, collecting, reference, every DPO run."""
        if self.setting["given"] is not None:
            self.run_on(**self.setting["given"])
            return
        with self.clock.phase("sft"):
            self.train_sft()
        if self.setting["only_sft"]:
            return
        self.start = load_model(self.folder / "start").eval()
        settings = CollectSettings(**self.dpo["data"]["collect"])
        with self.clock.phase("collecting"):
            pairs = datasets.Dataset.from_list(self.collect(settings, "train", settings.pairs))
            held_out = self.collect(settings, "held_out", settings.held_out_pairs)
        with self.clock.phase("reference"):
            held_out_pairs = HeldOutPairs(held_out, self.start, self.tokenizer.pad_token_id)
            pairs = self.dpo_trainer(pairs, beta=1.0, seed=0).train_dataset
        for beta, seed in itertools.product(self.setting["betas"], self.setting["seeds"]):
            with self.clock.phase("dpo"):
                trainer = self.dpo_trainer(pairs, beta, seed)
                trainer.add_callback(Evaluation(self, f"beta={beta}/seed{seed}", self.dpo["evaluate"], held_out_pairs))
                trainer.train()

    def run_on(self, start: str, pairs: str, held_out: str, order: list[int], beta: float, seed: int) -> None:
        """One DPO run on a start and pairs that another program made, in the order of its batches."""
        shutil.copytree(start, self.folder / "start")
        self.start = load_model(self.folder / "start").eval()
        held_out_pairs = HeldOutPairs(self.read_pairs(held_out), self.start, self.tokenizer.pad_token_id)
        data = datasets.Dataset.from_list(self.read_pairs(pairs)).select(order)
        trainer = self.dpo_trainer(data, beta, seed, train_sampling_strategy="sequential")
        trainer.add_callback(Evaluation(self, f"beta={beta}/seed{seed}", self.dpo["evaluate"], held_out_pairs))
        trainer.train()

    def read_pairs(self, path: str) -> list[dict[str, list[int]]]:
        """Our pairs.jsonl as token ids."""
        pairs = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        eos = self.tokenizer.eos_token
        sides = {
            "prompt_ids": [pair["prompt"] for pair in pairs],
            "chosen_ids": [pair["chosen"] + eos for pair in pairs],
            "rejected_ids": [pair["rejected"] + (eos if pair.get("rejected_ended", True) else "") for pair in pairs],
        }
        ids = {name: self.tokenizer(texts).input_ids for name, texts in sides.items()}
        return [dict(zip(ids, row, strict=True)) for row in zip(*ids.values(), strict=True)]

    def train_sft(self) -> None:
        """From the preset to the folder "start"."""
        settings = self.sft["hyperparameters"]
        arguments = trl.SFTConfig(
            output_dir=str(self.folder / "out"),
            max_steps=settings["steps"],
            per_device_train_batch_size=settings["batch_rows"],
            learning_rate=settings["learning_rate"],
            seed=settings["seed"],
            dataset_kwargs={"skip_prepare_dataset": True},
            # The rows come in the order of our own run, so that both sides have the same start.
            train_sampling_strategy="sequential",
            **COMMON,
        )
        trainer = trl.SFTTrainer(
            load_model(self.folder / "model"),
            args=arguments,
            train_dataset=self.sft_rows(),
            processing_class=self.tokenizer,
            callbacks=[Evaluation(self, "sft", self.sft["evaluate"], None)],
        )
        trainer.train()
        trainer.model.save_pretrained(self.folder / "start")

    def sft_rows(self) -> datasets.Dataset:
        data = self.sft["data"]
        rows = make_rows(self.task, "train", data["rows"], data["seed"])
        rows = [rows[index] for index in self.setting["sft_order"]]
        prompts = self.tokenizer([row.prompt for row in rows]).input_ids
        completions = self.tokenizer([row.completion + self.tokenizer.eos_token for row in rows]).input_ids
        ids = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        labels = [[*[-100] * len(prompt), *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        return datasets.Dataset.from_dict({"input_ids": ids, "labels": labels})

    def dpo_trainer(self, pairs: datasets.Dataset, beta: float, seed: int, **more: Any) -> PreparedDPOTrainer:
        settings = self.dpo["hyperparameters"]
        arguments = trl.DPOConfig(
            output_dir=str(self.folder / "out"),
            max_steps=settings["steps"],
            per_device_train_batch_size=settings["batch_pairs"],
            learning_rate=settings["learning_rate"],
            beta=beta,
            seed=seed,
            precompute_ref_log_probs=True,
            precompute_ref_batch_size=512,
            **COMMON,
            **more,
        )
        return PreparedDPOTrainer(
            load_model(self.folder / "start"), args=arguments, train_dataset=pairs, processing_class=self.tokenizer
        )

    def collect(self, settings: CollectSettings, split: Any, number: int) -> list[dict[str, list[int]]]:
        """A right and a wrong sample of each prompt that has both, as token ids."""
        rows = iterate_rows(settings, split, settings.seed)
        pairs: list[dict[str, list[int]]] = []
        while len(pairs) < number:
            block = list(itertools.islice(rows, BLOCK_PROMPTS))
            prompts, completions = sample(
                self.start, self.tokenizer, [row.prompt for row in block], completion_limit(settings),
                settings.samples_per_prompt,
            )  # fmt: skip
            pairs += self.pairs_of(block, prompts.tolist(), completions, settings.samples_per_prompt)
        return pairs[:number]

    def pairs_of(
        self, block: list[TaskRow], prompts: list[list[int]], completions: torch.Tensor, num_samples: int
    ) -> list[dict[str, list[int]]]:
        lengths = until_end(completions, self.tokenizer.eos_token_id).sum(1).tolist()
        tokens = [row[:length] for row, length in zip(completions.tolist(), lengths, strict=True)]
        texts, pairs = self.texts(completions), []
        for index, row in enumerate(block):
            samples = range(num_samples * index, num_samples * (index + 1))
            is_right = {
                i: tokens[i][-1] == self.tokenizer.eos_token_id and bool(self.verify(row.prompt, texts[i], None))
                for i in samples
            }
            right, wrong = ([i for i in samples if is_right[i] is side] for side in (True, False))
            if right and wrong:
                pairs.append(
                    {
                        "prompt_ids": prompts[samples[0]],
                        "chosen_ids": tokens[right[0]],
                        "rejected_ids": tokens[wrong[0]],
                    }
                )
        return pairs

    def texts(self, completions: torch.Tensor) -> list[str]:
        """Each completion as text, up to its end of sequence (what generate adds behind it is padding)."""
        return self.tokenizer.batch_decode(completions, skip_special_tokens=True)


def main(setting_path: str, result_path: str) -> None:
    """Do it all and write {seconds by phase, evaluations, versions}."""
    setting = json.loads(Path(setting_path).read_text(encoding="utf-8"))
    torch.set_num_threads(setting["threads"])
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(setting, Path(folder))
        sweep.clock.seconds["start-up"] = time.perf_counter() - STARTED
        sweep.run()
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, datasets)}
    result = {"seconds": dict(sweep.clock.seconds), "evaluations": sweep.evaluations, "versions": versions}
    Path(result_path).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
