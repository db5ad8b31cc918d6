"""`sample`: how long it asks, and what it says of a name that is no run's."""

from __future__ import annotations

import json

import pytest

from workbench.errors import DefinitionError
from workbench.experiment.sample import NEW_TOKENS, _fitting, find_model


@pytest.mark.parametrize(("positions", "prompt", "expected"), [(64, 10, 54), (64, 64, 1), (4096, 10, NEW_TOKENS)])
def test_a_length_that_nobody_said_is_cut_to_the_model_s_positions(tmp_path, positions, prompt, expected):
    config = {"model_type": "llama", "max_position_embeddings": positions}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert _fitting(tmp_path, prompt) == expected


def test_a_name_that_is_no_run_s_is_answered_with_near_names_alone(tmp_path):
    for beta in range(30):
        (tmp_path / "dpo" / f"beta={beta}" / "seed0" / "model").mkdir(parents=True)
    with pytest.raises(DefinitionError) as error:
        find_model(tmp_path, "dpo/beta=7/seed1")
    told = str(error.value)
    assert "dpo/beta=7/seed0" in told
    assert told.count("seed0") <= 5
    assert told.endswith("(30 runs are finished)")
