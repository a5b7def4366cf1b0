"""A table becomes its runs; runs go on where they stopped."""

import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel, AutoTokenizer

from limssr.training import reproduce
from limssr.training.arguments import parse_training_arguments
from limssr.training.data import load
from limssr.training.evaluation.paired import compare_seeds, measure_run
from limssr.training.fitting.model import build_model
from limssr.training.fitting.run import run_training
from limssr.training.reproduction.runner import (
    ELSEWHERE,
    FINISHED,
    IMPOSSIBLE,
    INTERRUPTED,
    PUBLISHED_DATASETS,
    TO_DO,
    check_settings_of_earlier_runs,
    find_state,
    plan_runs,
    run_all,
    write_random_language_model,
)
from limssr.training.reproduction.tables import PUBLISHED, TABLES

SCRIPT = Path(__file__).parents[2] / "training" / "reproduce.py"
FOLDERS = {"fs1000": "FS1000", "fisv": "Fis-V", "rhythmic_gymnastics": "RG"}
OTHER_LANGUAGE_MODELS = ("qwen", "minicpm", "llama", "gemma")


def test_the_main_table_is_thirteen_runs_a_seed(tmp_path):
    runs = plan_runs(TABLES["main"], list(PUBLISHED_DATASETS), tmp_path, seeds=[0, 1], folders=FOLDERS)
    assert [run.configuration for run in runs[:13]] == list(PUBLISHED["per_score"]["LIMSSR"])
    assert [run.settings["seed"] for run in runs] == [0] * 13 + [1] * 13
    assert all(run.settings["mask_seed"] == run.settings["seed"] for run in runs)
    assert {run.settings["data_options"]["folder"] for run in runs} == set(FOLDERS.values())
    assert len({run.folder for run in runs}) == 26
    own_seeds = plan_runs(TABLES["main"], ["rg"], tmp_path)
    assert [run.settings["seed"] for run in own_seeds] == [6, 113, 0, 0]


@pytest.mark.parametrize("table", TABLES)
def test_every_run_of_every_table_has_valid_settings(table, tmp_path):
    changes = {"language_model": "some/model", "data_options": {"scores": ["execution"]}}
    runs = plan_runs(TABLES[table], ["mtl_aqa"], tmp_path, changes=changes, folders={"mtl_aqa": "MTL-AQA"})
    assert len({run.folder for run in runs}) == len(runs) == len(TABLES[table].variants)
    for run in runs:
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(run.settings))
        model, data, training = parse_training_arguments([str(path)])
        own = {"commentary": "clean", "encoder_layers": [0, 3, 6]}
        assert data.data_options == {"folder": "MTL-AQA", "scores": ["execution"], **own}
        assert training.output_dir == str(run.folder)
        given = {**vars(model), **vars(data)}
        changed = run.variant.settings.keys() - (run.replaced or {}).keys()
        assert {name: given[name] for name in changed} == {name: run.variant.settings[name] for name in changed}
        has_another = run.variant.name.startswith(OTHER_LANGUAGE_MODELS) or run.replaced is not None
        assert (model.language_model == "some/model") != has_another


def test_null_takes_a_setting_of_the_configuration_away(tmp_path):
    (as_it_is,) = plan_runs(TABLES["main"], ["percepiano_small"], tmp_path)
    (without,) = plan_runs(TABLES["main"], ["percepiano_small"], tmp_path, changes={"average_decay": None})
    assert as_it_is.settings["average_decay"] == 0.98
    assert without.settings == as_it_is.settings | {"average_decay": None}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(without.settings))
    assert parse_training_arguments([str(tmp_path / "settings.yaml")])[-1].average_decay is None


def test_what_a_configuration_cannot_show_is_said(tmp_path):
    problems = {
        run.variant.name: run.problem
        for name in ("lora_rank", "language_model", "prompt", "paths")
        for run in plan_runs(TABLES[name], ["synthetic"], tmp_path)
    }
    assert "trained as a whole" in problems["lora_rank_8_alpha_16"]
    assert "trained as a whole" in problems["random"]
    assert "wording of its own" in problems["prompt_without_task"]
    assert "boundary tokens" in problems["without_special_tokens"]
    assert problems["without_prompt"] == problems["reasoning_path"] == ""
    components = {run.variant.name: run for run in plan_runs(TABLES["components"], ["synthetic"], tmp_path)}
    possible = [name for name, run in components.items() if not run.problem]
    assert len(possible) == 12
    assert {"random_frozen", "wrong_prompt"} <= set(possible)
    changes = {"imputation": "zeros", "use_prompt": False}
    changed = {
        run.variant.name: run for run in plan_runs(TABLES["components"], ["synthetic"], tmp_path, changes=changes)
    }
    assert changed["zeros_for_missing_clips"].problem == "this configuration is so as it stands"
    assert changed["wrong_prompt"].problem == "this configuration has no prompt"
    (without_folder,) = plan_runs(TABLES["main"], ["mtl_aqa"], tmp_path)
    assert find_state(without_folder) == f"{IMPOSSIBLE}: no folder given (--folders mtl_aqa=FOLDER)"


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


@pytest.fixture
def keep_signal_handler():
    """The script sets one, which must not outlive the test."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("keep_signal_handler")
def test_a_dry_run_lists_the_runs_and_starts_none(tmp_path, monkeypatch, capsys):
    words = ["paths", "--datasets", "synthetic", "--seeds", "0", "1", "--dry_run", "--output_dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    reproduce.main()
    printed = capsys.readouterr().out.splitlines()
    names = ("as_configured", "reasoning_path", "cross_modal_path")
    assert printed[:6] == [f"synthetic, {name}, seed {seed}: to do" for seed in (0, 1) for name in names]
    assert {file.name for file in tmp_path.iterdir()} == {"paths.md", "paths.json"}
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "paths", "--set", "lora_rnak=3"])
    with pytest.raises(SystemExit, match=r"^reproduce\.py: --set: unknown key 'lora_rnak'"):
        reproduce.main()


def test_a_run_that_another_process_works_on_is_left_to_it(tmp_path):
    (run,) = plan_runs(TABLES["main"], ["synthetic"], tmp_path)
    run.folder.parent.mkdir(parents=True)
    with run.folder.with_suffix(".log").open("w") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        (state,) = run_all([run], lambda states: None)
    assert state == f"{ELSEWHERE}: another process writes seed_0.log"


@pytest.mark.slow
def test_stopped_runs_go_on_and_failing_ones_are_reported(quick_config, tmp_path):
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
    assert [find_state(run) for run in runs] == [TO_DO, INTERRUPTED]
    reports = []
    failed, finished = run_all(runs, lambda states: reports.append(list(states)))
    assert finished == FINISHED
    assert failed.startswith("failed: exit 1, ")
    assert "'sound', which is no modality" in failed
    assert reports == [[failed, INTERRUPTED], [failed, FINISHED]]
    whole = run_training(
        *parse_training_arguments([str(run_folder.with_suffix(".yaml")), "--output_dir", str(tmp_path / "whole")])
    )
    resumed = json.loads((run_folder / "metrics.json").read_text())["masks"]
    assert [mask["scores"]["score"]["model"] for mask in resumed] == [
        mask.scores["score"].model for mask in whole.masks
    ]

    written = (run_folder / "metrics.json").stat().st_mtime_ns
    assert run_all(runs[1:], reports.append) == [FINISHED]
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
    changes = {"language_model": str(tiny_language_model), "num_hidden_layers": 1}
    plan = {"table": TABLES["language_model"], "datasets": ["mtl_aqa"], "output_dir": tmp_path / "runs"}
    options = {"changes": changes, "folders": {"mtl_aqa": "here"}, "variants": ["random"], "seeds": [0, 1]}
    drawn = []
    for run in plan_runs(**plan, **options):
        write_random_language_model(run)
        assert run.settings["num_hidden_layers"] is None
        drawn.append(AutoModel.from_pretrained(run.settings["language_model"]))
    original = AutoModel.from_pretrained(tiny_language_model)
    assert len(drawn[0].layers) == 1
    weights = [model.layers[0].self_attn.q_proj.weight for model in (original, *drawn)]
    assert weights[0].shape == weights[1].shape
    assert len({weight.sum().item() for weight in weights}) == 3
    tokenizer = AutoTokenizer.from_pretrained(run.settings["language_model"])
    assert tokenizer("a dive").input_ids == AutoTokenizer.from_pretrained(tiny_language_model)("a dive").input_ids


def test_a_small_random_language_model_can_be_frozen(quick_config, tmp_path):
    plan = {"table": TABLES["components"], "datasets": [str(quick_config())], "output_dir": tmp_path / "runs"}
    (run,) = plan_runs(**plan, variants=["random_frozen"])
    write_random_language_model(run)
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(run.settings))
    model_arguments, data_arguments, _ = parse_training_arguments([str(path)])
    data = load(data_arguments.dataset, **data_arguments.data_options)
    model, _ = build_model(model_arguments, data)
    as_configured, _ = build_model(parse_training_arguments([plan["datasets"][0]])[0], data)
    shapes = [{name: weight.shape for name, weight in each.named_parameters()} for each in (model, as_configured)]
    assert shapes[0] == shapes[1]
    assert not any(weight.requires_grad for weight in model.model.language_model.parameters())
    drawn = AutoModel.from_pretrained(run.settings["language_model"])
    torch.testing.assert_close(
        model.model.language_model.layers[0].mlp.up_proj.weight, drawn.layers[0].mlp.up_proj.weight
    )


def test_without_a_language_model_two_layers_of_its_width_are_trained(tiny_language_model, tmp_path):
    changes = {"language_model": str(tiny_language_model), "num_hidden_layers": 1}
    plan = {"table": TABLES["components"], "datasets": ["mtl_aqa"], "output_dir": tmp_path / "runs"}
    options = {"changes": changes, "folders": {"mtl_aqa": "here"}, "variants": ["no_language_model"]}
    (run,) = plan_runs(**plan, **options)
    write_random_language_model(run)
    config = AutoModel.from_pretrained(run.settings["language_model"]).config
    assert (config.num_hidden_layers, config.hidden_size) == (2, 32)
    assert run.settings["language_model_training"] == "full"


@pytest.mark.slow
def test_a_wrong_prompt_reads_the_run_as_configured_once_more(quick_config, tmp_path):
    config = quick_config(use_prompt=True, prompt={"template": "+{available}-{missing}"}, num_train_epochs=1)
    plan = {"table": TABLES["components"], "datasets": [str(config)], "output_dir": tmp_path / "runs"}
    as_configured, wrong = plan_runs(**plan, variants=["as_configured", "wrong_prompt"])
    (state,) = run_all([wrong], lambda states: None)
    assert state == f"{TO_DO}: needs as_configured with the same seed, which is not finished"
    settings = as_configured.folder.with_suffix(".yaml")
    settings.parent.mkdir()
    settings.write_text(yaml.safe_dump(as_configured.settings))
    run_training(*parse_training_arguments([str(settings)]))
    assert run_all([wrong], lambda states: None) == [FINISHED]
    right, other = (measure_run(run.folder) for run in (as_configured, wrong))
    compared = compare_seeds({0: other}, {0: right})
    assert compared["incomplete"]["score_change"] > 0
    assert compared["complete"]["score_change"] > 0
