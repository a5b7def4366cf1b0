"""Prepared data loads by the name of its repository as it does from its folder."""

import pytest

from limssr.training.data.prepare import prepare_data

PROGRAM = """
from pathlib import Path
from datasets import load_dataset
from huggingface_hub import HfApi
from limssr.training.data import load

assert len(list(Path("made/data").glob("*-train-*.arrow"))) > 1
HfApi().create_repo("user/made", repo_type="dataset")
HfApi().upload_folder(repo_id="user/made", repo_type="dataset", folder_path="made")
HfApi().create_tag("user/made", tag="v1", repo_type="dataset")
here, there, plain = load("prepared", folder="made"), load("prepared", folder="user/made"), load_dataset("user/made")
tagged = load("prepared", folder="user/made", revision="v1")
assert list(here.splits) == list(there.splits) == ["train", "test"]
for name, rows in here.splits.items():
    for other in (there.splits[name], tagged.splits[name], plain[name]):
        assert other.features == rows.features
        assert other.to_dict() == rows.to_dict()
for data in (here, there):
    data.splits = None
assert here == there
"""


@pytest.mark.slow
def test_prepared_data_is_pushed_and_loaded(client):
    options = {"samples_train": 30, "samples_test": 7}
    prepare_data("synthetic", "-", client.home / "made", options, max_shard_size="20KB")
    client.run("-c", PROGRAM)
