"""A dataset is found by its name, and wrong names and options are readable errors."""

import subprocess
import sys

import pytest

from limssr.training.data import REGISTRY, build, dataset_class, load
from limssr.training.data.prepare import prepare_data
from limssr.training.fitting.run import prepare_run

OUTSIDE = """
from dataclasses import dataclass
from pathlib import Path
from limssr.training.data import load

@dataclass
class Pairs:
    folder: Path | None = None
    samples: int = 4

    def load(self):
        return load("synthetic", samples_train=self.samples, samples_test=2)
"""
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
        ({"clips": 3}, r"clips is 3, expected dict\[str, tuple\[int, int\]\]"),
        ({"seed": True}, "seed is True, expected int"),
        ({"seed": 1.5}, "seed is 1.5, expected int"),
        ({"noise": [1]}, r"noise is \[1\], expected dict"),
        ({"clip_noise": "loud"}, "clip_noise is 'loud', expected float"),
    ],
)
def test_a_wrong_option_is_refused_with_the_known_ones(options, said):
    with pytest.raises(ValueError, match=rf"options of the dataset 'synthetic' \(`data_options`\): .*{said}"):
        build("synthetic", **options)


def install(folder, name, registered, module=OUTSIDE):
    """Write what `pip install` of a package with a dataset leaves."""
    (folder / f"{name}.py").write_text(module)
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[limssr.datasets]\n{registered}\n")


def test_a_dataset_of_another_package_loads_by_its_name_or_its_place(tmp_path, monkeypatch, quick_arguments):
    install(tmp_path, "outside_pairs", "pairs = outside_pairs:Pairs")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pairs", "outside_pairs:Pairs"):
        data = load(name, samples=3)
        assert len(data.splits["train"]) == 3
        with pytest.raises(ValueError, match="unexpected keyword argument 'size'; it has folder, samples"):
            build(name, size=3)
        prepare_data(name, "-", tmp_path / name, {"samples": 3})
        assert len(load("prepared", folder=tmp_path / name).splits["train"]) == 3
    run = prepare_run(*quick_arguments(dataset="outside_pairs:Pairs", data_options={"samples": 20}))
    assert len(run.data.splits["train"]) == 20
    with pytest.raises(ValueError, match=r"no dataset is called 'pears', known: .*pairs.*, or package\.module:Class"):
        load("pears")
    install(tmp_path, "other_pairs", "pairs = other_pairs:Pairs")
    with pytest.raises(ValueError, match=r"several packages .* give one of other_pairs:Pairs, outside_pairs:Pairs"):
        load("pairs")


@pytest.mark.parametrize("name", ["nowhere:Pairs", "json:Pairs", "json:", ":Pairs", "a b:c", ".json:loads"])
def test_a_place_where_no_dataset_is_is_named(name):
    with pytest.raises(
        ValueError, match=rf"the dataset '{name}' cannot be imported: .* expected package\.module:Class"
    ):
        build(name)
