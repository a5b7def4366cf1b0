"""Scores of a split under any masks, by one model or the mean of several, each sample predicted once under each."""

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from .missingness import Mask, all_subsets
from .prediction import PATHS, Member, Predictions
from .subset_prediction import predict_masks


class MaskedScores:
    """Predicts what it is asked for and remembers it.

    Of a sample nothing is read but what its masks show.

    Args:
        members: a model with its processor, or several, whose mean is the score.
        dataset: one split.
        modalities: names in mask order, all of them the models'.
        accelerator, batch_size: see `predict_masks`.
        silent: show no bar.
    """

    def __init__(
        self,
        members: Sequence[Member],
        dataset: Dataset,
        modalities: Sequence[str],
        accelerator,
        batch_size: int,
        silent: bool,
    ) -> None:
        self.members, self.accelerator, self.batch_size = members, accelerator, batch_size
        model, _ = members[0]
        config = (accelerator.unwrap_model(model) if accelerator else model).config
        self.dataset, self.modalities, self.silent = dataset, list(modalities), silent
        self.model_modalities = list(config.modalities)
        self.shape = (len(dataset), len(config.score_names))
        self.sample_ids = [str(sample_id) for sample_id in dataset.select_columns(["sample_id"])["sample_id"]]
        self._done: dict[Mask, np.ndarray] = {}  # (samples,) bool
        self._scores: dict[Mask, dict[str, np.ndarray]] = {}  # (samples, scores) each

    def score(self, views: Sequence[np.ndarray]) -> None:
        """Predicts whatever is seen in a view and was not predicted before.

        Args:
            views: (samples, modalities) bool, what is seen of each sample; never what it lacks.
        """
        wanted: dict[Mask, np.ndarray] = {}
        for seen in views:
            for mask, chosen in self._by_mask(seen):
                wanted[mask] = wanted.get(mask, False) | chosen
        nothing = np.zeros(len(self.dataset), dtype=bool)
        pending = {mask: chosen & ~self._done.get(mask, nothing) for mask, chosen in wanted.items()}
        pending = {mask: chosen for mask, chosen in pending.items() if chosen.any()}
        if pending:
            self._predict(pending)

    def predictions(self, seen: np.ndarray) -> Predictions | None:
        """Of the samples of which anything is seen, in the order of the split; None where there is none.

        Args:
            seen: a view that was given to `score`.
        """
        scored = np.flatnonzero(seen.any(axis=1))
        if not len(scored):
            return None
        scores = {name: np.full(self.shape, np.nan) for name in PATHS}
        for mask, chosen in self._by_mask(seen):
            for name in PATHS:
                scores[name][chosen] = self._scores[mask][name][chosen]
        visible = np.zeros((len(scored), len(self.model_modalities)), dtype=bool)
        visible[:, [self.model_modalities.index(name) for name in self.modalities]] = seen[scored]
        sample_ids = [self.sample_ids[row] for row in scored]
        scores = {name: values[scored] for name, values in scores.items()}
        return Predictions(sample_ids, self.model_modalities, visible=visible, **scores)

    def _by_mask(self, seen: np.ndarray) -> Iterator[tuple[Mask, np.ndarray]]:
        """Each mask that occurs, fullest first, and which samples have it, (samples,) bool."""
        for mask in all_subsets(len(self.modalities)):
            chosen = (seen == np.array(mask, dtype=bool)).all(axis=1)
            if chosen.any():
                yield mask, chosen

    def _predict(self, pending: dict[Mask, np.ndarray]) -> None:
        total = len(self.members) * sum(int(chosen.sum()) for chosen in pending.values())
        with tqdm(total=total, desc="evaluating", unit="score", disable=self.silent) as bar:
            settings = (self.dataset, pending, self.modalities, self.batch_size, self.accelerator, bar)
            of_members = [predict_masks(*member, *settings) for member in self.members]
        for mask, chosen in pending.items():
            done = self._done.setdefault(mask, np.zeros(len(self.dataset), dtype=bool))
            scores = self._scores.setdefault(mask, {name: np.full(self.shape, np.nan) for name in PATHS})
            done |= chosen
            for name in PATHS:
                scores[name][chosen] = np.mean([found[mask][name][chosen] for found in of_members], axis=0)
