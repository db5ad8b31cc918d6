"""Settings of online direct preference optimisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from workbench.trainer.dpo_settings import PreferenceSettings
from workbench.trainer.rollout_settings import RolloutSettings


class OnlineDPOSettings(RolloutSettings, PreferenceSettings):
    """Sample, rank by reward, and take a DPO step on the best against the worst completion of each prompt."""

    group_size: Annotated[int, Field(ge=2)] = 4
    """Completions sampled of each prompt, of which the best and the worst become a pair."""
