"""The learning curve is drawn from the trainer's history, whatever of it is there."""

import matplotlib.image
import pytest

from limssr.training.evaluation.figures import draw_curve, save_curve

HISTORY = [
    {"step": 10, "epoch": 1.0, "regression_loss": 0.03, "consistency_loss": 0.01, "separation_loss": 0.2, "loss": 0.5},
    {
        "step": 10,
        "epoch": 1.0,
        "eval_spearman": 0.5,
        "eval_mse": 200.0,
        "eval_video_spearman": 0.4,
        "eval_audio_spearman": 0.6,
    },
    {"step": 20, "epoch": 2.0, "regression_loss": 0.02, "consistency_loss": 0.01, "separation_loss": 0.1, "loss": 0.4},
    {"step": 20, "epoch": 2.0, "eval_spearman": None, "eval_mse": 150.0},
]


def test_the_legend_covers_no_line_and_the_axes_have_whole_epochs_and_names():
    figure = draw_curve(HISTORY, kept_step=20)
    figure.draw_without_rendering()
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert axes.get_legend().get_window_extent().ymax < axes.get_window_extent().ymin
        assert axes.get_xlabel() == "epoch"
        assert axes.get_ylabel()
        assert all(tick == int(tick) for tick in axes.get_xticks())
        (kept,) = [line for line in axes.lines if line.get_label() == "checkpoint kept"]
        assert list(kept.get_xdata()) == [2.0, 2.0]


def test_a_term_that_is_zero_stays_in_the_picture():
    (axes, *_) = draw_curve([{**entry, "separation_loss": 0.0} for entry in HISTORY]).axes
    low, high = axes.get_ylim()
    assert low <= 0 < high
    assert axes.get_yscale() == "symlog"
    assert draw_curve(HISTORY).axes[0].get_yscale() == "log"


@pytest.mark.parametrize("form", ["pdf", "svg"])
def test_a_figure_is_written_in_another_format_too(form, tmp_path):
    save_curve(HISTORY, tmp_path / "curve.png", "a run", figure_format=form)
    start = {"pdf": b"%PDF", "svg": b"<?xml"}[form]
    assert (tmp_path / f"curve.{form}").read_bytes().startswith(start)
    assert {path.name for path in tmp_path.iterdir()} == {"curve.png", f"curve.{form}"}


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:1], []])
def test_a_picture_is_written(history, tmp_path):
    save_curve(history, tmp_path / "curve.png", "a run")
    picture = matplotlib.image.imread(tmp_path / "curve.png")
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 0.01
