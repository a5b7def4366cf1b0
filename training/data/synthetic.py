"""Synthetic performances whose best possible prediction is known in closed form."""

import math
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset, DatasetDict

from .aqa_data import AqaData, build_split, feature_column
from .masks import Mask, all_subsets

SCORE_MIDDLE, SCORE_DEVIATION, SCORE_RANGE = 50.0, 10.0, 100.0
LARGEST_LATENT = SCORE_RANGE / 2 / SCORE_DEVIATION


@dataclass
class Synthetic:
    """Generated performances, observed through streams with different noise. There is no folder to read.

    A latent performance z ~ N(0, 1) gives the score 50 + 10 z, range 0 to 100 (z is clipped at five standard
    deviations, once in two million samples). Modality m observes y_m = z + noise_m * N(0, 1) and spreads it over n_m
    clips, where n_m varies with the sample:

        clip_t = (y_m + clip_noise * (e_t - mean(e))) * d_m + nuisance * v_t,    e_t ~ N(0, 1)

    with a fixed unit direction d_m and noise v_t orthogonal to it. The clips' deviations cancel in their mean, so that
    y_m is the mean clip along d_m and nothing else carries information about z. The posterior of z given a mask is
    therefore Gaussian with precision 1 + S, S = sum over its modalities of 1 / noise_m^2, for any numbers of clips,
    and no predictor beats

        correlation r = sqrt(S / (1 + S)),   Spearman = 6 / pi * asin(r / 2),
        MSE = 10^2 / (1 + S),   MAE = sqrt(2 / pi * MSE)

    in expectation; a finite test set varies around them.

    Args:
        samples_train: number of training samples.
        samples_test: number of test samples.
        seed: seed of all draws; training and test samples are drawn independently.
        modalities: feature size of each stream.
        noise: standard deviation of the error of each stream. The defaults give a best Spearman correlation of .94
            with all three streams, and of .90, .73 and .85 with one.
        clips: smallest and largest number of clips of each stream.
        clip_noise: standard deviation of single clips along the direction of the performance.
        nuisance: standard deviation of the noise in the other directions.
    """

    samples_train: int = 2000
    samples_test: int = 1000
    seed: int = 0
    modalities: dict[str, int] = field(default_factory=lambda: {"video": 16, "audio": 12, "flow": 16})
    noise: dict[str, float] = field(default_factory=lambda: {"video": 0.45, "audio": 0.9, "flow": 0.6})
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
            if size < 1 or self.noise[name] <= 0 or not 1 <= fewest <= most:
                raise ValueError(
                    f"synthetic: modality {name!r} has feature size {size}, noise {self.noise[name]}, clips {fewest} "
                    f"to {most}; expected a size of at least 1, a noise above 0 and 1 clip or more, fewest first"
                )
        seeds = np.random.SeedSequence(self.seed).spawn(3)
        self._train_seed, self._test_seed = seeds[:2]
        generator = np.random.default_rng(seeds[2])
        directions = {name: generator.normal(size=size) for name, size in self.modalities.items()}
        self.directions = {name: direction / np.linalg.norm(direction) for name, direction in directions.items()}

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
        """Bounds on the `spearman`, `mse` and `mae` (judges' units) of any predictor with this mask."""
        pairs = zip(self.modalities, mask, strict=True)
        precision = sum(self.noise[name] ** -2 for name, present in pairs if present)
        mean_squared_error = SCORE_DEVIATION**2 / (1 + precision)
        return {
            "spearman": 6 / math.pi * math.asin(math.sqrt(precision / (1 + precision)) / 2),
            "mse": mean_squared_error,
            "mae": math.sqrt(2 / math.pi * mean_squared_error),
        }

    def _draw(self, split: str, samples: int, generator: np.random.Generator) -> Dataset:
        latent = generator.normal(size=samples).clip(-LARGEST_LATENT, LARGEST_LATENT)
        columns = {name: self._draw_modality(name, latent, generator) for name in self.modalities}
        sample_ids = [f"{split}_{index:06d}" for index in range(samples)]
        return build_split(sample_ids, {"score": SCORE_MIDDLE + SCORE_DEVIATION * latent}, columns)

    def _draw_modality(self, name: str, latent: np.ndarray, generator: np.random.Generator):
        """Feature column of one modality; all clips of all samples are drawn at once."""
        fewest, most = self.clips[name]
        direction = self.directions[name]  # (dim,)
        counts = generator.integers(fewest, most, endpoint=True, size=len(latent))
        observed = latent + self.noise[name] * generator.normal(size=len(latent))  # (samples,)
        starts = np.cumsum(counts) - counts
        deviation = generator.normal(size=counts.sum())  # (all clips,)
        deviation -= np.repeat(np.add.reduceat(deviation, starts) / counts, counts)
        along = np.repeat(observed, counts) + self.clip_noise * deviation  # (all clips,)
        other = generator.normal(size=(len(along), len(direction)))  # (all clips, dim)
        other -= np.outer(other @ direction, direction)
        clips = np.outer(along, direction) + self.nuisance * other  # (all clips, dim)
        return feature_column(clips.astype(np.float32), counts.tolist())
