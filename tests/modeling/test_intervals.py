"""Intervals are looked up by mask and level; without a calibration there is none, and the model says so."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr import intervals_limssr
from limssr.modeling_limssr.intervals_limssr import find_intervals
from tests.helpers.models import make_calibration

MASKS = {"video+audio+flow": 1.0, "audio": 2.0}


@pytest.fixture
def calibrated(tiny_model):
    tiny_model.config.calibration = make_calibration(["score"], MASKS, widest=100.0)
    return tiny_model


def test_an_interval_is_the_score_and_the_quantile_of_its_mask_on_both_sides(calibrated, batch):
    for level, rank in ((0.5, 50), (0.9, 90), (0.99, 99), (0.905, 91)):
        with torch.inference_mode():
            outputs = calibrated(**batch, level=level)
        scores = outputs.scores
        for sample, width in ((0, 1.0), (1, 2.0)):
            expected = torch.stack([scores[sample] - rank / 100 * width, scores[sample] + rank / 100 * width], -1)
            torch.testing.assert_close(outputs.interval[sample], expected)
    assert outputs.sufficient_evidence.tolist() == [[True], [True], [False]]


def test_the_default_level_is_90_percent(calibrated, batch):
    with torch.inference_mode():
        assert torch.equal(calibrated(**batch).interval, calibrated(**batch, level=0.9).interval)


def test_a_mask_that_was_not_calibrated_has_the_whole_range_and_no_evidence(calibrated, batch):
    with torch.inference_mode():
        outputs = calibrated(**batch)
    assert outputs.interval[2].tolist() == [[0.0, 100.0]]
    assert outputs.sufficient_evidence[2].tolist() == [False]


def test_too_few_samples_for_a_level_have_the_whole_range_and_no_evidence(calibrated, batch):
    residuals = calibrated.config.calibration["masks"]["audio"]["score"]["residuals"]
    residuals[90:] = [None] * 9
    with torch.inference_mode():
        below, above = (calibrated(**batch, level=level) for level in (0.9, 0.95))
    assert [below.sufficient_evidence[1].item(), above.sufficient_evidence[1].item()] == [True, False]
    assert below.interval[1].tolist() != above.interval[1].tolist() == [[0.0, 100.0]]


def test_an_interval_ends_where_the_score_range_ends_and_a_score_that_is_no_number_has_none(tiny_config):
    tiny_config.calibration = make_calibration(["score"], {"audio": 20.0}, widest=100.0)
    scores, mask = torch.tensor([[3.0], [99.0], [math.nan]]), torch.tensor([[False, True, False]] * 3)
    interval, sufficient = find_intervals(tiny_config, scores, mask, 0.5)
    torch.testing.assert_close(interval[:2], torch.tensor([[[0.0, 13.0]], [[89.0, 100.0]]]))
    assert interval[2].isnan().all()
    assert sufficient.tolist() == [[True], [True], [False]]


def test_evidence_is_insufficient_where_the_training_scores_alone_are_as_narrow(tiny_config):
    tiny_config.calibration = make_calibration(["score"], {"audio": 30.0}, widest=60.0)
    scores, mask = torch.tensor([[50.0]]), torch.tensor([[False, True, False]])
    assert not find_intervals(tiny_config, scores, mask, 0.9)[1].item()  # 54 wide, as 90 % of 0..60
    tiny_config.calibration = make_calibration(["score"], {"audio": 29.9}, widest=60.0)
    assert find_intervals(tiny_config, scores, mask, 0.9)[1].item()


def test_features_of_hidden_modalities_never_change_an_interval(calibrated, batch):
    before = calibrated(**batch).interval[1]  # audio alone is there
    for name in ("video_features", "flow_features"):
        batch[name][1] = 1e6
    assert torch.equal(calibrated(**batch).interval[1], before)


def test_without_a_calibration_there_is_no_interval_and_a_message_says_how_to_get_one(tiny_model, batch, caplog):
    outputs = tiny_model(**batch)
    assert [outputs.interval, outputs.sufficient_evidence] == [None, None]
    assert not caplog.records
    intervals_limssr.logger.warning_once.cache_clear()
    with caplog.at_level("WARNING"):
        assert tiny_model(**batch, level=0.8).interval is None
    assert "limssr calibrate MODEL DATA" in caplog.text


@pytest.mark.parametrize("level", [0.0, 0.49, 0.995, 90, math.nan])
def test_an_impossible_level_is_refused(tiny_model, batch, level):
    with pytest.raises(ValueError, match=r"allowed are levels from 0.5 to 0.99"):
        tiny_model(**batch, level=level)


def test_the_table_survives_both_forms_of_a_checkpoint(tiny_language_model, tiny_features, tiny_tokenizer, tmp_path):
    modalities = {name: each[0].shape[1] for name, each in tiny_features.items()}
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, modalities=modalities).eval()
    model.config.calibration = make_calibration(["score"], {"audio": 0.1})
    batch = LimssrProcessor.from_config(model.config, tiny_tokenizer)(features=tiny_features)
    for form in ("full", "adapter"):
        model.save_pretrained(tmp_path / form, form=form)
        loaded = LimssrForScoreRegression.from_pretrained(tmp_path / form, language_model=tiny_language_model).eval()
        assert loaded.config.calibration == model.config.calibration
        torch.testing.assert_close(loaded(**batch).interval, model(**batch).interval)


def test_outputs_of_training_are_as_without_a_calibration(calibrated, batch):
    outputs = calibrated(**batch, labels=torch.tensor([[10.0], [50.0], [90.0]]))
    outputs.loss.backward()
    assert not outputs.sufficient_evidence.requires_grad


def residuals(table: dict) -> list:
    return table["masks"]["audio"]["score"]["residuals"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table: table["masks"].update(smell=table["masks"]["audio"]), "mask 'smell'"),
        (lambda table: table["masks"].update({"audio+video": table["masks"]["audio"]}), "mask 'audio\\+video'"),
        (lambda table: table["masks"]["audio"].pop("score"), "limssr calibrate"),
        (lambda table: residuals(table).pop(), "residuals of audio, score"),
        (lambda table: residuals(table).reverse(), "residuals of audio, score"),
        (lambda table: residuals(table).__setitem__(0, -1.0), "residuals of audio"),
        (lambda table: residuals(table).__setitem__(98, math.inf), "residuals of audio"),
        (lambda table: residuals(table).__setitem__(3, None), "residuals of audio"),
        (
            lambda table: table["training_scores"]["score"]["quantiles"].__setitem__(100, None),
            "training scores, score",
        ),
        (lambda table: table.pop("training_scores"), "limssr calibrate"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tiny_text_config, spoil, said):
    table = make_calibration(["score"], MASKS)
    spoil(table)
    modalities = {"video": 16, "audio": 12, "flow": 8}
    with pytest.raises(StrictDataclassClassValidationError, match=said):
        LimssrConfig(text_config=tiny_text_config, modalities=modalities, calibration=table)
