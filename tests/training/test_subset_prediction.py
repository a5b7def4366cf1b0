"""All masks at once give the scores of one mask after the other, with every feature read and projected once."""

import numpy as np
import pytest
import torch

from limssr.training.missingness import MaskedDataset, all_subsets
from limssr.training.prediction import predict
from limssr.training.subset_prediction import predict_subsets

from .test_sequence_lengths import SIZES, make_dataset

MASKS = all_subsets(len(SIZES))


@pytest.fixture
def dataset():
    """Every third sample lacks something."""
    return make_dataset(10)


def one_mask_after_the_other(model, processor, dataset, mask):
    rows = [
        row
        for row in range(len(dataset))
        if any(bit and dataset[row][name] is not None for name, bit in zip(SIZES, mask, strict=True))
    ]
    return predict(model, processor, MaskedDataset(dataset.select(rows), list(SIZES), [mask] * len(rows)))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_every_mask_equals_its_own_pass(tiny_model, tiny_processor, dataset, batch_size):
    found = predict_subsets(tiny_model, tiny_processor, dataset, MASKS, list(SIZES), batch_size)
    for mask, predictions in zip(MASKS, found, strict=True):
        expected = one_mask_after_the_other(tiny_model, tiny_processor, dataset, mask)
        assert predictions.sample_ids == expected.sample_ids
        assert np.array_equal(predictions.visible, expected.visible)
        for name in ("score", "score_main", "score_aux"):
            np.testing.assert_allclose(getattr(predictions, name), getattr(expected, name), atol=1e-3)


def test_masks_name_their_modalities_in_any_order(tiny_model, tiny_processor, dataset):
    (found,) = predict_subsets(tiny_model, tiny_processor, dataset, [(0, 1)], ["flow", "video"])
    expected = one_mask_after_the_other(tiny_model, tiny_processor, dataset, (1, 0, 0))
    np.testing.assert_allclose(found.score, expected.score, atol=1e-3)


def test_each_clip_is_projected_once_and_each_distinct_view_scored_once(tiny_model, tiny_processor, dataset):
    projected, scored = dict.fromkeys(SIZES, 0), []

    def count(name):
        return lambda module, args: projected.__setitem__(name, projected[name] + len(args[0]))

    hooks = [tiny_model.model.projectors[name].register_forward_pre_hook(count(name)) for name in SIZES]
    hooks.append(
        tiny_model.register_forward_pre_hook(
            lambda module, args, kwargs: scored.append(len(kwargs["input_ids"])), with_kwargs=True
        )
    )
    predict_subsets(tiny_model, tiny_processor, dataset, MASKS, list(SIZES), batch_size=4)
    for hook in hooks:
        hook.remove()
    clips = {name: sum(min(len(cell), 12) for cell in dataset[name][:] if cell is not None) for name in SIZES}
    assert projected == clips
    present = [sum(row[name] is not None for name in SIZES) for row in dataset]
    assert sum(scored) == sum(2**count - 1 for count in present)


@torch.no_grad()
def test_projected_clips_of_another_width_are_refused(tiny_model, tiny_processor, tiny_features):
    batch = dict(tiny_processor(features=tiny_features))
    batch["video_projected"] = batch.pop("video_features")
    with pytest.raises(ValueError, match=r"video_projected has shape \(3, 9, 16\), expected \(3, clips, 32\)"):
        tiny_model(**batch)
