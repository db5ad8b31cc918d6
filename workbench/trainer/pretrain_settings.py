"""Settings of pretraining."""

from __future__ import annotations

from typing import ClassVar

from workbench.trainer.settings import DataForm
from workbench.trainer.sft_settings import SFTSettings


class PretrainSettings(SFTSettings):
    """Next-token prediction on blocks of plain text."""

    data_form: ClassVar[DataForm] = "text"
