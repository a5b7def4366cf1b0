"""Split-conformal calibration of a model for every mask, and the check that its intervals hold what they promise."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from ...configuration.calibration_limssr import RESIDUAL_LEVELS, SCORE_QUANTILES
from ...modeling_limssr.intervals_limssr import find_intervals
from ..data.aqa_data import read_targets
from ..data.masks import Mask, all_subsets, subset_name
from ..prediction.predictions import Predictions
from ..prediction.predictor import predict_masks

FEWEST_SAMPLES = 19  # the fewest that a 95 % interval can come from
REPORTED_LEVELS = (0.5, 0.8, 0.9, 0.95)


def calibrate(
    model,
    processor,
    dataset: Dataset,
    masks: Sequence[Mask],
    modalities: Sequence[str],
    training_targets: np.ndarray,
    split: str,
    accelerator=None,
    batch_size: int = 16,
    progress: bool = True,
) -> dict:
    """Measure the errors under every mask, on samples that neither trained nor selected the model.

    Every sample counts for each mask whose modalities it has. An interval of the level p reaches as far from the score
    as the error of rank ceil((n + 1) p) among n: for exchangeable samples it holds the judged score with probability p
    or more, on average over them, whatever the model is.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`.
        processor: the model's `LimssrProcessor`.
        dataset: samples with a column for each score.
        masks: modalities of each sample that may be used.
        modalities: names in mask order, all of them the model's.
        training_targets: (samples, scores) judged scores of the training, in judges' units, NaN = not given.
        split: name of the split that the samples are of.
        accelerator: shares the samples over its processes; each process returns the whole table.
        batch_size: samples per batch and process.
        progress: whether to show a progress bar.

    Returns:
        The table of `LimssrConfig.calibration`, see `check_calibration`; only masks that a judged sample has.

    Raises:
        ValueError: there is no sample with a judged score for every score.
    """
    config = (accelerator.unwrap_model(model) if accelerator else model).config
    available = np.array(masks, dtype=bool).reshape(-1, len(modalities))
    targets = read_targets(dataset, config.score_names)
    wanted = {mask: available[:, np.array(mask, dtype=bool)].all(1) for mask in all_subsets(len(modalities))}
    wanted = {mask: rows for mask, rows in wanted.items() if np.isfinite(targets[rows]).any(0).all()}
    if not wanted:
        raise ValueError(
            f"the split {split!r} has no sample to calibrate on: a judged score is needed for each of "
            f"{config.score_names}."
        )
    with tqdm(total=sum(int(rows.sum()) for rows in wanted.values()), desc="calibrating", disable=not progress) as bar:
        found = predict_masks([(model, processor)], dataset, wanted, modalities, batch_size, accelerator, bar)
    table = {}
    for mask, rows in wanted.items():
        errors = np.abs(found[mask]["scores"][rows] - targets[rows])  # (samples, scores)
        columns = [column[np.isfinite(column)] for column in errors.T]
        entries = [{"samples": len(column), "residuals": residual_quantiles(column)} for column in columns]
        name = subset_name(mask, modalities).split("+")
        name = "+".join(modality for modality in config.modalities if modality in name)
        table[name] = dict(zip(config.score_names, entries, strict=True))
    training = [describe_scores(column[np.isfinite(column)]) for column in training_targets.T]
    return {
        "split": split,
        "masks": table,
        "training_scores": dict(zip(config.score_names, training, strict=True)),
    }


def residual_quantiles(errors: np.ndarray) -> list[float | None]:
    """Absolute errors (samples,) of rank ceil((n + 1) p) for p = 0.01 ... 0.99; None where n is too small for it."""
    ranks = [-(-(len(errors) + 1) * percent // 100) for percent in range(1, RESIDUAL_LEVELS + 1)]
    ordered = np.sort(errors)
    return [_six_digits(ordered[rank - 1]) if rank <= len(errors) else None for rank in ranks]


def describe_scores(scores: np.ndarray) -> dict:
    """Mean and quantiles of training scores (samples,)."""
    quantiles = np.quantile(scores, np.linspace(0, 1, SCORE_QUANTILES))
    return {"mean": _six_digits(scores.mean()), "quantiles": list(map(_six_digits, quantiles))}


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def measure_coverage(config, predictions: Predictions, targets: np.ndarray) -> dict[str, list[dict]]:
    """Share of the judged scores that the intervals hold, and the mean width of these, at `REPORTED_LEVELS`.

    Args:
        config: configuration with a calibration.
        predictions: predictions of the model.
        targets: (samples, scores) in judges' units, NaN = not given.

    Returns:
        Score name -> for each level `level`, `coverage`, `width`, `samples`, `sufficient`, the share of the samples
        with sufficient evidence, and `calibrated_on`, the split; shares and width are None without a judged sample.
    """
    rows: dict[str, list[dict]] = {name: [] for name in config.score_names}
    scores, mask = torch.from_numpy(predictions.scores), torch.from_numpy(predictions.used)
    for level in REPORTED_LEVELS:
        interval, sufficient = (found.numpy() for found in find_intervals(config, scores, mask, level))
        inside = (interval[..., 0] <= targets) & (targets <= interval[..., 1])  # (samples, scores)
        widths = interval[..., 1] - interval[..., 0]
        for column, name in enumerate(config.score_names):
            judged = np.isfinite(targets[:, column])
            count = int(judged.sum())
            row = {"level": level, "coverage": None, "width": None, "samples": count, "sufficient": None}
            row["calibrated_on"] = config.calibration["split"]
            if count:
                row["coverage"] = float(inside[judged, column].mean())
                row["width"] = float(widths[judged, column].mean())
                row["sufficient"] = float(sufficient[judged, column].mean())
            rows[name].append(row)
    return rows
