"""Seeds are averaged and paired; the interval is that of other test samples."""

import numpy as np
import pytest

from limssr.training.evaluation.metrics.aqa_metrics import average_metrics, score_metrics
from limssr.training.evaluation.metrics.bootstrap import draw_resamples
from limssr.training.evaluation.paired import COMPLETE, INCOMPLETE, compare_seeds, measure_run
from tests.helpers.results import write_run

SCORES = ("execution", "difficulty")


@pytest.fixture
def runs(tmp_path):
    """`runs(name, noise)`: seed -> measured run, two seeds."""

    def write(name: str, noise: float, seeds=(0, 1), **options) -> dict:
        folders = {seed: tmp_path / f"{name}_{seed}" for seed in seeds}
        for seed, folder in folders.items():
            write_run(folder, noise, seed=10 * seed + int(noise), scores=SCORES, **options)
        return {seed: measure_run(folder) for seed, folder in folders.items()}

    return write


def draw_again(run, masks, rows) -> dict:
    """Average metrics of one run in one resample, drawn sample by sample."""
    metrics = []
    for (mask, _), table in run.scores.tables.items():
        if mask in masks:
            drawn = table.sort_index().iloc[rows]
            metrics.append(score_metrics(drawn["predicted"].to_numpy(), drawn["target"].to_numpy()))
    return average_metrics(metrics)


def test_every_resample_averages_masks_scores_and_seeds(runs):
    first, second = runs("first", 4), runs("second", 9)
    compared = compare_seeds(first, second)
    counts, differences = draw_resamples(60), {"spearman": [], "mse": []}
    for resample in range(8):
        rows = np.repeat(np.arange(60), counts[:, resample])
        both = [[draw_again(run[seed], ("video", "audio"), rows) for seed in (0, 1)] for run in (first, second)]
        for name, values in differences.items():
            one, other = (np.mean([metrics[name] for metrics in of_seeds]) for of_seeds in both)
            values.append(one - other)
    for name, values in differences.items():
        resampled = [
            np.mean([run[seed].rows[INCOMPLETE].resampled["model"][name] for seed in (0, 1)], axis=0)
            for run in (first, second)
        ]
        np.testing.assert_allclose((resampled[0] - resampled[1])[:8], values)
        expected = np.quantile(resampled[0] - resampled[1], [0.025, 0.975])
        assert compared[INCOMPLETE][name]["interval"] == pytest.approx(expected)
    whole = [draw_again(first[seed], ("video+audio",), np.arange(60))["spearman"] for seed in (0, 1)]
    assert compared[COMPLETE]["spearman"]["value"] == pytest.approx(np.mean(whole))
    assert compared[COMPLETE]["mse"]["difference"] < 0
    assert compared[INCOMPLETE]["spearman"]["interval"][0] > 0


def test_the_score_change_is_that_of_each_sample(runs):
    first = runs("first", 4)
    second = runs("second", 4, change=lambda columns: columns.update(score=[x + 3 for x in columns["score"]]))
    compared = compare_seeds(first, second)
    assert compared[COMPLETE]["score_change"] == pytest.approx(3)
    assert compared[INCOMPLETE]["spearman"]["difference"] == pytest.approx(0)
    assert compared[INCOMPLETE]["spearman"]["interval"] == pytest.approx([0, 0])


def test_only_seeds_that_both_have_are_compared(runs):
    first, second = runs("first", 4), runs("second", 9, seeds=(1, 2))
    alone = compare_seeds({1: first[1]}, {1: second[1]})
    assert compare_seeds(first, second) == alone
    assert compare_seeds({0: first[0]}, second) == {}


def test_one_modality_has_no_incomplete_mask(runs):
    first = runs("first", 4, masks=("video",))
    assert compare_seeds(first, first).keys() == {COMPLETE}


def test_runs_on_other_samples_or_targets_are_refused(runs):
    first = runs("first", 4)
    with pytest.raises(ValueError, match="samples are only in"):
        compare_seeds(first, runs("fewer", 4, samples=59))
    with pytest.raises(ValueError, match="samples have other targets"):
        compare_seeds(
            first, runs("shifted", 4, change=lambda columns: columns.update(target=[x + 1 for x in columns["target"]]))
        )
    with pytest.raises(ValueError, match="different masks or scores"):
        compare_seeds(first, runs("one", 4, masks=("video",)))
