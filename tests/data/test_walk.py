"""One walk for all readers: hidden files are no samples, links are followed, and nothing is walked for ever."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limssr.training.data import load
from limssr.training.data.sources.files import SUFFIXES, FeatureFileError, feature_path, open_array
from limssr.training.data.sources.walk import find_samples, walk_files
from limssr.training.prediction.files import samples_from_folder

HIDDEN = [".ipynb_checkpoints", "._a", ".DS_Store", "__MACOSX"]
NAMES = st.sampled_from(["a", "b", "é", "d.e", *HIDDEN])
PATHS = st.lists(NAMES, min_size=1, max_size=4)


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.random.default_rng(len(path.parts)).normal(size=(2, 3)))


@settings(max_examples=50)
@given(paths=st.lists(PATHS, max_size=5), links=st.lists(st.tuples(NAMES, PATHS), max_size=2))
def test_a_sample_is_a_file_without_a_hidden_part_in_its_path(tmp_path_factory, paths, links):
    root = tmp_path_factory.mktemp("walk")
    for parts in paths:
        write(root.joinpath("real", *parts[:-1], f"{parts[-1]}.npy"))
    for name, target in links:  # wherever it leads: to a folder, to its own folder, to nothing
        if not (root / "real" / name).exists() and (root / "real").exists():
            (root / "real" / name).unlink(missing_ok=True)
            (root / "real" / name).symlink_to(root.joinpath("real", *target[:-1]), target_is_directory=True)
    (root / "link").symlink_to(root / "real")
    for folder in (root / "real", root / "link"):
        found = list(walk_files(folder)) if folder.exists() else []
        assert len(found) == len(set(found))
        for path in found:
            assert not set(path.relative_to(folder).parts) & set(HIDDEN)
        wanted = {folder.joinpath(*parts[:-1], f"{parts[-1]}.npy") for parts in paths if not set(parts) & set(HIDDEN)}
        assert wanted <= set(found)


def test_every_reader_sees_the_same_samples(tmp_path):
    for name in ("video/s0", "video/.ipynb_checkpoints/s0-checkpoint", "video/__MACOSX/s0", "elsewhere/s1"):
        write(tmp_path / f"{name}.npy")
    for name in (".cache", "__MACOSX", "video"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "._s0.npy").write_bytes(b"resource fork")
    (tmp_path / "video" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "video" / "again").symlink_to(tmp_path / "video")
    (tmp_path / "video" / "gone.npy").symlink_to(tmp_path / "nothing.npy")
    samples = samples_from_folder(tmp_path, {"video": SUFFIXES})
    assert [sample.sample_id for sample in samples] == ["gone", "linked/s1", "s0"]
    with pytest.raises(FeatureFileError, match=r"gone\.npy: no such file"):
        samples[0].read()
    (tmp_path / "elsewhere").rename(tmp_path / ".elsewhere")  # a hidden place that a link names is meant
    (tmp_path / "video" / "linked").unlink()
    (tmp_path / "video" / "linked").symlink_to(tmp_path / ".elsewhere")
    (tmp_path / "labels.csv").write_text(
        "sample_id,score,split\ns0,1,train\nlinked/s1,2,train\ngone,2,test\ns2,1,test\n"
    )
    write(tmp_path / "video" / "s2.npy")
    data = load("folder", folder=tmp_path)
    assert data.modalities == {"video": 3}
    assert data.missing.counts() == {"video": {"missing file": 1}}


def test_letters_in_another_unicode_form_are_the_same_sample(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "kür") for form in ("NFC", "NFD"))
    write(tmp_path / "video" / f"{composed}.npy")
    write(tmp_path / "audio" / f"{decomposed}.npy")
    (sample,) = samples_from_folder(tmp_path, dict.fromkeys(["video", "audio"], SUFFIXES))
    assert (sample.sample_id, list(sample.paths)) == (composed, ["video", "audio"])
    for name in (composed, decomposed):
        assert open_array(feature_path(tmp_path / "audio", name)).shape == (2, 3)
    write(tmp_path / "audio" / f"{composed}.npy")
    with pytest.raises(FeatureFileError, match="two files for one modality"):
        feature_path(tmp_path / "audio", composed)
    assert len(find_samples(tmp_path / "audio", [".npy"])[composed]) == 2


def test_a_folder_that_cannot_be_read_is_no_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(walk_files(tmp_path / "nowhere"))
