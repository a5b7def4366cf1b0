"""`train.py` and `eval.py --quantization`: LoRA beside a language model in 4 or 8 bits."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers.utils import is_bitsandbytes_available

from limssr.training.fitting.run import prepare_run, run_training

TRAINING = Path(__file__).parents[2] / "training"

needs_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs the package bitsandbytes")


@pytest.fixture
def quantised_arguments(quick_arguments, tiny_language_model):
    """`quantised_arguments(key=value, ...)`: of a quick run with LoRA on the tiny language model, in 4 bits."""
    settings = {
        "language_model_config": None,
        "language_model": str(tiny_language_model),
        "lora_rank": 2,
        "quantization": "4bit",
    }
    return lambda **changes: quick_arguments(**{**settings, **changes})


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_run_leaves_an_adapter_that_scores_as_reported(
    quantised_arguments, tiny_language_model, tmp_path, quantization
):
    reported = run_training(*quantised_arguments(quantization=quantization))
    folder = tmp_path / "run"
    record, config = (json.loads((folder / name).read_text()) for name in ("run.json", "config.json"))
    assert record["arguments"]["model"]["quantization"] == quantization
    assert record["parameters"]["all"] - record["parameters"]["trained"] == 24_000  # weights, however they lie
    assert config["checkpoint_form"] == "adapter"
    words = [folder, "synthetic", "--data_options", "samples_train=48", "samples_test=21", "--output_dir", tmp_path]
    words += ["--language_model", tiny_language_model, "--quantization", quantization]
    subprocess.run([sys.executable, TRAINING / "eval.py", *map(str, words)], check=True, timeout=300)
    evaluated = json.loads((tmp_path / "metrics.json").read_text())
    assert (evaluated["quantization"], evaluated["dtype"]) == (quantization, "auto")
    scores = {}
    for name in (folder, tmp_path):
        table = pq.read_table(name / "predictions.parquet").to_pylist()
        scores[name] = {(row["sample_id"], row["mask"]): row["score"] for row in table}
    assert len(scores[folder]) == 21 * len(reported.masks)
    assert scores[tmp_path] == pytest.approx(scores[folder], abs=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_form": "full"}, "The language model is quantised.*give `save_form` 'adapter'"),
        ({"language_model_training": "full"}, "give 'lora' or 'frozen'"),
    ],
)
def test_what_cannot_be_trained_or_saved_is_refused_before_training(quantised_arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare_run(*quantised_arguments(**changes))


@pytest.mark.usefixtures("without_bitsandbytes")
def test_the_package_it_needs_is_named(quantised_arguments):
    with pytest.raises(ValueError, match="the quantization '4bit' needs the package bitsandbytes: pip install"):
        prepare_run(*quantised_arguments())
