"""The modules as `evaluate.load` gives them: copied out of the package, alone."""

import doctest
from pathlib import Path

import evaluate
import numpy as np
import pytest
from scipy import stats

from limssr.training.evaluation.metrics.aqa_metrics import METRIC_NAMES, score_metrics
from limssr.training.evaluation.metrics.bootstrap import add_intervals, draw_resamples, resampled_metrics

METRICS = Path(__file__).parents[2] / "training" / "evaluation" / "metrics"
MODULES = ("spearman", "relative_l2", "aqa_suite")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Into a folder of its own, with nothing from any network."""
    cache = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", cache / "modules")
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", cache / "metrics")
        patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
        yield lambda name: evaluate.load(str(METRICS / f"{name}.py"))


def scores(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """With ties in both."""
    random = np.random.default_rng(2)
    targets = np.round(random.normal(20, 4, samples))
    return np.round(targets + random.normal(0, 3, samples)), targets


def test_spearman_is_that_of_scipy_ties_included(load):
    predictions, targets = scores(60)
    result = load("spearman").compute(predictions=predictions, references=targets)
    assert result["spearman"] == pytest.approx(stats.spearmanr(predictions, targets).statistic, abs=1e-12)
    assert (result["undefined"], result["samples"]) == (None, 60)


def test_relative_l2_has_its_closed_form(load):
    result = load("relative_l2").compute(predictions=[1.0, 4.0, 9.0], references=[0.0, 4.0, 10.0])
    assert result["relative_l2"] == pytest.approx(100 * (1 + 0 + 1) / 3 / 10**2)


def test_the_suite_is_what_every_report_of_this_package_shows(load):
    predictions, targets = scores(60)
    result = load("aqa_suite").compute(predictions=predictions, references=targets, seed=5)
    resampled = resampled_metrics(predictions, targets, draw_resamples(60, seed=5))
    assert result == add_intervals(score_metrics(predictions, targets), resampled)
    assert set(result["intervals"]) == set(METRIC_NAMES)
    few = load("aqa_suite").compute(predictions=predictions, references=targets, resamples=50)
    assert few["intervals"] != result["intervals"]


@pytest.mark.parametrize("name", MODULES)
def test_undefined_is_said(load, name):
    module = load(name)
    result = module.compute(predictions=[1.0, 2.0, 3.0], references=[5.0, 5.0, 5.0])
    metrics = {"spearman", "relative_l2"} & set(result)
    assert metrics
    assert all(result[metric] is None for metric in metrics)
    reasons = result["undefined"]
    assert "all 3 targets are the same" in (reasons if isinstance(reasons, str) else reasons.values())


@pytest.mark.parametrize("name", MODULES)
def test_references_that_are_not_given_leave_their_sample_out(load, name):
    module = load(name)
    expected = module.compute(predictions=[1.0, 3.0, 2.5], references=[1.0, 2.0, 3.0])
    for lacking in (float("nan"), None):
        result = module.compute(predictions=[9.0, 1.0, 3.0, 2.5], references=[lacking, 1.0, 2.0, 3.0])
        assert result["samples"] == 3
        for metric in {"spearman", "relative_l2"} & set(result):
            assert result[metric] == pytest.approx(expected[metric])


@pytest.mark.parametrize("name", MODULES)
def test_batches_add_up(load, name):
    module = load(name)
    predictions, targets = scores(20)
    expected = module.compute(predictions=predictions, references=targets)
    module.add_batch(predictions=predictions[:11], references=targets[:11])
    module.add_batch(predictions=predictions[11:], references=targets[11:])
    assert module.compute() == expected


@pytest.mark.parametrize("name", MODULES)
def test_the_documented_example_is_true(load, name, monkeypatch):
    module = load(name)
    monkeypatch.chdir(METRICS.parents[2])
    assert "Returns:" in module.inputs_description
    examples = doctest.DocTestParser().get_doctest(module.inputs_description, {}, name, None, 0)
    assert examples.examples
    runner = doctest.DocTestRunner()
    assert runner.run(examples).failed == 0
