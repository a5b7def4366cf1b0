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
from safetensors.torch import save_file

from limssr.configuration.configuration_limssr import LimssrConfig
from limssr.modeling_limssr.modeling_limssr import LimssrForScoreRegression
from limssr.processing.processing_limssr import LimssrProcessor
from limssr.training.prediction.predictor import load_model_and_processor
from limssr.training.utils.launching import exit_on_error
from limssr.training.utils.loading import PACKAGED_MODELS

TRAINING = Path(__file__).parents[2] / "training"


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
