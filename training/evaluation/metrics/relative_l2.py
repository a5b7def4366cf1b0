"""The relative L2 distance as a module of the `evaluate` library.

`evaluate.load` copies this file and the modules it imports with a dot, but not what those import: whatever is needed
must be imported here.
"""

import datasets
import evaluate

from .aqa_metrics import score_metrics

_DESCRIPTION = """\
Relative L2 distance (R-l2), the error measure of the diving benchmarks: 100 * mean(((p - t) / (max t - min t))^2) with
predictions p and judged scores t, the range being that of the judged scores given. In per cent of the squared range:
0 is perfect, lower is better, without an upper bound. Papers write it multiplied by 100, as here.
"""
_KWARGS_DESCRIPTION = """\
Args:
    predictions: predicted scores, one number a sample; any finite numbers.
    references: judged scores, one number a sample; NaN or None = not given, which leaves the sample out.

Returns:
    relative_l2: float of at least 0; None where it is undefined (no sample, all references the same, a prediction that
        is not finite).
    undefined: None, or the reason in words. Never 0 and never NaN stands for "undefined".
    samples: how many had a reference.

Example:
    >>> import evaluate
    >>> relative_l2 = evaluate.load("training/metrics/relative_l2.py")
    >>> relative_l2.compute(predictions=[4.0, 16.0], references=[0.0, 16.0])
    {'relative_l2': 3.125, 'undefined': None, 'samples': 2}
"""
_CITATION = """\
Yu, X., Rao, Y., Zhao, W., Lu, J. and Zhou, J. (2021). Group-aware contrastive regression for action quality
assessment. IEEE/CVF International Conference on Computer Vision, 7919-7928.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RelativeL2(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": number, "references": number}),
            reference_urls=["https://arxiv.org/abs/2108.07797"],
        )

    def _compute(self, predictions, references) -> dict:
        metrics = score_metrics(predictions, references)
        undefined = metrics["undefined"].get("relative_l2")
        return {"relative_l2": metrics["relative_l2"], "undefined": undefined, "samples": metrics["samples"]}
