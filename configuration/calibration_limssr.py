"""Calibration of a checkpoint: quantiles of its absolute errors on samples it did not learn from, for every mask."""

import math

LOWEST_LEVEL, HIGHEST_LEVEL, DEFAULT_LEVEL = 0.5, 0.99, 0.9
RESIDUAL_LEVELS = 99  # 0.01, 0.02 ... 0.99
SCORE_QUANTILES = 101  # 0, 0.01 ... 1


def check_level(level: float | None) -> float:
    """
    Level of an interval; the default one for `None`.

    Raises:
        ValueError: a level that no table has.
    """
    if level is None:
        return DEFAULT_LEVEL
    if not LOWEST_LEVEL <= level <= HIGHEST_LEVEL:
        raise ValueError(f"`level` is {level}; allowed are levels from {LOWEST_LEVEL} to {HIGHEST_LEVEL}.")
    return float(level)


def find_residual(residuals: list[float | None], level: float) -> float:
    """
    Half the width of an interval, in judges' units; infinite where there were too few samples for the level.

    Args:
        residuals (`list`): quantiles of the absolute errors at `RESIDUAL_LEVELS` levels; a level between two takes the
            higher.
        level (`float`): checked level.
    """
    residual = residuals[math.ceil(round(level * 100, 6)) - 1]
    return math.inf if residual is None else residual


def training_width(quantiles: list[float], level: float) -> float:
    """Width of the central interval of the training scores, of which `SCORE_QUANTILES` quantiles are given."""
    low, high = (_interpolate(quantiles, (1 + side * level) / 2) for side in (-1, 1))
    return high - low


def _interpolate(quantiles: list[float], share: float) -> float:
    place = share * (SCORE_QUANTILES - 1)
    below = min(int(place), SCORE_QUANTILES - 2)
    return quantiles[below] + (place - below) * (quantiles[below + 1] - quantiles[below])


def check_calibration(table: dict, modalities: list[str], score_names: list[str]) -> None:
    """
    Check `LimssrConfig.calibration`, which `training/evaluation/calibration.py` makes:

    - `split`: name of the split of the samples;
    - `masks`: mask (`video+audio`) -> score name -> `samples`, their number, and `residuals`, the quantiles of
      |predicted - judged| at the levels 0.01 to 0.99 with the finite-sample rank; `null` where samples are too few;
    - `training_scores`: score name -> `mean` and `quantiles`, at 0, 0.01 ... 1, of the training scores.

    Raises:
        ValueError: something is missing, or no quantile; the message names it.
    """
    try:
        if not isinstance(table["split"], str):
            raise ValueError(f"`calibration` has the split {table['split']!r}; allowed is the name of one.")
        for mask, scores in table["masks"].items():
            parts = mask.split("+")
            if parts != [name for name in modalities if name in parts]:
                raise ValueError(f"`calibration` has the mask {mask!r}; the modalities are {modalities}.")
            for name in score_names:
                _check_quantiles(scores[name]["residuals"], RESIDUAL_LEVELS, f"residuals of {mask}, {name}", 0.0)
        for name in score_names:
            _check_quantiles(table["training_scores"][name]["quantiles"], SCORE_QUANTILES, f"training scores, {name}")
            if not math.isfinite(table["training_scores"][name]["mean"]):
                raise ValueError(f"`calibration`, training scores, {name}: the mean is not finite.")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"`calibration` is no table of this model ({error!r}); make one with `limssr calibrate MODEL DATA`."
        ) from error


def _check_quantiles(values: list, count: int, where: str, lowest: float | None = None) -> None:
    """Finite rising numbers; with `lowest`, `None` may stand at the end."""
    numbers = [value for value in values if value is not None]
    is_complete = len(values) == count and (lowest is not None or len(numbers) == count)
    is_rising = numbers == sorted(numbers) == values[: len(numbers)] and all(map(math.isfinite, numbers))
    if not (is_complete and is_rising) or (lowest is not None and numbers and numbers[0] < lowest):
        raise ValueError(f"`calibration`, {where}: expected {count} finite quantiles that do not fall.")
