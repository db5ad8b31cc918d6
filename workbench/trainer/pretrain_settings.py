"""Settings of pretraining."""

from __future__ import annotations

from workbench.trainer.sft_settings import SFTSettings


class PretrainSettings(SFTSettings):
    """Next-token prediction on blocks of plain text."""
