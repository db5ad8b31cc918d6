"""Settings of pretraining."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from workbench.data import forms
from workbench.trainer.method import Method
from workbench.trainer.sft_settings import SFTSettings


class PretrainSettings(SFTSettings):
    """Next-token prediction on blocks of plain text."""

    data_form = forms.TEXT
    method: ClassVar[Method] = replace(
        SFTSettings.method,
        name="pretraining",
        formula="−log π(token | text before it), mean over tokens",
        learns_from="text",
        when="there is no model to begin from, or the domain's text is new to it",
        conventions=dict(SFTSettings.method.conventions)
        | {"tokens that count": "every token of the block but its first"},
    )
