"""Copies between training and test are found by their features, under whatever name."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from datasets import DatasetDict

from limssr.training.data import load
from limssr.training.data.aqa_data import AqaData, build_split, feature_column
from limssr.training.data.leaks import shared_features, warn_of_leaks
from tests.helpers.models import recipe_with_text

RANDOM = np.random.default_rng(0)


def make_data(train: list[np.ndarray], test: list[np.ndarray]) -> AqaData:
    splits = {}
    for name, arrays in (("train", train), ("test", test)):
        column = feature_column(np.concatenate(arrays), [len(array) for array in arrays])
        ids = [f"{name} {number}" for number in range(len(arrays))]
        splits[name] = build_split(ids, {"score": np.arange(len(arrays))}, {"video": column})
    return AqaData(DatasetDict(splits), {"video": 3}, ["score"], [0.0], [9.0], 8, "made here")


@pytest.fixture
def arrays() -> list[np.ndarray]:
    return [RANDOM.normal(size=(clips, 3)).astype(np.float32) for clips in (4, 1, 6, 4)]


def test_a_copy_is_named_and_nothing_else(arrays, caplog):
    constant = np.zeros((4, 3), np.float32)
    data = make_data([arrays[0], arrays[1], constant], [arrays[2], arrays[0].copy(), constant, arrays[1] + 1])
    assert shared_features(data) == [("video", "train 0", "test 1")]
    warn_of_leaks(data, logging.getLogger("limssr"))
    assert "1 features of test samples are features of training samples too, such as video of 'test 1'" in caplog.text


def test_clips_of_equal_texts_are_no_copies(arrays, tiny_encoder):
    data = make_data(arrays, arrays)
    recipe = recipe_with_text(tiny_encoder)
    recipe["modalities"] = {"video": recipe["modalities"]["commentary"]}
    assert shared_features(replace(data, recipe=recipe)) == []
    assert len(shared_features(data)) == len(arrays)


def test_data_without_copies_are_silent(caplog):
    warn_of_leaks(load("synthetic", samples_train=30, samples_test=20), logging.getLogger("limssr"))
    assert not caplog.text
