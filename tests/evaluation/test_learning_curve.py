"""The learning curve is drawn from the trainer's history, whatever of it is there."""

import matplotlib.image
import pytest

from limssr.training.evaluation.figures import save_curve

HISTORY = [
    {"epoch": 1.0, "regression_loss": 0.03, "consistency_loss": 0.01, "separation_loss": 0.2, "loss": 0.5},
    {"epoch": 1.0, "eval_spearman": 0.5, "eval_mse": 200.0, "eval_video_spearman": 0.4, "eval_audio_spearman": 0.6},
    {"epoch": 2.0, "regression_loss": 0.02, "consistency_loss": 0.01, "separation_loss": 0.1, "loss": 0.4},
    {"epoch": 2.0, "eval_spearman": None, "eval_mse": 150.0},
]


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], []])
def test_a_picture_is_written(history, tmp_path):
    save_curve(history, tmp_path / "curve.png", "a run")
    picture = matplotlib.image.imread(tmp_path / "curve.png")
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 0.01
