"""What counts as a hit of an explanation, and what a fault cost."""

import numpy as np
import pytest

from limssr.training.benchmarking.planted_faults import (
    Finding,
    ShuffledDives,
    chance_of_hit,
    clips_that_show,
    find_effects,
    share_in_others,
    summarise_findings,
)
from limssr.training.data.dives.judges import DEDUCTIONS
from limssr.training.data.dives.performance import FAULTS
from limssr.training.data.simulated_dives import SimulatedDives

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


def finding(span: tuple[float, float], first: int) -> Finding:
    """A fault in the video, and the clip that an explanation puts first, which is also the second one."""
    return Finding(
        "video", "splash", span, TIMES, dict.fromkeys(("occlusion", "gradients"), np.array([first] * 2)), 1.0
    )


def test_faults_of_other_dives_are_the_chance_of_a_model_that_always_names_the_same_clip():
    spans = [(0.0, 0.3), (0.3, 0.6), (0.6, 0.9)]
    good = [finding(span, clip) for clip, span in enumerate(spans)]
    same = [finding(span, 2) for span in spans]
    assert [share_in_others(each, "occlusion") for each in (good, same)] == [0.0, pytest.approx(1 / 3)]
    _, splash, everything = summarise_findings(good)
    assert splash[1:5] == ["splash", 3, "100.0%", "0.0%"]
    assert everything[1:5] == ["any", 3, "100.0%", "0.0%"]


def test_shuffled_scores_are_the_same_scores_of_other_dives(tmp_path):
    options = {"folder": tmp_path / "dives", "samples_train": 6, "samples_test": 2, "size": 32, "fps": 5}
    plain, shuffled = (kind(**options).read_labels().splits for kind in (SimulatedDives, ShuffledDives))
    one, other = (list(splits["train"]["score"]) for splits in (plain, shuffled))
    assert one != other
    assert sorted(one) == sorted(other)
    assert list(plain["test"]["score"]) == list(shuffled["test"]["score"])
    assert plain["train"].features == shuffled["train"].features
