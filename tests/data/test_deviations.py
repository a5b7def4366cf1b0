"""Labels on which raters agree weigh more, by inverse variance."""

import math

import numpy as np
import pytest
from datasets import Dataset

from limssr.training.data.deviations import deviation_weights, inverse_variance_weights

NAN = float("nan")


def test_weights_are_inverse_variances_beside_the_average_one_with_a_mean_of_one():
    deviations = np.array([[0.0, 2.0], [1.0, 2.0], [2.0, NAN], [NAN, 2.0]])
    v = (0 + 1 + 4) / 3
    inverse = np.array([1 / (v + 0), 1 / (v + 1), 1 / (v + 4)])
    weights = inverse_variance_weights(deviations)
    np.testing.assert_allclose(weights[:3, 0], inverse / inverse.mean())
    assert weights[3, 0] == 1
    np.testing.assert_allclose(weights[:, 1], 1)  # all alike
    np.testing.assert_allclose(weights.mean(axis=0), 1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_neither_the_unit_of_the_scores_nor_the_number_of_raters_matters(scale):
    deviations = np.random.default_rng(0).uniform(0, 2, (50, 3))
    np.testing.assert_allclose(inverse_variance_weights(scale * deviations), inverse_variance_weights(deviations))


def test_raters_who_always_agree_weigh_alike():
    assert inverse_variance_weights(np.zeros((4, 2))).tolist() == [[1, 1]] * 4


def rows(**columns) -> Dataset:
    return Dataset.from_dict({"sample_id": ["a", "b", "c"], "tes": [1.0, 2, 3], "pcs": [3.0, 2, 1], **columns})


def test_weights_are_read_from_the_columns_of_the_scores():
    data = rows(tes_deviation=[0.0, 1, None], pcs_deviation=[NAN, 2.0, 2.0])
    weights = deviation_weights(data, ["tes", "pcs"])
    expected = inverse_variance_weights(np.array([[0, NAN], [1, 2], [NAN, 2]]))
    assert weights == dict(zip("abc", expected.tolist(), strict=True))
    assert all(math.isfinite(value) for values in weights.values() for value in values)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tes_deviation": [1.0] * 3}, "no column 'pcs_deviation'"),
        ({"tes_deviation": [1.0] * 3, "pcs_deviation": [NAN] * 3}, "'pcs_deviation' has no value in training"),
    ],
)
def test_without_deviations_there_are_no_weights(columns, message):
    with pytest.raises(ValueError, match=message):
        deviation_weights(rows(**columns), ["tes", "pcs"])
