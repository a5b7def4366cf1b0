"""The best attainable figures are exact, and what is drawn follows from the seed."""

import re

import numpy as np
import pytest
from scipy.stats import norm, spearmanr
from sklearn.linear_model import LinearRegression

from limssr.training.data import load
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import all_subsets, subset_name
from limssr.training.data.synthetic import Synthetic, best_spearman

SAMPLES = 20000
DRAWS = 1_000_000
DOCUMENTED = re.findall(r"^ {8}([a-z+]+) +(0?\.\d+) +(0?\.\d+) +([\d.]+) +([\d.]+)$", Synthetic.__doc__, re.MULTILINE)


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


def posterior(dataset: Synthetic, features: dict[str, np.ndarray]) -> np.ndarray:
    """Scores expected by a Bayesian who knows how the mean clips (samples, dim) were generated."""
    precisions = {name: np.array(dataset.noise[name]) ** -2.0 for name in features}
    variance = 1 / (1 + sum(precisions.values()))  # (latents,)
    observed = sum(clips @ dataset.directions[name] * precisions[name] for name, clips in features.items())
    return 100 * norm.cdf(variance * observed / np.sqrt(1 + variance)).prod(axis=1)


@pytest.mark.parametrize("mask", all_subsets(3))
def test_the_bayes_predictor_reaches_the_best_attainable(dataset, loaded, pooled, mask):
    scores = np.array(loaded.splits["test"]["score"])
    predicted = posterior(dataset, {name: pooled["test"][name] for name in present(mask, loaded.modalities)})
    best = loaded.best_attainable[mask]
    assert spearmanr(predicted, scores)[0] == pytest.approx(best["spearman"], abs=0.01)
    assert np.mean((predicted - scores) ** 2) == pytest.approx(best["mse"], rel=0.05)


@pytest.mark.parametrize("variances", [(0.1, 0.06), (0.5, 0.2)])
def test_the_formulas_agree_with_a_million_draws(variances):
    draw = np.random.default_rng(1).normal
    means = [np.sqrt(1 - variance) * draw(size=DRAWS) for variance in variances]
    pairs = list(zip(means, variances, strict=True))
    latents = [mean + np.sqrt(variance) * draw(size=DRAWS) for mean, variance in pairs]
    predicted = 100 * np.prod([norm.cdf(mean / np.sqrt(1 + variance)) for mean, variance in pairs], axis=0)
    scores = 100 * np.prod(norm.cdf(latents), axis=0)
    stream = tuple(np.sqrt(variance / (1 - variance)) for variance in variances)  # noise that leaves these variances
    best = Synthetic(modalities={"only": 2}, noise={"only": stream}, clips={"only": (1, 1)}).best_attainable((1,))
    errors = (predicted - scores) ** 2
    assert np.mean(errors) == pytest.approx(best["mse"], abs=4 * np.std(errors) / np.sqrt(DRAWS))
    assert spearmanr(predicted, scores)[0] == pytest.approx(best["spearman"], abs=4 * 0.7 / np.sqrt(DRAWS))
    assert np.mean(predicted) == pytest.approx(25, abs=0.1)  # the posterior mean is unbiased


def test_streams_without_noise_leave_nothing_to_learn():
    assert best_spearman(1e-9, 1e-9) == pytest.approx(1, abs=1e-4)
    assert best_spearman(1 - 1e-9, 1 - 1e-9) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("mask", all_subsets(3))
def test_the_documented_figures_hold_and_no_linear_predictor_comes_near(loaded, pooled, mask):
    names, best = present(mask, loaded.modalities), loaded.best_attainable[mask]
    documented = {name: [float(value) for value in values] for name, *values in DOCUMENTED}
    spearman, linear_spearman, error, linear_error = documented["+".join(names)]
    assert (spearman, error) == (round(best["spearman"], 3), round(best["mse"], 1))
    train, test = (np.concatenate([pooled[split][name] for name in names], axis=1) for split in ("train", "test"))
    predicted = LinearRegression().fit(train, loaded.splits["train"]["score"][:]).predict(test)
    scores = np.array(loaded.splits["test"]["score"])
    assert spearmanr(predicted, scores)[0] == pytest.approx(linear_spearman, abs=0.012)
    assert 0.96 * linear_error < np.mean((predicted - scores) ** 2) < 1.08 * linear_error
    assert linear_spearman < best["spearman"] - 0.02
    assert linear_error > 1.15 * best["mse"]


def test_more_modalities_are_better_and_masks_differ_clearly(loaded):
    best = {
        subset_name(mask, list(loaded.modalities)): value["spearman"] for mask, value in loaded.best_attainable.items()
    }
    assert best["video"] > best["audio"] + 0.03 > best["flow"] + 0.06
    assert best["video+audio"] > best["audio+flow"] > best["video+flow"] > best["video"] + 0.03
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
        modalities={"skeleton": 5, "imu": 2},
        noise={"skeleton": (1.0, 0.5), "imu": (0.5, 2)},
        clips={"skeleton": (1, 4), "imu": (2, 2)},
    )
    rows = data.splits["train"]
    assert {len(clips) for clips in rows["skeleton"]} == {1, 2, 3, 4}
    assert {len(clips) for clips in rows["imu"]} == {2}
    assert {len(clip) for clips in rows["skeleton"] for clip in clips} == {5}
    assert data.modalities == {"skeleton": 5, "imu": 2}
    assert data.max_clips == 4
    assert set(data.best_attainable) == {(1, 1), (1, 0), (0, 1)}
    assert rows["sample_id"][:2] == ["train_000000", "train_000001"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples_test": 0}, "samples_test is 0"),
        ({"modalities": {"skeleton": 4}}, "'skeleton' needs an entry"),
        ({"noise": {"video": (1.0, 0.0), "audio": (1, 1), "flow": (1, 1)}}, r"'video'.*noise \[1.0, 0.0\]"),
        ({"noise": {"video": 1.0, "audio": (1, 1), "flow": (1, 1)}}, "'video'.*noise 1.0.*two noises above 0"),
        ({"modalities": {"video": 1}}, "'video' has feature size 1"),
        ({"clips": {"video": (3, 2), "audio": (1, 1), "flow": (1, 1)}}, "'video'.*clips 3 to 2"),
    ],
)
def test_impossible_options_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        load("synthetic", **options)


def test_an_unknown_dataset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'fs2000', known: finediving, fisv, .*synthetic"):
        load("fs2000")
