"""Contributions of clips: closed forms on a model that is a linear map, and what holds for any model."""

import sys

import numpy as np
import pytest
import torch

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training.explanation.explanation import ClipContributions, explain
from limssr.training.explanation.time import mean_clip, occlude

RANGE = 100.0


@pytest.fixture
def linear_model(tiny_config):
    """score = 100 sigmoid(w (mean clip of the video - mean of the training)), by the linear shortcut alone."""
    torch.manual_seed(0)
    tiny_config.linear_shortcut = True
    model = LimssrForScoreRegression(tiny_config).eval()
    with torch.no_grad():
        for path in (model.reasoning_path, model.cross_modal_path):
            path.score_head[-1].weight.zero_()
            path.score_head[-1].bias.zero_()
        model.linear_shortcut.weight[:, :16] = torch.randn(16) / 4
        model.linear_shortcut.norms["video"].mean[:16] = torch.randn(16)
    return model


@pytest.fixture
def clips():
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def linear_score(model, clips: torch.Tensor) -> torch.Tensor:
    norm = model.linear_shortcut.norms["video"]
    pooled = (clips.mean(0) - norm.mean[:16]) / (norm.variance[:16] + 1e-5).sqrt()
    return RANGE * (pooled @ model.linear_shortcut.weight[0, :16]).sigmoid()


@torch.no_grad()
def test_occlusion_has_its_closed_form(linear_model, tiny_tokenizer, clips):
    processor = LimssrProcessor.from_config(linear_model.config, tiny_tokenizer)
    found = explain(linear_model, processor=processor, features={"video": clips}, method="both").clips["video"]
    mean = linear_model.linear_shortcut.norms["video"].mean[:16]
    for number in range(len(clips)):
        occluded = clips.clone()
        occluded[number] = mean
        expected = linear_score(linear_model, clips) - linear_score(linear_model, occluded)
        assert found.occlusion[number, 0] == pytest.approx(expected.item(), abs=1e-4)
    # Along the path the logit grows evenly, so each clip has its share of it.
    shares = (clips - mean) @ linear_model.linear_shortcut.weight[0, :16]
    total = linear_score(linear_model, clips) - RANGE / 2
    np.testing.assert_allclose(found.gradients[:, 0], (total * shares / shares.sum()).numpy(), atol=1e-3)
    assert found.agreement[0] == pytest.approx(1.0)


def test_gradients_add_up_to_the_way_from_mean_clips(tiny_model, tiny_processor, tiny_features):
    sample = {name: entries[0] for name, entries in tiny_features.items()}
    found = explain(tiny_model, processor=tiny_processor, features=sample, method="gradients").clips
    flat = {name: mean_clip(tiny_model, name).expand(len(clips), -1) for name, clips in sample.items()}
    scores = [
        explain(tiny_model, processor=tiny_processor, features=each, method=None).scores for each in (sample, flat)
    ]
    total = sum(clips.gradients.sum(axis=0) for clips in found.values())
    np.testing.assert_allclose(total, scores[0] - scores[1], atol=0.05)


@torch.no_grad()
def test_the_mean_clip_is_what_the_projector_takes_for_the_mean(tiny_model):
    for name, projector in tiny_model.model.projectors.items():
        found = projector.linear_1(mean_clip(tiny_model, name))
        weight = projector.linear_1.weight.numpy()
        wanted = (projector.norm_1.running_mean - projector.linear_1.bias).numpy()
        expected = weight @ np.linalg.pinv(weight) @ wanted + projector.linear_1.bias.numpy()
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_a_mean_clip_contributes_nothing(tiny_model, tiny_processor, tiny_features):
    clips = tiny_features["video"][0].clone()
    clips[2] = mean_clip(tiny_model, "video")
    found = explain(tiny_model, processor=tiny_processor, features={"video": clips}, method="both").clips["video"]
    assert found.occlusion[2, 0] == pytest.approx(0, abs=1e-4)
    assert found.gradients[2, 0] == pytest.approx(0, abs=1e-4)


def test_batches_make_no_difference(tiny_model, tiny_processor, tiny_features):
    inputs = tiny_processor(features={name: entries[:1] for name, entries in tiny_features.items()})
    one, all_at_once = (occlude(tiny_model, inputs, "video", 5, batch_size) for batch_size in (1, 16))
    np.testing.assert_allclose(one, all_at_once, atol=1e-4)


def test_padding_is_neither_occluded_nor_counted(tiny_model, tiny_tokenizer, tiny_features):
    processor = LimssrProcessor.from_config(tiny_model.config, tiny_tokenizer, max_clips=12, pad_to_max_clips=True)
    clips = tiny_features["video"][0]
    found = explain(tiny_model, processor=processor, features={"video": clips}, method="both").clips["video"]
    assert found.occlusion.shape == found.gradients.shape == (5, 1)


def test_without_captum_occlusion_works_and_gradients_say_what_to_install(
    tiny_model, tiny_processor, tiny_features, monkeypatch
):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    sample = {"video": tiny_features["video"][0]}
    assert explain(tiny_model, processor=tiny_processor, features=sample).clips["video"].agreement is None
    with pytest.raises(ModuleNotFoundError, match=r"pip install captum, or 'limssr\[explain\]'"):
        explain(tiny_model, processor=tiny_processor, features=sample, method="gradients")


def test_agreement_is_a_rank_correlation():
    one, other = np.array([[1.0, 1], [2, 1], [3, 1]]), np.array([[10.0, 1], [20, 2], [300, 3]])
    agreement = ClipContributions(0, None, one, other).agreement
    assert agreement[0] == 1
    assert np.isnan(agreement[1])
    assert ClipContributions(0, None, one[:1], other[:1]).agreement is None
