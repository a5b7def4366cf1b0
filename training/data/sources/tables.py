"""Reading the pickles of strangers: numpy arrays, numpy scalars and builtin containers, and nothing else."""

import math
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ..aqa_data import feature_column
from .files import FeatureFileError, ReadSample, check_clips

# Booleans, numbers, byte strings, strings and object references, with a byte order or without. Structured and void
# types are left out: no published table holds one.
DTYPE_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQpPefdgFDG]|[biufc]\d+|[SUa]\d*|O\d*)")

# What unpickling raises on a file that is cut short, damaged or no pickle at all.
DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    MemoryError,
    OverflowError,
    BufferError,
    struct.error,
)

NPY_MAGIC = b"\x93NUMPY"

# What stands in the place of raw memory in a pickle that is read array by array: nothing that refers to it twice fits.
RAW_MEMORY, LONGEST_TEXT = None, 4096


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something that is neither a numpy array nor a builtin container."""


class _PlainDtype:
    """A dtype in the making.

    Stands in for `numpy.dtype`, whose own `__setstate__` takes any flags that a file gives, on which numpy can crash.
    """

    __slots__ = ("dtype",)

    def __init__(self, code: str | bytes, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or DTYPE_CODE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"dtype {code!r} is not a plain number, string or object type")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        order, compound = state[1], state[2:5]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or any(part is not None for part in compound):
            raise pickle.UnpicklingError(f"dtype state {state!r} is not that of a plain type")
        self.dtype = self.dtype.newbyteorder(order)


class _ReadArray(np.ndarray):
    """An array whose state is checked, and set once: numpy would free memory that is still in use."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, plain, is_fortran, content = state
        dtype = _dtype_of(plain)
        content = content if dtype.hasobject else _as_bytes(content)
        expected = _element_count(shape) * (1 if dtype.hasobject else dtype.itemsize)
        if self.ndim != 1 or self.size or (dtype.hasobject and type(content) is not list) or len(content) != expected:
            raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype} does not fit its content")
        super().__setstate__((1, shape, dtype, bool(is_fortran), content))

    def __reduce__(self) -> tuple:
        return self.view(np.ndarray).__reduce__()


class _Admitted:
    """A function that a pickle may call, and do nothing else with."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it tries to change a function")


def _refuse_call(*_: Any) -> None:
    raise pickle.UnpicklingError("numpy.ndarray is called, where pickled arrays only name it")


NDARRAY = _Admitted(_refuse_call)


def _dtype_of(plain: Any) -> np.dtype:
    if not isinstance(plain, _PlainDtype):
        raise pickle.UnpicklingError(f"{plain!r} stands where a dtype belongs")
    return plain.dtype


def _as_bytes(content: Any) -> bytes:
    """Raw memory; Python 2 pickled it as a string."""
    if not isinstance(content, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"{type(content).__name__} stands where the bytes of an array belong")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _element_count(shape: Any) -> int:
    if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
        raise pickle.UnpicklingError(f"{shape!r} is not the shape of an array")
    return math.prod(shape)


def _reconstruct(subtype: Any, *_: Any) -> np.ndarray:
    """The empty array that the state to come will fill."""
    if subtype is not NDARRAY:
        raise pickle.UnpicklingError(f"an array of class {subtype!r}, expected numpy.ndarray")
    return np.ndarray.__new__(_ReadArray, (0,))


def _from_buffer(buffer: Any, plain: Any, shape: Any, order: str) -> np.ndarray:
    """The array of protocol 5, on the memory that was read: tables are large."""
    dtype, content = _dtype_of(plain), buffer if isinstance(buffer, bytearray) else _as_bytes(buffer)
    if dtype.hasobject or order not in ("C", "F") or _element_count(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype} does not fit its content")
    return np.ndarray(shape, dtype, content, order=order)


def _scalar(plain: Any, content: Any = b"") -> np.generic:
    dtype, content = _dtype_of(plain), _as_bytes(content)
    if dtype.hasobject or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of type {dtype} does not fit its content")
    return np.ndarray((), dtype, content)[()]


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, with which protocol 2 spells bytes, for the one encoding that it uses."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}, where pickles use 'latin1'")
    return _as_bytes(text)


def _admitted_globals() -> dict[tuple[str, str], Any]:
    admitted = {("numpy", "dtype"): _Admitted(_PlainDtype), ("numpy", "ndarray"): NDARRAY}
    for core in ("numpy.core", "numpy._core"):  # the second since numpy 2.0
        admitted[f"{core}.multiarray", "_reconstruct"] = _Admitted(_reconstruct)
        admitted[f"{core}.multiarray", "scalar"] = _Admitted(_scalar)
        admitted[f"{core}.numeric", "_frombuffer"] = _Admitted(_from_buffer)
    for builtins in ("builtins", "__builtin__"):  # the second is Python 2's
        for container in (set, frozenset, bytearray, bytes, complex):  # the others have opcodes of their own
            admitted[builtins, container.__name__] = container
    admitted["_codecs", "encode"] = _Admitted(_encode)
    return admitted


ADMITTED_GLOBALS = _admitted_globals()


class _Restricted:
    """Hands out nothing but `ADMITTED_GLOBALS`."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED_GLOBALS[module, name]
        except KeyError:
            raise UnsafePickleError(f"it asks for {module}.{name}") from None


class _RestrictedUnpickler(_Restricted, pickle.Unpickler):
    """The fast unpickler, for everything that fits into memory."""


class _StreamingMemo(dict):
    """What a pickle may refer to again, without the raw memory of its arrays, and where in it each array is."""

    def __init__(self) -> None:
        self.place: dict[int, int] = {}

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, _ReadArray):
            self.place[id(value)] = key
        parts = value if isinstance(value, tuple) else (value,)  # a tuple: the state of an array
        is_raw_memory = any(isinstance(part, str | bytes | bytearray) and len(part) > LONGEST_TEXT for part in parts)
        super().__setitem__(key, RAW_MEMORY if is_raw_memory else value)


class _StreamingUnpickler(_Restricted, pickle._Unpickler):
    """The unpickler in Python, in which an array can give way to something else as soon as it is whole."""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, file: BinaryIO, keep: Callable[[np.ndarray], Any], **options: Any) -> None:
        super().__init__(file, **options)
        self.memo, self.keep = _StreamingMemo(), keep

    def load_build(self) -> None:
        super().load_build()
        array = self.stack[-1]
        if isinstance(array, _ReadArray) and not array.dtype.hasobject:
            self.stack[-1] = self.keep(array.view(np.ndarray))
            place = self.memo.place.pop(id(array), None)
            if place is not None:  # the same array may come again, under another key
                self.memo[place] = self.stack[-1]

    def load_reduce(self) -> None:
        super().load_reduce()
        array = self.stack[-1]
        if type(array) is np.ndarray:  # of protocol 5, whole at once
            self.stack[-1] = self.keep(array)

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce


def load_restricted(path: str | Path, keep: Callable[[np.ndarray], Any] | None = None) -> Any:
    """Read a pickle that may hold numpy arrays, numpy scalars and builtin containers only.

    Pickles of Python 2 are read as latin1, which keeps their arrays and their ASCII strings. In a `.npy` file that
    numpy wrote of an object, the pickle comes after a header, which is skipped.

    Args:
        path: the file.
        keep: is given each array of numbers as soon as it was read; what it returns stands in its place. Unless it
            holds on to them, no two arrays are in memory at a time.

    Returns:
        What the file holds.

    Raises:
        UnsafePickleError: the file asks for any other global; nothing of it was called.
        ValueError: the file is not a whole pickle.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            _skip_npy_header(file)
            if keep is None:
                return _RestrictedUnpickler(file, encoding="latin1").load()
            return _StreamingUnpickler(file, keep, encoding="latin1").load()
        except UnsafePickleError as error:
            raise UnsafePickleError(
                f"{path}: refused, {error}, and only numpy arrays and builtin containers are read. "
                "Do not use this file unless you know who wrote it and why it needs that."
            ) from None
        except DAMAGE as error:
            raise ValueError(
                f"{path}: not a whole pickle of arrays and containers ({error}); fetch it again"
            ) from error


def _skip_npy_header(file: BinaryIO) -> None:
    """Go to where the pickle starts: 8 bytes of magic and version, the length of the header, the header."""
    start = file.read(8)
    if not start.startswith(NPY_MAGIC):
        file.seek(0)
        return
    length = file.read(2 if start[6:7] == b"\x01" else 4)
    file.seek(int.from_bytes(length, "little"), os.SEEK_CUR)


@dataclass(frozen=True)
class TableSource:
    """One pickled dictionary, id -> [clips, dim], as it was published; read by the restricted unpickler alone.

    Args:
        modality: its name.
        sample_ids: of the samples.
        feature_size: width of the features.
        path: the table, a bare pickle or a `.npy` file that holds one.
    """

    modality: str
    sample_ids: Sequence[str]
    feature_size: int
    path: Path

    @contextmanager
    def opened(self) -> Iterator[ReadSample]:
        table, error = {}, None
        try:
            table = load_table(self.path)
        except FeatureFileError as problem:
            error = problem

        def read(sample_id: str) -> pa.ListArray:
            if error is not None:
                raise FeatureFileError(str(error), error.cause)
            if sample_id not in table:
                raise FeatureFileError(f"{self.path}: the table has no key {sample_id!r}", "absent key")
            array = table.pop(sample_id)  # whose memory is free again as soon as nobody holds its row
            where = f"{self.path}, key {sample_id!r}"
            if not isinstance(array, np.ndarray):
                raise FeatureFileError(f"{where}: holds {type(array).__name__}, expected an array [clips, dim]")
            clips = check_clips(array, where, self.feature_size)
            return feature_column(clips, [len(clips)])

        yield read
        table.clear()


def load_table(path: Path, keep: Callable[[np.ndarray], Any] | None = None) -> dict[str, Any]:
    """A pickled table by the names of its keys.

    Args:
        path: a bare pickle or a `.npy` file that holds one.
        keep: what to do with each array, see `load_restricted`.

    Raises:
        FeatureFileError: no such file, or no whole table.
        UnsafePickleError: the file asks for more than arrays.
    """
    if not path.is_file():
        raise FeatureFileError(f"{path}: no such file; expected a pickled table id -> [clips, dim]", "missing file")
    try:
        table = load_restricted(path, keep)
    except ValueError as error:
        raise FeatureFileError(str(error)) from error
    if isinstance(table, np.ndarray) and table.shape == ():
        table = table.item()
    if not isinstance(table, dict):
        raise FeatureFileError(f"{path}: holds {type(table).__name__}, expected a table id -> [clips, dim]")
    by_name = {str(key): array for key, array in table.items()}
    if len(by_name) < len(table):
        raise FeatureFileError(f"{path}: two keys of the table read alike, such as 1 and '1'")
    return by_name
