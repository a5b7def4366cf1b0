"""Which modalities a sample shows: masks, their rates, and rows read without what is hidden."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from torch.utils import data

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


def observed_masks(dataset: Dataset, modalities: Sequence[str]) -> list[Mask]:
    """What the data has of each sample.

    This is the one thing that is ever asked of a cell that a mask will hide: whether it is null in the data. Its
    features are not decoded.
    """
    present = []
    for name in modalities:
        batches = dataset.select_columns([name]).with_format("arrow").iter(batch_size=1000)
        present.append(np.concatenate([batch[name].is_valid().to_numpy() for batch in batches] or [np.zeros(0, bool)]))
    return [tuple(int(bit) for bit in bits) for bits in zip(*present, strict=True)]


def row_extents(dataset: Dataset, modalities: Sequence[str]) -> list[dict[str, int | str]]:
    """Of each row, the modalities it has, with their number of clips or their text; no clip is decoded."""
    extents: list[dict[str, int | str]] = [{} for _ in range(len(dataset))]
    for name in modalities:
        if name not in dataset.column_names:
            continue
        batches = (batch[name] for batch in dataset.select_columns([name]).with_format("arrow").iter(1000))
        column = (pc.list_value_length(cells) if pa.types.is_list(cells.type) else cells for cells in batches)
        values = [value for cells in column for value in cells.to_pylist()]
        for extent, value in zip(extents, values, strict=True):
            if value is not None:
                extent[name] = value
    return extents


def draw_static_masks(
    sample_ids: Sequence[str],
    modalities: Sequence[str],
    rates: Rates,
    seed: int,
    observed: Sequence[Mask] | None = None,
) -> list[Mask]:
    """One mask a sample, drawn once for good: each modality is hidden with its rate, redrawn if nothing is left.

    A mask depends on the seed, the sample's id and its modalities alone: not on the order of the samples, on their
    number or on any worker.

    Args:
        sample_ids: a name for each sample.
        modalities: names in mask order.
        rates: see `validate_rates`.
        seed: another seed draws other masks.
        observed: what the data has of each sample, where it lacks something: nothing else is shown, and a draw that
            would leave none of it is redrawn.
    """
    rates = validate_rates(rates, modalities)
    observed = observed if observed is not None else [(1,) * len(modalities)] * len(sample_ids)
    masks = []
    for sample_id, available in zip(sample_ids, observed, strict=True):
        if not any(available):
            raise ValueError(f"sample {sample_id!r} has none of the modalities {', '.join(modalities)}; drop it first")
        masks.append(_redraw(rates, available, f"static/{seed}/{sample_id}"))
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


class MaskedDataset(data.Dataset):
    """Rows of a Hugging Face dataset that show the modalities of their mask and no other.

    The column of a hidden modality is never asked for: each mask has its own view of the dataset without it. (Before
    masks are drawn, `observed_masks` asks of each cell whether it is null, and nothing else.)

    Args:
        dataset: with one nullable column a modality.
        modalities: names in mask order.
        masks: one a sample.

    Raises:
        ValueError: the number of masks or the length of one does not fit, or a mask shows nothing.
    """

    def __init__(self, dataset: Dataset, modalities: Sequence[str], masks: Sequence[Mask]) -> None:
        if len(masks) != len(dataset):
            raise ValueError(f"{len(masks)} masks for {len(dataset)} samples; give one a sample")
        self.modalities = list(modalities)
        self.masks = [tuple(int(bit) for bit in mask) for mask in masks]
        for index, mask in enumerate(self.masks):
            if len(mask) != len(self.modalities) or not any(mask) or not set(mask) <= {0, 1}:
                names = ", ".join(self.modalities)
                raise ValueError(
                    f"mask {mask} of sample number {index}: expected 0 or 1 for each of {names}, not only 0"
                )
        others = [name for name in dataset.column_names if name not in self.modalities]
        self._views = {
            mask: dataset.select_columns([*others, *self._present(mask)]).with_format("arrow")
            for mask in set(self.masks)
        }

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: each modality a float32 array (clips, dim) or a text, None where it is hidden or missing."""
        mask = self.masks[index]
        table = self._views[mask][int(index)]
        row = dict.fromkeys(self.modalities)
        for name in table.column_names:
            cell = table[name][0]
            row[name] = _clips(cell) if pa.types.is_list(cell.type) else cell.as_py()
        return row

    def extents(self) -> list[dict[str, int | str]]:
        """Of each row, the modalities it shows, with their number of clips or their text; no clip is decoded."""
        extents: list[dict[str, int | str]] = [{}] * len(self)
        for mask, view in self._views.items():
            rows = [row for row, its_mask in enumerate(self.masks) if its_mask == mask]
            for row, found in zip(rows, row_extents(view.select(rows), self.modalities), strict=True):
                extents[row] = found
        return extents

    def _present(self, mask: Mask) -> list[str]:
        return [name for name, bit in zip(self.modalities, mask, strict=True) if bit]


def _clips(cell) -> np.ndarray | None:
    """An arrow list of clips as float32 (clips, dim)."""
    if not cell.is_valid:
        return None
    clips = cell.values
    return clips.flatten().to_numpy(zero_copy_only=False).reshape(len(clips), clips.type.list_size).copy()


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
