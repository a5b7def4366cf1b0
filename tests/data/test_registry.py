"""A dataset is found by its name, and wrong names and options are readable errors."""

import subprocess
import sys

import pytest

from limssr.training.data import REGISTRY, build, dataset_class, load

LOADED = """
import sys
from limssr.training.data import REGISTRY, build
def loaded(): return {name for name in REGISTRY if f"limssr.training.data.{name}" in sys.modules}
assert not loaded(), loaded()
build("synthetic")
assert loaded() == {"synthetic"}, loaded()
"""


@pytest.mark.parametrize("name", REGISTRY)
def test_every_name_is_that_of_a_class(name):
    assert dataset_class(name).__name__ == REGISTRY[name]
    assert callable(dataset_class(name).load)


def test_only_the_dataset_that_is_used_is_imported():
    subprocess.run([sys.executable, "-c", LOADED], check=True)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no dataset is called 'fis-v', known: finediving, fisv, folder"):
        load("fis-v", folder="x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sample": 3}, "unexpected keyword argument 'sample'; it has samples_train,"),
        ({"clips": 3}, "not iterable"),
    ],
)
def test_a_wrong_option_is_refused_with_the_known_ones(options, said):
    with pytest.raises(ValueError, match=rf"options of the dataset 'synthetic' \(`data_options`\): .*{said}"):
        build("synthetic", **options)
