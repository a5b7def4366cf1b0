"""Long performances: cropping is said, and windows score all of their clips."""

import logging

import numpy as np
import pytest
import torch

from limssr import LimssrConfig, LimssrProcessor
from limssr.processing.inputs_limssr import split_clips

SIZES = {"video": 16, "audio": 12, "flow": 8}


def clips(count: int, name: str) -> torch.Tensor:
    """Clips that hold their own number."""
    return torch.arange(count)[:, None].expand(-1, SIZES[name]).float()


def numbers(array) -> list[float]:
    return array[:, 0].tolist()


def test_what_is_cropped_is_counted_and_said(tiny_processor, caplog):
    features = {"video": [clips(40, "video"), clips(12, "video"), clips(13, "video")]}
    with caplog.at_level(logging.WARNING, logger="transformers"):
        tiny_processor(features={"video": [clips(12, "video")]})
        assert not caplog.records
        tiny_processor(features=features)
        tiny_processor(features=features)
    assert [record.message.split(" clips in all")[0] for record in caplog.records] == [
        "1 of 2 feature arrays so far had more than max_clips=12 clips and were cropped, by 28",
        "2 of 4 feature arrays so far had more than max_clips=12 clips and were cropped, by 29",
        "4 of 7 feature arrays so far had more than max_clips=12 clips and were cropped, by 58",
    ]
    assert "predict --windows" in caplog.text


def test_random_crops_of_training_are_said_once(tiny_processor, caplog):
    with caplog.at_level(logging.WARNING, logger="transformers"):
        for _ in range(4):
            tiny_processor(features={"video": [clips(40, "video")]}, crop="random")
    assert len(caplog.records) == 1


def test_windows_share_the_time_of_all_modalities(tiny_processor):
    features = {
        "video": [clips(30, "video"), clips(12, "video"), None],
        "audio": [clips(10, "audio").numpy(), None, clips(25, "audio")],
        "flow": [clips(2, "flow").tolist(), None, None],
    }
    windows, samples = tiny_processor.split_windows(features)
    assert samples == [0, 0, 0, 1, 2, 2, 2]
    assert [numbers(array) for array in windows["video"][:4]] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 30)),
        list(range(12)),
    ]
    assert [numbers(array) for array in windows["audio"][:3]] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert [numbers(array) for array in windows["flow"][:3]] == [[0], [0], [1]]
    assert windows["video"][4:] == [None] * 3
    assert windows["audio"][3] is None
    assert numbers(torch.cat(windows["audio"][4:])) == list(range(25))
    assert tiny_processor(features=windows).input_ids.shape[0] == 7


@pytest.mark.parametrize("count", range(1, 60, 7))
def test_windows_hold_every_clip_once_and_never_too_many(count):
    for limit in (1, 4, 12):
        windows = split_clips(clips(count, "video"), -(-count // limit))
        assert max(map(len, windows)) <= limit
        assert max(map(len, windows)) - min(map(len, windows)) <= 1
        assert numbers(torch.cat(windows)) == list(range(count))


def test_every_window_has_the_whole_text(tiny_text_config, tiny_tokenizer):
    config = LimssrConfig(text_config=tiny_text_config, modalities={"video": 16, "commentary": "text"})
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, max_clips=12)
    windows, samples = processor.split_windows({"video": [clips(24, "video"), None], "commentary": ["a", "b"]})
    assert windows["commentary"] == ["a", "a", "b"]
    assert samples == [0, 0, 1]


def test_a_mistake_names_sample_and_modality(tiny_processor):
    with pytest.raises(ValueError, match=r"sample 'x', modality 'video': expected shape \[clips, 16\], got \[2, 3\]"):
        tiny_processor.split_windows({"video": [np.ones((2, 3))]}, sample_ids=["x"])
