"""Intervals of the scores, looked up by mask and level in the calibration of the configuration."""

import torch
from transformers.utils import logging

from ..configuration.calibration_limssr import check_level, find_residual, training_width

logger = logging.get_logger(__name__)


def find_intervals(
    config, scores: torch.Tensor, modality_mask: torch.Tensor, level: float | None = None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """
    Intervals in judges' units that hold the judged score with probability `level`, and whether they say anything.

    Without any calibration both are `None`. Where the mask was not calibrated, or on too few samples for the level,
    the interval is the whole score range.

    Args:
        config (`LimssrConfig`): configuration with `calibration`.
        scores (`(batch, scores)`): predicted scores, in judges' units.
        modality_mask (`(batch, modalities)` bool): modalities they were predicted from.
        level (`float`, *optional*): from 0.5 to 0.99; 0.9 by default.

    Returns:
        Lower and upper ends `(batch, scores, 2)`, inside the score range; and `(batch, scores)` bool, whether the
        interval is narrower than the central interval of the same level of the training scores.

    Raises:
        ValueError: a level outside that range.
    """
    table, is_asked = config.calibration, level is not None
    level = check_level(level)
    if table is None:
        if is_asked:
            logger.warning_once(
                "There is no interval: this checkpoint is not calibrated. `limssr calibrate MODEL DATA` does it."
            )
        return None, None
    masks = [[name in mask.split("+") for name in config.modalities] for mask in table["masks"]]
    residuals = [
        [find_residual(entry[name]["residuals"], level) for name in config.score_names]
        for entry in table["masks"].values()
    ]
    widths = [training_width(table["training_scores"][name]["quantiles"], level) for name in config.score_names]
    ends = [[low, low + span] for low, span in zip(config.score_minimums, config.score_ranges, strict=True)]
    known = torch.tensor(masks, device=scores.device)  # (masks, modalities)
    residuals, widths, ends = (scores.new_tensor(values) for values in (residuals, widths, ends))
    is_mask = (modality_mask.to(scores.device)[:, None] == known).all(-1)  # (batch, masks)
    found = residuals[is_mask.int().argmax(-1)]  # (batch, scores)
    found = found.masked_fill(~is_mask.any(-1, keepdim=True), torch.inf)
    interval = torch.stack([scores - found, scores + found], dim=-1)  # (batch, scores, 2)
    interval = interval.clamp(ends[:, :1], ends[:, 1:])
    return interval, interval[..., 1] - interval[..., 0] < widths
