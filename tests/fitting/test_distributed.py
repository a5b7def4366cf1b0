"""Two real processes on one CPU train, resume and evaluate as one would; all in one launch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training.data import load
from limssr.training.evaluation.evaluator import evaluate_subsets

TESTS = Path(__file__).parents[1]
ACCELERATE = TESTS.parent / "training" / "configs" / "accelerate" / "ddp_cpu.yaml"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launched(quick_run, tmp_path_factory) -> Path:
    """The folder of what `two_process_run.py` wrote; processes that wait for each other for ever are stopped."""
    folder = tmp_path_factory.mktemp("two_processes")
    settings = {**quick_run, "missing_rates": None, "missingness": "available"}
    config = folder / "quick.yaml"
    config.write_text(yaml.safe_dump({name: value for name, value in settings.items() if value is not None}))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", ACCELERATE, "--num_processes", "2"]
    done = subprocess.run(
        [*map(str, command), str(TESTS / "helpers" / "two_process_run.py"), str(config), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def in_one_process(folder: Path):
    """The evaluation of the same checkpoint."""
    test = load("synthetic", samples_train=48, samples_test=21).splits["test"]
    model, processor = LimssrForScoreRegression.from_pretrained(folder), LimssrProcessor.from_pretrained(folder)
    return evaluate_subsets(model, processor, test, progress=False, batch_size=4)


@pytest.mark.parametrize("name", ["plain", "checkpointing"])
def test_a_modality_that_one_process_lacks_holds_up_nobody(launched, name):
    first, second = (load_file(launched / name / f"process{index}.safetensors") for index in (0, 1))
    assert first["available"][:, 1].any()
    assert not second["available"][:, 1].any()
    weights = [key for key in first if key.startswith("model.")]
    assert any("running_var" in key for key in weights)
    assert [key for key in weights if not torch.equal(first[key], second[key])] == []
    for mask in in_one_process(launched / name).masks:
        for scores in (first[f"scores.{mask.name}"], second[f"scores.{mask.name}"]):
            torch.testing.assert_close(scores, torch.from_numpy(mask.predictions.scores), rtol=0, atol=1e-4)


def test_a_resumed_run_of_two_processes_equals_one_that_was_never_stopped(launched):
    straight, resumed = (load_file(launched / name / "model.safetensors") for name in ("straight", "resumed"))
    assert straight.keys() == resumed.keys()
    assert [key for key in straight if not torch.equal(straight[key], resumed[key])] == []
    losses = []
    for name in ("straight", "resumed"):
        history = json.loads((launched / name / "history.json").read_text())
        losses.append([entry["loss"] for entry in history if "loss" in entry])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_two_processes_train_and_report_what_one_would(launched):
    for script in ("train", "eval"):
        assert (launched / f"{script}0.txt").read_text().count("| audio+flow ") == 1
        assert "| audio+flow " not in (launched / f"{script}1.txt").read_text()
    folder = launched / "run"
    record = json.loads((folder / "run.json").read_text())
    assert record["processes"] == 2
    assert len(record["selection"]["cross_validation"]["folds"]) == 2
    assert record["dataset"]["train"]["samples"] == 48
    expected = in_one_process(folder)
    for place in (folder, launched / "eval"):
        reported = json.loads((place / "metrics.json").read_text())
        for mask, alone in zip(reported["masks"], expected.masks, strict=True):
            assert mask["samples"] == 21
            for name in ("spearman", "mse", "mae"):
                metric = mask["scores"]["score"]["model"][name]
                assert metric == pytest.approx(alone.scores["score"].model[name], rel=1e-4, abs=1e-4)
