import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limssr.training.evaluation.metrics.aqa_metrics import METRIC_NAMES, average_metrics, score_metrics
from limssr.training.evaluation.metrics.bootstrap import (
    add_intervals,
    average_resampled,
    draw_resamples,
    percentile_interval,
    resampled_metrics,
)


def scores(samples: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    targets = random.normal(50, 10, samples)
    return targets + random.normal(0, noise, samples), targets


def test_a_resample_draws_as_many_as_there_are_and_follows_from_the_seed():
    counts = draw_resamples(30, 200, seed=3)
    assert counts.shape == (30, 200)
    assert (counts.sum(axis=0) == 30).all()
    np.testing.assert_array_equal(counts, draw_resamples(30, 200, seed=3))
    assert (counts != draw_resamples(30, 200, seed=4)).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25), st.integers(0, 99))
def test_weighted_metrics_are_those_of_the_samples_drawn_again(pairs, seed):
    predictions, targets = np.array(pairs, dtype=float).T
    counts = draw_resamples(len(targets), 12, seed)
    measured = resampled_metrics(predictions, targets, counts)
    for resample in range(12):
        drawn = np.repeat(np.arange(len(targets)), counts[:, resample])
        expected = score_metrics(predictions[drawn], targets[drawn])
        for name in set(METRIC_NAMES) - {"relative_l2"}:
            value = measured[name][resample]
            assert (None if np.isnan(value) else value) == pytest.approx(expected[name], abs=1e-9), name


def test_relative_l2_keeps_the_unit_of_all_targets():
    predictions, targets = scores(40, 5)
    measured = resampled_metrics(predictions, targets, draw_resamples(40, 50))
    np.testing.assert_allclose(measured["relative_l2"], measured["mse"] / np.ptp(targets) ** 2 * 100)


def test_targets_not_given_leave_their_samples_out():
    predictions, targets = scores(40, 5)
    counts = draw_resamples(40, 50)
    lacking = np.where(np.arange(40) < 7, np.nan, targets)
    measured, expected = (
        resampled_metrics(predictions, lacking, counts),
        resampled_metrics(predictions[7:], targets[7:], counts[7:]),
    )
    for name in METRIC_NAMES:
        np.testing.assert_array_equal(measured[name], expected[name])


def test_blocks_change_nothing():
    predictions, targets = scores(2000, 5)
    counts = draw_resamples(2000, 601)  # more numbers than one block holds
    in_blocks = resampled_metrics(predictions, targets, counts)
    one_by_one = [resampled_metrics(predictions, targets, counts[:, [column]]) for column in range(601)]
    for name in METRIC_NAMES:
        expected = [metrics[name].item() for metrics in one_by_one]
        np.testing.assert_allclose(in_blocks[name], expected, rtol=1e-12)


def test_intervals_have_the_width_that_theory_gives():
    """The standard error of a correlation of normal data is (1 - r^2) / sqrt(n - 1), of a mean s / sqrt(n)."""
    predictions, targets = scores(1500, 8)
    metrics = score_metrics(predictions, targets)
    intervals = add_intervals(metrics, resampled_metrics(predictions, targets, draw_resamples(1500)))["intervals"]
    for name, error in (
        ("pearson", (1 - metrics["pearson"] ** 2) / np.sqrt(1499)),
        ("mse", np.std((predictions - targets) ** 2) / np.sqrt(1500)),
    ):
        low, high = intervals[name]
        assert low < metrics[name] < high
        assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.08)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(200):
        predictions, targets = scores(80, 6, seed)
        resampled = resampled_metrics(predictions, targets, draw_resamples(80, 400, seed))
        low, high = percentile_interval(resampled["mae"])[0]
        covered += low < 6 * np.sqrt(2 / np.pi) < high
    assert 180 <= covered <= 199  # 190 expected


def test_what_is_undefined_has_no_interval_and_a_reason():
    constant, targets = np.ones(20), np.arange(20.0)
    row = add_intervals(score_metrics(constant, targets), resampled_metrics(constant, targets, draw_resamples(20)))
    assert row["intervals"]["spearman"] is None
    assert "predictions are the same" in row["undefined"]["spearman"]
    assert row["intervals"]["mse"][0] < row["mse"] < row["intervals"]["mse"][1]

    few, targets = np.array([1.0, 2.0]), np.array([1.0, 3.0])  # half the resamples draw one of them twice
    row = add_intervals(score_metrics(few, targets), resampled_metrics(few, targets, draw_resamples(2)))
    assert row["spearman"] == pytest.approx(1)
    assert row["intervals"]["spearman"] is None
    assert "of 2000 resamples" in row["undefined_intervals"]["spearman"]

    broken, targets = np.array([np.nan, *np.arange(19.0)]), np.arange(20.0)
    row = add_intervals(score_metrics(broken, targets), resampled_metrics(broken, targets, draw_resamples(20)))
    assert set(row["undefined"]) == set(METRIC_NAMES)
    assert row["intervals"] == dict.fromkeys(METRIC_NAMES)


def test_averages_are_those_of_every_resample():
    counts = draw_resamples(50, 30)
    rows = [resampled_metrics(*scores(50, noise, seed=5), counts) for noise in (3, 9, 30)]
    averages = average_resampled(rows)
    for resample in range(30):
        expected = average_metrics([{name: row[name][resample] for name in METRIC_NAMES} for row in rows])
        for name in METRIC_NAMES:
            assert averages[name][resample] == pytest.approx(expected[name])
