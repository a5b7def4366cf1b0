"""The processor takes recordings beside features, and knows the recipe that makes them."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from limssr import LimssrConfig, LimssrProcessor

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing.recipes_limssr import ClipExtractor, Recipe
from limssr.processing.recordings_limssr import DecodingLimits, RecordingError
from tests.helpers.recordings import moving_pictures, tone, write_recording

SIZES = Recipe.load("classic").feature_sizes


@pytest.fixture
def processor(tiny_text_config, tiny_tokenizer):
    config = LimssrConfig(text_config=tiny_text_config, modalities={**SIZES, "notes": "text"}, score_ranges=[100.0])
    return LimssrProcessor.from_config(config, tiny_tokenizer, recipe="classic")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """One with picture and sound, one of picture, one of sound."""
    folder = tmp_path_factory.mktemp("recordings")
    return [
        write_recording(folder / "both.mp4", moving_pictures(30), sound=tone(1.2)),
        write_recording(folder / "silent.mp4", moving_pictures(20)),
        write_recording(folder / "dark.wav", sound=tone(0.7), sound_codec="pcm_s16le"),
    ]


def test_recordings_are_the_features_that_the_recipe_makes_of_them(processor, recordings):
    inputs = processor(recordings=[str(recordings[0]), *recordings[1:]])
    extractor = ClipExtractor("classic")
    features = {name: [] for name in SIZES}
    for recording in recordings:
        found = extractor.extract(recording)
        for name, entries in features.items():
            entries.append(found[name].features if name in found else None)
    expected = processor(features=features)
    assert inputs.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(inputs[name], values)
    assert inputs["video_clip_mask"].sum(1).tolist() == [4, 3, 0]
    assert inputs["audio_clip_mask"].sum(1).tolist() == [4, 0, 2]


def test_recordings_and_features_mix_in_a_batch(processor, recordings):
    given = np.ones((3, SIZES["audio"]), np.float32)
    inputs = processor(
        features={"audio": [given, given, None], "notes": [None, "a clean entry", "two words"]},
        recordings=[recordings[0], None, {"path": recordings[0], "start": 0.4, "end": 1.04}],
    )
    assert inputs["audio_clip_mask"].sum(1).tolist() == [3, 3, 2]
    assert inputs["video_clip_mask"].sum(1).tolist() == [4, 0, 2]
    assert torch.equal(inputs["audio_features"][0, :3], torch.ones(3, SIZES["audio"]))


def test_a_modality_is_left_out_where_that_is_said(processor, recordings):
    features = processor.extract_features(recordings[:1], without=["audio"])
    assert features["audio"] == [None]
    assert features["video"][0].shape == (4, SIZES["video"])
    with pytest.raises(RecordingError, match=r"silent\.mp4: has no audio stream to make audio of"):
        processor.extract_features(recordings[1:2], without=["video"])
    assert processor.extract_features(recordings[1:2], {"notes": ["well"]}, ["video"])["audio"] == [None]
    with pytest.raises(ValueError, match="unknown modality 'sound'"):
        processor.extract_features(recordings, without=["sound"])


def test_limits_are_those_of_the_call(processor, recordings):
    with pytest.raises(RecordingError, match="more than max_frames=5"):
        processor.extract_features(recordings[:1], limits=DecodingLimits(max_frames=5))


def test_the_recipe_is_saved_with_the_processor(processor, recordings, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.recipe_digest == processor.recipe_digest == Recipe.load("classic").digest
    assert torch.equal(
        again(recordings=recordings[:1])["video_features"], processor(recordings=recordings[:1])["video_features"]
    )


def test_a_processor_without_a_recipe_says_so(tiny_processor, recordings):
    assert tiny_processor.recipe_digest is None
    with pytest.raises(ValueError, match="this processor has no recipe"):
        tiny_processor(recordings=recordings)


def test_a_recipe_of_other_sizes_or_modalities_is_refused(tiny_config, tiny_text_config, tiny_tokenizer):
    with pytest.raises(ValueError, match="the recipe 'classic' makes 'video' of size 386, the model takes 16"):
        LimssrProcessor.from_config(tiny_config, tiny_tokenizer, recipe="classic")
    config = LimssrConfig(text_config=tiny_text_config, modalities={"imu": 6}, score_ranges=[1.0])
    with pytest.raises(ValueError, match=r"makes \['video', 'audio'\], the model takes \['imu'\]"):
        LimssrProcessor.from_config(config, tiny_tokenizer, recipe="classic")


def test_numbers_of_samples_must_agree(processor, recordings):
    with pytest.raises(ValueError, match=r"features\['notes'\] has 2 samples, recordings has 3"):
        processor(features={"notes": ["a", "b"]}, recordings=recordings)
    with pytest.raises(TypeError, match="a recording is int, expected a path"):
        processor(recordings=[5])
    for one in (str(recordings[0]), recordings[0], {"path": recordings[0]}):
        with pytest.raises(TypeError, match="expected a list of recordings, one entry a sample"):
            processor(recordings=one)


def test_a_recording_as_datasets_knows_it(processor, recordings):
    """A column of type `Video(decode=False)` has dicts of path and bytes."""
    plain = processor(recordings=recordings[:1])
    given = processor(recordings=[{"path": str(recordings[0]), "bytes": None}])
    assert torch.equal(given["video_features"], plain["video_features"])
    with pytest.raises(TypeError, match="a recording has no 'begin'; known are path, start and end"):
        processor(recordings=[{"path": recordings[0], "begin": 1}])
    with pytest.raises(TypeError, match="a recording is given as bytes; write them to a file and pass its path"):
        processor(recordings=[{"path": None, "bytes": b"..."}])
