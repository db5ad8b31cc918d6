"""DPO and its relatives, each by numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.objectives.f_divergence import DIVERGENCES
from workbench.objectives.preference import (
    PAIR_WEIGHTS,
    PREFERENCE_LOSSES,
    PairLogratios,
    Tuning,
    from_linearised,
    linearised,
)
from workbench.trainer.dpo_settings import DPOSettings

LN2 = 0.693147180559945


def known_pairs():
    """Log ratios 0, 0.1, -0.9 and 0, -9.9, -20.9: beta h = 0, 1, 2 at beta 0.1; lengths 4 and 2."""
    policy_chosen, policy_rejected = torch.tensor([-0.5, -10.0, -1.0]), torch.tensor([-0.1, -30.0, -21.0])
    ref_chosen, ref_rejected = torch.tensor([-0.5, -10.1, -0.1]), torch.tensor([-0.1, -20.1, -0.1])
    lengths = torch.full((3,), 4), torch.full((3,), 2)
    return PairLogratios(
        policy_chosen - ref_chosen, policy_rejected - ref_rejected, *lengths, ref_chosen - ref_rejected
    )


def pairs_of(chosen, rejected, ref_margins=None, **more):
    """Pairs of completions of one token, with these log ratios."""
    chosen, rejected = (side if torch.is_tensor(side) else torch.tensor(side) for side in (chosen, rejected))
    margins = torch.zeros_like(chosen) if ref_margins is None else torch.tensor(ref_margins)
    return PairLogratios(chosen, rejected, torch.ones(len(chosen)), torch.ones(len(chosen)), margins, **more)


def loss(name, label_smoothing=0.0, beta=0.1, pairs=None):
    return PREFERENCE_LOSSES[name](pairs or known_pairs(), Tuning(beta, label_smoothing)).tolist()


def test_h_is_the_difference_of_the_log_ratios():
    assert known_pairs().h.tolist() == pytest.approx([0.0, 10.0, 20.0], abs=1e-5)


def test_sigmoid_known_values():
    assert loss("sigmoid") == pytest.approx([LN2, 0.313261687518223, 0.126928011042972], rel=1e-6)


def test_hinge_known_values():
    assert loss("hinge") == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


def test_ipo_averages_each_side_and_ipo_sum_does_not():
    # h' = 0 / 4 - 0 / 2; 0.1 / 4 + 9.9 / 2 = 4.975; -0.9 / 4 + 20.9 / 2 = 10.225; target 1 / (2 * 0.1) = 5
    assert loss("ipo") == pytest.approx([25.0, 0.025**2, 5.225**2], rel=1e-4, abs=1e-6)
    assert loss("ipo_sum") == pytest.approx([25.0, 25.0, 225.0], rel=1e-5)


def test_cdpo_mixes_both_labels():
    # 0.75 * l(1) + 0.25 * l(-1) = 0.75 * 0.313262 + 0.25 * 1.313262
    assert loss("cdpo", 0.25) == pytest.approx([LN2, 0.563261687518, 0.626928011043], rel=1e-6)


def test_robust_subtracts_the_flipped_label_and_is_unbounded_below():
    # (0.75 * 0.313262 - 0.25 * 1.313262) / 0.5 = -0.186738
    assert loss("robust", 0.25) == pytest.approx([LN2, -0.186738312482, -0.873071988957], rel=1e-5)


# With r_w = 0, 0.01, -0.09 and r_l = 0, -0.99, -2.09, each by its formula.
KNOWN = {
    "nca_pair": [2 * LN2, 1.195219994490, 1.122046690443],
    "bco_pair_unshifted": [2 * LN2, 1.004120627965, 0.855774702834],
    "sppo_hard": [50.0, 4.9**2 + 4.9**2, 5.9**2 + 15.9**2],
    "apo_zero": [1.0, 0.768412098484, 0.632557399154],
    "apo_down": [1.0, 0.771441400537, 0.596718097230],
    "discopop": [(LN2 + 1) / 2, 0.367879441059, 0.135335283237],
    "sigmoid_norm": [LN2, 0.475021570388, 0.307260100074],  # beta h' = 0, 0.4975, 1.0225
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name):
    assert loss(name) == pytest.approx(KNOWN[name], rel=2e-5)


def test_exo_is_the_divergence_from_the_smoothed_label():
    # At h = 0: 0.5 ln(0.5 / 0.9) + 0.5 ln(0.5 / 0.1); it is 0 where sigma(beta h) = 1 - e.
    assert loss("exo_pair", 0.1) == pytest.approx([0.510825623766, 0.114082107667, 0.001942250528], rel=1e-4)
    at_label = pairs_of([math.log(9.0)], [0.0])
    assert loss("exo_pair", 0.1, 1.0, at_label) == pytest.approx([0.0], abs=1e-6)


def test_bco_takes_the_shift_off_every_reward():
    shifted = PairLogratios(**vars(known_pairs()) | {"reward_shift": 0.05})
    assert loss("bco_pair", pairs=shifted) == pytest.approx([1.386919296027, 1.016007514626, 0.876827782232], rel=1e-5)
    assert loss("bco_pair") == loss("bco_pair_unshifted")


def test_aot_compares_sorted_margins_of_policy_and_reference():
    # Margins of the policy 1, 3, -1 and of the reference 0, 6, -5: sorted, they differ by 4, 1, -3.
    pairs = pairs_of([1.0, -2.0, 3.0], [0.0, 1.0, -1.0], [0.0, 6.0, -5.0])
    assert loss("aot", 0.0, 1.0, pairs) == pytest.approx([0.313261687518, 3.048587351573, 0.018149927917], rel=1e-5)
    assert loss("aot", 0.25, 1.0, pairs)[0] == pytest.approx(0.563261687518, rel=1e-5)


UNPAIRED = ([1.0, -2.0, 3.0], [0.0, 1.0, -1.0])
"""Sorted, chosen and rejected differ by -1, 1, 2."""


def test_aot_unpaired_compares_sorted_log_ratios():
    expected = [0.313261687518, 1.313261687518, 0.126928011043]
    assert loss("aot_unpaired", 0.0, 1.0, pairs_of(*UNPAIRED)) == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_a_whole_step_is_learned_from_in_parts():
    function = PREFERENCE_LOSSES["aot_unpaired"]
    found = linearised(function, pairs_of(*UNPAIRED), Tuning(1.0))
    assert found[:, 1].tolist() == pytest.approx([-0.268941421370, -0.731058578630, -0.119202922022], rel=1e-5)
    assert found[:, 2].tolist() == pytest.approx([0.268941421370, 0.119202922022, 0.731058578630], rel=1e-5)
    whole = [torch.tensor(side, requires_grad=True) for side in UNPAIRED]
    total = function(pairs_of(*whole), Tuning(1.0)).sum()
    total.backward()
    parts = [torch.tensor(side, requires_grad=True) for side in UNPAIRED]
    for rows in (slice(0, 2), slice(2, 3)):
        part = from_linearised(found[rows], pairs_of(*(side[rows] for side in parts))).sum()
        total = total - part.detach()
        part.backward()
    assert total.item() == pytest.approx(0.0, abs=1e-6)
    for side, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(side.grad, expected.grad)


AT_THE_REFERENCE = {
    "cdpo": LN2,
    "robust": LN2,
    "sigmoid": LN2,
    "sigmoid_norm": LN2,
    "aot": LN2,
    "aot_unpaired": LN2,
    "hinge": 1.0,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": (LN2 + 1) / 2,
    "ipo": 25.0,
    "ipo_sum": 25.0,
    "sppo_hard": 50.0,
    "exo_pair": 0.510825623766,
    "nca_pair": 2 * LN2,
    "bco_pair": 2 * LN2,
    "bco_pair_unshifted": 2 * LN2,
}


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_at_the_reference_the_loss_is_known(name):
    assert loss(name, 0.1, pairs=pairs_of([0.0], [0.0])) == pytest.approx([AT_THE_REFERENCE[name]], rel=1e-6)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_every_loss_is_a_setting(name):
    DPOSettings(loss=name, label_smoothing=0.1 if PREFERENCE_LOSSES.all[name].requires else 0.0)


@pytest.mark.parametrize(("name", "plain"), [("cdpo", "sigmoid"), ("robust", "sigmoid")])
def test_smoothing_of_zero_is_no_smoothing(name, plain):
    assert loss(name, 0.0) == loss(plain, 0.0)


@pytest.mark.parametrize("name", PREFERENCE_LOSSES)
def test_gradient_raises_the_chosen_and_lowers_the_rejected(name):
    """But apo_down's lowers both, and discopop's has the other sign at 0: 0.5 x -0.5 - 0.5 + 5 (1 - ln 2), times beta,
    and is as all others' from about 0.1 on."""
    chosen, rejected = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    at = 2.0 if name == "discopop" else 0.0
    PREFERENCE_LOSSES[name](pairs_of(chosen + at, rejected), Tuning(0.1, 0.1)).sum().backward()
    slopes = chosen.grad.item(), rejected.grad.item()
    if name == "apo_down":
        # sigma' (r_w) - sigma' (beta h) and sigma' (beta h): at 0 they are 0 and 0.1 / 4.
        assert slopes == pytest.approx((0.0, 0.025), abs=1e-7)
    else:
        assert slopes[0] < 0 < slopes[1]
        assert slopes[0] == pytest.approx(-slopes[1], rel=1e-5)


def test_the_gradient_of_discopop_at_the_reference_has_the_other_sign():
    chosen = torch.zeros(1, requires_grad=True)
    PREFERENCE_LOSSES["discopop"](pairs_of(chosen, torch.zeros(1)), Tuning(1.0)).sum().backward()
    assert chosen.grad.item() == pytest.approx(-0.25 - 0.5 + 5 * (1 - LN2), rel=1e-5)


def test_extreme_margins_stay_finite():
    far = pairs_of([1e4, -1e4], [-1e4, 1e4])
    assert all(math.isfinite(value) for name in PREFERENCE_LOSSES for value in loss(name, 0.1, 1.0, far))
    assert all(DIVERGENCES[name](torch.tensor([1e4, -1e4]), 0.5).isfinite().all() for name in DIVERGENCES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward_kl", [0.393469340287, -1.718281828459]),  # 1 - e^-0.5, 1 - e
        ("jensen_shannon", [0.219070196380, -0.620114506958]),  # ln 2 + ln sigma(0.5), ln 2 + ln sigma(-1)
        ("alpha", [0.470012389662, -1.136101666751]),  # (1 - e^-0.125) / 0.25, (1 - e^0.25) / 0.25
    ],
)
def test_scores_of_another_divergence(name, expected):
    u = torch.tensor([0.5, -1.0, 0.0], requires_grad=True)
    found = DIVERGENCES[name](u, 0.25)
    assert found.tolist() == pytest.approx([*expected, 0.0], rel=1e-6)
    found[2].backward()
    # u f''(u) of the divergence at ratio 1, which scales beta: 1, but 1/2 of Jensen-Shannon.
    assert u.grad[2].item() == pytest.approx(0.5 if name == "jensen_shannon" else 1.0)


def test_wpo_multiplies_what_both_completions_are_to_the_policy():
    found = PAIR_WEIGHTS["wpo"](torch.tensor([0.0, -1.0]), torch.tensor([0.0, -0.5]))
    assert found.tolist() == pytest.approx([1.0, 0.223130160148], rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"loss": "cdpo"}, "cdpo needs label_smoothing"),
        ({"loss": "robust"}, "robust needs label_smoothing"),
        ({"loss": "exo_pair"}, "exo_pair needs label_smoothing"),
        ({"loss": {"sigmoid": 1.0, "robust": 0.5}}, "robust needs label_smoothing"),
        (
            {"loss": "sigmoid", "label_smoothing": 0.1},
            "sigmoid ignores label_smoothing; use cdpo, robust, exo_pair, aot",
        ),
        ({"loss": {"nca_pair": 1.0, "hinge": 1.0}, "label_smoothing": 0.1}, "hinge and nca_pair ignores label_smo"),
        ({"loss": {}}, "at least 1 item"),
        ({"loss": {"sigmoid": 0.0}}, "greater than 0"),
        ({"loss": {"sigmod": 1.0}}, "should be 'sigmoid'"),
        ({"discopop_tau": 0.1}, "sigmoid ignores discopop_tau; use discopop, or leave it 0.05"),
        ({"loss": "nca_pair", "divergence": "forward_kl"}, "nca_pair has no form under another divergence"),
        ({"divergence_alpha": 0.3}, "divergence is not alpha"),
        ({"loss": "aot", "pair_weighting": "wpo"}, "aot compares all pairs of a step and cannot weigh them"),
        ({"sync_reference_weight": 0.5}, "set sync_reference_every"),
        ({"loss": "robust", "label_smoothing": 0.5}, "less than 0.5"),
        ({"beta": 0.0}, "greater than 0"),
    ],
)
def test_a_loss_that_would_ignore_a_setting_is_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        DPOSettings(**settings)
