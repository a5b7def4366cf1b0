"""Pickled tables of features, and an unpickler for files from strangers.

It admits numpy arrays, numpy scalars and builtin containers, and nothing else.
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
from .files import LFS_ADVICE, LFS_POINTER, FeatureFileError, Reader, check_clips

# Booleans, numbers, byte strings, strings and object references, with or without a byte order: what tables hold.
DTYPE_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQpPefdgFDG]|[biufc]\d+|[SUa]\d*|O\d*)")
NPY_MAGIC = b"\x93NUMPY"
LONGEST_TEXT = 4096  # anything longer in a table is raw memory

# What unpickling raises on a file that is truncated, damaged or no pickle at all.
DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, MemoryError)
DAMAGE += (OverflowError, BufferError, struct.error)


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something other than numpy arrays and builtin containers."""


class _Dtype:
    """A dtype to be completed by its state: byte order only, because numpy believes flags that make it crash."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or DTYPE_CODE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"dtype {code!r} is not a plain number, string or object type")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        order, compound = state[1], state[2:5]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or any(part is not None for part in compound):
            raise pickle.UnpicklingError(f"dtype state {state!r} is not that of a plain type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array to be built from its state.

    Attributes:
        key: its key in the memo of the unpickler, None if it has none.
    """

    key: int | None = None

    def __init__(self, subtype: Any, *_: Any) -> None:
        if subtype is not NDARRAY:
            raise pickle.UnpicklingError(f"an array of class {subtype!r}, expected numpy.ndarray")

    def build(self, state: tuple) -> np.ndarray:
        _, shape, plain, is_fortran, content = state
        return _new_array(shape, plain, content, "F" if is_fortran else "C")


NDARRAY = object()  # stands in for numpy.ndarray, which pickled arrays name but never call


def _new_array(shape: Any, plain: Any, content: Any, order: Any) -> np.ndarray:
    """Array of objects from a list, or of numbers on the memory that was read: tables are large."""
    dtype = _dtype_of(plain)
    if type(shape) is not tuple or any(type(size) is not int or size < 0 for size in shape) or order not in ("C", "F"):
        raise pickle.UnpicklingError(f"{shape!r} in the order {order!r} is not the shape of an array")
    if dtype.hasobject and type(content) is list:
        return np.fromiter(content, dtype, len(content)).reshape(shape, order=order)
    content = content if isinstance(content, bytearray) else _as_bytes(content)
    if dtype.hasobject or len(content) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype} does not fit its content")
    return np.ndarray(shape, dtype, content, order=order)


def _dtype_of(plain: Any) -> np.dtype:
    if not isinstance(plain, _Dtype):
        raise pickle.UnpicklingError(f"{plain!r} stands where a dtype belongs")
    return plain.dtype


def _as_bytes(content: Any) -> bytes:
    """Raw memory, which Python 2 pickled as a string."""
    if not isinstance(content, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"{type(content).__name__} stands where the bytes of an array belong")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


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


class _Memo(dict):
    """Memo of a pickle that knows the key of each array, and for a table holds no raw memory.

    Nothing in a table refers to raw memory a second time; if it did, it would find None.
    """

    def __init__(self, is_table: bool) -> None:
        self.is_table = is_table

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, _Array):
            value.key = key
        elif self.is_table:
            parts = value if isinstance(value, tuple) else (value,)  # a tuple: the state of an array
            if any(isinstance(part, str | bytes | bytearray) and len(part) > LONGEST_TEXT for part in parts):
                value = None
        super().__setitem__(key, value)


class _RestrictedUnpickler(pickle._Unpickler):
    """Unpickler of numpy arrays, numpy scalars and builtin containers, which can replace each array it has read.

    The public `pickle.Unpickler` has no hook for BUILD, by which a file changes any object, and holds all arrays of a
    table in memory until its end.
    """

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, file: BinaryIO, keep: Callable[[np.ndarray], Any] | None) -> None:
        super().__init__(file, encoding="latin1")
        self.memo, self.keep = _Memo(is_table=keep is not None), keep or (lambda array: array)
        self.admitted = {("numpy", "dtype"): _Dtype, ("numpy", "ndarray"): NDARRAY, ("_codecs", "encode"): _encode}
        for core in ("numpy.core", "numpy._core"):  # the second since numpy 2.0
            self.admitted[f"{core}.multiarray", "_reconstruct"] = _Array
            self.admitted[f"{core}.multiarray", "scalar"] = _scalar
            self.admitted[f"{core}.numeric", "_frombuffer"] = self._from_buffer
        for builtins in ("builtins", "__builtin__"):  # the second in Python 2
            for container in (set, frozenset, bytearray, bytes, complex):  # the others have their own opcodes
                self.admitted[builtins, container.__name__] = container

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise UnsafePickleError(f"it asks for {module}.{name}") from None

    def load_build(self) -> None:
        """Complete a dtype or an array, and nothing else."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.build(state)
        elif isinstance(target, _Array):
            array = target.build(state)
            self.stack[-1] = array if array.dtype.hasobject else self.keep(array)
            if target.key is not None:  # another entry of a table may refer to the same array
                self.memo[target.key] = self.stack[-1]
        else:
            raise pickle.UnpicklingError(f"it tries to change {target!r}")

    dispatch[pickle.BUILD[0]] = load_build

    def _from_buffer(self, buffer: Any, plain: Any, shape: Any, order: str) -> Any:
        """Array of protocol 5."""
        return self.keep(_new_array(shape, plain, buffer, order))


def load_restricted(path: str | Path, keep: Callable[[np.ndarray], Any] | None = None) -> Any:
    """Load a pickle of numpy arrays, numpy scalars and builtin containers.

    Pickles of Python 2 are read as latin1, which preserves their arrays and ASCII strings. The header of a `.npy` file
    in which numpy saved an object is skipped.

    Args:
        path: the file.
        keep: function of an array of numbers; its result replaces the array as soon as it is read, so that no two
            arrays need to be in memory at a time.

    Raises:
        UnsafePickleError: the file asks for another global; nothing of it was called.
        ValueError: the file is not a complete pickle.
    """
    path = Path(path)
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER.encode():
            raise ValueError(f"{path}: {LFS_ADVICE}")
        file.seek(0)
        try:
            _skip_npy_header(file)
            return _RestrictedUnpickler(file, keep).load()
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


@dataclass(frozen=True)
class _Kept:
    """Clips of a table: a function that returns them, and the keys of `ODDITIES` that apply."""

    read: Callable[[], np.ndarray]
    oddities: list[str]


# What a table has under each key: clips, or what is wrong with them.
Table = dict[str, _Kept | FeatureFileError]


@dataclass(frozen=True)
class TableSource:
    """A published table: a pickled dictionary id -> [clips, dim], read array by array by the restricted unpickler.

    Args:
        path: the table, a bare pickle or a `.npy` file that holds one.
        feature_size: width of the features.
        zeros_are_missing: see `check_clips`.
    """

    path: Path
    feature_size: int
    zeros_are_missing: bool = False

    def open(self, cache: Path | None = None) -> Reader:
        """Read the table into memory or into the cache file; a damaged table is an error of each of its samples.

        Raises:
            UnsafePickleError: the table asks for more than arrays.
        """
        try:
            with nullcontext() if cache is None else cache.open("wb") as file:
                return partial(self._read, self._load(file))
        except FeatureFileError as error:
            return partial(_fail, str(error), error.cause)

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

    def _keep(self, file: BinaryIO | None, bar: tqdm, array: np.ndarray) -> _Kept | FeatureFileError:
        bar.update()
        try:
            clips, oddities = check_clips(array, "", self.feature_size, zeros_are_missing=self.zeros_are_missing)
        except FeatureFileError as error:
            return error
        if file is None:
            return _Kept(partial(np.asarray, clips), oddities)
        start = file.tell()
        file.write(np.ascontiguousarray(clips))
        return _Kept(partial(np.memmap, file.name, np.float32, "r", start, clips.shape), oddities)

    def _read(self, table: Table, sample_id: str) -> tuple[pa.ListArray, list[str]]:
        if sample_id not in table:
            raise FeatureFileError(f"{self.path}: the table has no key {sample_id!r}", "absent key")
        kept = table.pop(sample_id)  # its memory is free as soon as nobody holds the clips
        if isinstance(kept, FeatureFileError):
            raise FeatureFileError(f"{self.path}, key {sample_id!r}{kept}", kept.cause)
        clips = kept.read()
        return feature_column(clips, [len(clips)]), kept.oddities


def _array_or_error(value: Any) -> _Kept | FeatureFileError:
    if isinstance(value, _Kept | FeatureFileError):
        return value
    return FeatureFileError(f": holds {type(value).__name__}, expected an array [clips, dim]")


def _fail(message: str, cause: str, sample_id: str) -> tuple[pa.ListArray, list[str]]:
    raise FeatureFileError(message, cause)
