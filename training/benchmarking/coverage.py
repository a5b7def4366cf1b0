"""Whether intervals hold what they promise: a split is divided at random, one half calibrates, the other is tested.

For each mask and level the share of the judged scores inside their intervals, its standard deviation from draw to
draw, and the mean width of the intervals, in judges' units. The split must be one that neither trained nor selected
the model.

python -m limssr.training.benchmarking.coverage MODEL DATA [--data_options key=value ...] [--split test] [--draws 200]
"""

from typing import Any

import numpy as np

from ...configuration.calibration_limssr import find_residual
from ..data import AqaData, load
from ..data.aqa_data import read_targets
from ..data.masks import all_subsets, available_masks, subset_name
from ..evaluation.calibration import FEWEST_SAMPLES, REPORTED_LEVELS, residual_quantiles
from ..prediction.predictor import load_members, predict_masks
from ..utils.launching import exit_on_error, run_script, script_parser
from ..utils.markdown import markdown_table
from ..utils.settings import read_pairs


def score_masks(model: str, data: AqaData, split: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """
    Scores of a split under each mask.

    Returns:
        Mask -> (samples,) the first score, NaN where the sample lacks a modality of the mask; (samples,) judged; and
        (2,) the lowest and the highest possible score.
    """
    ((loaded, processor),) = load_members([model])
    rows, modalities = data.splits[split], list(data.modalities)
    available = np.array(available_masks(rows, modalities), dtype=bool)
    wanted = {mask: available[:, np.array(mask, dtype=bool)].all(1) for mask in all_subsets(len(modalities))}
    found = predict_masks([(loaded, processor)], rows, wanted, modalities, batch_size=128)
    scores = {subset_name(mask, modalities): each["scores"][:, 0] for mask, each in found.items()}
    low = loaded.config.score_minimums[0]
    return scores, read_targets(rows, data.score_names)[:, 0], np.array([low, low + loaded.config.score_ranges[0]])


def measure_draws(
    scores: np.ndarray, judged: np.ndarray, bounds: np.ndarray, draws: int, seed: int = 0
) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """
    Calibrate on random halves and test on the others.

    Args:
        scores: (samples,) predicted scores.
        judged: (samples,) judged scores.
        bounds: (2,) lowest and highest possible score, at which intervals end.
        draws: number of random halves.
        seed: seed of the draws.

    Returns:
        Level -> (draws,) share of the judged scores inside, and (draws,) mean width.
    """
    errors, generator = np.abs(scores - judged), np.random.default_rng(seed)
    found: dict[float, list[tuple[float, float]]] = {level: [] for level in REPORTED_LEVELS}
    for _ in range(draws):
        order = generator.permutation(len(errors))
        calibrating, testing = np.split(order, [len(errors) // 2])
        residuals = residual_quantiles(errors[calibrating])
        for level in REPORTED_LEVELS:
            reach = find_residual(residuals, level)
            ends = np.clip(scores[testing, None] + reach * np.array([-1, 1]), *bounds)  # (samples, 2)
            found[level].append((np.mean(errors[testing] <= reach), np.mean(np.ptp(ends, axis=1))))
    return {level: tuple(np.array(pairs).T) for level, pairs in found.items()}


def summarise(scores: dict[str, np.ndarray], judged: np.ndarray, bounds: np.ndarray, draws: int) -> list[list[Any]]:
    """Rows of a table, one for each mask with enough samples for two halves."""
    rows: list[list[Any]] = [["mask", "samples", *(f"{level:.0%}" for level in REPORTED_LEVELS)]]
    for mask, values in scores.items():
        known = np.isfinite(values) & np.isfinite(judged)
        if known.sum() < 2 * FEWEST_SAMPLES:
            continue
        found = measure_draws(values[known], judged[known], bounds, draws)
        cells = [
            f"{100 * np.mean(share):.1f} ({100 * np.std(share):.1f}), {np.mean(width):.1f} wide"
            for share, width in found.values()
        ]
        rows.append([mask, int(known.sum()), *cells])
    return rows


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("model", metavar="MODEL", help="folder or Hub name of a trained model")
    parser.add_argument("data", metavar="DATA", help="name of a dataset")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="options of the dataset")
    parser.add_argument("--split", default="test", help="split to divide (test)")
    parser.add_argument("--draws", type=int, default=200, help="number of random halves (200)")
    arguments = parser.parse_args()
    with exit_on_error():
        data = load(arguments.data, **read_pairs(arguments.data_options, "data_options") or {})
        scores = score_masks(arguments.model, data, arguments.split)
    print(markdown_table(summarise(*scores, arguments.draws), left=1))


if __name__ == "__main__":
    run_script(main)
