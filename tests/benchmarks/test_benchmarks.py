"""What the benchmarks compute of what they measured, and sides that take turns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import family, grpo
from tests.benchmarks.__main__ import meant_by
from tests.benchmarks.comparison import Comparison
from tests.benchmarks.measure import BenchmarkError
from tests.benchmarks.page import Result, Table, paste_table, write
from tests.benchmarks.turns import LOOP, OURS, TRL, Measured, check_agree, take_turns
from tests.benchmarks.workload import FAMILY, LONGEST, SHORTEST, Shape, Workload, character, gsm8k_lengths

TINY = Workload("sft", rows=2, length=8, shape=Shape(16, 1, 2, 32, 32), warm_up=2, num_batches=8)


def test_lengths_are_those_of_the_answers() -> None:
    lengths = gsm8k_lengths(20_000, np.random.default_rng(0))
    assert lengths.min() >= SHORTEST
    assert lengths.max() <= LONGEST
    # Of the answers themselves: mean 125.6, median 114.
    assert lengths.mean() == pytest.approx(125.6, abs=1)
    assert np.median(lengths) == pytest.approx(114, abs=2)


def test_a_name_means_its_benchmark_or_all_that_begin_with_it() -> None:
    assert meant_by("dpo") == ["dpo"]
    assert meant_by("family") == [f"family_{method}" for method in FAMILY]
    assert meant_by("fam") == []


def test_flops_of_a_token_by_hand() -> None:
    # One layer: 4 x 4 x 4 + 3 x 4 x 8 = 160, head 4 x 10 = 40; attention 12 x 1 x 4 x (3 + 1) / 2 = 96.
    assert Shape(4, 1, 2, 8, 10).training_flops(3) == 6 * 200 + 96


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    ours = Measured([], units=[10, 10, 30], seconds=[1, 2, 1])  # 10, 5, 30 a second
    theirs = Measured([], units=[10, 10, 10], seconds=[2, 1, 1])  # 5, 10, 10
    compared = Comparison("case", TINY, {OURS.name: ours, TRL.name: theirs}, {TRL.name: 2.5})
    assert ours.rate == 10
    assert compared.ratio(TRL.name) == 2
    assert not compared.reached
    assert compared.summary() == ["case", "10", "10", "", "2.00 TRL (2.5)", "no"]


def test_sides_with_other_losses_do_other_work() -> None:
    measured = {"a": Measured([1.0, 2.0]), "b": Measured([1.0, 2.01])}
    check_agree(measured, ("a", "b"), 0.1)
    with pytest.raises(BenchmarkError, match=r"a and b have losses .*2\.00000 and 2\.01000"):
        check_agree(measured, ("a", "b"), 1e-3)


def test_the_table_replaces_what_stood_between_the_marks(tmp_path: Path) -> None:
    result = Result("one", "none", True, [Table("t", ["", "x"])], {}, summary=[["a", "1", "2", "3", "4", "yes"]])
    write(tmp_path / "bench", result, {})
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- make bench: begin -->\nold\n<!-- make bench: end -->\nafter\n")
    paste_table(page, (tmp_path / "bench" / "table.md").read_text())
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| a | 1 | 2 | 3 | 4 | yes |" in text
    assert "old" not in text


@pytest.mark.slow
@pytest.mark.multi
@pytest.mark.parametrize(("kind", "tokens"), [("sft", 16.0), ("dpo", 32.0)])
def test_sides_take_turns_at_the_same_work(kind: str, tokens: float) -> None:
    pytest.importorskip("trl")
    measured = take_turns((OURS, TRL, LOOP), dataclasses.replace(TINY, kind=kind, prompt=3), rounds=2, turn_seconds=0.0)
    check_agree(measured, list(measured), 1e-5)
    for side in measured.values():
        assert len(side.first) == TINY.warm_up
        assert side.units == [tokens, tokens]
        assert side.peak_mib > 100


@pytest.mark.slow
@pytest.mark.multi
@pytest.mark.parametrize("method", FAMILY)
def test_sides_of_the_family_do_the_same_work(method: str) -> None:
    pytest.importorskip("trl")
    workload = dataclasses.replace(TINY, kind=method, rows=4, prompt=3, lengths="gsm8k")
    measured = take_turns(family.SIDES, workload, rounds=1, turn_seconds=0.0)
    check_agree(measured, list(measured), 1e-5)
    ours, theirs = measured.values()
    assert ours.units == theirs.units


@pytest.mark.parametrize(("trained", "length"), [(2047, 32.0), (2048, 31.5)])
def test_a_side_that_leaves_tokens_out_does_other_work(trained: int, length: float) -> None:
    grpo.check_whole_work("side", Measured([6.2, 0.5, 32.0], facts={"trained_tokens": [2048, 2048]}), 64)
    with pytest.raises(BenchmarkError, match=r"side: trained on .* expected 2048; .* expected 32"):
        grpo.check_whole_work("side", Measured([6.2, 0.5, length], facts={"trained_tokens": [trained]}), 64)


def test_sides_whose_entropies_or_rewards_differ_do_other_work() -> None:
    workload = Workload("grpo", rows=8)

    def check(*found: float) -> None:
        measured = {OURS.name: Measured([6.23, 0.48, 32.0]), TRL.name: Measured([*found])}
        grpo.check_alike(Comparison("case", workload, measured, {}))

    check(6.2315, 0.55, 32.0)
    for entropy, reward in ((6.233, 0.5), (6.23, 0.7), (float("nan"), 0.5)):
        with pytest.raises(BenchmarkError, match="not the same work"):
            check(entropy, reward, 32.0)


def test_completions_of_the_online_benchmark_have_no_end_and_a_character_a_token(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from workbench.models.tokenizer import Tokenizer

    Workload("grpo", rows=1, length=8, prompt=4, num_batches=1, shape=TINY.shape).save(tmp_path)
    tokenizer = Tokenizer.load(tmp_path / "model")
    assert tokenizer.eos_ids == (TINY.shape.vocabulary,)
    ids = list(range(1, TINY.shape.vocabulary))
    text = "".join(map(character, ids))
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == text
