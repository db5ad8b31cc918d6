"""What a trainer adds to the quick tests is measured, and one that adds too much fails them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.seconds import CARRIERS, MOST, PROPERTY, Seconds, trainers_of
from workbench.trainer.registry import trainer_names


@pytest.mark.parametrize(
    ("nodeid", "trainers"),
    [
        ("tests/contracts/test_resume.py::test_a_kill[online_dpo]", ["online_dpo"]),
        ("tests/contracts/test_gradient.py::test_padding[sft-float64]", ["sft"]),
        ("tests/contracts/test_divergence.py::test_stop[loss is NaN-dpo-lora]", ["dpo"]),
        ("tests/trainer/test_online_dpo_trainer.py::test_the_best_is_chosen", ["online_dpo"]),
        ("tests/contracts/test_layers.py::test_no_file_over_400_lines", []),
    ],
)
def test_a_test_is_that_of_the_trainer_whose_name_stands_in_its_id_or_its_file(nodeid, trainers):
    assert trainers_of(nodeid) == trainers


@pytest.mark.parametrize(
    ("spent", "keywords", "code"),
    [(MOST - 1, {}, 0), (MOST + 1, {}, 1), (MOST + 1, {"slow": 1}, 0)],
)
def test_more_than_a_trainer_may_add_to_the_quick_tests_fails_them(spent, keywords, code):
    seconds = Seconds(SimpleNamespace())
    session: Any = SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    for name in ("online_dpo", *CARRIERS):
        nodeid, properties = f"tests/contracts/test_x.py::test_y[{name}]", [(PROPERTY, spent)]
        seconds.pytest_runtest_logreport(
            SimpleNamespace(nodeid=nodeid, when="teardown", keywords=keywords, user_properties=properties)
        )
    seconds.pytest_sessionfinish(session, pytest.ExitCode.OK)
    assert session.exitstatus == code


def test_trainers_that_carry_the_laws_of_others_are_there():
    assert set(CARRIERS) <= set(trainer_names())
