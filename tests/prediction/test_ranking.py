"""The probability that one performance is better follows from the errors of both, and is reliable."""

import numpy as np
import pytest

from limssr.training.prediction.ranking import probability_better, reliability
from tests.helpers.models import make_calibration

VIDEO, AUDIO, FLOW = (1, 0, 0), (0, 1, 0), (0, 0, 1)


@pytest.fixture
def config(tiny_config):
    tiny_config.calibration = make_calibration(["score"], {"video": 10.0, "audio": 10.0}, widest=100.0)
    return tiny_config


def test_uniform_errors_give_the_probability_of_a_triangular_difference(config):
    gaps = np.array([-25.0, -10.0, 0.0, 10.0, 25.0])
    found = probability_better(config, 50 + gaps, np.full(5, 50.0), (VIDEO, AUDIO), "score")
    assert found == pytest.approx([0, 0.125, 0.5, 0.875, 1], abs=0.01)  # the difference of two U(-10, 10)


def test_swapping_the_two_gives_the_rest_to_one(config):
    first, second = np.random.default_rng(0).uniform(0, 100, (2, 20))
    there = probability_better(config, first, second, (VIDEO, AUDIO), "score")
    back = probability_better(config, second, first, (AUDIO, VIDEO), "score")
    assert there + back == pytest.approx(np.ones(20))


def test_without_a_calibration_of_both_masks_there_is_no_probability(config):
    scores = np.array([50.0])
    assert probability_better(config, scores, scores, (VIDEO, FLOW), "score") is None
    config.calibration = None
    assert probability_better(config, scores, scores, (VIDEO, VIDEO), "score") is None


def test_what_too_few_samples_leave_open_is_as_wide_as_the_range(config):
    config.calibration["masks"]["video"]["score"]["residuals"][89:] = [None] * 10
    found = probability_better(config, np.array([80.0]), np.array([20.0]), (VIDEO, AUDIO), "score")
    assert found == pytest.approx([1 - 10 / 99 / 2], abs=0.001)


def test_probabilities_are_reliable_where_errors_are_those_of_the_calibration(config):
    generator = np.random.default_rng(1)
    predicted = generator.uniform(30, 70, (2, 20000))
    judged = predicted + generator.uniform(-10, 10, (2, 20000))
    found = probability_better(config, *predicted, (VIDEO, AUDIO), "score")
    for part in reliability(found, judged[0] > judged[1]):
        assert part["happened"] == pytest.approx(part["predicted"], abs=0.03 if part["pairs"] > 800 else 0.08)


def test_a_reliability_curve_has_known_values():
    curve = reliability(np.array([0.1, 0.15, 1.0, np.nan]), np.array([0.0, 1.0, 0.5, 1.0]))
    assert curve == [
        {"predicted": 0.125, "happened": 0.5, "pairs": 2},
        {"predicted": 1.0, "happened": 0.5, "pairs": 1},
    ]
