"""What each trainer is, for a reader who compares them: general knowledge of the field, and nothing measured.

A test holds that every trainer of the workbench has a card here, and every loss that one names a formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

H = "h = log π(chosen)/π_ref(chosen) − log π(rejected)/π_ref(rejected)"
CLIPPED = "−min(r A, clip(r, 1 − ε_low, 1 + ε_high) A), r = π/π_old a token"
BY_DEFAULT = ""


@dataclass(frozen=True)
class Card:
    """One trainer. losses: a readable formula for each value of the setting that names the loss; BY_DEFAULT where no
    setting does."""

    name: str
    losses: Mapping[str, str]
    data: str
    online: bool
    when: str
    loss_setting: str = "loss"
    reference: str = "none"
    reward: str = "none"
    extras: Mapping[str, str] = field(default_factory=dict)
    """What a setting adds where it is not 0, by its name."""

    def loss(self, hyperparameters: Mapping[str, Any]) -> str:
        """The loss that ran, as its settings say."""
        chosen = str(hyperparameters.get(self.loss_setting) or BY_DEFAULT)
        formula = self.losses.get(chosen, self.losses.get(BY_DEFAULT, ""))
        named = f"{chosen}: {formula}" if chosen else formula
        more = [text for name, text in self.extras.items() if hyperparameters.get(name)]
        return "; ".join([named, *more])


CARDS = {
    "pretrain": Card(
        "pretraining",
        {BY_DEFAULT: "−log π(token | text before it), mean over tokens"},
        data="text",
        online=False,
        when="there is no model to begin from, or the domain's text is new to it",
    ),
    "sft": Card(
        "SFT",
        {BY_DEFAULT: "−log π(token | prompt, completion before it), mean over completion tokens"},
        data="prompts with the completions to imitate",
        online=False,
        when="good demonstrations exist: the cheapest and steadiest step, and the start of all others; it cannot do "
        "better than what it imitates",
    ),
    "dpo": Card(
        "DPO",
        {
            "sigmoid": f"−log σ(β h), {H}",
            "cdpo": "−(1 − e) log σ(β h) − e log σ(−β h)",
            "robust": "(−(1 − e) log σ(β h) + e log σ(−β h)) / (1 − 2e)",
            "ipo": "(h' − 1/(2β))², h' with each side averaged over its tokens",
            "ipo_sum": "(h − 1/(2β))²",
            "hinge": "max(0, 1 − β h)",
        },
        data="pairs of a better and a worse completion",
        online=False,
        reference="the start, frozen; its log-probabilities are computed once",
        extras={"nll_weight": "and −log π(chosen) a token, weighted by nll_weight"},
        when="preferences are at hand and sampling is dear; gains end where the pairs no longer look like what the "
        "policy writes",
    ),
    "online_dpo": Card(
        "online DPO",
        {
            "sigmoid": f"−log σ(β h) on the best and worst of each group, {H}",
            "cdpo": "−(1 − e) log σ(β h) − e log σ(−β h)",
            "robust": "(−(1 − e) log σ(β h) + e log σ(−β h)) / (1 − 2e)",
            "ipo": "(h' − 1/(2β))², h' with each side averaged over its tokens",
            "ipo_sum": "(h − 1/(2β))²",
            "hinge": "max(0, 1 − β h)",
        },
        data="prompts, and a reward that ranks completions",
        online=True,
        reference="the start, frozen",
        reward="checks or models of reward, by order alone",
        extras={"nll_weight": "and −log π(chosen) a token, weighted by nll_weight"},
        when="a reward ranks completions well but its scale means little, and staying near the start matters",
    ),
    "grpo": Card(
        "GRPO",
        {
            "grpo": f"{CLIPPED}, mean over each completion's tokens",
            "dapo": f"{CLIPPED}, mean over all tokens",
            "dr_grpo": f"{CLIPPED}, sum over tokens by a constant",
            "gspo": "−min(s A, clip(s) A), s = (π/π_old)^(1/length) of a whole completion",
            "cispo": "−sg(min(r, ceiling)) A log π a token",
        },
        data="prompts, and a reward that can be computed",
        online=True,
        reward="checks or models of reward; A compares completions of one prompt",
        reference="none, unless beta ties the policy to its start",
        extras={"beta": "and beta times the KL to the start", "entropy_bonus": "less entropy_bonus times the entropy"},
        when="completions can be checked and prompts are neither solved nor hopeless: groups whose rewards are all "
        "alike teach nothing",
    ),
    "ppo": Card(
        "PPO",
        {BY_DEFAULT: f"{CLIPPED}, A from a learned critic; and the critic's squared error"},
        data="prompts, and a reward that can be computed",
        online=True,
        reward="checks or models of reward; A is the reward less what the critic expected",
        reference="none, unless beta ties the policy to its start",
        extras={"beta": "the reward less beta times the KL to the start", "entropy_bonus": "entropy bonus"},
        when="one completion a prompt is all that can be sampled, or rewards come late in long completions; a critic "
        "must be trained and tuned besides",
    ),
}
