"""`pipeline("action-quality-assessment", ...)`: recordings and features of every form, here and with a checkpoint's
own code."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset, Video
from transformers import pipeline

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing.recordings_limssr import RecordingError
from tests.helpers.models import make_calibration
from tests.helpers.recordings import moving_pictures, tone, write_recording

TASK = "action-quality-assessment"
PIPELINE_SCRIPT = """
import json, sys
from transformers import pipeline
folder, *recordings = sys.argv[1:]
scorer = pipeline("action-quality-assessment", model=folder, trust_remote_code=True)
assert type(scorer).__module__.startswith("transformers_modules")
print(json.dumps(scorer(recordings, without=["video"])))
try:
    scorer(recordings[0])
except ModuleNotFoundError as error:
    assert "pip install opencv-python-headless" in str(error)
"""


@pytest.fixture(scope="module")
def dive(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("film") / "dive.mp4", moving_pictures(30), sound=tone(1.2))


@pytest.fixture
def folder(tiny_text_config, tiny_tokenizer, tmp_path):
    """A checkpoint whose features the recipe `classic` makes."""
    torch.manual_seed(0)
    sizes = {"video": 386, "audio": 84, "notes": "text"}
    config = LimssrConfig(
        text_config=tiny_text_config, modalities=sizes, score_names=["score", "style"], score_ranges=[100.0, 10.0]
    )
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "checkpoint")
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, recipe="classic")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def scorer(folder):
    return pipeline(TASK, model=str(folder), device="cpu")


def values(scored: list[dict]) -> list[float]:
    return [entry["score"] for entry in scored]


def expected(scorer, features: dict) -> list[float]:
    with torch.no_grad():
        inputs = scorer.processor(features={name: [content] for name, content in features.items()})
        return scorer.model(**inputs).scores[0].tolist()


def test_a_recording_gives_scores_by_name(scorer, dive):
    scored = scorer(str(dive))
    assert [entry["name"] for entry in scored] == ["score", "style"]
    assert scored[0].keys() == {
        "name",
        "score",
        "reasoning_score",
        "cross_modal_score",
        "interval",
        "evidence",
        "used",
    }
    assert (scored[0]["used"], scored[0]["interval"], scored[0]["evidence"]) == (["video", "audio"], None, None)
    features = {name: entries[0] for name, entries in scorer.processor.extract_features([dive]).items()}
    assert values(scored) == pytest.approx(expected(scorer, features), abs=1e-5)
    silent = scorer(dive, without=["audio"])
    assert silent[0]["used"] == ["video"]
    assert values(silent) == pytest.approx(expected(scorer, {"video": features["video"]}), abs=1e-5)


def test_a_calibrated_model_gives_intervals_of_the_level_asked_for(scorer):
    names = scorer.model.config.score_names
    scorer.model.config.calibration = make_calibration(names, {"video": 0.1})
    clips = np.zeros((2, scorer.processor.feature_sizes["video"]), np.float32)
    for level, width in ((None, 0.09), (0.5, 0.05)):
        found = scorer({"video": clips}, level=level)
        for entry, score in zip(found, values(found), strict=True):
            assert entry["interval"] == pytest.approx([max(score - width, 0), score + width], abs=1e-5)
            assert entry["evidence"] == "sufficient"
    with pytest.raises(ValueError, match="allowed are levels from"):
        scorer({"video": clips}, level=2)
    scorer.model.config.calibration = None


def test_samples_of_every_form_score_alike(scorer, dive):
    video = np.random.default_rng(0).normal(size=(4, 386)).astype("float32")
    want = expected(scorer, {"video": video})
    column = Dataset.from_dict({"video": [video.tolist()] * 2})["video"]
    for scored in (
        scorer(video),
        scorer(torch.from_numpy(video)),
        scorer({"video": video, "audio": None}),
        scorer([{"video": video}, {"video": video}])[1],
        next(scorer({"video": video} for _ in range(2))),
        list(scorer(column))[1],
    ):
        assert values(scored) == pytest.approx(want, abs=1e-5)
    mixed = {"recording": str(dive), "audio": np.ones((2, 84), "float32"), "notes": "a clean entry", "sample_id": "x"}
    assert scorer(mixed)[0]["used"] == ["video", "audio", "notes"]
    paths = Dataset.from_dict({"film": [str(dive)] * 2})
    for column in (paths["film"], paths.cast_column("film", Video(decode=False))["film"], paths[:]["film"]):
        assert [values(scored) for scored in scorer(column, batch_size=2)] == [values(scorer(dive))] * 2
    part = scorer({"path": dive, "start": 0.32, "end": 0.64})
    assert values(part) != values(scorer(dive))


def test_batches_mix_recordings_and_features(scorer, dive):
    samples = [
        dive,
        {"video": np.ones((3, 386), "float32")},
        {"notes": "well done"},
        dive,
        np.ones((1, 84), "float32"),
    ]
    alone = [values(scorer(sample)) for sample in samples]
    for batch_size in (2, 5):
        together = [values(scored) for scored in scorer(samples, batch_size=batch_size)]
        np.testing.assert_allclose(together, alone, atol=1e-4)


def test_what_cannot_be_scored_is_named(scorer, dive, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(RecordingError, match=r"a\.mp4: the file is empty"):
        scorer(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"an array of shape \[4, 7\] fits no modality; the feature sizes are"):
        scorer(np.ones((4, 7)))
    with pytest.raises(ValueError, match="unknown modality 'sound'"):
        scorer({"sound": np.ones((4, 84))})
    with pytest.raises(ValueError, match=r"without 'sound': the modalities are \['video', 'audio', 'notes'\]"):
        scorer(np.ones((4, 84)), without=["sound"])
    with pytest.raises(TypeError, match="unknown argument 'withot'"):
        scorer(dive, withot=["audio"])
    for nothing in (5, [None], [5], [dive.read_bytes()]):
        with pytest.raises(TypeError, match=r"a sample is (int|NoneType|bytes), expected a path"):
            scorer(nothing)


def test_a_score_that_is_not_finite_is_an_error_of_its_sample(scorer):
    next(scorer.model.model.projectors["audio"].parameters()).data.fill_(torch.nan)
    video = {"video": np.zeros((3, 386), np.float32)}
    samples = [video, {"sample_id": "dive 7", "audio": np.ones((3, 84), np.float32)}]
    assert np.isfinite(scorer(video)[0]["score"])
    with pytest.raises(ValueError, match="sample 1, 'dive 7': its score is not finite"):
        scorer(samples, batch_size=2)


def test_saved_again_the_pipeline_is_the_same(scorer, folder, dive, tmp_path):
    scorer.model.save_pretrained(tmp_path / "again")
    scorer.processor.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["custom_pipelines"][TASK]["impl"] == "pipeline_limssr.ActionQualityAssessmentPipeline"
    assert (tmp_path / "again" / "pipeline_limssr.py").is_file()
    again = pipeline(TASK, model=str(tmp_path / "again"), device="cpu")
    assert values(again(dive)) == pytest.approx(values(scorer(dive)), abs=1e-5)


@pytest.mark.slow
def test_a_stranger_scores_recordings_with_pyav_alone(folder, dive, scorer, run_as_a_stranger, add_to_stranger):
    add_to_stranger("av")
    printed = run_as_a_stranger("-c", PIPELINE_SCRIPT, folder, dive, HF_HUB_OFFLINE="1")
    scored = json.loads(printed.strip().splitlines()[-1])
    assert values(scored[0]) == pytest.approx(values(scorer(dive, without=["video"])), abs=1e-5)
    assert scored[0][0]["used"] == ["audio"]
