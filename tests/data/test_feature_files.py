import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from limssr.processing.inputs_limssr import crop_clips
from limssr.training.data.sources.files import FeatureFileError, check_clips, feature_path, read_features, read_text
from limssr.training.data.sources.labels import read_csv
from limssr.training.data.sources.pickles import load_restricted

CLIPS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", ">f4"])
def test_npy_of_any_real_type_is_read_as_float32(tmp_path, dtype):
    np.save(tmp_path / "a.npy", CLIPS.astype(dtype))
    clips = read_features(tmp_path / "a.npy")
    assert clips.dtype == np.float32
    assert clips.flags.writeable
    np.testing.assert_array_equal(clips, CLIPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32])
def test_safetensors_with_one_tensor_is_read_as_float32(tmp_path, dtype):
    save_file({"anything": torch.from_numpy(CLIPS).to(dtype)}, tmp_path / "a.safetensors")
    clips = read_features(tmp_path / "a.safetensors")
    assert clips.dtype == np.float32
    np.testing.assert_array_equal(clips, CLIPS)


def test_a_file_of_several_tensors_is_refused(tmp_path):
    save_file({"one": torch.zeros(1, 4), "two": torch.from_numpy(CLIPS)}, tmp_path / "a.safetensors")
    with pytest.raises(FeatureFileError, match=r"a\.safetensors.*'one', 'two'.*exactly one"):
        read_features(tmp_path / "a.safetensors")


class RunsOnLoad:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_in_a_npy_is_refused_and_not_run(tmp_path):
    np.save(tmp_path / "object.npy", np.array([RunsOnLoad(tmp_path / "ran")], dtype=object))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(RunsOnLoad(tmp_path / "ran")))
    for name in ("object.npy", "bare.npy"):
        with pytest.raises(FeatureFileError, match=name):
            read_features(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4), r"shape \[4\], expected \[clips, dim\]"),
        (np.zeros((2, 3, 4)), r"shape \[2, 3, 4\]"),
        (np.zeros((0, 4)), r"empty\.npy|wrong\.npy"),
        (np.array([["a"]]), "dtype <U1, expected real numbers"),
        (np.zeros((2, 2), dtype=complex), "dtype complex128"),
        (np.zeros((2, 2), dtype=bool), "dtype bool"),
        (np.array([[0.0, 1.0], [0.0, np.nan]]), "clip 1, column 1 is nan"),
        (np.array([[1e300]]), "clip 0, column 0 is inf"),
        (np.array([[0.0, 1.0], [2.0, -1e20]]), r"clip 1, column 1 is -1e\+20.*at most 1e\+15"),
        (np.append(np.zeros((1100, 1000), np.float32), [[-np.inf] * 1000], axis=0), "clip 1100, column 0 is -inf"),
    ],
)
def test_arrays_that_are_no_clips_are_refused_by_name(tmp_path, array, message):
    np.save(tmp_path / "wrong.npy", array)
    with pytest.raises(FeatureFileError, match=message) as caught:
        read_features(tmp_path / "wrong.npy")
    assert str(tmp_path / "wrong.npy") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"not an array at all", b"\x93NUMPY\x01\x00\x02\x00{}"])
@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_damaged_files_are_named(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(FeatureFileError, match="damaged"):
        read_features(path)


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    np.save(tmp_path / "cut.npy", np.zeros((1000, 100)))
    content = (tmp_path / "cut.npy").read_bytes().replace(b"(1000, 100)", b"(10**9, 9)")
    (tmp_path / "cut.npy").write_bytes(content)
    with pytest.raises(FeatureFileError, match=r"cut\.npy"):
        read_features(tmp_path / "cut.npy")
    np.save(tmp_path / "short.npy", np.zeros((1000, 100)))
    with (tmp_path / "short.npy").open("r+b") as stream:
        stream.truncate(5000)
    with pytest.raises(FeatureFileError, match=r"short\.npy"):
        read_features(tmp_path / "short.npy")


HEADERS = {
    "a size beyond any memory": b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 16), }" % 10**30,
    "a product that overflows": b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }" % (2**32, 2**32),
    "a negative size": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
    "no end": b"{'descr': '<f4', 'fortran_order': False, 'shape': (",
    "5,000 brackets": b"(" * 5000,
    "5,000 signs": b"-" * 5000 + b"1",
    "an unknown type": b"{'descr': '<q9', 'fortran_order': False, 'shape': (1, 4), }",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 4), }",
    "nothing": b"",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\xff\xff"])
def test_a_header_that_lies_is_refused_by_name(tmp_path, header, version):
    length = len(header).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    (tmp_path / "liar.npy").write_bytes(b"\x93NUMPY" + version + length + header + bytes(64))
    with pytest.raises(FeatureFileError, match=r"liar\.npy") as caught:
        read_features(tmp_path / "liar.npy")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_header_longer_than_the_file_takes_no_memory(tmp_path):
    (tmp_path / "long.npy").write_bytes(b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b"{")
    tracemalloc.start()
    try:
        with pytest.raises(FeatureFileError, match=r"long\.npy"):
            read_features(tmp_path / "long.npy")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def write_sparse(path, clips: int, width: int) -> None:
    """An array of zeros that takes no space on disk."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (clips, width)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + clips * width * 4)


def test_of_a_very_large_file_only_the_clips_that_count_are_read(tmp_path):
    write_sparse(tmp_path / "huge.npy", 3 * 10**8, 1024)  # 1.2 TB
    with (tmp_path / "huge.npy").open("r+b") as file:
        file.seek(128 + (3 * 10**8 - 10) // 2 * 4096)
        file.write(np.float32(7).tobytes())
    tracemalloc.start()
    try:
        clips = read_features(tmp_path / "huge.npy", max_clips=10)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert clips.shape == (10, 1024)
    assert clips[0, 0] == 7
    assert clips.sum() == 7
    with pytest.raises(FeatureFileError, match=r"huge\.npy: the array has 1228800000000 bytes, expected at most"):
        read_features(tmp_path / "huge.npy")


def test_the_middle_of_a_large_file_is_what_the_processor_would_keep(tmp_path, monkeypatch):
    monkeypatch.setattr("limssr.training.data.sources.files.LARGE_BYTES", 100)
    clips = np.arange(42 * 2, dtype=np.float32).reshape(42, 2)
    np.save(tmp_path / "a.npy", clips)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(clips))
    save_file({"x": torch.from_numpy(clips)}, tmp_path / "a.safetensors")
    for limit in (5, 6, 41, 42, 43):
        expected = crop_clips(torch.from_numpy(clips), limit, 0.5).numpy()
        for name in ("a.npy", "fortran.npy", "a.safetensors"):
            np.testing.assert_array_equal(read_features(tmp_path / name, max_clips=limit), expected)


@pytest.mark.parametrize("write", [lambda path: np.savez(path, CLIPS), lambda path: torch.save(torch.ones(2), path)])
def test_an_archive_called_npy_is_recognised(tmp_path, write):
    with (tmp_path / "a.npy").open("wb") as file:
        write(file)
    with pytest.raises(FeatureFileError, match=r"a\.npy: a zip archive, as np\.savez and torch\.save write"):
        read_features(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("a.npy", read_features),
        ("a.safetensors", read_features),
        ("a.txt", read_text),
        ("a.pkl", load_restricted),
        ("a.csv", read_csv),
    ],
)
def test_a_git_lfs_pointer_is_called_what_it_is(tmp_path, name, read):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(ValueError, match=rf"{name}: this is a Git LFS pointer.*`git lfs pull`"):
        read(tmp_path / name)


def test_a_leading_one_is_dropped_and_what_looks_wrong_is_told(tmp_path):
    for array, shape, oddities in (
        (CLIPS[None], (3, 4), ["leading 1"]),
        (CLIPS, (3, 4), []),
        (CLIPS[:1], (1, 4), []),
        (np.zeros((1, 3, 4)), (3, 4), ["leading 1", "all zeros"]),
        (np.zeros((1, 1)), (1, 1), ["all zeros"]),
        (np.full((3, 4), -7.5), (3, 4), ["constant"]),
        (np.ones((1, 1)), (1, 1), []),
    ):
        clips, found = check_clips(array, "here")
        assert (clips.shape, found) == (shape, oddities)
    with pytest.raises(FeatureFileError, match="every number is 0") as caught:
        check_clips(np.zeros((3, 4)), "here", zeros_are_missing=True)
    assert caught.value.cause == "all zeros"
    check_clips(np.ones((3, 4)), "here", zeros_are_missing=True)


def test_a_file_of_zeros_is_told_where_it_is_scored(tmp_path, caplog):
    np.save(tmp_path / "a.npy", CLIPS)
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))
    for name in ("a.npy", "b.npy"):
        read_features(tmp_path / name)
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'b.npy'}: every number is 0")


@pytest.mark.parametrize("name", ["x" * 252 + ".npy", "loop.npy", "folder.npy"])
def test_a_name_that_cannot_be_opened_is_an_error_of_that_file(tmp_path, name):
    (tmp_path / "loop.npy").symlink_to(tmp_path / "loop.npy")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(FeatureFileError, match=r"File name too long|symbolic links|not a file"):
        read_features(feature_path(tmp_path, name.removesuffix(".npy")))


def test_missing_files_and_other_suffixes_are_named(tmp_path):
    with pytest.raises(FeatureFileError, match=r"nowhere\.npy: no such file"):
        read_features(tmp_path / "nowhere.npy")
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(FeatureFileError, match=r"suffix is '\.pkl'"):
        read_features(tmp_path / "a.pkl")


def test_a_file_whose_name_differs_in_case_is_said(tmp_path):
    np.save(tmp_path / "Dive.npy", CLIPS)
    with pytest.raises(FeatureFileError, match=r"dive\.npy: no such file; there is Dive\.npy, which differs in upper"):
        feature_path(tmp_path, "dive")
