"""Two real processes on one CPU train and evaluate as one would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training.data import load
from limssr.training.evaluation.evaluator import evaluate_subsets

TESTS = Path(__file__).parents[1]
SCRIPTS = TESTS.parent / "training"
TWO_PROCESSES = ["--config_file", str(SCRIPTS / "configs" / "accelerate" / "ddp_cpu.yaml"), "--num_processes", "2"]


def launch(script: Path, *words) -> subprocess.CompletedProcess:
    """Runs a script in two processes; one that waits for the other for ever is stopped."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *TWO_PROCESSES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(script), *map(str, words)], capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def reference(folder: Path):
    """One process, the same checkpoint."""
    test = load("synthetic", samples_train=48, samples_test=21).splits["test"]
    model, processor = LimssrForScoreRegression.from_pretrained(folder), LimssrProcessor.from_pretrained(folder)
    return evaluate_subsets(model, processor, test, progress=False, batch_size=4)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "activation checkpointing"])
def test_a_modality_that_one_process_lacks_holds_up_nobody(quick_config, tmp_path, checkpointing):
    config = quick_config(per_device_train_batch_size=6, activation_checkpointing=checkpointing, max_steps=5)
    (tmp_path / "run").mkdir()
    launch(TESTS / "helpers" / "two_process_run.py", config)
    first, second = (load_file(tmp_path / "run" / f"process{index}.safetensors") for index in (0, 1))
    assert first["seen"][:, 1].any()
    assert not second["seen"][:, 1].any()
    names = [name for name in first if name.startswith("model.")]
    assert any("running_var" in name for name in names)
    assert [name for name in names if not torch.equal(first[name], second[name])] == []
    for mask in reference(tmp_path / "run").masks:
        for scores in (first[f"scores.{mask.name}"], second[f"scores.{mask.name}"]):
            torch.testing.assert_close(scores, torch.from_numpy(mask.predictions.scores), rtol=0, atol=1e-4)


def test_two_processes_train_and_report_what_one_would(quick_config, tmp_path):
    done = launch(
        SCRIPTS / "train.py", quick_config(missingness="dynamic", missing_rates=None, per_device_train_batch_size=5)
    )
    assert done.stdout.count("| audio+flow ") == 1
    folder = tmp_path / "run"
    assert json.loads((folder / "run.json").read_text())["processes"] == 2
    words = [
        "--data_options",
        "samples_train=48",
        "samples_test=21",
        "--batch_size",
        4,
        "--output_dir",
        tmp_path / "eval",
    ]
    again = launch(SCRIPTS / "eval.py", folder, "synthetic", *words)
    assert again.stdout.count("| audio+flow ") == 1
    for place in (folder, tmp_path / "eval"):
        reported = json.loads((place / "metrics.json").read_text())
        for mask, expected in zip(reported["masks"], reference(folder).masks, strict=True):
            assert mask["samples"] == 21
            for name in ("spearman", "mse", "mae"):
                metric = mask["scores"]["score"]["model"][name]
                assert metric == pytest.approx(expected.scores["score"].model[name], rel=1e-4, abs=1e-4)
