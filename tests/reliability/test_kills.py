"""A training that is killed anywhere, or asked to end, goes on as if nothing had happened."""

import pytest

from limssr.training.soaking.kills import attack_trainings


@pytest.mark.slow
def test_killed_trainings_end_bit_identical(tmp_path):
    outcomes = list(attack_trainings(tmp_path, 30))
    assert [outcome for outcome in outcomes if outcome.result != "identical"] == []
