import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from limssr.training import compare as compare_script
from limssr.training.evaluation.compare import (
    COLUMNS,
    compare_correlations,
    compare_runs,
    read_run_scores,
    williams_test,
)
from limssr.training.evaluation.metrics.aqa_metrics import average_metrics, score_metrics
from limssr.training.evaluation.metrics.bootstrap import draw_resamples
from limssr.training.evaluation.tables import comparison_table
from tests.helpers.results import MASKS, write_run


def compare(one, other):
    return compare_runs(read_run_scores(one), read_run_scores(other))


def test_williams_agrees_with_a_published_example():
    """n = 103, correlations .4 and .5 with the criterion, .1 with each other: t = -0.89, p = .37 (the example of
    `r.test` in the R package psych, after Steiger 1980)."""
    result = williams_test(0.4, 0.5, 0.1, 103)
    assert result.statistic == pytest.approx(-0.89, abs=0.005)
    assert result.p_value == pytest.approx(0.37, abs=0.005)
    assert result.degrees_of_freedom == 100


def test_williams_has_its_closed_form_for_unrelated_predictors():
    """With r_12 = 0 and r_2 = 0 the formula is r_1 sqrt((n - 1) / (2 (n - 1) / (n - 3) (1 - r_1^2) + r_1^2 / 4))."""
    expected = 0.3 * np.sqrt(49 / (2 * 49 / 47 * 0.91 + 0.0225))
    result = williams_test(0.3, 0.0, 0.0, 50)
    assert result.statistic == pytest.approx(expected)
    assert result.p_value == pytest.approx(2 * stats.t.sf(expected, 47))
    assert williams_test(0.0, 0.3, 0.0, 50).statistic == pytest.approx(-expected)


@pytest.mark.parametrize("ranks", [True, False])
def test_williams_rejects_as_often_as_it_says(ranks):
    random = np.random.default_rng(3)
    rejected = 0
    for _ in range(600):
        targets = random.normal(size=60)
        first, second = targets + random.normal(size=(2, 60)) + random.normal(size=60)
        rejected += compare_correlations(first, second, targets, ranks).p_value < 0.05
    assert 15 <= rejected <= 48  # 30 expected


def test_williams_says_when_there_is_nothing_to_test():
    assert williams_test(0.2, 0.3, 0.1, 3).reason == "3 samples, at least 4 are needed"
    assert williams_test(0.5, 0.5, 1.0, 50).p_value == 1
    with pytest.raises(ValueError, match="no correlations of three variables"):
        williams_test(0.9, -0.9, 0.9, 50)
    targets = np.arange(20.0)
    assert compare_correlations(np.ones(20), targets, targets, ranks=True).reason == "a correlation is undefined"


def test_differences_and_intervals_are_paired(tmp_path):
    one, other = write_run(tmp_path / "one", 4), write_run(tmp_path / "other", 8, seed=1)
    comparison = compare(one, other)
    assert [row.row for row in comparison.rows] == [*MASKS, "average of the 2 incomplete"]
    row = comparison.rows[1]
    first, second = (read_run_scores(run).tables["video", "score"] for run in (one, other))
    targets, counts = first["target"].to_numpy(), draw_resamples(60)
    expected = []
    for resample in range(counts.shape[1]):
        rows = np.repeat(np.arange(60), counts[:, resample])
        errors = [np.mean((run["predicted"].to_numpy()[rows] - targets[rows]) ** 2) for run in (first, second)]
        expected.append(errors[0] - errors[1])
    assert row.intervals["mse"] == pytest.approx(np.quantile(expected, [0.025, 0.975]))
    metrics = [score_metrics(run["predicted"].to_numpy(), targets) for run in (first, second)]
    assert row.differences["spearman"] == pytest.approx(metrics[0]["spearman"] - metrics[1]["spearman"])
    average = comparison.rows[-1]
    incomplete = [row.first for row in comparison.rows[1:3]]
    assert average.first["spearman"] == pytest.approx(average_metrics(incomplete)["spearman"])
    assert average.intervals["mse"][1] < 0


def test_a_run_does_not_differ_from_itself(tmp_path):
    run = write_run(tmp_path / "one", 4)
    for row in compare(run, run).rows:
        assert set(row.differences.values()) == {0}
        assert all(interval == [0, 0] for interval in row.intervals.values())
        assert all(test.p_value == 1 for test in row.tests.values())


def test_the_order_of_the_samples_does_not_matter(tmp_path):
    def shuffle(columns):
        order = np.random.default_rng(0).permutation(len(columns["mask"]))
        for name in columns:
            columns[name] = [columns[name][place] for place in order]

    one, other = write_run(tmp_path / "one", 4), write_run(tmp_path / "other", 8, seed=1)
    shuffled = write_run(tmp_path / "shuffled", 8, seed=1, change=shuffle)
    rows, again = compare(one, other).rows, compare(one, shuffled).rows
    assert [row.intervals for row in again] == [row.intervals for row in rows]


def test_ridge_of_a_run_can_be_the_other_side(tmp_path):
    run = write_run(tmp_path / "one", 4)
    table = read_run_scores(run, ridge=True).tables["video", "score"]
    row = compare_runs(read_run_scores(run), read_run_scores(run, ridge=True)).rows[1]
    assert row.second["mse"] == pytest.approx(np.mean((table["predicted"] - table["target"]) ** 2))


def change_first(name, value):
    def change(columns):
        columns[name][0] = value

    return change


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 59}, r"score from video\+audio: 1 samples are only in .*one, such as 's59'"),
        ({"change": change_first("sample_id", "x")}, r"1 samples are only in .*one, such as 's0'"),
        ({"change": change_first("target", 99.5)}, r"1 samples have other targets, such as 's0': .* and 99\.5 in"),
        ({"change": change_first("target", None)}, "1 samples have other targets"),
        ({"masks": ("commentary",)}, r"no row in common: .*video.* and|no row in common"),
        ({"change": change_first("sample_id", "s1")}, r"has the sample 's1' twice for video\+audio"),
        ({"change": lambda columns: columns.pop("ridge")}, "has no column ridge"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path, options, message):
    one = write_run(tmp_path / "one", 4)
    with pytest.raises(ValueError, match=message):
        compare(one, write_run(tmp_path / "other", 8, **options))


def test_a_file_that_is_no_table_of_scores_is_named(tmp_path):
    path = tmp_path / "predictions.parquet"
    path.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(ValueError, match=r"predictions\.parquet"):
        read_run_scores(path)
    columns = {name: ["a"] for name in COLUMNS}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ValueError, match=r"predictions\.parquet: .*a"):
        read_run_scores(path)


def test_masks_drawn_differently_are_refused(tmp_path):
    def draw(mask):
        def change(columns):
            columns["rates"] = ["video 0.5"] * len(columns["mask"])
            columns["seed"] = [0] * len(columns["mask"])
            columns["mask"][0] = mask

        return change

    one, other = (write_run(tmp_path / mask, 4, masks=("audio",), change=draw(mask)) for mask in ("audio", "video"))
    assert [row.row for row in compare(one, one).rows] == ["missing rates video 0.5, mask seed 0"]
    with pytest.raises(ValueError, match="the drawn masks are not the same"):
        compare(one, other)


def test_the_table_shows_both_the_difference_and_the_caveats(tmp_path):
    one = write_run(tmp_path / "one", 4, caveats=["checkpoint selected on the test split"])
    other = write_run(tmp_path / "other", 20, seed=1, masks=(*MASKS, "flow"))
    comparison = compare(one, other)
    text = comparison_table(comparison)
    line = next(line for line in text.splitlines() if line.startswith("| video "))
    row = comparison.rows[1]
    assert f"{row.first['spearman']:.3f}" in line
    assert f"{row.differences['spearman']:+.3f}" in line
    assert line.count(" A |") == 2
    assert "(A: checkpoint selected on the test split)" in text
    assert "Not compared: score from flow (only in B)." in text


def test_the_script_needs_no_torch(tmp_path):
    one, other = write_run(tmp_path / "one", 4), write_run(tmp_path / "other", 8, seed=1)
    program = (
        "import sys\nfrom limssr.training import compare, summarize\n"
        f"sys.argv = ['limssr compare', {str(one)!r}, {str(other)!r}]\n"
        "compare.main()\n"
        f"sys.argv = ['limssr summarize', {str(tmp_path)!r}]\n"
        "try:\n    summarize.main()\nexcept SystemExit as end:\n    print(end)\n"
        "print({'torch', 'transformers', 'sklearn'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("give folders of finished `limssr train` runs\nset()\n"), done.stdout + done.stderr


def test_the_script_prints_the_table_and_writes_json(tmp_path, monkeypatch, capsys):
    one, other = write_run(tmp_path / "one", 4), write_run(tmp_path / "other", 8, seed=1)
    words = ["compare.py", str(one), str(other), "--json", str(tmp_path / "comparison.json")]
    monkeypatch.setattr(sys, "argv", words)
    compare_script.main()
    assert "A = one\nB = other\n" in capsys.readouterr().out
    text = (tmp_path / "comparison.json").read_text()
    assert json.loads(text)["rows"][0]["tests"]["spearman"]["degrees_of_freedom"] == 57
    assert str(tmp_path) not in text
    monkeypatch.setattr(sys, "argv", [*words[:2], str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"cannot compare: there is no .*nowhere; give the folder of a run"):
        compare_script.main()
