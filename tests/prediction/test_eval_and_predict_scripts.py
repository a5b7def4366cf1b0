import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from limssr.configuration.configuration_limssr import LimssrConfig
from limssr.modeling_limssr.modeling_limssr import LimssrForScoreRegression
from limssr.processing.processing_limssr import LimssrProcessor
from limssr.training.arguments import DataArguments
from limssr.training.data import load
from limssr.training.evaluation.arguments import parse_evaluation_arguments
from limssr.training.evaluation.baselines import Baselines, pool_rows
from limssr.training.evaluation.run import selection_split
from limssr.training.fitting.splits import prepare_training_data
from limssr.training.prediction.predictor import load_model_and_processor
from limssr.training.utils.launching import exit_on_error
from limssr.training.utils.loading import PACKAGED_MODELS

TRAINING = Path(__file__).parents[2] / "training"
SYNTHETIC = ["synthetic", "--data_options", "samples_train=60", "samples_test=20"]


def run(script, *words, folder=None):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, TRAINING / script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, cwd=folder)


@pytest.fixture
def checkpoint(tmp_path, tiny_model, tiny_processor):
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    tiny_processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def clips(tiny_model):
    """Three samples, modality -> array."""
    random = np.random.default_rng(0)
    widths = tiny_model.config.modalities.items()
    return [{name: random.normal(size=(3, width)).astype("float32") for name, width in widths} for _ in range(3)]


def write_folder(folder, clips):
    for number, sample in enumerate(clips):
        for name, array in sample.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"sample{number}.npy", array)
    return folder


def expected_score(model, processor, sample) -> float:
    with torch.no_grad():
        inputs = processor(features={name: [array] for name, array in sample.items()})
        return model.eval()(**inputs).scores[0, 0].item()


def test_predict_one_sample_from_npy_and_safetensors(checkpoint, tiny_model, tiny_processor, clips, tmp_path):
    (first, array), (second, tensor), *_ = clips[0].items()
    np.save(tmp_path / "a.npy", array)
    save_file({"clips": torch.from_numpy(tensor)}, tmp_path / "b.safetensors")
    files = [f"--{first}", tmp_path / "a.npy", f"--{second}", tmp_path / "b.safetensors"]
    done = run("predict.py", checkpoint, *files, "--format", "json")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(done.stdout)
    assert entry["used"] == [first, second]
    values = entry["scores"][tiny_model.config.score_names[0]]
    shown = {first: array, second: tensor}
    assert values["score"] == pytest.approx(expected_score(tiny_model, tiny_processor, shown), abs=1e-2)
    assert values["path_disagreement"] == pytest.approx(abs(values["reasoning_scores"] - values["cross_modal_scores"]))


def test_predict_names_the_modalities_when_a_flag_is_unknown(checkpoint, tiny_model):
    done = run("predict.py", checkpoint, "--vidoe", "a.npy")
    assert done.returncode == 2
    assert "--vidoe" in done.stderr
    assert all(f"--{name}" in done.stderr for name in tiny_model.config.modalities)


def test_a_bad_file_loses_no_other_sample_of_a_folder(checkpoint, tiny_model, tiny_processor, clips, tmp_path):
    folder = write_folder(tmp_path / "features", clips)
    first, second, *_ = tiny_model.config.modalities
    (folder / first / "sample1.npy").write_bytes(b"damaged")
    np.save(folder / second / "sample3.npy", np.zeros((2, 99)))  # a width the model does not have
    output = tmp_path / "scores.csv"
    done = run(
        "predict.py", checkpoint, "--folder", folder, "--format", "csv", "--output", output, "--batch_size", "2"
    )
    assert done.returncode == 1
    assert "2 of 4 samples could not be scored" in done.stderr
    rows = {row["sample_id"]: row for row in csv.DictReader(output.open())}
    assert list(rows) == ["sample0", "sample1", "sample2", "sample3"]
    assert str(folder / first / "sample1.npy") in rows["sample1"]["error"]
    assert "99" in rows["sample3"]["error"]
    assert str(folder / second / "sample3.npy") in rows["sample3"]["error"]
    assert rows["sample1"]["score"] == rows["sample3"]["score"] == ""
    for number in (0, 2):
        expected = expected_score(tiny_model, tiny_processor, clips[number])
        assert float(rows[f"sample{number}"]["score"]) == pytest.approx(expected, abs=1e-2)
        assert rows[f"sample{number}"]["error"] == ""


def test_predict_from_csv_takes_empty_cells_as_missing(checkpoint, tiny_model, clips, tmp_path):
    write_folder(tmp_path, clips)
    first, second, *_ = tiny_model.config.modalities
    table = f"sample_id,{first},{second}\none,{first}/sample0.npy,{second}/sample0.npy\ntwo,,{second}/sample1.npy\n"
    (tmp_path / "list.csv").write_text(table)
    done = run("predict.py", checkpoint, "--csv", tmp_path / "list.csv")
    assert done.returncode == 0, done.stderr
    _, one, two = done.stdout.splitlines()
    assert one.split()[0] == "one"
    assert one.endswith(f"{first}+{second}")
    assert two.split()[-1] == second


def test_predict_with_several_models_gives_the_mean_of_what_each_says(
    checkpoint, tiny_config, tiny_processor, clips, tmp_path
):
    torch.manual_seed(1)
    LimssrForScoreRegression(tiny_config).save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")
    folder = write_folder(tmp_path / "features", clips)

    def scores(*words) -> np.ndarray:
        done = run("predict.py", *words, "--folder", folder, "--format", "json")
        assert done.returncode == 0, done.stderr
        values = [entry["scores"]["score"] for entry in json.loads(done.stdout)]
        return np.array([[each["score"], each["reasoning_scores"], each["cross_modal_scores"]] for each in values])

    one, other = scores(checkpoint), scores(tmp_path / "other")
    assert np.abs(one - other).min() > 0
    np.testing.assert_allclose(scores(checkpoint, "--ensemble_with", tmp_path / "other"), (one + other) / 2, atol=1e-3)

    out = tmp_path / "out"
    words = ["predict.py", checkpoint, "--folder", folder, "--output_dir", out]
    assert run(*words, "--ensemble_with", tmp_path / "other").returncode == 0
    np.testing.assert_allclose(pq.read_table(out / "predictions.parquet")["score"], (one + other)[:, 0] / 2, atol=1e-3)
    refused = run(*words)
    assert refused.returncode != 0
    assert "holds scores of another model" in refused.stderr


def test_models_of_other_modalities_or_scores_have_no_mean(checkpoint, tiny_config, tiny_tokenizer, clips, tmp_path):
    config = LimssrConfig(text_config=tiny_config.text_config, modalities={"video": 16})
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "video")
    LimssrProcessor.from_config(config, tiny_tokenizer).save_pretrained(tmp_path / "video")
    folder = write_folder(tmp_path / "features", clips)
    done = run("predict.py", checkpoint, "--folder", folder, "--ensemble_with", tmp_path / "video")
    assert done.returncode != 0
    assert f"`modalities` is {{'video': 16}} in {tmp_path / 'video'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_refuses_a_wrong_csv_before_it_scores_anything(checkpoint, tmp_path):
    (tmp_path / "list.csv").write_text("id,path\na,b\n")
    done = run("predict.py", checkpoint, "--csv", tmp_path / "list.csv")
    assert done.returncode == 2
    assert "expected sample_id" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def synthetic_checkpoint(tmp_path, tiny_config, tiny_tokenizer):
    """A model with random weights that has the modalities of the synthetic dataset."""
    fields = {
        name: getattr(tiny_config, name) for name in ("text_config", "num_fusion_tokens", "language_model_training")
    }
    config = LimssrConfig(**fields, modalities={"video": 16, "audio": 12, "flow": 16})
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "synthetic")
    LimssrProcessor.from_config(config, tiny_tokenizer).save_pretrained(tmp_path / "synthetic")
    return tmp_path / "synthetic"


def test_eval_prints_the_table_and_writes_everything(synthetic_checkpoint, tmp_path):
    words = ["--train_missing_rates", "0.3", "--output_dir", tmp_path / "report"]
    done = run("eval.py", synthetic_checkpoint, *SYNTHETIC, *words)
    assert done.returncode == 0, done.stderr
    assert "| video+audio+flow" in done.stdout
    assert "mean_baseline" in done.stdout
    assert "best" in done.stdout
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [mask["samples"] for mask in metrics["masks"]] == [20] * 7
    assert metrics["data_options"] == {"samples_train": 60, "samples_test": 20}
    assert pq.read_table(tmp_path / "report" / "predictions.parquet").num_rows == 7 * 20
    assert (tmp_path / "report" / "evaluation.png").stat().st_size > 10_000


def test_eval_reads_a_yaml_and_flags_win_over_it(synthetic_checkpoint, tmp_path):
    settings = {"data_options": {"samples_train": 90, "samples_test": 99, "seed": 4}, "missing_rates": 0.4}
    settings |= {"dataset": "synthetic", "missingness": "static", "mask_seed": 7, "num_train_epochs": 3}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(settings))
    words = [synthetic_checkpoint, tmp_path / "task.yaml", "--data_options", "samples_test=12"]
    done = run("eval.py", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "12 samples" in done.stdout
    assert "evaluation.png are in runs/eval/synthetic" in done.stdout
    folder = tmp_path / "runs" / "eval" / "synthetic"
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "predictions.parquet", "evaluation.png"}
    text = (folder / "metrics.json").read_text()
    metrics = json.loads(text)
    assert metrics["data_options"] == {"samples_train": 90, "samples_test": 12, "seed": 4}
    assert (metrics["train_missing_rates"], metrics["train_missing_seed"]) == (0.4, 7)
    assert str(tmp_path) not in text
    expected = seen_ridge(metrics["data_options"], rates=0.4, seed=7)
    predictions = pq.read_table(folder / "predictions.parquet").to_pylist()
    found = [row["ridge"] for row in predictions if row["mask"] == "video+audio+flow"]
    np.testing.assert_allclose(found, expected)


def seen_ridge(options: dict, rates: float, seed: int) -> np.ndarray:
    """What ridge says of the complete test samples when it is fitted on the rows that training saw."""
    arguments = DataArguments(dataset="synthetic", missingness="static", missing_rates=rates, mask_seed=seed)
    data = load("synthetic", **options)
    seen = prepare_training_data(data, arguments, seed=0).baseline
    modalities = list(data.modalities)
    test = pool_rows(data.splits["test"], modalities, ["score"])
    return Baselines(seen, modalities, ["score"]).ridge_predictions(test, (1, 1, 1))[:, 0]


def test_eval_draws_masks_and_marks_a_checkpoint_chosen_on_the_test_split(synthetic_checkpoint, tmp_path):
    (synthetic_checkpoint / "run.json").write_text(json.dumps({"selection": {"on": "test"}}))
    words = ["--protocol", "rates", "--rates", "video=0.5", "--permutations", "--mask_seeds", "4", "7"]
    done = run("eval.py", synthetic_checkpoint, *SYNTHETIC, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| video 0.5, audio 0, flow 0 " in done.stdout
    assert "(checkpoint selected on the test split)" in done.stdout
    folder = tmp_path / "runs" / "eval" / "synthetic_rates"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["caveats"] == ["checkpoint selected on the test split"]
    assert (metrics["protocol"], metrics["selected_on"]) == ("rates", "test")
    assert [(row["seeds"], row["samples"]) for row in metrics["summaries"]] == [([4, 7], 20)] * 3
    table = pq.read_table(folder / "predictions.parquet")
    assert table.num_rows == 3 * 2 * 20
    assert json.loads(table.schema.metadata[b"caveats"]) == metrics["caveats"]
    assert (folder / "evaluation.png").stat().st_size > 10_000


def test_eval_of_several_models_says_so_and_is_marked_if_one_was_chosen_on_the_test_split(
    synthetic_checkpoint, tmp_path
):
    shutil.copytree(synthetic_checkpoint, tmp_path / "other")
    (synthetic_checkpoint / "run.json").write_text(json.dumps({"selection": {"on": "validation"}}))
    (tmp_path / "other" / "run.json").write_text(json.dumps({"selection": {"on": "test"}}))
    done = run("eval.py", synthetic_checkpoint, *SYNTHETIC, "--ensemble_with", "other", "other", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "eval" / "synthetic_mean_of_3"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["ensemble_with"] == ["other", "other"]
    assert metrics["selected_on"] == ["validation", "test", "test"]
    assert metrics["caveats"] == ["checkpoint selected on the test split"]
    assert "mean of 3 models (checkpoint selected on the test split)" in metrics["title"]
    assert f"mean of {synthetic_checkpoint}, other, other on synthetic" in done.stdout


def test_the_split_that_chose_a_checkpoint_is_found_beside_it_or_in_its_run(tmp_path):
    assert selection_split(str(tmp_path)) is None
    (tmp_path / "run.json").write_text(json.dumps({"selection": {"on": "validation"}}))
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "other").mkdir()
    assert selection_split(str(tmp_path)) == "validation"
    assert selection_split(str(tmp_path / "checkpoint-12")) == "validation"
    assert selection_split(str(tmp_path / "other")) is None


def test_a_packaged_language_model_is_found_by_name(tmp_path, tiny_language_model, tiny_tokenizer, monkeypatch):
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, modalities={"video": 16}, lora_rank=2)
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    LimssrProcessor.from_config(model.config, tiny_tokenizer).save_pretrained(tmp_path / "adapter")
    (tmp_path / "a_real_package").mkdir()
    shutil.copytree(tiny_language_model, tmp_path / "a_real_package" / "model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PACKAGED_MODELS, "a-real-package", ("a_real_package", "model"))
    loaded, _ = load_model_and_processor(tmp_path / "adapter", "a-real-package")
    assert loaded.config.modalities == {"video": 16}


def test_a_mistake_ends_a_script_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^cannot load it: .*nowhere'$"), exit_on_error("cannot load it"):
        (tmp_path / "nowhere").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SYNTHETIC, "oops"], "`data_options` has 'oops', expected KEY=VALUE"),
        (["no_such_dataset"], "no_such_dataset"),
        (["mtl_aqa"], "dataset 'mtl_aqa' (`data_options`): missing a required argument: 'folder'"),
        ([*SYNTHETIC, "sampels=3"], "unexpected keyword argument 'sampels'; it has samples_train"),
        ([*SYNTHETIC, "--train_missing_rates", "sound=0.1"], "'sound', which is no modality"),
        ([*SYNTHETIC, "--protocol", "rates"], "the protocol 'rates' needs `rates`"),
    ],
)
def test_eval_says_what_is_wrong(synthetic_checkpoint, words, message):
    done = run("eval.py", synthetic_checkpoint, *words)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: synthetic\ndataset_options: {seed: 1}", "'dataset_options'; did you mean 'data_options'?"),
        ("dataset: synthetic\ndata_options: 3", "`data_options` has 3, expected KEY=VALUE"),
        ("data_options: {seed: 1}", "`dataset` is None"),
        ("- synthetic", "expected keys with values"),
    ],
)
def test_eval_refuses_a_yaml_of_another_shape(tmp_path, monkeypatch, capsys, text, message):
    (tmp_path / "task.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["eval.py", "model", str(tmp_path / "task.yaml")])
    with pytest.raises(SystemExit):
        parse_evaluation_arguments("")
    assert message in capsys.readouterr().err
