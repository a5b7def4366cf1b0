"""The relative L2 distance as a module of the `evaluate` library (see `aqa_suite` on imports)."""

import datasets
import evaluate

from .aqa_metrics import score_metrics

DESCRIPTION = """\
Relative L2 distance (R-l2), the error metric of the diving benchmarks: 100 * mean(((p - t) / (max t - min t))^2) for
predictions p and judged scores t. In per cent of the squared range of the given references: 0 is perfect, there is no
upper bound. Papers write it multiplied by 100, as here.
"""
INPUTS_DESCRIPTION = """\
Args:
    predictions: predicted scores, one number per sample.
    references: judged scores, one number per sample; NaN or None = not given, which leaves the sample out.

Returns:
    relative_l2: float of at least 0; None where it is undefined (no sample, all references the same, a prediction that
        is not finite).
    undefined: None, or the reason.
    samples: number of samples with a reference.

Example:
    >>> import evaluate
    >>> relative_l2 = evaluate.load("training/evaluation/metrics/relative_l2.py")
    >>> relative_l2.compute(predictions=[4.0, 16.0], references=[0.0, 16.0])
    {'relative_l2': 3.125, 'undefined': None, 'samples': 2}
"""


class RelativeL2(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Yu, X. et al. (2021). Group-aware contrastive regression for action quality assessment. ICCV.",
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features({"predictions": number, "references": number}),
            reference_urls=["https://arxiv.org/abs/2108.07797"],
        )

    def _compute(self, predictions, references) -> dict:
        metrics = score_metrics(predictions, references)
        undefined = metrics["undefined"].get("relative_l2")
        return {"relative_l2": metrics["relative_l2"], "undefined": undefined, "samples": metrics["samples"]}
