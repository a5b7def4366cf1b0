import json
import shutil
import sys

import numpy as np
import pytest

from limssr.training import summarize
from limssr.training.evaluation.metrics.aqa_metrics import average_metrics
from limssr.training.evaluation.results import ScoredRow
from limssr.training.evaluation.seeds import TaskRun, read_task_runs, summarize_runs
from limssr.training.fitting.run import run_training

MASKS = ("video+audio+flow", "video+flow", "video+audio", "audio+flow", "video", "flow", "audio")
INCOMPLETE = "average of the 6 incomplete"

# LIMSSR, arXiv 2605.00434v1, tables 11 to 13, then its rows of table 1: Spearman and MSE of the masks above.
FS1000 = {
    "tes": ".907 64.58 .887 77.44 .907 65.25 .867 85.80 .889 77.52 .842 95.53 .863 87.71",
    "pcs": ".892 6.84 .845 8.21 .891 6.90 .678 15.84 .848 8.05 .574 28.33 .644 17.38",
    "ss": ".894 .26 .870 .30 .896 .26 .695 .52 .870 .30 .573 .91 .679 .57",
    "tr": ".887 .27 .858 .32 .885 .27 .671 .61 .856 .33 .527 .75 .633 .68",
    "pe": ".885 .52 .830 .60 .885 .52 .636 .87 .826 .60 .595 1.07 .606 .91",
    "co": ".889 .28 .832 .36 .891 .28 .689 .59 .831 .36 .512 1.28 .669 .65",
    "in": ".884 .30 .844 .35 .881 .30 .650 .64 .842 .36 .593 1.26 .632 .67",
}
FISV = {
    "tes": ".792 14.82 .774 14.64 .758 16.58 .639 22.41 .703 16.61 .686 20.46 .486 32.71",
    "pcs": ".880 5.55 .864 5.70 .870 6.04 .740 9.92 .853 7.21 .668 13.92 .658 14.88",
}
RG = {
    "ball": ".813 5.50 .796 5.31 .771 6.12 .630 7.54 .752 6.05 .607 7.52 .417 12.34",
    "clubs": ".830 4.69 .828 4.53 .722 6.04 .718 5.61 .732 5.97 .727 5.41 .291 13.83",
    "hoop": ".850 5.33 .837 4.78 .836 5.44 .592 8.88 .815 5.54 .657 7.51 .365 11.83",
    "ribbon": ".908 4.76 .836 4.89 .876 4.35 .672 8.86 .813 4.88 .684 8.23 .358 13.44",
}

TABLE_1 = {
    "fs1000": ".891 10.44 .854 12.51 .891 10.54 .709 14.98 .853 12.50 .618 18.45 .687 15.51",
    "fisv": ".841 10.19 .824 10.17 .822 11.31 .693 16.16 .790 11.91 .677 17.19 .578 23.80",
    "rg": ".855 5.07 .825 4.88 .809 5.49 .656 7.72 .781 5.61 .671 7.17 .359 12.86",
}


def fisher_z_mean(correlations):
    return average_metrics([{"spearman": value} for value in correlations])["spearman"]


def task_run(task: str, seed: int, values, settings=None) -> TaskRun:
    """A run with (Spearman, MSE) for each mask."""
    masks = {mask: ScoredRow({"spearman": rho, "mse": mse}) for mask, (rho, mse) in zip(MASKS, values, strict=True)}
    return TaskRun(f"{task}_{seed}", task, {"training": seed}, settings or {"learning_rate": 0.1}, [], masks)


def published(table: dict[str, str]) -> list[TaskRun]:
    pairs = {task: np.array(text.split(), dtype=float).reshape(-1, 2) for task, text in table.items()}
    return [task_run(task, 0, values.tolist()) for task, values in pairs.items()]


@pytest.mark.parametrize(
    ("table", "spearman", "mse"), [(FS1000, 0.789, 14.08), (FISV, 0.743, 15.09), (RG, 0.710, 7.29)]
)
def test_the_published_scores_give_the_published_averages(table, spearman, mse):
    average = summarize_runs(published(table))[-1]
    assert average.title == f"average of {len(table)} tasks"
    assert round(average.rows[INCOMPLETE].model["spearman"], 3) == spearman
    assert round(average.rows[INCOMPLETE].model["mse"], 2) == mse


@pytest.mark.parametrize(
    ("table", "row", "average"),
    [(FS1000, TABLE_1["fs1000"], 0.7891), (FISV, TABLE_1["fisv"], 0.7428), (RG, TABLE_1["rg"], 0.7096)],
)
def test_every_published_mean_over_tasks_comes_out(table, row, average):
    """Table 1 against tables 11 to 13, as far as the rounding of the single scores allows."""
    rows = summarize_runs(published(table))[-1].rows
    (expected,) = summarize_runs(published({"means": row}))
    for mask in MASKS:
        found, mean = rows[mask].model, expected.rows[mask].model
        assert found["spearman"] == pytest.approx(mean["spearman"], abs=0.0011), mask
        assert found["mse"] == pytest.approx(mean["mse"], abs=0.011), mask
    assert round(expected.rows[INCOMPLETE].model["spearman"], 4) == average


@pytest.mark.parametrize(
    ("run", "spearman", "mse"),
    [(FS1000["tes"], 0.878, 81.54), (FISV["tes"], 0.684, 20.57), (RG["ribbon"], 0.742, 7.44)],
)
def test_averages_over_the_masks_of_one_published_task(run, spearman, mse):
    model = summarize_runs(published({"task": run}))[0].rows[INCOMPLETE].model
    assert (round(model["spearman"], 3), round(model["mse"], 2)) == (spearman, mse)


def values(spearman: float, mse: float) -> list[tuple[float, float]]:
    return [(spearman - 0.01 * number, mse + number) for number in range(len(MASKS))]


def test_a_task_is_mean_and_deviation_over_its_seeds():
    runs = [
        task_run("a", seed, values(spearman, mse)) for seed, spearman, mse in [(0, 0.7, 5), (1, 0.8, 7), (5, 0.9, 6)]
    ]
    (summary,) = summarize_runs(runs)
    model = summary.rows["video+audio+flow"].model
    assert model["spearman"] == pytest.approx(0.8)
    assert model["sd"]["spearman"] == pytest.approx(0.1)
    assert (model["mse"], model["sd"]["mse"]) == (pytest.approx(6), pytest.approx(1))
    of_seeds = [fisher_z_mean([rho for rho, _ in values(spearman, 0)[1:]]) for spearman in (0.7, 0.8, 0.9)]
    assert summary.rows[INCOMPLETE].model["spearman"] == pytest.approx(np.mean(of_seeds))
    assert summary.rows[INCOMPLETE].model["sd"]["spearman"] == pytest.approx(np.std(of_seeds, ddof=1))


def test_tasks_with_the_same_seeds_are_averaged_seed_by_seed():
    of = {("a", 0): 0.7, ("a", 1): 0.8, ("b", 0): 0.3, ("b", 1): 0.5}
    average = summarize_runs([task_run(task, seed, values(rho, 5)) for (task, seed), rho in of.items()])[-1]
    of_seeds = [fisher_z_mean([0.7, 0.3]), fisher_z_mean([0.8, 0.5])]
    model = average.rows["video+audio+flow"].model
    assert model["spearman"] == pytest.approx(np.mean(of_seeds))
    assert model["sd"]["spearman"] == pytest.approx(np.std(of_seeds, ddof=1))
    assert average.repetitions == [{"training": 0}, {"training": 1}]


def test_tasks_with_other_seeds_have_an_average_without_deviation():
    runs = [task_run("a", 6, values(0.7, 5)), task_run("b", 113, values(0.8, 5))]
    average = summarize_runs(runs)[-1]
    model = average.rows["video+audio+flow"].model
    assert model["spearman"] == pytest.approx(fisher_z_mean([0.7, 0.8]))
    assert "sd" not in model
    assert "do not have the same seeds" in average.note


def test_runs_that_are_no_repetitions_are_refused():
    first = task_run("a", 0, values(0.7, 5))
    with pytest.raises(ValueError, match=r"a_0 and a_0 .* same seeds \{'training': 0\}"):
        summarize_runs([first, first])
    other = task_run("a", 1, values(0.7, 5), {"learning_rate": 0.2})
    with pytest.raises(ValueError, match=r"`learning_rate` is 0\.1 and 0\.2; only seeds may differ"):
        summarize_runs([first, other])


@pytest.fixture
def run_folder(quick_arguments, tmp_path):
    run_training(*quick_arguments(select_on="test", num_train_epochs=1, warmup_epochs=0))
    return tmp_path / "run"


def test_the_script_reads_what_training_wrote(run_folder, tmp_path, monkeypatch, capsys):
    record = json.loads((run_folder / "run.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(run_folder / "metrics.json", other)
    record["seeds"]["training"] = 4
    (other / "run.json").write_text(json.dumps(record))
    (run,) = read_task_runs(run_folder)
    assert list(run.rows) == [*run.masks, INCOMPLETE]

    words = ["summarize.py", str(run_folder), str(other), "--json", str(tmp_path / "summary.json")]
    monkeypatch.setattr(sys, "argv", words)
    summarize.main()
    text = capsys.readouterr().out
    assert "mean ± s.d. of 2 repetitions" in text
    assert "(checkpoint selected on the test split)" in text
    assert "Seeds: training 0 masks 0; training 4 masks 0." in text
    assert f"No ensemble of {run_folder}, {other}: there is no {other}/predictions.parquet" in text
    written = json.loads((tmp_path / "summary.json").read_text())
    (summary,) = written["summaries"]
    assert (written["ensembles"], len(written["no_ensemble"])) == ([], 1)
    metrics = json.loads((run_folder / "metrics.json").read_text())
    model = summary["rows"]["video"]["model"]
    assert model["mse"] == pytest.approx(metrics["masks"][4]["scores"]["score"]["model"]["mse"])
    assert model["sd"]["mse"] == pytest.approx(0, abs=1e-9)
    assert summary["caveats"] == ["checkpoint selected on the test split"]

    shutil.copy(run_folder / "predictions.parquet", other)
    summarize.main()
    text = capsys.readouterr().out
    assert "A = ensemble of 2 runs (run, other), their predictions averaged" in text
    (ensemble,) = json.loads((tmp_path / "summary.json").read_text())["ensembles"]
    (row,) = [row for row in ensemble["against_ridge"]["rows"] if row["row"] == "video"]
    assert row["first"]["mse"] == pytest.approx(model["mse"])

    monkeypatch.setattr(sys, "argv", ["summarize.py", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"cannot summarize: .*run\.json is not there"):
        summarize.main()
