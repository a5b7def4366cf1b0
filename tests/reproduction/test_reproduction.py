"""A table becomes its runs; runs go on where they stopped; the report judges every cell as its foot says."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from limssr.processing.inputs_limssr import Prompt
from limssr.training.arguments import parse_training_arguments
from limssr.training.fitting.run import run_training
from limssr.training.reproduction.cells import Cell
from limssr.training.reproduction.plan import PUBLISHED_DATASETS, plan_runs
from limssr.training.reproduction.published_results import AVERAGE, COMPLETE, published_results, task_row
from limssr.training.reproduction.report import write_report
from limssr.training.reproduction.runner import (
    FINISHED,
    IMPOSSIBLE,
    TO_DO,
    check_settings_of_earlier_runs,
    find_state,
    run_all,
)
from limssr.training.reproduction.tables import AS_CONFIGURED, TABLES, WHOLE_PROMPT

SCRIPT = Path(__file__).parents[2] / "training" / "reproduce.py"
FOLDERS = {"fs1000": "FS1000", "fisv": "Fis-V", "rhythmic_gymnastics": "RG"}


def variant(table: str, name: str):
    return next(variant for variant in TABLES[table].variants if variant.name == name)


def leave_results(run, scores: dict[str, dict[str, dict]]) -> None:
    """What a finished run leaves, as far as a report reads it: score -> mask -> metrics of the model."""
    run.folder.mkdir(parents=True)
    masks = [
        {
            "name": mask,
            "scores": {
                name: {"model": by_mask[mask], "ridge": None, "mean_baseline": None}
                for name, by_mask in scores.items()
            },
        }
        for mask in next(iter(scores.values()))
    ]
    (run.folder / "metrics.json").write_text(json.dumps({"caveats": [], "masks": masks}))
    (run.folder / "run.json").write_text("{}")


def published_masks(task: str, shift: float = 0.0) -> dict[str, dict]:
    """Mask -> the published metrics of a task, correlations and errors higher by `shift`; the complete mask first."""
    row = task_row(task)
    names = [COMPLETE, *(name for name in row if name not in (AVERAGE, COMPLETE))]
    return {name: {metric: value + shift for metric, value in row[name].items()} for name in names}


def report_of(table: str, runs, folder) -> tuple[str, dict]:
    """The Markdown, and (dataset or task, variant, column, metric) -> cell of the JSON."""
    write_report(folder / "report", TABLES[table], runs, [find_state(run) for run in runs], {})
    document = json.loads((folder / "report.json").read_text())
    cells = {
        (line["task"] or line["dataset"], line["variant"], cell["column"], cell["metric"]): cell
        for line in document["lines"]
        for cell in line["cells"]
    }
    return (folder / "report.md").read_text(), cells


# From tables to runs.


def test_the_main_table_is_thirteen_runs_a_seed(tmp_path):
    runs = plan_runs(TABLES["main"], list(PUBLISHED_DATASETS), tmp_path, seeds=[0, 1], folders=FOLDERS)
    assert [run.configuration for run in runs[:13]] == list(published_results()["per_score"]["LIMSSR"])
    assert [run.settings["seed"] for run in runs] == [0] * 13 + [1] * 13
    assert all(run.settings["mask_seed"] == run.settings["seed"] for run in runs)
    assert {run.settings["data_options"]["folder"] for run in runs} == set(FOLDERS.values())
    assert len({run.folder for run in runs}) == 26
    own_seeds = plan_runs(TABLES["main"], ["rg"], tmp_path)
    assert [run.seed for run in own_seeds] == [6, 113, 0, 0]


@pytest.mark.parametrize("table", TABLES)
def test_every_run_of_every_table_has_valid_settings(table, tmp_path):
    changes = {"language_model": "some/model", "data_options": {"scores": ["execution"]}}
    folders = {"mtl_aqa": "MTL-AQA"}
    runs = plan_runs(TABLES[table], ["mtl_aqa"], tmp_path, changes=changes, folders=folders)
    assert len({run.folder for run in runs}) == len(runs) == len(TABLES[table].variants)
    for run in runs:
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(run.settings))
        model, data, training = parse_training_arguments([str(path)])
        own = {"commentary": "clean", "encoder_layers": [0, 3, 6]}
        assert data.data_options == {"folder": "MTL-AQA", "scores": ["execution"], **own}
        assert training.output_dir == str(run.folder)
        given = {**vars(model), **vars(data)}
        assert {name: given[name] for name in run.variant.settings} == run.variant.settings
        assert (model.language_model == "some/model") == (
            not run.variant.name.startswith(BACKBONES) or bool(run.problem)
        )


BACKBONES = ("qwen", "minicpm", "llama", "gemma", "random")


def test_every_published_line_is_in_its_table():
    """But for the line of the published model itself, which is the configuration as it is."""
    lines = published_results()["ablations"]["variants"]
    shown = [variant.published for table in TABLES.values() for variant in table.variants if variant.published]
    assert len(set(shown)) == len(shown)
    assert all(line in lines[table] for table, line in shown)
    own = {"+ MDA", "Qwen3-0.6B", "4", "both", "16/32", "whole"}
    assert {line for of_table in lines.values() for line in of_table} - {line for _, line in shown} == own


def test_a_prompt_loses_the_part_that_its_variant_names():
    assert Prompt().template == WHOLE_PROMPT
    templates = {
        name: variant("prompt", f"prompt_without_{name}").settings["prompt"]["template"]
        for name in ("condition", "task", "fusion_guide")
    }
    for name, template in templates.items():
        Prompt(template)
        assert ("{available}" not in template) == (name == "condition")
        assert ("Judge" not in template) == (name == "task")
        assert ("the score at the end" not in template) == (name == "fusion_guide")


def test_what_a_configuration_cannot_show_is_said(tmp_path):
    runs = {
        run.variant.name: run
        for name in ("lora_rank", "backbone", "prompt", "paths")
        for run in plan_runs(TABLES[name], ["synthetic"], tmp_path)
    }
    assert "trained as a whole" in runs["lora_rank_8_alpha_16"].problem
    assert "trained as a whole" in runs["random"].problem
    assert "wording of its own" in runs["prompt_without_task"].problem
    assert "boundary tokens" in runs["without_special_tokens"].problem
    assert runs["without_prompt"].problem == runs["reasoning_path"].problem == ""
    (without_folder,) = plan_runs(TABLES["main"], ["mtl_aqa"], tmp_path)
    assert find_state(without_folder).kind == IMPOSSIBLE
    assert "--folders mtl_aqa=FOLDER" in without_folder.problem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"datasets": ["fs100"]}, "'fs100' is no YAML file and none of"),
        ({"changes": {"lora_rnak": 3}}, "--set: unknown key 'lora_rnak'; did you mean 'lora_rank'"),
        ({"folders": {"rg": "RG"}}, "no dataset is called 'rg'"),
        ({"variants": ["path_3"]}, "has no 'path_3', only as_configured, reasoning_path"),
        ({"datasets": ["synthetic", "elsewhere/synthetic.yaml"]}, "have the same name"),
    ],
)
def test_mistakes_are_refused_by_name(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_runs(TABLES["paths"], **{"datasets": ["synthetic"], "output_dir": tmp_path, **arguments})


# The runs.


def test_stopped_runs_go_on_and_failing_ones_are_said(quick_config, tmp_path):
    good = Path(quick_config(num_train_epochs=4, save_total_limit=9)).rename(tmp_path / "good.yaml")
    bad = Path(quick_config(missing_rates={"sound": 0.3})).rename(tmp_path / "bad.yaml")
    output = tmp_path / "runs"
    run_folder = output / "good" / "as_configured" / "seed_0"
    command = [sys.executable, str(SCRIPT), "main", "--datasets", str(good), "--output_dir", str(output)]
    script = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(run_folder.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    said, _ = script.communicate(timeout=60)
    assert "good, as_configured, seed 0: to do" in said
    assert script.returncode == 143
    assert not (run_folder / "metrics.json").exists()
    (run_folder / "checkpoint-999").mkdir()  # as if stopped while writing it

    runs = plan_runs(TABLES["main"], [str(bad), str(good)], output)
    assert [find_state(run).kind for run in runs] == [TO_DO, "interrupted"]
    reports = []
    states = run_all(runs, lambda states: reports.append([state.kind for state in states]))
    assert [state.kind for state in states] == ["failed", FINISHED]
    assert "'sound', which is no modality" in states[0].reason
    assert reports == [["failed", "interrupted"], ["failed", FINISHED]]
    whole = run_training(
        *parse_training_arguments([str(run_folder.with_suffix(".yaml")), "--output_dir", str(tmp_path / "whole")])
    )
    resumed = json.loads((run_folder / "metrics.json").read_text())["masks"]
    assert [mask["scores"]["score"]["model"] for mask in resumed] == [
        mask.scores["score"].model for mask in whole.masks
    ]

    written = (run_folder / "metrics.json").stat().st_mtime_ns
    assert run_all(runs[1:], reports.append) == states[1:]
    assert (run_folder / "metrics.json").stat().st_mtime_ns == written
    assert len(reports) == 2


def test_a_folder_of_another_run_is_refused_but_the_data_may_move(tmp_path):
    plan = {"table": TABLES["main"], "datasets": ["mtl_aqa"], "output_dir": tmp_path}
    (run,) = plan_runs(**plan, folders={"mtl_aqa": "here"})
    run.folder.parent.mkdir(parents=True)
    run.folder.with_suffix(".yaml").write_text(yaml.safe_dump(run.settings))
    check_settings_of_earlier_runs(plan_runs(**plan, folders={"mtl_aqa": "there"}))
    other = plan_runs(**plan, folders={"mtl_aqa": "here"}, changes={"num_hidden_layers": 3})
    with pytest.raises(ValueError, match="`num_hidden_layers` 1, now it is 3: give another --output_dir"):
        check_settings_of_earlier_runs(other)


def test_a_random_language_model_has_the_same_shape_and_other_weights(tiny_language_model, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    changes = {"language_model": str(tiny_language_model), "num_hidden_layers": 1}
    plan = {"table": TABLES["backbone"], "datasets": ["mtl_aqa"], "output_dir": tmp_path / "runs"}
    options = {"changes": changes, "folders": {"mtl_aqa": "here"}, "variants": ["random"], "seeds": [0, 1]}
    drawn = []
    for run in plan_runs(**plan, **options):
        run.random_language_model.write()
        assert run.settings["num_hidden_layers"] is None
        drawn.append(AutoModel.from_pretrained(run.settings["language_model"]))
    original = AutoModel.from_pretrained(tiny_language_model)
    assert len(drawn[0].layers) == 1
    weights = [model.layers[0].self_attn.q_proj.weight for model in (original, *drawn)]
    assert weights[0].shape == weights[1].shape
    assert len({weight.sum().item() for weight in weights}) == 3
    tokenizer = AutoTokenizer.from_pretrained(run.settings["language_model"])
    assert tokenizer("a dive").input_ids == AutoTokenizer.from_pretrained(tiny_language_model)("a dive").input_ids


# The report.


@pytest.mark.parametrize(
    ("values", "deviation", "mark"),
    [
        ((), 0.009, "not run"),
        ((0.789,), 0.009, "reproduced"),
        ((0.7985,), 0.009, "reproduced"),  # one s.d. and half a digit
        ((0.7986,), 0.009, "within two s.d."),
        ((0.7705,), 0.009, "within two s.d."),
        ((0.7704,), 0.009, "outside, worse"),
        ((0.9,), 0.009, "outside, better"),
        ((0.789,), None, "no s.d."),
        ((0.77, 0.79), None, "reproduced"),  # 0.78 +- 0.0141
        ((0.76, 0.78), None, "within two s.d."),  # 0.77 +- 0.0141
        ((0.7, 0.71), None, "outside, worse"),
        ((0.789, None), 0.009, "undefined"),
    ],
)
def test_marks_of_a_correlation(values, deviation, mark):
    assert Cell(AVERAGE, "spearman", 0.789, deviation, values).mark == mark


@pytest.mark.parametrize(
    ("value", "mark"),
    [(14.42, "reproduced"), (14.44, "within two s.d."), (14.8, "outside, worse"), (13, "outside, better")],
)
def test_marks_of_an_error(value, mark):
    assert Cell(AVERAGE, "mse", 14.08, 0.35, (value,)).mark == mark


def test_runs_that_give_the_published_numbers_reproduce_the_main_table(tmp_path):
    runs = plan_runs(TABLES["main"], ["fisv", "rg"], tmp_path, folders=FOLDERS)
    for run in runs:
        leave_results(run, {"score": published_masks(run.configuration)})
    markdown, cells = report_of("main", runs, tmp_path)
    for dataset in ("fisv", "rg"):
        assert cells[dataset, "as_configured", AVERAGE, "spearman"]["mark"] == "reproduced"
        assert cells[dataset, "as_configured", COMPLETE, "mse"]["mark"] == "reproduced"
        assert cells[dataset, "as_configured", "video", "mse"]["mark"] == "no s.d."
    assert cells["rg_clubs", "as_configured", "audio", "mse"]["here"] == 13.83
    assert cells["fisv", "as_configured", AVERAGE, "spearman"]["here"] == pytest.approx(0.743, abs=0.001)
    lines = [line.replace("|", " ").split() for line in markdown.splitlines()]
    assert ["fisv_tes", "published", "0.774", "0.758", "0.639", "0.703", "0.686", "0.486", "0.684", "0.792"] in lines
    assert "6 of 6 finished." in markdown


def test_an_average_needs_every_task_and_says_so(tmp_path):
    runs = plan_runs(TABLES["complete"], ["fisv"], tmp_path, seeds=[0, 1], folders=FOLDERS)
    for run, shift in zip(runs[:3], (0.01, 0.01, -0.01), strict=True):  # both tasks of seed 0, one of seed 1
        leave_results(run, {"score": published_masks(run.configuration, shift)})
    markdown, cells = report_of("complete", runs, tmp_path)
    mean, tes, pcs = (cells[name, "as_configured", COMPLETE, "spearman"] for name in ("fisv", "fisv_tes", "fisv_pcs"))
    assert len(mean["values"]) == 1
    assert tes["values"] == [pytest.approx(0.802), pytest.approx(0.782)]
    assert (tes["here"], tes["deviation"]) == (pytest.approx(0.792), pytest.approx(0.0141421, abs=1e-6))
    assert (tes["mark"], pcs["mark"]) == ("reproduced", "no s.d.")
    assert {column for _, _, column, _ in cells} == {COMPLETE}
    assert "- fisv_pcs, as_configured, seed 1: to do" in markdown


def test_an_ablation_shows_what_a_part_is_worth_on_any_dataset(quick_config, tmp_path):
    runs = plan_runs(TABLES["paths"], [str(quick_config())], tmp_path, seeds=[0, 1])
    spearman = {"as_configured": (0.8, 0.6), "reasoning_path": (0.7, 0.55), "cross_modal_path": (0.8, None)}
    for run in runs[:-1]:
        value = spearman[run.variant.name][run.repetition]
        masks = {
            "a+b": {"spearman": value, "mse": 4.0},
            "a": {"spearman": 0.5, "mse": 9.0},
            "b": {"spearman": 0.5, "mse": 7.0},
        }
        leave_results(run, {"score": masks})
    markdown, cells = report_of("paths", runs, tmp_path)
    changed = cells["quick", "reasoning_path", "a+b", "spearman"]
    assert changed["differences"] == [pytest.approx(-0.1), pytest.approx(-0.05)]
    assert changed["mark"] == "not published"
    assert cells["quick", "as_configured", AVERAGE, "mse"]["here"] == 8.0
    assert "-0.075 ± 0.035" in markdown
    assert "published |" not in markdown


def test_the_published_ablations_are_beside_the_mean_over_the_tasks(tmp_path):
    runs = plan_runs(TABLES["losses"], ["fisv", "rg"], tmp_path, folders=FOLDERS)
    markdown, cells = report_of("losses", runs, tmp_path)
    assert cells["fisv", "without_consistency", AVERAGE, "spearman"]["published"] == 0.711
    assert cells["fisv", "without_separation", COMPLETE, "mse"]["published"] == 11.76
    assert cells["rg", "without_separation", COMPLETE, "mse"]["published"] is None
    assert {cell["mark"] for cell in cells.values()} == {"not run"}
    assert "no s.d." in markdown


def test_other_masks_are_not_compared_with_the_published_ones(tmp_path):
    runs = plan_runs(TABLES["main"], ["fisv"], tmp_path, folders=FOLDERS)
    metrics = {"spearman": 0.7, "mse": 9.0}
    for run in runs:  # trained without flow
        leave_results(run, {"score": dict.fromkeys(("video+audio", "video", "audio"), metrics)})
    _, cells = report_of("main", runs, tmp_path)
    assert {cell["mark"] for cell in cells.values()} == {"not published"}
    assert {column for _, _, column, _ in cells} == {"video", "audio", AVERAGE, "video+audio"}


def test_other_settings_and_marks_are_said_at_the_head(quick_config, tmp_path):
    (run,) = plan_runs(TABLES["main"], [str(quick_config())], tmp_path)
    leave_results(run, {"score": {"a": {"spearman": 0.5, "mse": 1.0}}})
    metrics = run.folder / "metrics.json"
    metrics.write_text(
        json.dumps(json.loads(metrics.read_text()) | {"caveats": ["checkpoint selected on the test split"]})
    )
    write_report(tmp_path / "report", TABLES["main"], [run], [find_state(run)], {"num_hidden_layers": 2})
    head = (tmp_path / "report.md").read_text().partition("##")[0]
    assert "`num_hidden_layers=2`" in head
    assert "checkpoint selected on the test split" in head


def test_as_configured_changes_nothing():
    assert all(AS_CONFIGURED in table.variants for table in TABLES.values())
    assert AS_CONFIGURED.settings == {}
