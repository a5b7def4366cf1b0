"""The best attainable figures are exact, and what is drawn follows from the seed."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression

from limssr.training.data import load
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import all_subsets, subset_name
from limssr.training.data.synthetic import Synthetic

SAMPLES = 20000


@pytest.fixture(scope="module")
def dataset() -> Synthetic:
    return Synthetic(samples_train=2000, samples_test=SAMPLES, seed=5)


@pytest.fixture(scope="module")
def loaded(dataset):
    return dataset.load()


def present(mask, modalities):
    return [name for name, bit in zip(modalities, mask, strict=True) if bit]


def mean_clips(split, modalities) -> dict[str, np.ndarray]:
    rows = list(MaskedDataset(split, modalities, [(1,) * len(modalities)] * len(split)))
    return {name: np.stack([row[name].mean(axis=0) for row in rows]) for name in modalities}  # (samples, dim)


@pytest.fixture(scope="module")
def pooled(loaded):
    return {name: mean_clips(split, list(loaded.modalities)) for name, split in loaded.splits.items()}


def posterior_mean(dataset: Synthetic, features: dict[str, np.ndarray]) -> float:
    """Score expected by a Bayesian who knows how the features (clips, dim) were generated."""
    weights = {name: dataset.noise[name] ** -2 for name in features}
    observed = {name: float(np.mean(clips @ dataset.directions[name])) for name, clips in features.items()}
    latent = sum(weights[name] * observed[name] for name in features) / (1 + sum(weights.values()))
    return 50 + 10 * latent


@pytest.mark.parametrize("mask", all_subsets(3))
def test_the_bayes_predictor_reaches_the_closed_form(dataset, loaded, pooled, mask):
    names = present(mask, loaded.modalities)
    scores = np.array(loaded.splits["test"]["score"])
    predicted = np.array(
        [posterior_mean(dataset, {name: pooled["test"][name][i][None] for name in names}) for i in range(SAMPLES)]
    )
    best = loaded.best_attainable[mask]
    assert spearmanr(predicted, scores)[0] == pytest.approx(best["spearman"], abs=0.012)
    assert np.mean((predicted - scores) ** 2) == pytest.approx(best["mse"], rel=0.04)
    assert np.mean(np.abs(predicted - scores)) == pytest.approx(best["mae"], rel=0.03)


@pytest.mark.parametrize("mask", all_subsets(3))
def test_no_linear_predictor_beats_the_closed_form_and_a_fitted_one_comes_near(loaded, pooled, mask):
    names = present(mask, loaded.modalities)
    train, test = (np.concatenate([pooled[split][name] for name in names], axis=1) for split in ("train", "test"))
    predicted = LinearRegression().fit(train, loaded.splits["train"]["score"][:]).predict(test)
    error = np.mean((predicted - np.array(loaded.splits["test"]["score"])) ** 2)
    best = loaded.best_attainable[mask]["mse"]
    assert 0.96 * best < error < 1.08 * best


def test_more_modalities_are_better_and_masks_differ_clearly(loaded):
    best = {
        subset_name(mask, list(loaded.modalities)): value["spearman"] for mask, value in loaded.best_attainable.items()
    }
    assert best["video+audio+flow"] == pytest.approx(0.944, abs=0.005)
    assert best["video"] > best["flow"] + 0.04 > best["audio"] + 0.1
    assert best["video+audio+flow"] == max(best.values())


def test_the_same_seed_gives_the_same_data_and_another_does_not():
    first, again, other = (load("synthetic", samples_train=20, samples_test=5, seed=seed) for seed in (1, 1, 2))
    assert first.splits["train"].to_dict() == again.splits["train"].to_dict()
    assert first.splits["test"].to_dict() == again.splits["test"].to_dict()
    assert first.splits["train"]["score"][:] != other.splits["train"]["score"][:]
    assert first.best_attainable == other.best_attainable


def test_training_data_does_not_depend_on_the_size_of_the_test_set():
    small, large = (load("synthetic", samples_train=20, samples_test=size) for size in (1, 50))
    assert small.splits["train"].to_dict() == large.splits["train"].to_dict()


def test_clip_counts_and_sizes_are_those_asked_for():
    data = load(
        "synthetic",
        samples_train=200,
        samples_test=1,
        modalities={"skeleton": 5, "imu": 1},
        noise={"skeleton": 1.0, "imu": 0.5},
        clips={"skeleton": (1, 4), "imu": (2, 2)},
    )
    rows = data.splits["train"]
    assert {len(clips) for clips in rows["skeleton"]} == {1, 2, 3, 4}
    assert {len(clips) for clips in rows["imu"]} == {2}
    assert {len(clip) for clips in rows["skeleton"] for clip in clips} == {5}
    assert data.modalities == {"skeleton": 5, "imu": 1}
    assert data.max_clips == 4
    assert set(data.best_attainable) == {(1, 1), (1, 0), (0, 1)}
    assert rows["sample_id"][:2] == ["train_000000", "train_000001"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples_test": 0}, "samples_test is 0"),
        ({"modalities": {"skeleton": 4}}, "'skeleton' needs an entry"),
        ({"noise": {"video": 0.0, "audio": 1.0, "flow": 1.0}}, "'video'.*noise 0.0"),
        ({"clips": {"video": (3, 2), "audio": (1, 1), "flow": (1, 1)}}, "'video'.*clips 3 to 2"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        load("synthetic", **options)


def test_an_unknown_dataset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'fs2000', known: finediving, fisv, .*synthetic"):
        load("fs2000")
