"""The fingerprint of a dataset says which part of it is another, and nothing of how its files are divided."""

from dataclasses import replace

import datasets
import pytest
from datasets import DatasetDict

from limssr.training.data.synthetic import Synthetic


@pytest.fixture(scope="module")
def data():
    return Synthetic(samples_train=6, samples_test=5).load()


def differing(data, **changes) -> list[tuple[str, str]]:
    """The parts whose fingerprint a change of the data changes."""
    before, after = data.fingerprint, replace(data, **changes).fingerprint
    return [(split, name) for split in before for name in before[split] if before[split][name] != after[split][name]]


def changed(data, change) -> DatasetDict:
    return DatasetDict(data.splits, test=data.splits["test"].map(change))


def test_each_part_has_its_own(data):
    for change, name in (
        (lambda row: {"score": row["score"] + 1}, "score"),
        (lambda row: {"sample_id": f"{row['sample_id']}-2"}, "sample_id"),
        (lambda row: {"video": [[value + 1e-6 for value in clip] for clip in row["video"]]}, "video"),
        (lambda row: {"audio": row["audio"][:-1]}, "audio"),
        (lambda row: {"flow": None if row["sample_id"].endswith("3") else row["flow"]}, "flow"),
    ):
        assert differing(data, splits=changed(data, change)) == [("test", name)]
    assert differing(data, score_ranges=[99.0]) == [("dataset", "score_ranges")]


def test_the_same_values_have_the_same(data, tmp_path):
    assert differing(data, description="another") == []
    datasets.Dataset.from_list(data.splits["test"].to_list(), features=data.splits["test"].features).save_to_disk(
        tmp_path, num_shards=3
    )
    shards = DatasetDict(data.splits, test=datasets.load_from_disk(str(tmp_path)))
    assert differing(data, splits=shards) == []
    shuffled = data.splits["test"].select([1, 0, 2, 3, 4])
    assert len(differing(data, splits=DatasetDict(data.splits, test=shuffled))) == 5
    again = DatasetDict(data.splits, test=shuffled.select([1, 0, 2, 3, 4]))
    assert differing(data, splits=again) == []
