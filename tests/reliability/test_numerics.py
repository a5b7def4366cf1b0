"""Precision, length and batch size move a score by little, and every score is finite."""

import numpy as np
import pytest
import torch

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.training.data.masks import all_subsets

SIZES = {"video": 16, "audio": 12, "flow": 8}
BOUNDS = {torch.bfloat16: 1.0, torch.float16: 0.2}  # of 100 points, for a language model in this precision


def features_of(mask, clips: int = 6) -> dict[str, list]:
    generator = np.random.default_rng(3)
    arrays = {name: generator.normal(size=(clips, size)).astype(np.float32) for name, size in SIZES.items()}
    return {name: [arrays[name] if bit else None] for name, bit in zip(SIZES, mask, strict=True)}


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_half_precision_is_close_to_float32_under_every_mask(tiny_model, tiny_processor, checkpoint, dtype):
    half = LimssrForScoreRegression.from_pretrained(checkpoint, dtype=dtype).eval()
    assert half.dtype == dtype
    for mask in all_subsets(len(SIZES)):
        inputs = tiny_processor(features=features_of(mask))
        with torch.no_grad():
            expected, found = tiny_model(**inputs).scores, half(**inputs).scores
        assert found.isfinite().all()
        assert (found - expected).abs().max() < BOUNDS[dtype], mask


@pytest.mark.slow
def test_a_sequence_of_8192_tokens_has_a_finite_score(tiny_text_config, tiny_tokenizer):
    tiny_text_config.max_position_embeddings = 16384
    config = LimssrConfig(text_config=tiny_text_config, modalities=SIZES, score_ranges=[100.0])
    torch.manual_seed(0)
    model = LimssrForScoreRegression(config).eval()
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, max_clips=8192)
    inputs = processor(features=features_of((1, 0, 0), clips=4096))
    assert inputs["input_ids"].shape[1] > 8192
    with torch.no_grad():
        assert model(**inputs).scores.isfinite().all()


def test_a_batch_of_one_trains_and_padding_alone_changes_nothing(tiny_model, tiny_processor):
    inputs = tiny_processor(features=features_of((1, 1, 1), clips=1), labels=[50.0])
    loss = tiny_model.train()(**inputs).loss
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad.isfinite().all() for value in tiny_model.parameters() if value.grad is not None)
    assert all(buffer.isfinite().all() for buffer in tiny_model.buffers() if buffer.is_floating_point())
    tiny_model.eval()
    with torch.no_grad():
        expected = tiny_model(**tiny_processor(features=features_of((1, 0, 0)))).scores
        longer = tiny_processor(
            features={"video": [features_of((1, 0, 0))["video"][0], np.ones((12, 16), np.float32)]}
        )
        longer["video_features"][0, 6:] = torch.nan  # which no score may read
        found = tiny_model(**longer).scores[:1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
