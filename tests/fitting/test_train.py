"""One command trains, keeps the best, evaluates it and leaves a folder that anyone can load and publish."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training import demo, train
from limssr.training.data import load
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.fitting.run import describe_run, prepare_run, run_training

MASKS = ["video+audio+flow", "video+audio", "video+flow", "audio+flow", "video", "audio", "flow"]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "run"


def read(path: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{path} holds {constant}, which is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_run_leaves_model_results_and_record(quick_arguments, folder, capsys):
    result = run_training(*quick_arguments())
    table = capsys.readouterr().out
    assert [mask.name for mask in result.masks] == MASKS
    assert all(f"| {name} " in table for name in MASKS)
    assert "best" in table
    metrics = read(folder / "metrics.json")
    assert [mask["name"] for mask in metrics["masks"]] == MASKS
    assert metrics["masks"][0]["scores"]["score"]["best"]["spearman"] > 0.9
    assert Image.open(folder / "evaluation.png").width > 500
    record = read(folder / "run.json")
    assert record["dataset"]["train"]["samples"] == 36
    assert record["dataset"]["validation"]["samples"] == 12
    assert record["missingness"] == {
        "kind": "static",
        "rates": 0.3,
        "seed": 0,
        "dropout": None,
        "all_masks": False,
        "clip_dropout": None,
    }
    assert record["selection"]["on"] == "validation"
    assert record["parameters"]["trained"] < record["parameters"]["all"]
    assert record["arguments"]["training"]["learning_rate"] == 0.001
    assert "36 train, 12 validation, 21 test samples" in (folder / "README.md").read_text()
    assert str(folder.parent) not in "".join(path.read_text() for path in folder.glob("*.json"))
    assert not list(folder.glob("*.bin"))
    assert list((folder / "logs").iterdir())


def test_the_saved_model_gives_the_reported_metrics(quick_arguments, folder):
    reported = run_training(*quick_arguments())
    model = LimssrForScoreRegression.from_pretrained(folder)
    test = load("synthetic", samples_train=48, samples_test=21).splits["test"]
    reloaded = evaluate_subsets(model, LimssrProcessor.from_pretrained(folder), test, progress=False)
    for first, second in zip(reported.masks, reloaded.masks, strict=True):
        np.testing.assert_array_equal(first.predictions.scores, second.predictions.scores)
        assert first.scores["score"].model == second.scores["score"].model


@pytest.mark.parametrize(("save_form", "expected"), [(None, "adapter"), ("full", "full")])
def test_the_final_form_is_the_one_asked_for(quick_arguments, folder, tiny_language_model, save_form, expected):
    arguments = quick_arguments(
        language_model_config=None, language_model=str(tiny_language_model), lora_rank=2, save_form=save_form
    )
    reported = run_training(*arguments)
    assert read(folder / "config.json")["checkpoint_form"] == expected
    place = {"language_model": tiny_language_model} if expected == "adapter" else {}
    model, processor = (
        LimssrForScoreRegression.from_pretrained(folder, **place),
        LimssrProcessor.from_pretrained(folder),
    )
    assert model.config.lora_rank == 2
    test = load("synthetic", samples_train=48, samples_test=21).splits["test"]
    reloaded = evaluate_subsets(model, processor, test, progress=False, batch_size=16)  # LoRA merged in a full one
    for first, second in zip(reported.masks, reloaded.masks, strict=True):
        assert first.scores["score"].model == second.scores["score"].model
    for checkpoint in folder.glob("checkpoint-*"):
        assert read(checkpoint / "config.json")["checkpoint_form"] == "adapter"


def test_an_adapter_of_a_language_model_trained_as_a_whole_is_refused_before_training(quick_arguments, folder):
    with pytest.raises(ValueError, match="`save_form` is 'adapter'"):
        run_training(*quick_arguments(save_form="adapter"))
    assert not list(folder.glob("checkpoint-*"))


def test_a_metric_that_is_undefined_is_null_in_the_record(quick_arguments, folder):
    run = prepare_run(*quick_arguments())
    run.trainer.state.best_metric = float("nan")
    assert describe_run(run)["selection"]["best"] is None


def test_runs_repeat_and_the_data_may_be_drawn_anew(quick_arguments, tmp_path):
    scores = []
    for name in ("one", "two"):
        torch.rand(3)
        result = run_training(*quick_arguments(output_dir=str(tmp_path / name)))
        scores.append([mask.predictions.scores for mask in result.masks])
    np.testing.assert_array_equal(scores[0], scores[1])


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_its_last_checkpoint(quick_arguments, folder):
    whole = run_training(*quick_arguments(output_dir=str(folder.parent / "whole")))
    settings = {"save_total_limit": 5, "data_seed": 0}
    run_training(*quick_arguments(**settings))
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    resumed = run_training(*quick_arguments("--resume_from_checkpoint", "last", **settings))
    for first, second in zip(whole.masks, resumed.masks, strict=True):
        np.testing.assert_array_equal(first.predictions.scores, second.predictions.scores)


def test_an_earlier_run_is_not_mixed_up_with_a_new_one(quick_arguments, folder):
    with pytest.raises(FileNotFoundError, match="no checkpoint to go on from"):
        run_training(*quick_arguments("--resume_from_checkpoint", "last"))
    (folder / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"checkpoint-3 is left .*--resume_from_checkpoint last"):
        run_training(*quick_arguments())


@pytest.mark.slow
@pytest.mark.parametrize("missingness", ["none", "dynamic", "available"])
def test_every_kind_of_missingness_trains(quick_arguments, missingness):
    result = run_training(*quick_arguments(missingness=missingness, missing_rates=None, num_train_epochs=1.5))
    assert len(result.masks) == 7


def test_selection_on_test_is_a_caveat_in_every_report(quick_arguments, folder, capsys):
    run_training(*quick_arguments(select_on="test"))
    caveat = "selected on the test split"
    assert caveat in capsys.readouterr().out
    assert caveat in read(folder / "metrics.json")["title"]
    assert read(folder / "run.json")["selection"]["on"] == "test"
    assert "on the test split" in (folder / "README.md").read_text()


def test_without_selection_everything_is_trained_on_and_the_last_checkpoint_kept(quick_arguments, folder):
    run_training(*quick_arguments(select_on="nothing"))
    record = read(folder / "run.json")
    assert record["dataset"]["train"]["samples"] == 48
    assert record["selection"] == {
        "on": "nothing", "mask_sets": [], "metric": "spearman", "best": None, "step": None, "steps": 12
    }  # fmt: skip
    assert "last of 12 steps, trained on all samples" in (folder / "README.md").read_text()
    last = load_file(folder / "checkpoint-12" / "model.safetensors")
    kept = load_file(folder / "model.safetensors")
    assert set(kept) == set(last)
    assert all(torch.equal(kept[name], last[name]) for name in kept)


@pytest.fixture
def run_script(monkeypatch):
    """`run_script(train, *words)` calls the main function of a script as its command line does."""

    def run(script, *words):
        monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, words)])
        script.main()

    return run


def test_the_script_trains(run_script, quick_config, folder, capsys):
    run_script(train, quick_config(), "--max_steps", "2")
    assert "| audio+flow " in capsys.readouterr().out
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "mtl_aqa", "data_options": None}, "missing a required argument: 'folder'"),
        ({"missing_rates": {"sound": 0.3}}, "'sound', which is no modality"),
        ({"resume_from_checkpoint": "last"}, "no checkpoint to go on from"),
    ],
)
def test_the_script_ends_with_one_line_that_says_what_was_wrong(run_script, quick_config, changes, message):
    with pytest.raises(SystemExit) as stop:
        run_script(train, quick_config(**changes))
    assert stop.value.code.startswith("train.py: ")
    assert message in stop.value.code
    assert "\n" not in stop.value.code


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--modality_dropout", "0.2"], "static, missing rate 0.3; modality dropout 0.2 per epoch"),
        (["--all_masks", "true"], "static, missing rate 0.3; each sample under all its masks in the same step"),
    ],
)
def test_the_card_says_what_was_missing_and_what_ridge_was_fitted_on(quick_arguments, folder, flags, said):
    run_training(*quick_arguments(*flags, "--max_steps", "1"))
    card = (folder / "README.md").read_text()
    assert said in card
    assert "regression on the training split, validation samples included" in card
    assert json.loads((folder / "run.json").read_text())["missingness"]["all_masks"] is ("--all_masks" in flags)


@pytest.mark.slow
def test_the_demo_trains_and_scores_in_a_new_process(tmp_path):
    command = [sys.executable, demo.__file__, "--quick", "--output_dir", str(tmp_path / "demo")]
    command += ["--data_options", "folder=dives", "samples_train=40", "samples_test=20", "size=48"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(f"| {name} " in done.stdout for name in ("video+audio+commentary", "audio+commentary", "video"))
    scores = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("  "))
    names = ("with everything", "commentary taken away", "sound taken away", "picture taken away", "judged")
    scored = [float(scores[f"  {name}"]) for name in names]
    assert len(set(scored)) == 5
    assert 0 <= min(scored) <= max(scored) <= 120
    assert (tmp_path / "demo" / "example" / "dive.mp4").is_file()
    assert "</html>" in (tmp_path / "demo" / "example" / "dive.html").read_text()
    assert (tmp_path / "demo" / "evaluation.png").is_file()
