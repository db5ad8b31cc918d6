"""Pretraining: next-token prediction on plain text."""

from __future__ import annotations

from workbench.trainer.sft_trainer import SFTSettings


class PretrainSettings(SFTSettings):
    """Next-token prediction on blocks of plain text."""
