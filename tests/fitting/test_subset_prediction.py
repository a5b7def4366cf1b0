"""All masks at once give the scores of one mask after the other, with every feature read and projected once."""

import numpy as np
import pytest
import torch

from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import all_subsets
from limssr.training.prediction.predictor import predict
from limssr.training.prediction.subset_prediction import predict_masks
from tests.helpers.feature_rows import SIZES, make_dataset

MASKS = all_subsets(len(SIZES))


@pytest.fixture
def dataset():
    """Every third sample lacks something."""
    return make_dataset(10)


def shows(dataset, mask, names=tuple(SIZES)) -> np.ndarray:
    """Which samples have all that the mask shows."""
    shown = [name for name, bit in zip(names, mask, strict=True) if bit]
    return np.array([all(row[name] is not None for name in shown) for row in dataset])


def one_mask_after_the_other(model, processor, dataset, mask):
    rows = np.flatnonzero(shows(dataset, mask))
    return rows, predict(model, processor, MaskedDataset(dataset.select(rows), list(SIZES), [mask] * len(rows)))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_every_mask_equals_its_own_pass(tiny_model, tiny_processor, dataset, batch_size):
    wanted = {mask: shows(dataset, mask) for mask in MASKS}
    found = predict_masks(tiny_model, tiny_processor, dataset, wanted, list(SIZES), batch_size)
    assert list(found) == MASKS
    for mask in MASKS:
        rows, expected = one_mask_after_the_other(tiny_model, tiny_processor, dataset, mask)
        for name in ("scores", "reasoning_scores", "cross_modal_scores"):
            np.testing.assert_allclose(found[mask][name][rows], getattr(expected, name), atol=1e-3)
            assert np.isnan(np.delete(found[mask][name], rows, axis=0)).all()


def test_masks_name_some_modalities_in_any_order(tiny_model, tiny_processor, dataset):
    wanted = {(0, 1): np.arange(len(dataset)) < 4}
    found = predict_masks(tiny_model, tiny_processor, dataset, wanted, ["flow", "video"])[0, 1]["scores"]
    _, expected = one_mask_after_the_other(tiny_model, tiny_processor, dataset.select(range(4)), (1, 0, 0))
    np.testing.assert_allclose(found[:4], expected.scores, atol=1e-3)
    assert np.isnan(found[4:]).all()


def test_each_clip_is_projected_once_and_what_no_mask_shows_never(tiny_model, tiny_processor, dataset):
    projected, scored = dict.fromkeys(SIZES, 0), []

    def count(name):
        return lambda module, args: projected.__setitem__(name, projected[name] + len(args[0]))

    hooks = [tiny_model.model.projectors[name].register_forward_pre_hook(count(name)) for name in SIZES]
    hooks.append(
        tiny_model.register_forward_pre_hook(
            lambda module, args, kwargs: scored.append(len(kwargs["input_ids"])), with_kwargs=True
        )
    )
    wanted = {mask: shows(dataset, mask) for mask in MASKS if not mask[2]}
    predict_masks(tiny_model, tiny_processor, dataset, wanted, list(SIZES), batch_size=4)
    for hook in hooks:
        hook.remove()
    clips = {name: sum(min(len(cell), 12) for cell in dataset[name][:] if cell is not None) for name in SIZES}
    assert projected == clips | {"flow": 0}
    assert sum(scored) == sum(chosen.sum() for chosen in wanted.values())


@torch.no_grad()
def test_projected_clips_of_another_width_are_refused(tiny_model, tiny_processor, tiny_features):
    batch = dict(tiny_processor(features=tiny_features))
    batch["video_projected"] = batch.pop("video_features")
    with pytest.raises(ValueError, match=r"video_projected has shape \(3, 9, 16\), expected \(3, clips, 32\)"):
        tiny_model(**batch)
