"""Performances that are in two splits under two names, found by their features."""

import hashlib
from collections.abc import Iterator

import pyarrow as pa
from datasets import Dataset

from ...configuration.configuration_limssr import TEXT
from ...processing.recipes_limssr import Recipe
from .aqa_data import AqaData


def shared_features(data: AqaData) -> list[tuple[str, str, str]]:
    """Modality, id of a training sample and id of a test sample whose features are the same.

    Compared are the number of clips, the first and the last one. Single numbers are not, nor are texts, which may
    repeat, and the clips that a recipe makes of them.
    """
    found, written = [], [] if data.recipe is None else Recipe.load(data.recipe).written
    for modality, size in data.modalities.items():
        splits = [data.splits[name] for name in ("train", "test") if modality in data.splits[name].column_names]
        if size == TEXT or modality in written or len(splits) < 2:
            continue
        train, test = (dict(_fingerprints(split, modality)) for split in splits)
        found += [(modality, train[key], sample_id) for key, sample_id in test.items() if key in train]
    return found


def warn_of_leaks(data: AqaData, logger) -> None:
    """Say which features are in the training split and in the test split."""
    if found := shared_features(data):
        modality, train, test = found[0]
        logger.warning(
            "%d features of test samples are features of training samples too, such as %s of %r and %r: if these are "
            "the same performances, no result on the test split means anything",
            *(len(found), modality, test, train),
        )


def _fingerprints(rows: Dataset, modality: str) -> Iterator[tuple[bytes, str]]:
    for table in rows.select_columns(["sample_id", modality]).with_format("arrow").iter(1):
        value = table[modality][0]
        if not value.is_valid or not pa.types.is_nested(value.type) or not len(value.values):
            continue
        clips = value.values
        ends = [clips[place].values.to_numpy(zero_copy_only=False) for place in (0, len(clips) - 1)]
        if len(ends[0]) > 1 and any(end.min() < end.max() for end in ends):  # constants are alike without being copies
            digest = hashlib.blake2b(len(clips).to_bytes(8), digest_size=16)
            for end in ends:
                digest.update(end.tobytes())
            yield digest.digest(), table["sample_id"][0].as_py()
