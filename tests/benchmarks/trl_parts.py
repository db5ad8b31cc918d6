"""What every script of TRL here needs: its fastest settings, and its DPOTrainer on token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl

COMMON = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "lr_scheduler_type": "constant",
    "max_length": None,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


class PreparedDPOTrainer(trl.DPOTrainer):
    """DPOTrainer on token ids, with the reference's log-probabilities where the dataset holds them already: TRL 1.16
    would tokenise and score anew for every run."""

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: datasets.Dataset, name: str, batch_size: int) -> datasets.Dataset:
        if "ref_chosen_logps" in dataset.column_names:
            return dataset
        return super()._precompute_ref_logps(dataset, name, batch_size)


def load_model(folder: Path) -> Any:
    """The model of a folder, in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
