"""Pickled tables of features, and a restricted unpickler for files from strangers.

The unpickler admits numpy arrays, numpy scalars and builtin containers, and nothing else.
"""

import math
import os
import pickle
import re
import struct
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..aqa_data import feature_column
from .files import FeatureFileError, Reader, check_clips

# Booleans, numbers, byte strings, strings and object references, with or without a byte order. Structured and void
# types are left out: no published table holds one.
DTYPE_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQpPefdgFDG]|[biufc]\d+|[SUa]\d*|O\d*)")

# What unpickling raises on a file that is truncated, damaged or no pickle at all.
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

# Replaces raw memory in the memo of a pickle that is read array by array; a second reference to it does not fit.
RAW_MEMORY, LONGEST_TEXT = None, 4096


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something other than numpy arrays and builtin containers."""


class _PlainDtype:
    """Stands in for `numpy.dtype`, whose `__setstate__` accepts any flags from a file, even those that crash numpy."""

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
    """An array whose state is checked and set only once: numpy would free memory that is still in use."""

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
    """A function that a pickle may call but not change."""

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
    """Raw memory, which Python 2 pickled as a string."""
    if not isinstance(content, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"{type(content).__name__} stands where the bytes of an array belong")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _element_count(shape: Any) -> int:
    if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape):
        raise pickle.UnpicklingError(f"{shape!r} is not the shape of an array")
    return math.prod(shape)


def _reconstruct(subtype: Any, *_: Any) -> np.ndarray:
    """Empty array, to be filled by its state."""
    if subtype is not NDARRAY:
        raise pickle.UnpicklingError(f"an array of class {subtype!r}, expected numpy.ndarray")
    return np.ndarray.__new__(_ReadArray, (0,))


def _from_buffer(buffer: Any, plain: Any, shape: Any, order: str) -> np.ndarray:
    """Array of protocol 5, on the memory that was read: tables are large."""
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
    """`_codecs.encode` for the one encoding in which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}, where pickles use 'latin1'")
    return _as_bytes(text)


def _admitted_globals() -> dict[tuple[str, str], Any]:
    admitted = {("numpy", "dtype"): _Admitted(_PlainDtype), ("numpy", "ndarray"): NDARRAY}
    for core in ("numpy.core", "numpy._core"):  # the second since numpy 2.0
        admitted[f"{core}.multiarray", "_reconstruct"] = _Admitted(_reconstruct)
        admitted[f"{core}.multiarray", "scalar"] = _Admitted(_scalar)
        admitted[f"{core}.numeric", "_frombuffer"] = _Admitted(_from_buffer)
    for builtins in ("builtins", "__builtin__"):  # the second in Python 2
        for container in (set, frozenset, bytearray, bytes, complex):  # the others have their own opcodes
            admitted[builtins, container.__name__] = container
    admitted["_codecs", "encode"] = _Admitted(_encode)
    return admitted


ADMITTED_GLOBALS = _admitted_globals()


class _Restricted:
    """Looks up globals in `ADMITTED_GLOBALS` only."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ADMITTED_GLOBALS[module, name]
        except KeyError:
            raise UnsafePickleError(f"it asks for {module}.{name}") from None


class _RestrictedUnpickler(_Restricted, pickle.Unpickler):
    """The fast unpickler, for files that fit in memory."""


class _StreamingMemo(dict):
    """Memo of a pickle without the raw memory of its arrays, with the place of each array."""

    def __init__(self) -> None:
        self.place: dict[int, int] = {}

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, _ReadArray):
            self.place[id(value)] = key
        parts = value if isinstance(value, tuple) else (value,)  # a tuple: the state of an array
        is_raw_memory = any(isinstance(part, str | bytes | bytearray) and len(part) > LONGEST_TEXT for part in parts)
        super().__setitem__(key, RAW_MEMORY if is_raw_memory else value)


class _StreamingUnpickler(_Restricted, pickle._Unpickler):
    """The unpickler in Python, which can replace each array once it is complete.

    The public `pickle.Unpickler` has no hook for that: all arrays of a table would be in memory at once.
    """

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
        if type(array) is np.ndarray:  # of protocol 5, complete at once
            self.stack[-1] = self.keep(array)

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce


def load_restricted(path: str | Path, keep: Callable[[np.ndarray], Any] | None = None) -> Any:
    """Load a pickle of numpy arrays, numpy scalars and builtin containers.

    Pickles of Python 2 are read as latin1, which preserves their arrays and ASCII strings. The header of a `.npy` file
    in which numpy saved an object is skipped.

    Args:
        path: the file.
        keep: function that replaces each array of numbers as soon as it is read. Unless it keeps them, no two arrays
            are in memory at a time.

    Raises:
        UnsafePickleError: the file asks for another global; nothing of it was called.
        ValueError: the file is not a complete pickle.
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
    """Move to the start of the pickle, past 8 bytes of magic and version, the header's length and the header."""
    start = file.read(8)
    if not start.startswith(NPY_MAGIC):
        file.seek(0)
        return
    length = file.read(2 if start[6:7] == b"\x01" else 4)
    file.seek(int.from_bytes(length, "little"), os.SEEK_CUR)


# Arrays of a table by key: a function that returns the clips, or what is wrong with the array.
Table = dict[str, partial | FeatureFileError]


@dataclass(frozen=True)
class TableSource:
    """A published table: a pickled dictionary id -> [clips, dim], read array by array by the restricted unpickler.

    Args:
        path: the table, a bare pickle or a `.npy` file that holds one.
        feature_size: width of the features.
    """

    path: Path
    feature_size: int

    def open(self, cache: Path | None = None) -> Reader:
        """Read the table into memory or into the cache file, see `FeatureSource`.

        A table that is missing or damaged is an error of each of its samples.

        Raises:
            UnsafePickleError: the table asks for more than arrays.
        """
        try:
            with nullcontext() if cache is None else cache.open("wb") as file:
                return partial(self._read, self._load(file))
        except FeatureFileError as error:
            return partial(_fail, str(error), error.cause)

    def _read(self, table: Table, sample_id: str) -> pa.ListArray:
        if sample_id not in table:
            raise FeatureFileError(f"{self.path}: the table has no key {sample_id!r}", "absent key")
        array = table.pop(sample_id)  # its memory is free as soon as nobody holds the clips
        if isinstance(array, FeatureFileError):
            raise FeatureFileError(f"{self.path}, key {sample_id!r}{array}", array.cause)
        clips = array()
        return feature_column(clips, [len(clips)])

    def _load(self, file: BinaryIO | None) -> Table:
        if not self.path.is_file():
            raise FeatureFileError(
                f"{self.path}: no such file; expected a pickled table id -> [clips, dim]", "missing file"
            )
        try:
            with tqdm(desc=f"reading {self.path.name}", unit="array", disable=None) as bar:
                table = load_restricted(self.path, partial(self._keep, file, bar))
        except ValueError as error:
            raise FeatureFileError(str(error)) from error
        if isinstance(table, np.ndarray) and table.shape == ():
            table = table.item()
        if not isinstance(table, dict):
            raise FeatureFileError(f"{self.path}: holds {type(table).__name__}, expected a table id -> [clips, dim]")
        by_name = {str(key): _array_or_error(value) for key, value in table.items()}
        if len(by_name) < len(table):
            raise FeatureFileError(f"{self.path}: two keys of the table read alike, such as 1 and '1'")
        return by_name

    def _keep(self, file: BinaryIO | None, bar: tqdm, array: np.ndarray) -> partial | FeatureFileError:
        """Check an array and keep its clips in memory or in the file."""
        bar.update()
        try:
            clips = check_clips(array, "", self.feature_size)
        except FeatureFileError as error:
            return error
        if file is None:
            return partial(np.asarray, clips)
        start = file.tell()
        file.write(np.ascontiguousarray(clips))
        return partial(np.memmap, file.name, np.float32, "r", start, clips.shape)


def _array_or_error(value: Any) -> partial | FeatureFileError:
    """A value of a table, or the error that it is not an array of numbers."""
    if isinstance(value, partial | FeatureFileError):
        return value
    return FeatureFileError(f": holds {type(value).__name__}, expected an array [clips, dim]")


def _fail(message: str, cause: str, sample_id: str) -> pa.ListArray:
    raise FeatureFileError(message, cause)
