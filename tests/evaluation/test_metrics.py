import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from limssr.training.evaluation.metrics.aqa_metrics import (
    METRIC_NAMES,
    average_metrics,
    calibration_line,
    clip_correlations,
    repetition_metrics,
    score_metrics,
)


def fisher_z_mean(correlations):
    return average_metrics([{"spearman": value} for value in correlations])["spearman"]


scores = arrays(np.float64, st.integers(2, 30), elements=st.integers(0, 200).map(lambda value: value / 2))


@settings(deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_correlations_agree_with_scipy_ties_included(targets, random):
    predictions = np.array([target + random.choice([-3.0, 0.0, 5.0]) for target in targets])
    metrics = score_metrics(predictions, targets)
    if np.ptp(predictions) == 0 or np.ptp(targets) == 0:
        assert metrics["spearman"] is None
        assert metrics["pearson"] is None
    else:
        assert metrics["spearman"] == pytest.approx(stats.spearmanr(predictions, targets).statistic, abs=1e-12)
        assert metrics["pearson"] == pytest.approx(stats.pearsonr(predictions, targets).statistic, abs=1e-12)


def test_errors_have_their_closed_forms():
    predictions, targets = np.array([1.0, 4.0, 9.0]), np.array([0.0, 4.0, 10.0])
    metrics = score_metrics(predictions, targets)
    assert metrics["mse"] == pytest.approx(2 / 3)
    assert metrics["mae"] == pytest.approx(2 / 3)
    assert metrics["relative_l2"] == pytest.approx(100 * (2 / 3) / 10**2)


def test_the_calibration_line_undoes_flattening():
    judged = np.array([10.0, 20.0, 60.0, 90.0, np.nan])
    line = calibration_line(30 + judged / 4, judged)  # from 32.5 to 52.5 only
    assert (line["slope"], line["intercept"]) == (pytest.approx(4), pytest.approx(-120))
    assert (line["predicted"], line["judged"]) == ([32.5, 52.5], [10.0, 90.0])


def test_a_mean_given_what_is_known_has_slope_1_though_it_varies_less_than_the_scores():
    random = np.random.default_rng(0)
    known, unknown = random.normal(size=(2, 100_000))
    line = calibration_line(50 + 6 * known, 50 + 6 * known + 8 * unknown)
    assert line["slope"] == pytest.approx(1, abs=0.02)
    assert line["predicted"][0] > line["judged"][0]


@pytest.mark.parametrize(
    ("predictions", "targets", "said"),
    [
        ([3.0, 3.0], [1.0, 2.0], "all 2 predictions are the same"),
        ([3.0, np.nan], [1.0, 2.0], "1 of 2 predictions are not finite"),
        ([3.0], [1.0], "1 sample with a target"),
        ([], [], "0 samples with a target"),
    ],
)
def test_no_calibration_line_has_a_reason(predictions, targets, said):
    line = calibration_line(np.array(predictions), np.array(targets))
    assert (line["slope"], line["intercept"], line["reason"]) == (None, None, said)
    assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_spearman_with_ties_is_the_correlation_of_mean_ranks():
    # Ranks 1.5 1.5 3 4 against 1 2 3.5 3.5.
    expected = np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3.5, 3.5])[0, 1]
    metrics = score_metrics(np.array([5, 5, 6, 9]), np.array([1, 2, 8, 8]))
    assert metrics["spearman"] == pytest.approx(expected)


@settings(deadline=None)
@given(scores, st.floats(0.1, 10), st.floats(-50, 50))
def test_relative_l2_ignores_the_unit(targets, factor, shift):
    if np.ptp(targets) == 0:
        return
    predictions = targets[::-1].copy()
    changed = score_metrics(predictions * factor + shift, targets * factor + shift)["relative_l2"]
    assert changed == pytest.approx(score_metrics(predictions, targets)["relative_l2"], rel=1e-6)


def test_float32_scores_are_measured_in_double_precision():
    targets = np.array([1000.0, 1000.0001], dtype=np.float32)
    assert score_metrics(targets.astype(np.float64) + 1e-9, targets)["mse"] == pytest.approx(1e-18, rel=1e-3)


def test_targets_not_given_are_left_out_and_counted():
    metrics = score_metrics(np.array([1.0, 99.0, 3.0, 2.0]), np.array([1.0, np.nan, 3.0, 2.0]))
    assert (metrics["samples"], metrics["not_given"]) == (3, 1)
    assert metrics["mse"] == 0
    assert metrics["spearman"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("predictions", "targets", "undefined", "reason"),
    [
        ([2, 2, 2], [1, 2, 3], {"spearman", "pearson"}, "all 3 predictions are the same"),
        ([1, 2, 3], [2, 2, 2], {"spearman", "pearson", "relative_l2"}, "all 3 targets are the same"),
        ([1], [2], {"spearman", "pearson", "relative_l2"}, "1 sample with a target"),
        ([1, 2], [np.nan, np.nan], set(METRIC_NAMES), "0 samples with a target"),
        ([], [], set(METRIC_NAMES), "0 samples with a target"),
        ([1, np.nan, np.inf], [1, 2, 3], set(METRIC_NAMES), "2 of 3 predictions are not finite"),
    ],
)
def test_undefined_metrics_are_none_with_a_reason(predictions, targets, undefined, reason):
    metrics = score_metrics(np.array(predictions, dtype=float), np.array(targets, dtype=float))
    assert set(metrics["undefined"]) == undefined
    assert reason in metrics["undefined"].values()
    assert {name for name in METRIC_NAMES if metrics[name] is None} == undefined
    json.dumps(metrics, allow_nan=False)


def test_nearly_constant_predictions_give_no_silent_nan():
    predictions = 1e300 + np.array([0.0, 1e290, 3e290])
    metrics = score_metrics(predictions, np.array([1.0, 2.0, 3.0]))
    assert all(metrics[name] is None or np.isfinite(metrics[name]) for name in METRIC_NAMES)
    assert "mse" in metrics["undefined"]


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 1\) and \(3,\)"):
        score_metrics(np.zeros((3, 1)), np.zeros(3))


@settings(deadline=None)
@given(st.lists(st.floats(-0.999, 0.999), min_size=1, max_size=8))
def test_fisher_mean_is_the_tanh_of_the_mean_z_and_lies_between_its_members(correlations):
    mean = fisher_z_mean(correlations)
    assert mean == pytest.approx(np.tanh(np.mean([0.5 * np.log((1 + r) / (1 - r)) for r in correlations])), abs=1e-12)
    assert min(correlations) - 1e-12 <= mean <= max(correlations) + 1e-12


def test_published_averages_come_out():
    # Spearman over the seven scores of FS1000 with all modalities, published as .891.
    published = [0.907, 0.892, 0.894, 0.887, 0.885, 0.889, 0.884]
    assert fisher_z_mean(published) == pytest.approx(0.891, abs=6e-4)
    # Fis-V TES over its six incomplete subsets, published as .684.
    assert fisher_z_mean([0.774, 0.758, 0.639, 0.703, 0.686, 0.486]) == pytest.approx(0.684, abs=6e-4)


def test_fisher_mean_at_its_borders():
    assert fisher_z_mean([1.0, 0.5]) == 1.0
    assert set(average_metrics([])["undefined"].values()) == {"nothing to average"}
    for undefined in ([0.5, None], [1.0, -1.0]):
        assert fisher_z_mean(undefined) is None
    with pytest.raises(ValueError, match=r"1\.2"):
        fisher_z_mean([1.2])


def test_averages_use_fisher_for_correlations_and_the_plain_mean_for_errors():
    rows = [score_metrics(np.array([1.0, 3.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.5]))]
    rows.append(score_metrics(np.array([4.0, 3.0, 2.0, 3.5]), np.array([1.0, 2.0, 3.0, 4.5])))
    average = average_metrics(rows)
    assert average["spearman"] == pytest.approx(fisher_z_mean([row["spearman"] for row in rows]))
    assert average["mse"] == pytest.approx(np.mean([row["mse"] for row in rows]))
    assert average["rows"] == 2


def test_an_average_with_an_undefined_member_is_undefined():
    constant = score_metrics(np.ones(3), np.arange(3.0))
    average = average_metrics([constant, score_metrics(np.arange(3.0), np.arange(3.0))])
    assert average["spearman"] is None
    assert average["undefined"]["spearman"] == "1 of 2 values are undefined"
    assert average["mse"] is not None


def test_repetitions_have_mean_and_deviation():
    found = repetition_metrics([{"spearman": 0.5, "mse": 2.0}, {"spearman": 0.7, "mse": None}])
    assert found["spearman"] == pytest.approx(0.6)
    assert found["sd"]["spearman"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    assert (found["mse"], found["sd"]["mse"]) == (None, None)
    assert repetition_metrics([{"mse": 2.0}])["sd"] == {"mse": None}


def test_correlations_of_few_samples_are_clipped_half_a_swap_below_one():
    for count, largest in ((2, 0), (3, 0.75), (4, 0.9), (30, 1 - 6 / (30 * 899))):
        values = np.arange(float(count))
        assert clip_correlations(score_metrics(values, values))["spearman"] == pytest.approx(largest)
        assert clip_correlations(score_metrics(-values, values))["pearson"] == pytest.approx(-largest)
    middling = score_metrics(np.array([1.0, 3.0, 2.0, 4.0]), np.arange(4.0))
    assert clip_correlations(middling) == middling
    assert clip_correlations(score_metrics(np.ones(3), np.arange(3.0)))["spearman"] is None
