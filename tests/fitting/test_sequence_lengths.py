"""Sequences of about the same length share a batch, and their length is known before a feature is read."""

import numpy as np
import pytest
import torch

from limssr import LimssrProcessor
from limssr.training.data import masked_dataset
from limssr.training.data.masked_dataset import MaskedDataset, longest_first, sequence_lengths
from limssr.training.fitting.sampler import EpochSampler, length_groups
from limssr.training.prediction.predictor import predict
from tests.helpers.feature_rows import SIZES, make_dataset


def written_lengths(rows, processor) -> list[int]:
    """What the processor really writes, sample by sample."""
    lengths = []
    for index in range(len(rows)):
        row = rows[index]
        features = {name: [None if row[name] is None else np.asarray(row[name], dtype="float32")] for name in SIZES}
        lengths.append(processor(features=features).input_ids.shape[1])
    return lengths


@pytest.mark.parametrize("settings", [{}, {"missing_length": 2}, {"pad_to_max_clips": True}, {"max_clips": 5}])
def test_lengths_are_those_the_processor_writes(tiny_config, tiny_tokenizer, settings):
    processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, **{"max_clips": 12, **settings})
    dataset = make_dataset()
    expected = written_lengths(dataset, processor)
    assert sequence_lengths(dataset, processor) == expected
    assert sequence_lengths(list(dataset), processor) == expected
    masks = [(1, number % 2, number % 3 == 0) for number in range(len(dataset))]
    masked = MaskedDataset(dataset, list(SIZES), masks)
    assert sequence_lengths(masked, processor) == written_lengths(masked, processor)


def test_a_hidden_column_is_not_asked_for_its_lengths(tiny_processor, monkeypatch):
    asked, row_extents = set(), masked_dataset.row_extents

    def record(dataset, modalities):
        asked.update(dataset.column_names)
        return row_extents(dataset, modalities)

    monkeypatch.setattr(masked_dataset, "row_extents", record)
    dataset = make_dataset()
    masked = MaskedDataset(dataset, list(SIZES), [(1, 0, 0)] * len(dataset))
    assert sequence_lengths(masked, tiny_processor) == written_lengths(masked, tiny_processor)
    assert asked == {"sample_id", "video"}


def padding(lengths, batches) -> float:
    """The share of computed tokens that are padding."""
    computed = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    return 1 - sum(lengths[row] for batch in batches for row in batch) / computed


def batched(order, size: int) -> list[list[int]]:
    order = list(order)
    return [order[start : start + size] for start in range(0, len(order), size)]


def test_groups_hold_every_row_once_and_little_padding():
    lengths = np.random.default_rng(0).integers(60, 380, size=500).tolist()
    generator = torch.Generator().manual_seed(0)
    batches = batched(length_groups(lengths, 8, generator), 8)
    assert sorted(row for batch in batches for row in batch) == list(range(500))
    assert [len(batch) for batch in batches] == [8] * 62 + [4]
    assert padding(lengths, batches) < 0.1 < padding(lengths, batched(range(500), 8))
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.35  # no batch tells the length of the next
    assert padding(lengths, batched(longest_first(lengths), 8)) < 0.02


def test_grouped_epochs_follow_from_seed_and_epoch_alone():
    lengths = np.random.default_rng(0).integers(60, 380, size=50).tolist()

    def epoch(number: int, seed: int = 0) -> list[tuple[int, int]]:
        sampler = EpochSampler(50, seed, lengths, batch_size=8)
        sampler.set_epoch(number)
        return list(sampler)

    torch.manual_seed(1)
    first = epoch(3)
    torch.manual_seed(2)
    assert epoch(3) == first
    assert epoch(4) != [(4, row) for _, row in first]
    assert epoch(3, seed=1) != first
    assert {number for number, _ in first} == {3}


@torch.no_grad()
def test_scores_come_back_in_the_order_of_the_rows(tiny_model, tiny_processor):
    dataset = make_dataset(12)
    batches = []
    hook = tiny_model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(kwargs["attention_mask"]), with_kwargs=True
    )
    found = predict(tiny_model, tiny_processor, dataset, batch_size=4)
    hook.remove()
    assert [batch.shape[1] for batch in batches] == sorted((batch.shape[1] for batch in batches), reverse=True)
    alone = [predict(tiny_model, tiny_processor, dataset.select([row])).scores[0] for row in range(len(dataset))]
    np.testing.assert_allclose(found.scores, alone, atol=1e-3)
    assert found.sample_ids == dataset["sample_id"][:]
