"""The seeds of a task as one model: averaged predictions beside averaged ridge, and what tells their error."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from limssr.training.evaluation.compare import compare_correlations
from limssr.training.evaluation.ensembles import read_ensemble, read_ensembles
from limssr.training.evaluation.metrics.aqa_metrics import average_metrics, score_metrics
from limssr.training.evaluation.tables import ensemble_table
from tests.helpers.results import MASKS, write_run


@pytest.fixture
def runs(tmp_path):
    """Three seeds, whose errors are their own."""
    return [write_run(tmp_path / f"seed{seed}", 5, seed=seed, scores=("pcs", "tes")) for seed in range(3)]


def column(folder, name, mask="video", score="pcs"):
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    return table[(table["mask"] == mask) & (table["score_name"] == score)][name].to_numpy()


def find(comparison, row, score="pcs"):
    (found,) = [entry for entry in comparison.rows if (entry.row, entry.score_name) == (row, score)]
    return found


def test_model_and_ridge_are_averaged_for_each_sample_and_mask(runs):
    row = find(read_ensemble(runs).against_ridge, "video")
    model, ridge = (np.mean([column(run, name) for run in runs], axis=0) for name in ("score", "ridge"))
    targets = column(runs[0], "target")
    assert row.first["mse"] == pytest.approx(np.mean((model - targets) ** 2))
    assert row.first["spearman"] == pytest.approx(stats.spearmanr(model, targets).statistic)
    assert row.second["mse"] == pytest.approx(np.mean((ridge - targets) ** 2))
    assert row.first["mse"] < np.mean([(column(run, "score") - targets) ** 2 for run in runs]) / 2
    low, high = row.first["intervals"]["spearman"]
    assert low < row.first["spearman"] < high
    expected = compare_correlations(model, ridge, targets, ranks=True)
    assert row.tests["spearman"].p_value == pytest.approx(expected.p_value)


def test_scores_are_averaged_last(runs):
    comparison = read_ensemble(runs).against_ridge
    average = find(comparison, "video", "average of 2 scores")
    of_scores = [find(comparison, "video", score).first for score in ("pcs", "tes")]
    assert average.first["spearman"] == pytest.approx(average_metrics(of_scores)["spearman"])
    assert average.first["mse"] == pytest.approx(np.mean([score["mse"] for score in of_scores]))
    masks = [find(comparison, mask, "average of 2 scores").first for mask in MASKS[1:]]
    incomplete = find(comparison, "average of the 2 incomplete", "average of 2 scores")
    assert incomplete.first["spearman"] == pytest.approx(average_metrics(masks)["spearman"])
    low, high = incomplete.intervals["spearman"]
    assert low < incomplete.differences["spearman"] < high


def test_spread_and_path_disagreement_are_correlated_with_the_error_of_the_ensemble(runs):
    predicted = np.array([column(run, "score") for run in runs])
    paths = [[column(run, name) for name in ("reasoning_score", "cross_modal_score")] for run in runs]
    error = np.abs(predicted.mean(axis=0) - column(runs[0], "target"))
    expected = {
        "standard_deviation": predicted.std(axis=0, ddof=1),
        "path_disagreement": np.mean([np.abs(one - other) for one, other in paths], axis=0),
    }
    written = read_ensemble(runs).to_dict()["correlation_with_absolute_error"]
    (row,) = [entry for entry in written if (entry["row"], entry["score_name"]) == ("video", "pcs")]
    for name, values in expected.items():
        assert row[name] == pytest.approx(score_metrics(values, error)["spearman"])
    assert row["difference"] == pytest.approx(row["standard_deviation"] - row["path_disagreement"])
    assert row["interval"][0] < row["difference"] < row["interval"][1]


def test_a_spread_that_is_the_error_has_a_correlation_of_one(tmp_path):
    """The two runs err on the same side, one twice as far as the other, so that spread and error are proportional."""

    def change(factor):
        def edit(columns):
            errors = np.linspace(1, 9, len(columns["target"]))
            columns["score"] = list(np.array(columns["target"]) + factor * errors)

        return edit

    runs = [write_run(tmp_path / f"run{factor}", 0, change=change(factor)) for factor in (1, 2)]
    row = find(read_ensemble(runs).uncertainty, "video", "score")
    assert row.first["spearman"] == pytest.approx(1)
    assert abs(row.second["spearman"]) < 0.5


def test_a_model_with_one_path_has_no_disagreement(tmp_path):
    def change(columns):
        columns["cross_modal_score"] = [None] * len(columns["mask"])

    ensemble = read_ensemble([write_run(tmp_path / f"seed{seed}", 5, seed=seed, change=change) for seed in (0, 1)])
    row = find(ensemble.uncertainty, "video", "score")
    assert row.second["spearman"] is None
    assert row.first["spearman"] is not None
    assert "undef." in ensemble_table(ensemble)


def test_the_table_shows_intervals_the_test_and_the_caveats(tmp_path):
    runs = [write_run(tmp_path / f"seed{seed}", 4, seed=seed, caveats=["leaky"]) for seed in (0, 1)]
    ensemble = read_ensemble(runs)
    text = ensemble_table(ensemble)
    row = find(ensemble.against_ridge, "video", "score")
    low, high = row.first["intervals"]["spearman"]
    line = next(line for line in text.splitlines() if line.startswith("| video "))
    assert f"{row.first['spearman']:.3f} |" in line
    assert f"{low:.3f}-{high:.3f}" in line
    assert "A = ensemble of 2 runs (seed0, seed1)" in text
    assert "(leaky)" in text
    assert "Spearman A" in text.split("Rank correlation with the absolute error")[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 59}, "1 samples are only in"),
        ({"masks": MASKS[:2]}, "has score from audio"),
        ({"change": lambda columns: columns["target"].__setitem__(0, 99.5)}, "1 samples have other targets"),
    ],
)
def test_runs_that_scored_something_else_make_no_ensemble(tmp_path, options, message):
    runs = [write_run(tmp_path / "seed0", 4), write_run(tmp_path / "seed1", 4, seed=1, **options)]
    ensembles, (reason,) = read_ensembles({str(run): ["task"] for run in runs})
    assert ensembles == []
    assert message in reason


def test_only_runs_of_the_same_tasks_make_an_ensemble(tmp_path):
    folders = [str(write_run(tmp_path / f"seed{seed}", 4, seed=seed)) for seed in range(3)]
    tasks = {folders[0]: ["a", "b"], folders[1]: ["a"], folders[2]: ["a", "b"]}
    (ensemble,), reasons = read_ensembles(tasks)
    assert ensemble.runs == ["seed0", "seed2"]
    assert reasons == []
    _, (reason,) = read_ensembles({folders[0]: ["a"], str(tmp_path / "nowhere"): ["a"]})
    assert "there is no" in reason
