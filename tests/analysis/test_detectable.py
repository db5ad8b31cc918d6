"""What a plan says that its seeds and prompts can find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from analysis import stats
from analysis.inference import detectable
from analysis.study import open_study

Make = Callable[..., Path]


def test_seeds_are_told_in_standard_deviations_and_prompts_in_exact_match(tmp_path: Path) -> None:
    seeds, prompts = detectable.in_words(seeds=3, variants=5, prompts=512, folder=tmp_path)
    assert f"3 seeds: {stats.minimum_detectable_effect(3, alpha=0.05 / 10):.2f} seed standard deviations" in seeds
    assert "Welch's test at the level of the first claim that Holm makes of 10 pairs" in seeds
    assert "512 prompts" in prompts
    assert "0.089 if on half" in prompts


def test_two_variants_are_one_comparison(tmp_path: Path) -> None:
    (seeds,) = detectable.in_words(seeds=3, variants=2, prompts=None, folder=tmp_path)
    assert seeds == ("two variants of 3 seeds: 3.51 seed standard deviations between their means, by Welch's test")


def test_checkpoints_of_one_seed_are_tested_at_holm_s_level(tmp_path: Path) -> None:
    _, prompts = detectable.in_words(seeds=1, variants=7, prompts=512, folder=tmp_path)
    assert f"{stats.detectable_rate(512, 0.5, alpha=0.05 / 21):.3f} if on half" in prompts
    assert "first claim that Holm makes of 21 pairs" in prompts


def test_one_seed_can_claim_nothing_about_methods(tmp_path: Path) -> None:
    (seeds,) = detectable.in_words(seeds=1, variants=2, prompts=None, folder=tmp_path)
    assert "nothing about methods" in seeds


def test_one_variant_is_compared_with_nothing(tmp_path: Path) -> None:
    assert detectable.in_words(seeds=5, variants=1, prompts=None, folder=tmp_path) == []


def test_earlier_runs_give_the_amount_in_the_measure_s_unit(make_experiment: Make) -> None:
    folder = make_experiment(betas=(0.1, 1.0), prompts=4, steps=6, every=3)
    study = open_study(folder)
    assert study.deciding is not None
    variances = [np.var(study.values(variant, study.deciding.column), ddof=1) for variant in study.variants]
    spread = np.mean(variances) ** 0.5
    found = detectable.seed_spread(folder)
    assert found is not None
    assert found[1] == pytest.approx(spread)
    (text,) = detectable.in_words(seeds=3, variants=2, prompts=None, folder=folder)
    assert f"({stats.minimum_detectable_effect(3) * spread:.3f} of sampled exact match)" in text
