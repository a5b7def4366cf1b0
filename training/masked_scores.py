"""The model's scores of a split under any masks, each sample predicted once under each."""

from collections.abc import Iterator, Sequence

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from .missingness import Mask, all_subsets, subset_name
from .prediction import Predictions, predict

_SCORES = ("score", "score_main", "score_aux")


class MaskedScores:
    """Predicts what it is asked for and remembers it.

    Every mask has its own view of the dataset, without the columns it hides: they are not there to be read.

    Args:
        model, processor, accelerator, batch_size: see `predict`.
        dataset: one split.
        modalities: names in mask order, all of them the model's.
        silent: show no bar.
    """

    def __init__(
        self, model, processor, dataset: Dataset, modalities: Sequence[str], accelerator, batch_size: int, silent: bool
    ) -> None:
        self.model, self.processor, self.accelerator, self.batch_size = model, processor, accelerator, batch_size
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
        pending = {mask: np.flatnonzero(chosen & ~self._done.get(mask, nothing)) for mask, chosen in wanted.items()}
        with tqdm(total=sum(map(len, pending.values())), unit="sample", disable=self.silent) as bar:
            for mask, rows in pending.items():
                if len(rows):
                    bar.set_description(f"evaluating {subset_name(mask, self.modalities)}")
                    self._predict(mask, rows, bar)

    def predictions(self, seen: np.ndarray) -> Predictions | None:
        """Of the samples of which anything is seen, in the order of the split; None where there is none.

        Args:
            seen: a view that was given to `score`.
        """
        scored = np.flatnonzero(seen.any(axis=1))
        if not len(scored):
            return None
        scores = {name: np.full(self.shape, np.nan) for name in _SCORES}
        for mask, chosen in self._by_mask(seen):
            for name in _SCORES:
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

    def _predict(self, mask: Mask, rows: np.ndarray, bar: tqdm) -> None:
        shown = [name for name, flag in zip(self.modalities, mask, strict=True) if flag]
        view = self.dataset.select_columns(["sample_id", *shown])
        view = view if len(rows) == len(view) else view.select(rows)
        predictions = predict(self.model, self.processor, view, self.batch_size, self.accelerator, bar)
        done = self._done.setdefault(mask, np.zeros(len(self.dataset), dtype=bool))
        scores = self._scores.setdefault(mask, {name: np.full(self.shape, np.nan) for name in _SCORES})
        done[rows] = True
        for name in _SCORES:
            scores[name][rows] = getattr(predictions, name)
