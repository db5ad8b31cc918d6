"""Pretraining: next-token prediction on plain text."""

from __future__ import annotations

from typing import ClassVar

from workbench.trainer.pretrain_settings import PretrainSettings
from workbench.trainer.settings import TrainerSettings
from workbench.trainer.sft_trainer import SFTTrainer


class PretrainTrainer(SFTTrainer):
    """SFT's loss on rows in which every token is a label."""

    settings_class: ClassVar[type[TrainerSettings]] = PretrainSettings
    unread_arguments: ClassVar[tuple[str, ...]] = SFTTrainer.unread_arguments
