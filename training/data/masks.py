"""Which modalities a sample shows: masks, their rates, and rows read without what is hidden."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

Mask = tuple[int, ...]
Rates = float | Mapping[str, float]


def all_subsets(count: int) -> list[Mask]:
    """The 2^count - 1 non-empty masks, fullest first: 111, 110, 101, 011, 100, 010, 001."""
    masks = (mask for mask in itertools.product((1, 0), repeat=count) if any(mask))
    return sorted(masks, key=lambda mask: (-sum(mask), tuple(-bit for bit in mask)))


def subset_name(mask: Mask, modalities: Sequence[str]) -> str:
    """The present modalities of a mask, such as `video+audio`."""
    return "+".join(name for name, present in zip(modalities, mask, strict=True) if present)


def validate_rates(rates: Rates, modalities: Sequence[str], kind: str = "missing") -> dict[str, float]:
    """The rate at which each modality is hidden, or something else is done to it.

    Args:
        rates: one rate in [0, 1) for all modalities, or one by name; a modality that is not named is never hidden.
        modalities: names in mask order.
        kind: of rate, for messages.

    Raises:
        ValueError: a name is unknown or a rate is not a number in [0, 1).
    """
    if isinstance(rates, Mapping):
        if unknown := [name for name in rates if name not in modalities]:
            raise ValueError(f"{kind} rates name {unknown[0]!r}, which is no modality; known: {', '.join(modalities)}")
        by_name = {name: rates.get(name, 0.0) for name in modalities}
    else:
        by_name = dict.fromkeys(modalities, rates)
    for name, rate in by_name.items():
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if not is_number or not 0 <= rate < 1:
            raise ValueError(f"{kind} rate of {name!r} is {rate!r}, expected a number of at least 0 and below 1")
    return {name: float(rate) for name, rate in by_name.items()}


def available_masks(dataset: Dataset, modalities: Sequence[str]) -> list[Mask]:
    """What the data has of each sample.

    This is the one thing that is ever asked of a cell that a mask will hide: whether it is null in the data. Its
    features are not decoded.
    """
    present = []
    for name in modalities:
        batches = dataset.select_columns([name]).with_format("arrow").iter(batch_size=1000)
        present.append(np.concatenate([batch[name].is_valid().to_numpy() for batch in batches] or [np.zeros(0, bool)]))
    return [tuple(int(bit) for bit in bits) for bits in zip(*present, strict=True)]


def draw_static_masks(
    sample_ids: Sequence[str],
    modalities: Sequence[str],
    rates: Rates,
    seed: int,
    available: Sequence[Mask] | None = None,
) -> list[Mask]:
    """One mask a sample, drawn once for good: each modality is hidden with its rate, redrawn if nothing is left.

    A mask depends on the seed, the sample's id and its modalities alone: not on the order of the samples, on their
    number or on any worker.

    Args:
        sample_ids: a name for each sample.
        modalities: names in mask order.
        rates: see `validate_rates`.
        seed: another seed draws other masks.
        available: what the data has of each sample, where it lacks something: nothing else is shown, and a draw that
            would leave none of it is redrawn.
    """
    rates = validate_rates(rates, modalities)
    available = available if available is not None else [(1,) * len(modalities)] * len(sample_ids)
    masks = []
    for sample_id, mask in zip(sample_ids, available, strict=True):
        if not any(mask):
            raise ValueError(f"sample {sample_id!r} has none of the modalities {', '.join(modalities)}; drop it first")
        masks.append(_redraw(rates, mask, f"static/{seed}/{sample_id}"))
    return masks


class DynamicMask:
    """One mask for each training step, as published.

    A mask depends on the seed and on the key of the step alone, so that workers, processes and a resumed run agree.

    Args:
        modalities: names in mask order.
        rates: see `validate_rates`; None draws uniformly from the non-empty subsets, as published.
        seed: another seed draws other masks.
    """

    def __init__(self, modalities: Sequence[str], rates: Rates | None = None, seed: int = 0) -> None:
        self.modalities = list(modalities)
        self.rates = None if rates is None else validate_rates(rates, modalities)
        self.seed = seed
        self.subsets = all_subsets(len(self.modalities))

    def draw(self, *key: Any) -> Mask:
        """The mask of a step.

        Args:
            *key: what names the step, such as its number; anything whose `str` is the same in every run.
        """
        name = "/".join(["dynamic", str(self.seed), *map(str, key)])
        if self.rates is None:
            return self.subsets[int(_uniform(name) * len(self.subsets))]
        return _redraw(self.rates, (1,) * len(self.modalities), name)

    def apply(self, rows: Sequence[Mapping[str, Any]], mask: Mask) -> list[dict[str, Any]]:
        """The rows with the hidden modalities as None. A row that would be left with nothing keeps all it has."""
        return [self._hide(row, mask) for row in rows]

    def _hide(self, row: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
        shown = {name for name, bit in zip(self.modalities, mask, strict=True) if bit and row.get(name) is not None}
        if not shown:
            return dict(row)
        return {name: None if name in self.modalities and name not in shown else value for name, value in row.items()}


def _redraw(rates: Mapping[str, float], available: Mask, name: str) -> Mask:
    """Hide each available modality with its rate until something is left."""
    attempts = itertools.count()
    mask = (0,) * len(available)
    while not any(mask):
        draw = f"{name}/{next(attempts)}"
        mask = tuple(
            int(bit and _uniform(f"{draw}/{modality}") >= rate)
            for bit, (modality, rate) in zip(available, rates.items(), strict=True)
        )
    return mask


def _uniform(name: str) -> float:
    """A number in [0, 1) that only this name gives, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / math.ldexp(1, 64)


def derive_seed(*key: Any) -> int:
    """A seed that only this key gives, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
