"""Files of strangers give arrays and containers, or an error; nothing in them runs."""

import io
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from limssr.training.data.sources.pickles import UnsafePickleError, load_restricted


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def write(folder: Path, content, protocol: int = 4) -> Path:
    path = folder / "table.pkl"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_scalars_and_containers_come_back(tmp_path, protocol):
    table = {
        ("event", 1): np.arange(12, dtype=np.float32).reshape(3, 4),
        "scalars": [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("tuck")],
        "containers": (None, 1.5, {1, 2}, frozenset({3}), b"\x00\xff", bytearray(b"x"), 2j, "ü"),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "texts": np.array(["free", "pike"]),
        "big endian": np.arange(3, dtype=">f8"),
        "fortran": np.asfortranarray(np.ones((2, 3))),
    }
    loaded = load_restricted(write(tmp_path, table, protocol))
    assert loaded.keys() == table.keys()
    np.testing.assert_array_equal(loaded["event", 1], table["event", 1])
    assert [type(value) for value in loaded["scalars"]] == [type(value) for value in table["scalars"]]
    assert loaded["scalars"] == table["scalars"]
    assert loaded["containers"] == table["containers"]
    for name in ("objects", "texts", "big endian", "fortran"):
        np.testing.assert_array_equal(loaded[name], table[name])
        assert loaded[name].dtype.newbyteorder("=") == table[name].dtype.newbyteorder("=")


@given(array=hypothesis_numpy.arrays(hypothesis_numpy.scalar_dtypes(), hypothesis_numpy.array_shapes()))
def test_any_plain_array_comes_back(tmp_path_factory, array):
    if array.dtype.kind in "mM":  # dates occur in no table and are refused
        return
    loaded = load_restricted(write(tmp_path_factory.mktemp("arrays"), array))
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


def test_python_2_pickle_comes_back(tmp_path):
    # What Python 2 wrote for {(1, 2): {'score': numpy.array([1.5])}}, protocol 2.
    raw = np.array([1.5]).tobytes()
    content = (
        b"\x80\x02}(K\x01K\x02\x86}U\x05scorecnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbsu."
    )
    loaded = load_restricted(write(tmp_path, content))
    np.testing.assert_array_equal(loaded[1, 2]["score"], [1.5])


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "system"),
        (eval, "eval"),
        (exec, "exec"),
        (__import__, "__import__"),
        (getattr, "getattr"),
        (open, "open"),
        (np.load, "load"),
        (np.fromfile, "fromfile"),
        (np.memmap, "memmap"),
        (np.save, "save"),
        (os.mkdir, "mkdir"),
        (Path, "Path"),
    ],
)
def test_hostile_calls_are_refused_and_do_not_run(tmp_path, protocol, function, name):
    target = tmp_path / "created"
    create = f"open({str(target)!r}, 'w')"
    arguments = {"system": f"touch {target}", "eval": create, "exec": create}
    path = write(tmp_path, {"harmless": 1, "hostile": Call(function, arguments.get(name, str(target)))}, protocol)
    with pytest.raises(UnsafePickleError, match=rf"table.pkl: refused.*{name}"):
        load_restricted(path)
    assert not target.exists()


@pytest.mark.parametrize("name", ["numpy.core.multiarray.fromfile", "numpy._core.multiarray.frombuffer", "numpy.load"])
def test_numpy_functions_that_rebuild_nothing_are_refused(tmp_path, name):
    module, _, function = name.rpartition(".")
    with pytest.raises(UnsafePickleError, match=name):
        load_restricted(write(tmp_path, f"c{module}\n{function}\n(S'x'\ntR.".encode()))


def test_a_dotted_name_does_not_reach_further(tmp_path):
    content = b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93."
    with pytest.raises(UnsafePickleError, match=r"ndarray\.__reduce__"):
        load_restricted(write(tmp_path, content))


def test_dtype_flags_of_a_file_are_not_believed(tmp_path):
    # Flags 0x3f on float64 make numpy follow the numbers as if they were pointers.
    array = pickle.dumps(np.arange(3.0), protocol=2)
    assert array.count(b"K\x00tq") == 1
    loaded = load_restricted(write(tmp_path, array.replace(b"K\x00tq", b"K\x3ftq")))
    np.testing.assert_array_equal(loaded, np.arange(3.0))
    assert not loaded.dtype.hasobject


def test_an_array_that_does_not_fit_its_content_is_refused(tmp_path):
    array = pickle.dumps(np.arange(3.0), protocol=2)
    assert array.count(b"K\x03\x85q") == 1
    with pytest.raises(ValueError, match=r"table\.pkl.*shape \(200,\)"):
        load_restricted(write(tmp_path, array.replace(b"K\x03\x85q", b"K\xc8\x85q")))


def read_both_ways(path):
    """As a whole, and array by array."""
    kept = []

    def keep(array):
        kept.append(array.copy())
        return Kept(len(kept) - 1)

    return load_restricted(path), load_restricted(path, keep), kept


class Kept(int):
    pass


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("form", ["bare", "npy"])
def test_arrays_can_be_taken_one_by_one(tmp_path, protocol, form):
    same = np.arange(6.0).reshape(2, 3)
    table = {"a": same, "b": np.asfortranarray(np.ones((3, 4), ">f4")), ("c", 1): same, "d": 3, "e": "x" * 5000}
    table |= {"f": np.arange(3000), "g": [np.zeros(2000), None], "h": "x" * 5000}
    if form == "npy":
        path = tmp_path / "table.npy"
        with path.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
            pickle.dump(np.array(table, dtype=object), stream, protocol=protocol)
    else:
        path = write(tmp_path, table, protocol)
    whole, streamed, kept = read_both_ways(path)
    if form == "npy":
        whole, streamed = whole.item(), streamed.item()
    assert list(streamed) == list(whole) == list(table)
    for key in ("a", "b", ("c", 1), "f"):
        assert type(streamed[key]) is Kept
        np.testing.assert_array_equal(kept[streamed[key]], table[key])
        np.testing.assert_array_equal(whole[key], table[key])
        assert kept[streamed[key]].dtype.newbyteorder("=") == table[key].dtype.newbyteorder("=")
    assert streamed["a"] == streamed["c", 1]  # one array under two keys
    assert streamed["d"] == 3
    assert type(streamed["d"]) is int
    assert streamed["e"] == table["e"]
    np.testing.assert_array_equal(kept[streamed["g"][0]], table["g"][0])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_taken_one_by_one_no_two_arrays_are_in_memory(tmp_path, protocol):
    size = 2**20
    path = write(tmp_path, {number: np.full(size, number, np.uint8) for number in range(16)}, protocol)
    sums = []
    tracemalloc.start()
    try:
        load_restricted(path, lambda array: sums.append(int(array[0]) + int(array[-1])))
        peak = tracemalloc.get_traced_memory()[1]
        load_restricted(path)
        whole = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sums == [2 * number for number in range(16)]
    assert peak < (4 if protocol > 2 else 6) * size  # protocol 2 spells bytes as text
    assert whole > 15 * size  # so that the measure measures


@given(st.binary(max_size=60), st.integers(0, 400))
def test_damaged_files_are_named_when_read_one_by_one(tmp_path_factory, noise, cut):
    content = pickle.dumps({"a": np.arange(5), "b": "text"})
    for damaged in (content[: min(cut, len(content) - 1)], noise.replace(b".", b"") + b"\x00"):
        with pytest.raises((ValueError, UnsafePickleError), match=r"table\.pkl"):
            load_restricted(write(tmp_path_factory.mktemp("damaged"), damaged), len)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_hostile_calls_are_refused_when_read_one_by_one(tmp_path, protocol):
    path = write(tmp_path, {"a": np.arange(3), "hostile": Call(os.mkdir, str(tmp_path / "created"))}, protocol)
    with pytest.raises(UnsafePickleError, match=r"table.pkl: refused.*mkdir"):
        load_restricted(path, len)
    assert not (tmp_path / "created").exists()


def test_functions_of_the_reader_cannot_be_changed(tmp_path):
    with pytest.raises(ValueError, match="tries to change"):
        load_restricted(write(tmp_path, b"\x80\x02c_codecs\nencode\n}U\x01aK\x01sb."))


def test_what_was_read_can_be_pickled_again(tmp_path):
    loaded = load_restricted(write(tmp_path, {"a": np.arange(3.0)}))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(loaded))["a"], np.arange(3.0))  # noqa: S301


def test_structured_types_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"table.pkl.*V\d+"):
        load_restricted(write(tmp_path, np.zeros(2, dtype=[("a", "f4"), ("b", "i4")])))


@given(st.binary(max_size=60), st.integers(0, 200))
def test_damaged_files_are_named(tmp_path_factory, noise, cut):
    buffer = io.BytesIO()
    pickle.dump({"a": np.arange(5)}, buffer)
    path = write(tmp_path_factory.mktemp("damaged"), buffer.getvalue()[: min(cut, buffer.tell() - 1)])
    with pytest.raises((ValueError, UnsafePickleError), match=r"table\.pkl"):
        load_restricted(path)
    path.write_bytes(noise + b"\x00")  # no opcode, so that no noise is a whole pickle unless it stops before
    if b"." not in noise:
        with pytest.raises((ValueError, UnsafePickleError), match=r"table\.pkl"):
            load_restricted(path)
