"""Quantiles of errors are those of split-conformal prediction, and the intervals hold what they promise."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from limssr.configuration.calibration_limssr import check_calibration, find_residual
from limssr.training.evaluation.calibration import (
    calibrate,
    describe_scores,
    measure_coverage,
    residual_quantiles,
)
from limssr.training.prediction.predictions import Predictions
from tests.helpers.feature_rows import SIZES
from tests.helpers.models import make_calibration


def test_known_errors_have_the_known_quantiles():
    errors = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 1 ... 99, where rank = 100 * level
    assert residual_quantiles(errors) == list(map(float, range(1, 100)))
    nine = residual_quantiles(np.arange(1.0, 10.0))  # rank = 10 * level, rounded up
    assert [find_residual(nine, level) for level in (0.5, 0.51, 0.8, 0.9)] == [5.0, 6.0, 8.0, 9.0]
    assert find_residual(nine, 0.91) == np.inf
    assert residual_quantiles(np.zeros(0)) == [None] * 99


def test_exchangeable_errors_are_held_with_the_promised_probability():
    generator, levels = np.random.default_rng(1), (0.5, 0.8, 0.9, 0.95)
    held = np.zeros(len(levels))
    for _ in range(400):
        quantiles = residual_quantiles(np.abs(generator.standard_t(3, size=60)))
        new = np.abs(generator.standard_t(3, size=200))
        held += [np.mean(new <= find_residual(quantiles, level)) for level in levels]
    # On average over calibrations it is ceil(61 * level) / 61; the mean of 400 is known to about 0.3 points.
    assert held / 400 == pytest.approx([np.ceil(61 * level) / 61 for level in levels], abs=0.012)


def test_training_scores_are_described_by_mean_and_quantiles():
    described = describe_scores(np.arange(101.0))
    assert described == {"mean": 50.0, "quantiles": list(map(float, range(101)))}


def with_scores(count: int) -> Dataset:
    """Complete samples with random scores."""
    generator = np.random.default_rng(2)
    columns = {"sample_id": [f"s{index}" for index in range(count)], "score": generator.uniform(0, 100, count)}
    for name, size in SIZES.items():
        columns[name] = generator.normal(size=(count, 3, size)).tolist()
    return Dataset.from_dict(columns)


def test_every_mask_is_calibrated_on_the_samples_that_have_it(tiny_model, tiny_processor):
    dataset, modalities = with_scores(24), list(SIZES)
    masks = [(1, 0, 1), *[(1, 1, 1)] * 20, *[(0, 1, 0)] * 3]
    targets = np.array(dataset["score"][:])[:, None]
    table = calibrate(tiny_model, tiny_processor, dataset, masks, modalities, targets, "validation", progress=False)
    counts = {mask: entry["score"]["samples"] for mask, entry in table["masks"].items()}
    both = {"video+audio+flow": 20, "video+audio": 20, "audio+flow": 20, "audio": 23}
    assert counts == both | {"video+flow": 21, "video": 21, "flow": 21}
    check_calibration(table, list(tiny_model.config.modalities), ["score"])
    features = {name: np.array(dataset[name][:21], dtype=np.float32) for name in ("video", "flow")}
    with torch.inference_mode():
        outputs = tiny_model(**tiny_processor(features={**features, "audio": [None] * 21}))
    assert outputs.interval is None  # the table is the caller's
    errors = np.sort(np.abs(outputs.scores.numpy() - targets[:21])[:, 0])
    residuals = table["masks"]["video+flow"]["score"]["residuals"]
    assert [residuals[49], residuals[89]] == pytest.approx([errors[10], errors[19]], rel=1e-4)
    assert residuals[95] is None  # of 21 samples


def test_scores_that_are_not_given_do_not_count(tiny_model, tiny_processor):
    dataset, modalities = with_scores(24), list(SIZES)
    scores = [None if index < 4 else value for index, value in enumerate(dataset["score"][:])]
    dataset = dataset.remove_columns("score").add_column("score", scores)
    targets = np.arange(5.0)[:, None]
    about = (modalities, targets, "validation")
    table = calibrate(tiny_model, tiny_processor, dataset, [(1, 1, 1)] * 24, *about, progress=False)
    assert table["masks"]["flow"]["score"]["samples"] == 20
    with pytest.raises(ValueError, match="has no sample to calibrate on"):
        calibrate(tiny_model, tiny_processor, dataset.select(range(4)), [(1, 1, 1)] * 4, *about, progress=False)


def test_coverage_counts_judged_scores_inside_the_intervals(tiny_config):
    tiny_config.calibration = make_calibration(["score"], {"audio": 10.0}, widest=100.0)
    scores, used = np.full((5, 1), 50.0), np.array([[False, True, False]] * 5)
    predictions = Predictions(list("abcde"), list(SIZES), scores, scores, scores, used)
    levels = measure_coverage(tiny_config, predictions, np.array([[50.0], [55.1], [41.5], [40.0], [np.nan]]))["score"]
    assert [level["coverage"] for level in levels] == [0.25, 0.5, 0.75, 0.75]
    assert [level["width"] for level in levels] == pytest.approx([10, 16, 18, 19])
    assert {(level["samples"], level["sufficient"]) for level in levels} == {(4, 1.0)}
