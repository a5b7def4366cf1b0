import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from limssr.configuration.configuration_limssr import LimssrConfig
from limssr.modeling_limssr.modeling_limssr import LimssrForScoreRegression
from limssr.processing.processing_limssr import LimssrProcessor

TRAINING = Path(__file__).parents[2] / "training"
SYNTHETIC = ["synthetic", "--data_options", "samples_train=60", "samples_test=20"]


def run(script, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, TRAINING / script, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


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
        return model.eval()(**inputs).judged_scores[0, 0].item()


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
    assert values["path_disagreement"] == pytest.approx(abs(values["score_main"] - values["score_aux"]))


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


def test_predict_refuses_a_wrong_csv_before_it_scores_anything(checkpoint, tmp_path):
    (tmp_path / "list.csv").write_text("id,path\na,b\n")
    done = run("predict.py", checkpoint, "--csv", tmp_path / "list.csv")
    assert done.returncode == 2
    assert "expected sample_id" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def synthetic_checkpoint(tmp_path, tiny_config, tiny_tokenizer):
    """A model with random weights that has the modalities of the synthetic dataset."""
    fields = {name: getattr(tiny_config, name) for name in ("text_config", "num_fusion_tokens", "backbone_training")}
    config = LimssrConfig(**fields, modalities={"video": 16, "audio": 12, "flow": 16})
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "synthetic")
    LimssrProcessor.from_config(config, tiny_tokenizer).save_pretrained(tmp_path / "synthetic")
    return tmp_path / "synthetic"


def test_eval_prints_the_table_and_writes_everything(synthetic_checkpoint, tmp_path):
    words = ["--train_missing_rates", "0.3", "--output_dir", tmp_path / "report"]
    done = run("eval.py", synthetic_checkpoint, *SYNTHETIC, *words)
    assert done.returncode == 0, done.stderr
    assert "| video+audio+flow" in done.stdout
    assert "floor" in done.stdout
    assert "best" in done.stdout
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert [mask["samples"] for mask in metrics["masks"]] == [20] * 7
    assert metrics["data_options"] == {"samples_train": 60, "samples_test": 20}
    assert pq.read_table(tmp_path / "report" / "predictions.parquet").num_rows == 7 * 20
    assert (tmp_path / "report" / "evaluation.png").stat().st_size > 10_000


def test_eval_reads_a_yaml_and_flags_win_over_it(synthetic_checkpoint, tmp_path):
    (tmp_path / "task.yaml").write_text("dataset: synthetic\ndataset_options: {samples_train: 30, samples_test: 99}\n")
    done = run("eval.py", synthetic_checkpoint, tmp_path / "task.yaml", "--data_options", "samples_test=12")
    assert done.returncode == 0, done.stderr
    assert "12 samples" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SYNTHETIC, "oops"], "expected KEY=VALUE, got 'oops'"),
        (["no_such_dataset"], "no_such_dataset"),
    ],
)
def test_eval_says_what_is_wrong(synthetic_checkpoint, words, message):
    done = run("eval.py", synthetic_checkpoint, *words)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
