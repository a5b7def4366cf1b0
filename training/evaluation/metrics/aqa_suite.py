"""All metrics of action quality assessment, with intervals, as a module of the `evaluate` library.

`evaluate.load` copies this file and the modules it imports with a dot, but not what those import in turn: all that is
needed must be imported here.
"""

import datasets
import evaluate

from .aqa_metrics import score_metrics
from .bootstrap import RESAMPLES, add_intervals, draw_resamples, resampled_metrics

DESCRIPTION = """\
Every metric of action quality assessment, with 95 % bootstrap percentile intervals over the samples:

    spearman     rank correlation, in [-1, 1], higher is better
    pearson      linear correlation, in [-1, 1], higher is better
    mse          mean squared error, in squared judges' units, 0 is perfect
    mae          mean absolute error, in judges' units, 0 is perfect
    relative_l2  100 * mean(((p - t) / (max t - min t))^2), in per cent of the squared range of the references
"""
INPUTS_DESCRIPTION = """\
Args:
    predictions: predicted scores in judges' units, one number per sample.
    references: judged scores, one number per sample; NaN or None = not given, which leaves the sample out.
    resamples: number of bootstrap resamples, 2000 by default.
    seed: seed of the resamples, 0 by default.

Returns:
    spearman, pearson, mse, mae, relative_l2: float, or None where it is undefined.
    undefined: metric -> reason for each None.
    intervals: metric -> [low, high], None for an undefined metric; relative_l2 keeps the range of all references.
    undefined_intervals: metric -> why a defined metric has no interval.
    samples, not_given: number of samples with and without a reference.

Example:
    >>> import evaluate
    >>> suite = evaluate.load("training/evaluation/metrics/aqa_suite.py")
    >>> result = suite.compute(predictions=[52.0, 61.5, 70.0, 80.0], references=[50.0, 60.0, 72.0, 81.0])
    >>> result["mae"]
    1.625
"""


class AqaSuite(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Efron, B. and Tibshirani, R. J. (1993). An introduction to the bootstrap. Chapter 13.",
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": number, "references": number}),
            reference_urls=["https://arxiv.org/abs/2605.00434", "https://arxiv.org/abs/2108.07797"],
        )

    def _compute(self, predictions, references, resamples: int = RESAMPLES, seed: int = 0) -> dict:
        counts = draw_resamples(len(references), resamples, seed)
        return add_intervals(
            score_metrics(predictions, references), resampled_metrics(predictions, references, counts)
        )
