"""Synthetic performances whose best possible prediction is known exactly."""

import math
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.legendre import leggauss
from scipy.special import ndtr, ndtri, xlogy

from .aqa_data import AqaData, build_split, feature_column
from .masks import Mask, all_subsets

SCORE_RANGE = 100.0
LATENTS = ("difficulty", "execution")
NODES = 32  # of each quadrature: with these, no Spearman changes by more than 1e-5
LARGEST_LATENT = 7.0  # standard deviations at which integrals end


@dataclass
class Synthetic:
    """Generated performances, observed through streams with different noise. There is no folder to read.

    A performance has a difficulty a and an execution b, independent and N(0, 1). As in diving, its score is their
    product, which no linear model can follow:

        score = 100 * Phi(a) * Phi(b),    Phi = cumulative distribution of N(0, 1),    range 0 to 100

    Modality m observes both, y_m = (a + noise_m[0] * N(0, 1), b + noise_m[1] * N(0, 1)), and spreads them over n_m
    clips, where n_m varies with the sample:

        clip_t = D_m (y_m + clip_noise * (e_t - mean(e))) + nuisance * v_t,    e_t ~ N(0, 1) in two dimensions

    with two fixed orthonormal directions D_m and noise v_t orthogonal to both. The clips' deviations cancel in their
    mean, so that y_m is the mean clip along D_m and nothing else carries information. Given a mask, a and b are
    therefore independent and Gaussian: variance v = 1 / (1 + S) with S = sum over its modalities of 1 / noise_m^2, and
    mean mu = v * sum of y_m / noise_m^2. No predictor has a smaller squared error in expectation than

        posterior mean = 100 * Phi(mu_a / sqrt(1 + v_a)) * Phi(mu_b / sqrt(1 + v_b)),
        MSE = 100^2 * (1/9 - q(v_a) * q(v_b)),    q(v) = 1/4 + asin((1 - v) / 2) / (2 pi)

    because Phi(a) is the probability that another N(0, 1) is below a. The Spearman correlation of the posterior mean
    is an integral, computed by quadrature. A finite test set varies around both. With the default noise they are, in
    expectation, beside the best linear predictor (which is what ridge regression on mean clips approaches):

        modalities          Spearman  linear    MSE  linear
        video+audio+flow        .953    .909   46.3   119.0
        video+audio             .944    .902   54.4   124.5
        video+flow              .905    .868   90.7   149.8
        audio+flow              .914    .875   82.8   144.2
        video                   .873    .839  119.0   170.1
        audio                   .817    .789  165.8   204.7
        flow                    .779    .755  195.5   227.5

    Predicting the mean for everyone has an MSE of 486.1.

    Args:
        samples_train: number of training samples.
        samples_test: number of test samples.
        seed: seed of all draws; training and test samples are drawn independently.
        modalities: feature size of each stream, 2 or more.
        noise: standard deviations of the error of each stream, in difficulty and in execution.
        clips: smallest and largest number of clips of each stream.
        clip_noise: standard deviation of single clips along the directions of the performance.
        nuisance: standard deviation of the noise in the other directions.
    """

    samples_train: int = 2000
    samples_test: int = 1000
    seed: int = 0
    modalities: dict[str, int] = field(default_factory=lambda: {"video": 16, "audio": 12, "flow": 16})
    noise: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"video": (0.7, 0.3), "audio": (0.4, 0.9), "flow": (1.0, 0.5)}
    )
    clips: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"video": (6, 10), "audio": (3, 5), "flow": (4, 8)}
    )
    clip_noise: float = 0.5
    nuisance: float = 0.3

    def __post_init__(self) -> None:
        if self.samples_train < 1 or self.samples_test < 1:
            raise ValueError(
                f"synthetic: samples_train is {self.samples_train}, samples_test is {self.samples_test}; "
                "both must be 1 or more"
            )
        for name, size in self.modalities.items():
            if name not in self.noise or name not in self.clips:
                raise ValueError(f"synthetic: modality {name!r} needs an entry in both noise and clips")
            fewest, most = self.clips[name]
            noise = np.array(self.noise[name], dtype=float)
            is_noise = noise.shape == (len(LATENTS),) and (noise > 0).all()
            if size < len(LATENTS) or not is_noise or not 1 <= fewest <= most:
                raise ValueError(
                    f"synthetic: modality {name!r} has feature size {size}, noise {noise.tolist()}, clips {fewest} to "
                    f"{most}; expected a size of 2 or more, two noises above 0 (in difficulty and in execution), and "
                    "1 clip or more, fewest first"
                )
        seeds = np.random.SeedSequence(self.seed).spawn(3)
        self._train_seed, self._test_seed = seeds[:2]
        generator = np.random.default_rng(seeds[2])
        drawn = {name: generator.normal(size=(size, len(LATENTS))) for name, size in self.modalities.items()}
        self.directions = {name: np.linalg.qr(axes).Q for name, axes in drawn.items()}  # (dim, latents) each

    def load(self) -> AqaData:
        """Generate both splits."""
        splits = DatasetDict(
            train=self._draw("train", self.samples_train, np.random.default_rng(self._train_seed)),
            test=self._draw("test", self.samples_test, np.random.default_rng(self._test_seed)),
        )
        return AqaData(
            splits=splits,
            modalities=dict(self.modalities),
            score_names=["score"],
            score_minimums=[0.0],
            score_ranges=[SCORE_RANGE],
            max_clips=max(self.clips[name][1] for name in self.modalities),
            description=f"synthetic performances, seed {self.seed}",
            best_attainable={mask: self.best_attainable(mask) for mask in all_subsets(len(self.modalities))},
        )

    def best_attainable(self, mask: Mask) -> dict[str, float]:
        """`spearman` and `mse` (judges' units) of the posterior mean with this mask, in expectation."""
        difficulty, execution = self.posterior_variances(mask)
        return {
            "spearman": best_spearman(difficulty, execution),
            "mse": SCORE_RANGE**2 * (1 / 9 - _mean_square(difficulty) * _mean_square(execution)),
        }

    def posterior_variances(self, mask: Mask) -> tuple[float, float]:
        """Variance of difficulty and execution given the modalities of a mask, 0 to 1."""
        noise = [self.noise[name] for name, present in zip(self.modalities, mask, strict=True) if present]
        difficulty, execution = 1 / (1 + (np.array(noise, dtype=float) ** -2).sum(axis=0))
        return float(difficulty), float(execution)

    def _draw(self, split: str, samples: int, generator: np.random.Generator) -> Dataset:
        latents = generator.normal(size=(samples, len(LATENTS)))
        columns = {name: self._draw_modality(name, latents, generator) for name in self.modalities}
        sample_ids = [f"{split}_{index:06d}" for index in range(samples)]
        return build_split(sample_ids, {"score": SCORE_RANGE * ndtr(latents).prod(axis=1)}, columns)

    def _draw_modality(self, name: str, latents: np.ndarray, generator: np.random.Generator):
        """Feature column of one modality; all clips of all samples are drawn at once."""
        fewest, most = self.clips[name]
        directions = self.directions[name]  # (dim, latents)
        counts = generator.integers(fewest, most, endpoint=True, size=len(latents))
        observed = latents + np.array(self.noise[name]) * generator.normal(size=latents.shape)  # (samples, latents)
        starts = np.cumsum(counts) - counts
        deviation = generator.normal(size=(counts.sum(), len(LATENTS)))  # (all clips, latents)
        deviation -= np.repeat(np.add.reduceat(deviation, starts) / counts[:, None], counts, axis=0)
        along = np.repeat(observed, counts, axis=0) + self.clip_noise * deviation  # (all clips, latents)
        other = generator.normal(size=(len(along), len(directions)))  # (all clips, dim)
        other -= other @ directions @ directions.T
        clips = along @ directions.T + self.nuisance * other  # (all clips, dim)
        return feature_column(clips.astype(np.float32), counts.tolist())


def _mean_square(variance: float) -> float:
    """E[E[Phi(a) | y]^2] where a has the posterior variance: that two N(0, 1) lie below two draws of a given y."""
    return 1 / 4 + math.asin((1 - variance) / 2) / (2 * math.pi)


@cache
def best_spearman(difficulty: float, execution: float) -> float:
    """Spearman correlation of score and posterior mean, given the posterior variances of both latents.

    It is 12 E[F(s) G(p)] - 3 with the distribution functions of score and posterior mean, both divided by 100:
    F(s) = s (1 - ln s) of a product s = u v of uniform numbers, so that E[F(s) | y] = E[u] E[v] - E[u ln u] E[v] -
    E[u] E[v ln v], all given y; and G by `_product_distribution`.
    """
    nodes, weights = hermegauss(NODES)
    weights /= weights.sum()
    moments = []
    for variance in (difficulty, execution):
        mean = math.sqrt(1 - variance) * nodes[:, None]  # of the posterior, (nodes, 1)
        uniform = ndtr(mean + math.sqrt(variance) * nodes)  # (nodes, nodes)
        moments.append((uniform @ weights, xlogy(uniform, uniform) @ weights))
    (first, first_log), (second, second_log) = moments
    posterior_mean = np.outer(first, second)
    score_rank = posterior_mean - np.outer(first_log, second) - np.outer(first, second_log)
    spreads = [math.sqrt((1 - variance) / (1 + variance)) for variance in (difficulty, execution)]
    return float(12 * weights @ (score_rank * _product_distribution(posterior_mean, *spreads)) @ weights - 3)


def _product_distribution(values: np.ndarray, first: float, second: float) -> np.ndarray:
    """P(Phi(first * X) * Phi(second * Y) <= values) for independent X, Y ~ N(0, 1), by an integral over X."""
    nodes, weights = leggauss(NODES)
    lowest = np.clip(ndtri(values) / first, -LARGEST_LATENT, LARGEST_LATENT)  # below it any Y will do
    half = (LARGEST_LATENT - lowest) / 2
    x = lowest[..., None] + half[..., None] * (nodes + 1)  # (..., nodes)
    highest = ndtri(np.minimum(values[..., None] / ndtr(first * x), 1)) / second  # Y may reach
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return ndtr(lowest) + half * ((density * ndtr(highest)) @ weights)
