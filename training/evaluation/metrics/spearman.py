"""Spearman's rank correlation as a module of the `evaluate` library (see `aqa_suite` on imports)."""

import datasets
import evaluate

from .aqa_metrics import score_metrics

DESCRIPTION = """\
Spearman's rank correlation of predicted and judged scores, the main metric of action quality assessment: Pearson's
correlation of the ranks, ties sharing their mean rank. In [-1, 1], higher is better.
"""
INPUTS_DESCRIPTION = """\
Args:
    predictions: predicted scores, one number per sample.
    references: judged scores, one number per sample; NaN or None = not given, which leaves the sample out.

Returns:
    spearman: float in [-1, 1]; None where it is undefined (fewer than two samples, all predictions or all references
        the same, a prediction that is not finite).
    undefined: None, or the reason.
    samples: number of samples with a reference.

Example:
    >>> import evaluate
    >>> spearman = evaluate.load("training/evaluation/metrics/spearman.py")
    >>> spearman.compute(predictions=[1.0, 2.5, 2.0], references=[10.0, 30.0, 20.0])
    {'spearman': 1.0, 'undefined': None, 'samples': 3}
"""


class Spearman(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Spearman, C. (1904). The proof and measurement of association between two things.",
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": number, "references": number}),
            reference_urls=["https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats.spearmanr.html"],
        )

    def _compute(self, predictions, references) -> dict:
        metrics = score_metrics(predictions, references)
        undefined = metrics["undefined"].get("spearman")
        return {"spearman": metrics["spearman"], "undefined": undefined, "samples": metrics["samples"]}
