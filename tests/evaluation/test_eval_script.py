"""`eval.py` in this process, and once as a script."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoTokenizer

from limssr.configuration.configuration_limssr import LimssrConfig
from limssr.modeling_limssr.modeling_limssr import LimssrForScoreRegression
from limssr.processing.processing_limssr import LimssrProcessor
from limssr.training import eval as script
from limssr.training.arguments import DataArguments
from limssr.training.data import load
from limssr.training.evaluation.baselines import Baselines, pool_rows
from limssr.training.evaluation.run import selection_split
from limssr.training.fitting.splits import prepare_training_data
from limssr.training.utils.locks import LOCK_FILE, lock

SYNTHETIC = ["synthetic", "--data_options", "samples_train=60", "samples_test=20"]


@pytest.fixture
def checkpoint(tmp_path, tiny_config, tiny_tokenizer):
    """A model with random weights that has the modalities of the synthetic dataset."""
    fields = {
        name: getattr(tiny_config, name) for name in ("text_config", "num_fusion_tokens", "language_model_training")
    }
    config = LimssrConfig(**fields, modalities={"video": 16, "audio": 12, "flow": 16})
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "synthetic")
    LimssrProcessor.from_config(config, tiny_tokenizer).save_pretrained(tmp_path / "synthetic")
    return tmp_path / "synthetic"


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """`evaluate(*words)` runs the script in `tmp_path` and returns what it printed."""

    def run(*words) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, words)])
        script.main()
        return capsys.readouterr().out

    return run


def test_a_folder_in_use_is_refused_before_anything_is_loaded(evaluate, tmp_path):
    with lock(tmp_path / "report" / LOCK_FILE), pytest.raises(SystemExit, match=r"report is in use by process \d+ on"):
        evaluate("./nothing", "synthetic", "--output_dir", tmp_path / "report")


def test_the_script_prints_the_table_and_writes_everything(checkpoint, tmp_path):
    words = [checkpoint, *SYNTHETIC, "--train_missing_rates", "0.3", "--output_dir", tmp_path / "report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, script.__file__, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| video+audio+flow" in done.stdout
    header = next(line for line in done.stdout.splitlines() if line.startswith("| modalities"))
    assert {"ridge", "mean", "best"} <= {cell.strip() for cell in header.split("|")}
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [mask["samples"] for mask in metrics["masks"]] == [20] * 7
    assert metrics["data_options"] == {"samples_train": 60, "samples_test": 20}
    assert pq.read_table(tmp_path / "report" / "predictions.parquet").num_rows == 7 * 20
    assert (tmp_path / "report" / "evaluation.png").stat().st_size > 10_000


def test_it_reads_a_yaml_and_flags_win_over_it(checkpoint, evaluate, tmp_path):
    settings = {"data_options": {"samples_train": 90, "samples_test": 99, "seed": 4}, "missing_rates": 0.4}
    settings |= {"dataset": "synthetic", "missingness": "static", "mask_seed": 7, "num_train_epochs": 3}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(settings))
    text = evaluate(checkpoint, "task.yaml", "--data_options", "samples_test=12")
    assert "12 samples" in text
    assert "evaluation.png are in runs/eval/synthetic" in text
    folder = tmp_path / "runs" / "eval" / "synthetic"
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "predictions.parquet", "evaluation.png"}
    text = (folder / "metrics.json").read_text()
    metrics = json.loads(text)
    assert metrics["data_options"] == {"samples_train": 90, "samples_test": 12, "seed": 4}
    assert (metrics["train_missing_rates"], metrics["train_missing_seed"]) == (0.4, 7)
    assert str(tmp_path) not in text
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    found = [row["ridge"] for row in predictions if row["mask"] == "video+audio+flow"]
    np.testing.assert_allclose(found, ridge_of_training(metrics["data_options"], rates=0.4, seed=7))


def ridge_of_training(options: dict, rates: float, seed: int) -> np.ndarray:
    """Ridge scores of the complete test samples, fitted on the rows of a training run with static masks."""
    arguments = DataArguments(dataset="synthetic", missingness="static", missing_rates=rates, mask_seed=seed)
    data = load("synthetic", **options)
    rows = prepare_training_data(data, arguments, seed=0).baseline
    modalities = list(data.modalities)
    test = pool_rows(data.splits["test"], modalities, ["score"])
    return Baselines(rows, modalities, ["score"]).ridge_predictions(test, test.available)[:, 0]


def test_it_finds_the_language_model_of_an_adapter_through_the_yaml(tiny_language_model, evaluate, tmp_path):
    modalities = {"video": 16, "audio": 12, "flow": 16}
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, modalities=modalities)
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_language_model)
    LimssrProcessor.from_config(model.config, tokenizer).save_pretrained(tmp_path / "adapter")
    settings = {"dataset": "synthetic", "data_options": {"samples_train": 30, "samples_test": 8}}
    (tmp_path / "without.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match="adapter of a language model that is not on the Hub"):
        evaluate(tmp_path / "adapter", "without.yaml")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(settings | {"language_model": "language_model"}))
    assert "8 samples" in evaluate(tmp_path / "adapter", "task.yaml", "--protocol", "available")


def test_it_draws_masks_and_flags_a_checkpoint_selected_on_the_test_split(checkpoint, evaluate, tmp_path):
    (checkpoint / "run.json").write_text(json.dumps({"selection": {"on": "test"}, "missingness": {"seed": 3}}))
    words = ["--protocol", "rates", "--rates", "video=0.5", "--permutations", "--mask_seeds", "4", "7"]
    text = evaluate(checkpoint, *SYNTHETIC, *words)
    assert "| video 0.5, audio 0, flow 0 " in text
    assert "(checkpoint selected on the test split)" in text
    folder = tmp_path / "runs" / "eval" / "synthetic_rates"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["caveats"] == ["checkpoint selected on the test split"]
    assert (metrics["protocol"], metrics["selected_on"]) == ("rates", "test")
    assert metrics["train_missing_seed"] == 3  # as the run's record says
    assert [(row["seeds"], row["samples"]) for row in metrics["summaries"]] == [([4, 7], 20)] * 3
    table = pq.read_table(folder / "predictions.parquet")
    assert table.num_rows == 3 * 2 * 20
    assert json.loads(table.schema.metadata[b"caveats"]) == metrics["caveats"]
    assert (folder / "evaluation.png").stat().st_size > 10_000


def test_it_names_the_models_of_an_ensemble_and_flags_one_selected_on_the_test_split(checkpoint, evaluate, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "other")
    (checkpoint / "run.json").write_text(json.dumps({"selection": {"on": "validation"}}))
    (tmp_path / "other" / "run.json").write_text(json.dumps({"selection": {"on": "test"}}))
    text = evaluate(checkpoint, *SYNTHETIC, "--ensemble_with", "other", "other")
    metrics = json.loads((tmp_path / "runs" / "eval" / "synthetic_mean_of_3" / "metrics.json").read_text())
    assert metrics["ensemble_with"] == ["other", "other"]
    assert metrics["selected_on"] == ["validation", "test", "test"]
    assert metrics["caveats"] == ["checkpoint selected on the test split"]
    assert "mean of 3 models (checkpoint selected on the test split)" in metrics["title"]
    assert f"mean of {checkpoint}, other, other on synthetic" in text


def test_a_wrong_prompt_is_flagged_and_changes_the_scores(checkpoint, evaluate, tmp_path):
    words = [checkpoint, *SYNTHETIC, "--protocol", "subsets"]
    evaluate(*words, "--output_dir", "right")
    said = evaluate(*words, "--output_dir", "wrong", "--wrong_prompt")
    assert "(the prompts say the wrong modalities)" in said
    metrics = json.loads((tmp_path / "wrong" / "metrics.json").read_text())
    assert (metrics["wrong_prompt"], metrics["caveats"]) == (True, ["the prompts say the wrong modalities"])
    right, wrong = (pq.read_table(tmp_path / name / "predictions.parquet").to_pandas() for name in ("right", "wrong"))
    columns = ["sample_id", "mask", "used", "target", "ridge"]
    assert right[columns].equals(wrong[columns])
    assert (right["score"] != wrong["score"]).any()


def test_the_selection_split_is_found_beside_a_checkpoint_or_in_its_run(tmp_path):
    assert selection_split(str(tmp_path)) is None
    (tmp_path / "run.json").write_text(json.dumps({"selection": {"on": "validation"}}))
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "other").mkdir()
    assert selection_split(str(tmp_path)) == "validation"
    assert selection_split(str(tmp_path / "checkpoint-12")) == "validation"
    assert selection_split(str(tmp_path / "other")) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no_such_dataset"], "no_such_dataset"),
        (["mtl_aqa"], r"dataset 'mtl_aqa' \(`data_options`\): missing a required argument: 'folder'"),
        ([*SYNTHETIC, "sampels=3"], "unexpected keyword argument 'sampels'; it has samples_train"),
        ([*SYNTHETIC, "--train_missing_rates", "sound=0.1"], "'sound', which is no modality"),
        ([*SYNTHETIC, "--split", "holdout"], "the dataset has no split 'holdout', only train, test"),
    ],
)
def test_it_ends_with_one_line_where_model_and_data_do_not_fit(checkpoint, evaluate, words, message):
    with pytest.raises(SystemExit, match=message) as stopped:
        evaluate(checkpoint, *words)
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SYNTHETIC, "oops"], "`data_options` has 'oops', expected KEY=VALUE"),
        ([*SYNTHETIC, "--protocol", "rates"], "the protocol 'rates' needs `rates`"),
    ],
)
def test_it_refuses_flags_that_make_no_sense(evaluate, capsys, words, message):
    with pytest.raises(SystemExit):
        evaluate("./model", *words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: synthetic\ndataset_options: {seed: 1}", "'dataset_options'; did you mean 'data_options'?"),
        ("dataset: synthetic\ndata_options: 3", "`data_options` has 3, expected KEY=VALUE"),
        ("data_options: {seed: 1}", "`dataset` is None"),
        ("- synthetic", "expected keys with values"),
    ],
)
def test_it_refuses_a_yaml_of_another_shape(evaluate, tmp_path, capsys, text, message):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(SystemExit):
        evaluate("model", "task.yaml")
    assert message in capsys.readouterr().err
