"""Explanations: they add up, equal what scoring says, and see nothing that is hidden."""

import numpy as np
import pytest
import torch

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.training.explanation.explanation import explain

METHODS = ["occlusion", "gradients", "both"]


@pytest.fixture
def sample(tiny_features):
    return {name: entries[0] for name, entries in tiny_features.items()}


@pytest.fixture
def explained(tiny_model, tiny_processor, sample):
    return explain(tiny_model, processor=tiny_processor, features=sample, method="both")


@torch.no_grad()
def score(model, processor, sample) -> np.ndarray:
    return model(**processor(features={name: [value] for name, value in sample.items()})).scores[0].numpy()


def test_contributions_add_up_to_the_score(tiny_model, tiny_processor, sample, explained):
    np.testing.assert_allclose(explained.scores, score(tiny_model, tiny_processor, sample), rtol=1e-5)
    total = explained.baseline + sum(explained.contributions.values())
    np.testing.assert_allclose(total, explained.scores, atol=1e-9)
    assert explained.used == list(sample)
    assert len(explained.subset_scores) == 8


def test_every_subset_has_the_score_of_its_own_pass(tiny_model, tiny_processor, sample, explained):
    for subset, value in explained.subset_scores.items():
        if subset:
            only = {name: sample[name] if name in subset else None for name in sample}
            np.testing.assert_allclose(value, score(tiny_model, tiny_processor, only), rtol=1e-4)
    gone = explained.subset_scores[frozenset(sample) - {"audio"}]
    np.testing.assert_allclose(explained.leave_one_out["audio"], explained.scores - gone)


def test_without_calibration_nothing_is_known_of_the_training(explained):
    assert (explained.baseline_name, explained.baseline.tolist()) == ("middle of the scale", [50.0])
    assert explained.interval is None
    assert explained.sufficient_evidence is None


def test_a_folder_brings_its_processor(tiny_model, tiny_processor, sample, explained, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    by_name = explain(tmp_path, features=sample)
    by_model = explain(LimssrForScoreRegression.from_pretrained(tmp_path), features=sample)
    for other in (by_name, by_model):
        np.testing.assert_allclose(other.clips["video"].occlusion, explained.clips["video"].occlusion, atol=1e-3)
        assert other.origin["model"] == tmp_path.name  # a page says no place of a machine
    assert explained.origin["model"] == "unnamed"


@pytest.mark.parametrize("method", METHODS)
def test_hidden_values_change_nothing(tiny_model, tiny_processor, sample, method):
    hidden = {**sample, "audio": torch.full((4, 12), torch.nan)}
    found = [
        explain(tiny_model, processor=tiny_processor, features=features, without=without, method=method)
        for features, without in ((hidden, ["audio"]), ({**sample, "audio": None}, []))
    ]
    assert found[0].used == found[1].used == ["video", "flow"]
    assert found[0].missing == ["audio"]
    np.testing.assert_array_equal(*(each.scores for each in found))
    for name in ("video", "flow"):
        np.testing.assert_array_equal(*(each.contributions[name] for each in found))
        np.testing.assert_array_equal(*(each.clips[name].values for each in found))


def test_cropped_clips_keep_their_times(tiny_model, tiny_processor, sample):
    long = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    times = np.stack([np.arange(20), np.arange(20) + 1.0], axis=1)
    found = explain(tiny_model, processor=tiny_processor, features={"video": long}, times={"video": times})
    clips = found.clips["video"]
    assert clips.first == 4
    np.testing.assert_array_equal(clips.times, times[4:16])
    middle = explain(tiny_model, processor=tiny_processor, features={"video": long[4:16]})
    np.testing.assert_array_equal(clips.values, middle.clips["video"].values)
    assert middle.clips["video"].times is None


def test_explaining_leaves_the_model_as_it_was(tiny_model, tiny_processor, sample):
    tiny_model.train()
    weights = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    explain(tiny_model, processor=tiny_processor, features=sample, method="both")
    assert tiny_model.training
    assert all(torch.equal(value, weights[name]) for name, value in tiny_model.state_dict().items())
    assert all(value.grad is None for value in tiny_model.parameters())


def test_several_scores_and_texts(tiny_text_config, tiny_tokenizer):
    modalities, names = {"video": 16, "commentary": "text"}, ["tes", "pcs"]
    config = LimssrConfig(
        text_config=tiny_text_config, modalities=modalities, score_names=names, score_ranges=[100.0, 10.0]
    )
    model = LimssrForScoreRegression(config).eval()
    processor = LimssrProcessor.from_config(config, tiny_tokenizer)
    features = {"video": torch.randn(3, 16), "commentary": "a fine dive"}
    found = explain(model, processor=processor, features=features, method="both")
    assert found.clips.keys() == {"video"}
    assert found.clips["video"].values.shape == (3, 2)
    assert found.clips["video"].agreement.shape == (2,)
    np.testing.assert_allclose(found.baseline + sum(found.contributions.values()), found.scores)
    only_text = explain(model, processor=processor, features={"commentary": "a fine dive"}, method="both")
    assert only_text.clips == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": {"smell": None}}, "unknown modality 'smell'"),
        ({"features": {"video": None}}, "no modality is given"),
        ({"features": {"video": torch.zeros(2, 16)}, "without": ["sound"]}, "unknown modality 'sound'"),
        ({"features": {"video": torch.zeros(2, 16)}, "method": "guess"}, "method is 'guess'"),
        ({"recording": "dive.mp4"}, "no recipe"),
        ({"features": {"video": torch.full((2, 16), torch.nan)}}, "sample 'sample'.*NaN"),
    ],
)
def test_bad_input_is_refused_in_words(tiny_model, tiny_processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        explain(tiny_model, processor=tiny_processor, **arguments)
