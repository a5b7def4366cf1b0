"""Results of runs that never took place, as a finished run leaves them."""

from pathlib import Path

from limssr.training.evaluation.metrics.aqa_metrics import METRIC_NAMES
from limssr.training.evaluation.results import METRICS, EvaluationResult, MaskResult, ScoredRow, average_masks
from limssr.training.utils.files import write_json


def metrics(spearman: float | None, mse: float, **changes) -> dict:
    """A `score_metrics` dictionary."""
    about = {"undefined": {}, "not_given": 0}
    return {**dict.fromkeys(METRIC_NAMES, 1.0), "spearman": spearman, "mse": mse, **about, **changes}


def write_results(
    folder: Path, scores: dict[str, dict[str, ScoredRow]], title: str = "", caveats: tuple[str, ...] = ()
) -> None:
    """Write `metrics.json`; `scores` maps score names to masks and these to rows, the complete mask first."""
    masks = [
        MaskResult(
            name=mask,
            samples=353,
            complete=353,
            hidden=0.0,
            scores={score: rows[mask] for score, rows in scores.items()},
        )
        for mask in next(iter(scores.values()))
    ]
    averages = {score: average_masks("subsets", masks, score) for score in scores}
    about = ("subsets", masks[0].name.split("+"), list(scores), 353)
    result = EvaluationResult(*about, masks, averages, title=title, caveats=caveats)
    write_json(folder / METRICS, result.to_dict())
