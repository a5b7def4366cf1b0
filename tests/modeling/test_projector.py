"""Batch norm over clips: torch's own on the real positions, and well-behaved where torch's is not defined."""

import pytest
import torch
from torch import nn

from limssr import LimssrForScoreRegression
from limssr.modeling_limssr.projector_limssr import ClipBatchNorm, LimssrProjector


def pair(size=6):
    torch.manual_seed(0)
    ours, reference = ClipBatchNorm(size), nn.BatchNorm1d(size)
    state = {name: torch.rand_like(value) + 0.5 for name, value in ours.state_dict().items() if value.dim()}
    for norm in (ours, reference):
        norm.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    return ours, reference


def test_it_is_batch_norm_on_a_list_of_clips():
    ours, reference = pair()
    for count in (2, 5, 40):
        clips = torch.randn(count, 6) * 3 + 1
        first, second = clips.clone().requires_grad_(), clips.clone().requires_grad_()
        torch.testing.assert_close(ours(first), reference(second))
        ours(first).square().sum().backward()
        reference(second).square().sum().backward()
        torch.testing.assert_close(first.grad, second.grad)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(clips), reference.eval()(clips))


def test_statistics_are_those_of_the_real_positions_only(tiny_model, tiny_processor, tiny_features):
    projector = tiny_model.model.projectors["video"]
    clips = torch.cat([tiny_features["video"][0], tiny_features["video"][2]])
    hidden = projector.linear_1(clips)
    expected = nn.BatchNorm1d(hidden.shape[1])
    expected.load_state_dict(projector.norm_1.state_dict())
    expected(hidden)
    batch = tiny_processor(features=tiny_features)
    batch["video_features"][~batch["video_clip_mask"]] = float("nan")
    tiny_model.train()(**batch)
    torch.testing.assert_close(projector.norm_1.running_mean, expected.running_mean)
    torch.testing.assert_close(projector.norm_1.running_var, expected.running_var)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_clips_use_the_running_statistics_and_leave_them_alone(count):
    ours, reference = pair()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    clips = torch.randn(count, 6)
    torch.testing.assert_close(ours.train()(clips), reference.eval()(clips))
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_projector_of_no_clips_has_zero_gradients():
    projector = LimssrProjector(5, 8, dropout=0.1).train()
    projector(torch.zeros(0, 5)).sum().backward()
    for value in projector.parameters():
        assert value.grad is not None
        assert not value.grad.any()


def test_a_modality_that_nobody_has_gets_zero_gradients_and_keeps_its_statistics(
    tiny_config, tiny_processor, tiny_features
):
    tiny_config.language_model_training = "full"
    model = LimssrForScoreRegression(tiny_config).train()
    projector = model.model.projectors["flow"]
    before = {name: value.clone() for name, value in projector.named_buffers()}
    batch = tiny_processor(features=tiny_features | {"flow": [None] * 3}, labels=[1, 2, 3])
    model(**batch).loss.backward()
    for name, value in model.named_parameters():
        if value.requires_grad:
            assert value.grad is not None, name
    assert not any(value.grad.any() for value in projector.parameters())
    for name, value in projector.named_buffers():
        assert torch.equal(value, before[name])


def test_a_frozen_batch_norm_is_a_constant_map():
    torch.manual_seed(0)
    norm = ClipBatchNorm(3).requires_grad_(False)
    norm.running_mean.normal_()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    clips = torch.randn(5, 3)
    assert torch.equal(norm.train()(clips), norm.eval()(clips))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
