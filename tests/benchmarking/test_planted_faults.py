"""What counts as a hit of an explanation, and what a fault cost."""

import numpy as np
import pytest

from limssr.training.benchmarking.planted_faults import chance_of_hit, clips_that_show, find_effects
from limssr.training.data.dives.judges import DEDUCTIONS
from limssr.training.data.dives.performance import FAULTS

TIMES = np.array([[0.0, 0.3], [0.3, 0.6], [0.6, 0.9]])


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0.3, 0.6, [0, 1, 0]), (0.1, 0.5, [1, 1, 0]), (0.4, 0.42, [0, 1, 0]), (0.25, 0.9, [0, 1, 1])],
)
def test_clips_that_show_a_fault(start, end, expected):
    assert clips_that_show(TIMES, start, end).tolist() == expected


def test_chance_of_two_clips():
    assert chance_of_hit(4, 1) == pytest.approx(1 / 2)
    assert chance_of_hit(4, 2) == pytest.approx(5 / 6)
    assert chance_of_hit(9, 0) == 0


def test_a_fault_costs_difficulty_times_three_deductions():
    truth = {"sample_id": "dive", "difficulty": 2.0, **dict.fromkeys(FAULTS, 0.0), "splash": 0.5}
    expected = 2.0 * 3 * DEDUCTIONS["splash"] * 0.5  # of a judge without noise; the middle marks are near it
    assert find_effects(truth) == {"splash": pytest.approx(expected, abs=1.0)}  # marks end at 10
