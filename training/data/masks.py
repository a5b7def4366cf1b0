"""Masks of modalities and their missing rates."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

Mask = tuple[int, ...]  # 1 or 0 for each modality
Rates = float | Mapping[str, float]


def all_subsets(count: int) -> list[Mask]:
    """The 2^count - 1 non-empty masks, fullest first: 111, 110, 101, 011, 100, 010, 001."""
    masks = (mask for mask in itertools.product((1, 0), repeat=count) if any(mask))
    return sorted(masks, key=lambda mask: (-sum(mask), tuple(-bit for bit in mask)))


def subset_name(mask: Mask, modalities: Sequence[str]) -> str:
    """Name of a mask: its modalities, such as `video+audio`."""
    return "+".join(name for name, bit in zip(modalities, mask, strict=True) if bit)


def validate_rates(
    rates: Rates, modalities: Sequence[str], kind: str = "missing", may_be_one: bool = False
) -> dict[str, float]:
    """Rate of each modality.

    Args:
        rates: one rate in [0, 1) for all modalities, or rates by name, by default 0.
        modalities: names in mask order.
        kind: kind of rate, for messages.
        may_be_one: some modalities, but not all, may have a rate of 1.

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
        if not is_number or not (0 <= rate < 1 or (may_be_one and rate == 1)):
            raise ValueError(f"{kind} rate of {name!r} is {rate!r}, expected a number of at least 0 and below 1")
    if all(rate == 1 for rate in by_name.values()):
        raise ValueError(f"{kind} rates are 1 for every modality, which leaves nothing")
    return {name: float(rate) for name, rate in by_name.items()}


def available_masks(dataset: Dataset, modalities: Sequence[str]) -> list[Mask]:
    """Mask of the modalities that each sample has: which values are null, without decoding a feature."""
    available = []
    for name in modalities:
        batches = dataset.select_columns([name]).with_format("arrow").iter(batch_size=1000)
        valid = [batch[name].is_valid().to_numpy() for batch in batches]
        available.append(np.concatenate(valid or [np.zeros(0, bool)]))
    return [tuple(int(bit) for bit in bits) for bits in zip(*available, strict=True)]


def draw_static_masks(
    sample_ids: Sequence[str],
    modalities: Sequence[str],
    rates: Rates,
    seed: int,
    available: Sequence[Mask] | None = None,
) -> list[Mask]:
    """Draw one mask for each sample, once for all epochs.

    Each available modality is hidden at its rate; an empty mask is drawn again. A mask depends only on the seed, the
    sample id and the available modalities.

    Args:
        sample_ids: id of each sample.
        modalities: names in mask order.
        rates: see `validate_rates`.
        seed: seed of the draws.
        available: mask of what each sample has, by default everything.

    Raises:
        ValueError: a sample has no modality, or as in `validate_rates`.
    """
    rates = validate_rates(rates, modalities)
    available = available if available is not None else [(1,) * len(modalities)] * len(sample_ids)
    masks = []
    for sample_id, mask in zip(sample_ids, available, strict=True):
        if not any(mask):
            raise ValueError(f"sample {sample_id!r} has none of the modalities {', '.join(modalities)}; drop it first")
        masks.append(_draw(rates, mask, f"static/{seed}/{sample_id}"))
    return masks


class DynamicMask:
    """One mask for each training step, as published.

    A mask depends only on the seed and the key of the step, so workers, processes and a resumed run agree.

    Args:
        modalities: names in mask order.
        rates: see `validate_rates`; None draws uniformly from the non-empty subsets, as published.
        seed: seed of the draws.
    """

    def __init__(self, modalities: Sequence[str], rates: Rates | None = None, seed: int = 0) -> None:
        self.modalities = list(modalities)
        self.rates = None if rates is None else validate_rates(rates, modalities)
        self.seed = seed
        self.subsets = all_subsets(len(self.modalities))

    def draw(self, *key: Any) -> Mask:
        """Draw the mask of a step, given what identifies it, such as its number, by its `str`."""
        name = "/".join(["dynamic", str(self.seed), *map(str, key)])
        if self.rates is None:
            return self.subsets[int(_uniform(name) * len(self.subsets))]
        return _draw(self.rates, (1,) * len(self.modalities), name)

    def apply(self, rows: Sequence[Mapping[str, Any]], mask: Mask) -> list[dict[str, Any]]:
        """Set hidden modalities of all rows to None. A row that would be left with nothing keeps all it has."""
        return [self._hide(row, mask) for row in rows]

    def _hide(self, row: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
        used = {name for name in itertools.compress(self.modalities, mask) if row.get(name) is not None}
        if not used:
            return dict(row)
        return {name: None if name in self.modalities and name not in used else value for name, value in row.items()}


def derive_seed(*key: Any) -> int:
    """Seed that depends only on this key, the same on every machine."""
    return _hash("/".join(map(str, key))) >> 1


def _draw(rates: Mapping[str, float], available: Mask, name: str) -> Mask:
    """Hide each available modality at its rate, again until one is left."""
    for attempt in itertools.count():
        mask = tuple(
            int(bit and _uniform(f"{name}/{attempt}/{modality}") >= rate)
            for bit, (modality, rate) in zip(available, rates.items(), strict=True)
        )
        if any(mask):
            return mask


def _uniform(name: str) -> float:
    """Number in [0, 1) that depends only on this name, the same on every machine."""
    return _hash(name) / math.ldexp(1, 64)


def _hash(name: str) -> int:
    """The first 64 bits of the SHA-256 of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
