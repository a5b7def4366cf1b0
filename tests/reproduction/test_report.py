"""The report lays the runs beside the paper and judges every number as its last section says."""

import json

import pytest

from limssr.training.evaluation.results import ScoredRow
from limssr.training.reproduction.report import find_verdict, write_report
from limssr.training.reproduction.runner import find_state, plan_runs
from limssr.training.reproduction.tables import AVERAGE, COMPLETE, TABLES, task_row
from tests.helpers.results import metrics, write_results, write_run

FOLDERS = {"fs1000": "FS1000", "fisv": "Fis-V", "rhythmic_gymnastics": "RG"}
BASELINES = {"ridge": metrics(0.25, 8.5), "mean_baseline": metrics(None, 9.5)}


def finish(run, masks: dict[str, tuple[float | None, float]], **options) -> None:
    """Leave what a finished run does; `masks` maps masks to Spearman and MSE, the complete one first."""
    rows = {mask: ScoredRow(metrics(*pair), **BASELINES) for mask, pair in masks.items()}
    write_results(run.folder, {"score": rows}, **options)
    (run.folder / "run.json").write_text("{}")


def published_masks(task: str, shift: float = 0.0) -> dict[str, tuple[float, float]]:
    """The published metrics of a task, higher by `shift`."""
    row = task_row(task)
    names = [COMPLETE, *(name for name in row if name not in (AVERAGE, COMPLETE))]
    return {name: (row[name]["spearman"] + shift, row[name]["mse"] + shift) for name in names}


def report_of(table: str, runs, folder) -> tuple[str, dict]:
    """The Markdown, and (dataset or task, variant, column, metric) -> entry of the JSON."""
    write_report(folder / "report", TABLES[table], runs, [find_state(run) for run in runs], {})
    found = {}
    for entry in json.loads((folder / "report.json").read_text())["entries"]:
        found[entry["task"] or entry["dataset"], entry["variant"], entry["column"], entry["metric"]] = entry
    return (folder / "report.md").read_text(), found


@pytest.mark.parametrize(
    ("values", "deviation", "verdict"),
    [
        ([], 0.009, "not run"),
        ([0.789], 0.009, "reproduced"),
        ([0.7985], 0.009, "reproduced"),  # one s.d. and half a digit
        ([0.7986], 0.009, "within two s.d."),
        ([0.7705], 0.009, "within two s.d."),
        ([0.7704], 0.009, "outside, worse"),
        ([0.9], 0.009, "outside, better"),
        ([0.789], None, "no s.d."),
        ([0.77, 0.79], None, "reproduced"),  # 0.78 +- 0.0141
        ([0.76, 0.78], None, "within two s.d."),  # 0.77 +- 0.0141
        ([0.7, 0.71], None, "outside, worse"),
        ([0.789, None], 0.009, "undefined"),
    ],
)
def test_verdicts_on_a_correlation(values, deviation, verdict):
    assert find_verdict("spearman", values, 0.789, deviation) == verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(14.42, "reproduced"), (14.44, "within two s.d."), (14.8, "outside, worse"), (13, "outside, better")],
)
def test_verdicts_on_an_error(value, verdict):
    assert find_verdict("mse", [value], 14.08, 0.35) == verdict


def test_runs_that_give_the_published_numbers_reproduce_the_main_table(tmp_path):
    runs = plan_runs(TABLES["main"], ["fisv", "rg"], tmp_path, folders=FOLDERS)
    for run in runs:
        finish(run, published_masks(run.configuration))
    markdown, entries = report_of("main", runs, tmp_path)
    for dataset in ("fisv", "rg"):
        assert entries[dataset, "as_configured", AVERAGE, "spearman"]["verdict"] == "reproduced"
        assert entries[dataset, "as_configured", COMPLETE, "mse"]["verdict"] == "reproduced"
        assert entries[dataset, "as_configured", "video", "mse"]["verdict"] == "no s.d."
    assert entries["rg_clubs", "as_configured", "audio", "mse"]["here"] == 13.83
    assert entries["fisv", "as_configured", AVERAGE, "spearman"]["here"] == pytest.approx(0.743, abs=0.001)
    assert entries["fisv", "as_configured", AVERAGE, "mse"]["ridge"] == 8.5
    lines = [line.replace("|", " ").split() for line in markdown.splitlines()]
    assert ["fisv_tes", "published", "0.774", "0.758", "0.639", "0.703", "0.686", "0.486", "0.684", "0.792"] in lines
    assert ["ridge", *["8.50"] * 8] in lines
    assert ["training", "mean", *["9.50"] * 8] in lines
    assert any(line[:4] == ["here,", "1", "seed", "14.64*"] for line in lines)  # worse than the training mean
    assert "6 of 6 finished." in markdown


def test_an_average_needs_every_task_and_says_so(tmp_path):
    runs = plan_runs(TABLES["complete"], ["fisv"], tmp_path, seeds=[0, 1], folders=FOLDERS)
    for run, shift in zip(runs[:3], (0.01, 0.01, -0.01), strict=True):  # both tasks of seed 0, one of seed 1
        finish(run, published_masks(run.configuration, shift))
    markdown, entries = report_of("complete", runs, tmp_path)
    names = ("fisv", "fisv_tes", "fisv_pcs")
    mean, tes, pcs = (entries[name, "as_configured", COMPLETE, "spearman"] for name in names)
    assert len(mean["values"]) == 1
    assert tes["values"] == [pytest.approx(0.802), pytest.approx(0.782)]
    assert (tes["here"], tes["deviation"]) == (pytest.approx(0.792), pytest.approx(0.0141421, abs=1e-6))
    assert (tes["verdict"], pcs["verdict"]) == ("reproduced", "no s.d.")
    assert {column for _, _, column, _ in entries} == {COMPLETE}
    assert "- fisv_pcs, as_configured, seed 1: to do" in markdown


def test_an_ablation_shows_what_a_part_is_worth_on_any_dataset(quick_config, tmp_path):
    runs = plan_runs(TABLES["paths"], [str(quick_config())], tmp_path, seeds=[0, 1])
    spearman = {"as_configured": (0.8, 0.6), "reasoning_path": (0.7, 0.55), "cross_modal_path": (0.8, None)}
    for run in runs[:-1]:
        finish(run, {"a+b": (spearman[run.variant.name][run.repetition], 4.0), "a": (0.5, 9.0), "b": (0.5, 7.0)})
        write_run(run.folder, 4)
    markdown, entries = report_of("paths", runs, tmp_path)
    changed = entries["quick", "reasoning_path", "a+b", "spearman"]
    assert changed["differences"] == [pytest.approx(-0.1), pytest.approx(-0.05)]
    assert changed["verdict"] == "not published"
    assert entries["quick", "as_configured", AVERAGE, "mse"]["here"] == 8.0
    assert "-0.075 ± 0.035" in markdown
    assert "| published" not in markdown


def test_components_are_paired_with_the_configuration_as_it_is(quick_config, tmp_path):
    runs = plan_runs(TABLES["components"], [str(quick_config())], tmp_path, seeds=[0, 1])
    noise = {"as_configured": 4, "without_separation": 4, "1_fusion_token": 12}
    for run in runs:
        if run.variant.name in noise and (run.variant.name, run.repetition) != ("without_separation", 1):
            finish(run, dict.fromkeys(("video+audio", "video", "audio"), (0.5, 9.0)))
            write_run(run.folder, noise[run.variant.name], seed=run.repetition)
    markdown, _ = report_of("components", runs, tmp_path)
    (section,) = json.loads((tmp_path / "report.json").read_text())["paired"]
    variants = section["variants"]
    assert (section["configuration"], section["samples"]) == ("quick", 60)
    assert [variants[name]["seeds"] for name in noise] == [2, 1, 2]
    worse, same = variants["1_fusion_token"], variants["without_separation"]
    assert worse["incomplete"]["mse"]["interval"][0] > 0
    assert same["incomplete"]["mse"] == {
        "value": same["incomplete"]["mse"]["value"],
        "difference": 0,
        "interval": [0, 0],
    }
    rows = {cells[0].strip(): cells for cells in (line.strip("|").split("|") for line in markdown.splitlines())}
    assert "60 test samples." in markdown
    assert rows["1 fusion token"][9].strip().endswith("*")
    assert not rows["without separation"][9].strip().endswith("*")
    assert "- frozen: not possible: the language model of this configuration is a random one" in markdown
    assert "- wrong prompt: not possible: this configuration has no prompt" in markdown
    assert "- without separation: to do" in markdown


def test_several_scores_of_one_model_are_several_tasks(quick_config, tmp_path):
    (run,) = plan_runs(TABLES["main"], [str(quick_config())], tmp_path)
    row = ScoredRow(metrics(0.5, 1.0), **BASELINES)
    write_results(run.folder, {"TES": {"a": row}, "PCS": {"a": row}})
    (run.folder / "run.json").write_text("{}")
    _, entries = report_of("main", [run], tmp_path)
    assert {task for task, *_ in entries} == {"quick_tes", "quick_pcs"}


def test_the_published_ablations_are_beside_the_mean_over_the_tasks(tmp_path):
    runs = plan_runs(TABLES["losses"], ["fisv", "rg"], tmp_path, folders=FOLDERS)
    markdown, entries = report_of("losses", runs, tmp_path)
    assert entries["fisv", "without_consistency", AVERAGE, "spearman"]["published"] == 0.711
    assert entries["fisv", "without_separation", COMPLETE, "mse"]["published"] == 11.76
    assert entries["rg", "without_separation", COMPLETE, "mse"]["published"] is None
    assert {entry["verdict"] for entry in entries.values()} == {"not run"}
    assert "no s.d." in markdown


def test_other_masks_are_not_compared_with_the_published_ones(tmp_path):
    runs = plan_runs(TABLES["main"], ["fisv"], tmp_path, folders=FOLDERS)
    for run in runs:  # trained without flow
        finish(run, dict.fromkeys(("video+audio", "video", "audio"), (0.7, 9.0)))
    _, entries = report_of("main", runs, tmp_path)
    assert {entry["verdict"] for entry in entries.values()} == {"not published"}
    assert {column for _, _, column, _ in entries} == {"video", "audio", AVERAGE, "video+audio"}


def test_other_settings_and_caveats_are_at_the_head(quick_config, tmp_path):
    (run,) = plan_runs(TABLES["main"], [str(quick_config())], tmp_path)
    finish(run, {"a": (0.5, 1.0)}, caveats=("checkpoint selected on the test split",))
    write_report(tmp_path / "report", TABLES["main"], [run], [find_state(run)], {"num_hidden_layers": 2})
    head = (tmp_path / "report.md").read_text().partition("##")[0]
    assert "`num_hidden_layers=2`" in head
    assert "**Caveats:** checkpoint selected on the test split." in head
