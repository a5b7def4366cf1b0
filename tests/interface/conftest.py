"""A tiny calibrated model of recordings and commentary, with examples beside it."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from limssr import LimssrForScoreRegression, LimssrProcessor

pytest.importorskip("av", reason="the extra `media` is not installed")
pytest.importorskip("gradio", reason="the extra `app` is not installed")

from tests.helpers.recordings import moving_pictures, tone, write_recording

MASKS = {"video+audio": 4.0, "video": 9.0, "audio": 12.0, "video+audio+commentary": 3.0}  # widest error of each


def calibration() -> dict:
    """A table whose errors rise evenly to those of `MASKS`; the training scores are spread over 0 to 100."""
    residuals = {name: [largest * (number + 1) / 99 for number in range(99)] for name, largest in MASKS.items()}
    return {
        "split": "validation",
        "masks": {name: {"score": {"samples": 200, "residuals": values}} for name, values in residuals.items()},
        "training_scores": {"score": {"mean": 55.0, "quantiles": [float(each) for each in range(101)]}},
    }


@pytest.fixture(scope="session")
def dive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dives")
    return write_recording(folder / "dive.mp4", moving_pictures(40), codec="libx264", sound=tone(1.6))


@pytest.fixture(scope="session")
def model_folder(save_language_model, dive, tmp_path_factory) -> Path:
    language_model = save_language_model(tmp_path_factory.mktemp("language_model"))
    folder = tmp_path_factory.mktemp("model") / "tiny-dives"
    model = LimssrForScoreRegression.from_language_model(
        language_model,
        modalities={"video": 386, "audio": 84, "commentary": "text"},
        score_ranges=[100.0],
        calibration=calibration(),
    )
    model.save_pretrained(folder)
    processor = LimssrProcessor.from_config(
        model.config, AutoTokenizer.from_pretrained(language_model), recipe="classic"
    )
    processor.save_pretrained(folder)
    (folder / "example").mkdir()
    shutil.copy(dive, folder / "example" / "first.mp4")
    return folder
