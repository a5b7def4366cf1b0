"""Results of runs that never took place, as a finished run leaves them."""

from dataclasses import replace
from pathlib import Path

from limssr.training.evaluation.metrics.aqa_metrics import METRIC_NAMES
from limssr.training.evaluation.results import EvaluationResult, MaskResult, ScoredRow, write_metrics


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
            mask=None,
            seed=None,
            rates=None,
            samples=353,
            complete=353,
            hidden=0.0,
            scores={score: rows[mask] for score, rows in scores.items()},
        )
        for mask in next(iter(scores.values()))
    ]
    result = EvaluationResult.collect("subsets", masks[0].name.split("+"), list(scores), 353, masks)
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(replace(result, title=title, caveats=caveats), folder / "metrics.json")
