"""Arrays of all samples in one `.npz` file, and what is wrong with such a file."""

import numpy as np
import pytest

from limssr.training.data.sources.archives import ArchiveSource, read_archive
from limssr.training.data.sources.files import FeatureFileError

IDS = ("a", "b", "c")
CLIPS = np.arange(12, dtype=np.float16).reshape(6, 2)
GOOD = {"x": CLIPS, "n": np.array([1, 3, 2])}


@pytest.fixture
def archive(tmp_path):
    def write(**arrays):
        np.savez_compressed(tmp_path / "features.npz", **arrays)
        return tmp_path / "features.npz"

    return write


def test_each_sample_has_its_own_clips(archive):
    read = ArchiveSource(archive(**GOOD), "x", 2, IDS).open()
    for sample_id, clips in zip(IDS, (CLIPS[:1], CLIPS[1:4], CLIPS[4:]), strict=True):
        column, oddities = read(sample_id)
        assert column.to_pylist() == [clips.tolist()]
        assert oddities == []


def test_ids_in_the_archive_count_whatever_the_order_of_the_labels_is(archive):
    arrays = read_archive(archive(**GOOD, sample_id=np.array(["c", "a", "b"])), "x", IDS)
    np.testing.assert_array_equal(arrays["a"], CLIPS[1:4])


def test_a_sample_without_clips_is_missing_and_so_is_one_that_is_not_there(archive):
    read = ArchiveSource(archive(x=CLIPS, n=np.array([0, 4, 2])), "x", 2, IDS).open()
    with pytest.raises(FeatureFileError, match=r"features\.npz, x of 'a': the array has shape \[0, 2\]") as empty:
        read("a")
    with pytest.raises(FeatureFileError, match=r"features\.npz: the archive has no sample 'd'") as absent:
        read("d")
    assert (empty.value.cause, absent.value.cause) == ("empty", "absent key")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"y": CLIPS, "n": GOOD["n"]}, "the archive has no array 'x'"),
        ({"x": CLIPS}, "the archive has no array 'n'"),
        ({"x": CLIPS, "n": np.array([1, 3])}, r"n has type int64 and shape \[2\], expected .* each of 3 samples"),
        ({"x": CLIPS, "n": np.array([1.0, 3, 2])}, "n has type float64"),
        ({"x": CLIPS, "n": np.array([7, -1, 0])}, "expected the number of clips of each of 3 samples"),
        ({"x": CLIPS, "n": np.array([1, 3, 1])}, r"x has shape \[6, 2\], but n counts 5 clips"),
        ({**GOOD, "sample_id": np.array([1, 2, 3])}, "sample_id has type int64, expected strings, each once"),
        ({**GOOD, "sample_id": np.array(["a", "b", "a"])}, "sample_id has type <U1, expected strings, each once"),
        ({"x": np.array([{}] * 6), "n": GOOD["n"]}, "not an .npz archive of numbers and strings"),
    ],
)
def test_an_archive_that_does_not_fit_is_refused(archive, arrays, said):
    with pytest.raises(FeatureFileError, match=said):
        read_archive(archive(**arrays), "x", IDS)


def test_an_archive_of_unknown_order_is_refused(archive):
    with pytest.raises(FeatureFileError, match="no array 'sample_id', which names its samples"):
        read_archive(archive(**GOOD), "x")


@pytest.mark.parametrize("keep", [0, 20, -30])
def test_a_damaged_archive_is_refused(archive, keep):
    path = archive(**GOOD)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FeatureFileError, match=r"not an \.npz archive"):
        read_archive(path, "x", IDS)
    path.unlink()
    with pytest.raises(FeatureFileError, match=r"no such file; expected an \.npz archive"):
        read_archive(path, "x", IDS)


def test_damage_inside_an_archive_is_refused(archive):
    path = archive(**GOOD)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(FeatureFileError, match=r"not an \.npz archive"):
        read_archive(path, "x", IDS)


def test_a_plain_array_is_no_archive(tmp_path):
    np.save(tmp_path / "a.npy", CLIPS)
    (tmp_path / "a.npy").rename(tmp_path / "features.npz")
    with pytest.raises(FeatureFileError, match=r"not an \.npz archive"):
        read_archive(tmp_path / "features.npz", "x", IDS)
