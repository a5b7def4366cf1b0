"""`limssr predict --report`: a page and a picture for each sample."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from limssr.training.data.sources.files import TIMES_KEY, FeatureFileError, read_times
from limssr.training.explanation.reports import write_reports
from limssr.training.predict import parse_arguments
from limssr.training.prediction.files import FileSample


@pytest.fixture
def with_times(tmp_path):
    path = tmp_path / "a.safetensors"
    times = torch.tensor([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]], dtype=torch.float64)
    save_file({"clips": torch.randn(3, 16), TIMES_KEY: times}, path)
    return path


def test_each_sample_has_a_page_and_a_picture(tiny_model, tiny_processor, with_times, tmp_path):
    np.save(tmp_path / "b.npy", np.random.default_rng(0).normal(size=(4, 16)))
    samples = [FileSample("club/a", {"video": with_times}), FileSample("../b", {"video": tmp_path / "b.npy"})]
    pages = write_reports((tiny_model, tiny_processor), samples, tmp_path / "reports")
    names = ["..%2Fb.html", "..%2Fb.png", "club%2Fa.html", "club%2Fa.png"]
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == names
    first, second = (page.read_text(encoding="utf-8") for page in pages)
    assert "1.00 s to 2.00 s" in first
    assert "clip 2" in second
    assert "weights" in first


def test_times_are_read_or_refused(with_times, tmp_path):
    assert read_times(with_times).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert read_times(tmp_path / "b.npy") is None
    save_file({"clips": torch.zeros(2, 3)}, tmp_path / "c.safetensors")
    assert read_times(tmp_path / "c.safetensors") is None
    save_file({"clips": torch.zeros(2, 3), TIMES_KEY: torch.zeros(2)}, tmp_path / "d.safetensors")
    with pytest.raises(FeatureFileError, match="`times` has shape"):
        read_times(tmp_path / "d.safetensors")


@pytest.mark.parametrize("other", [["--windows"], ["--output_dir", "out"], ["--ensemble_with", "another"]])
def test_a_report_explains_one_model(tiny_model, with_times, tmp_path, other, capsys):
    tiny_model.config.save_pretrained(tmp_path)
    with pytest.raises(SystemExit):
        parse_arguments([str(tmp_path), "--video", str(with_times), "--report", "reports", *other])
    assert "--report explains one model" in capsys.readouterr().err
