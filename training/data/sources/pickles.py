"""An unpickler for files from strangers: numpy arrays, numpy scalars and builtin containers, and nothing else."""

import math
import os
import pickle
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from ...utils.errors import brief
from ...utils.text import printable
from .files import LFS_ADVICE, LFS_POINTER

# Booleans, numbers, byte strings, strings and object references, with or without a byte order: what tables hold.
DTYPE_CODE = re.compile(r"[<>=|]?([?bBhHiIlLqQpPefdgFDG]|[biufc]\d+|[SUa]\d*|O\d*)")
NPY_MAGIC = b"\x93NUMPY"
LONGEST_TEXT = 4096  # anything longer in a table is raw memory

# What a pickle may cost. A table of 10,000 arrays has 250,000 opcodes, lists with labels of the frames of 3,000 dives
# have 370,000.
MOST_OPCODES = 750_000  # and as many values in what is read, counted as often as they are referred to
MOST_LEVELS = 32  # of containers in containers, or of marks
MOST_KEY_PARTS = 64  # of a tuple that is a key
MOST_MEMORY = (2**24, 4)  # bytes, and so many for each byte of the file
MOST_SECONDS = (10.0, 2**20)  # and a second for so many bytes of the file
CONTAINER_BYTES = 200
LONGEST_CODE = 16  # of a dtype
LARGEST_KEY = 2**63  # the hashes of larger numbers can be made to collide


class UnsafePickleError(pickle.UnpicklingError):
    """A pickle asks for something other than numpy arrays and builtin containers."""


class _Dtype:
    """A dtype to be completed by its state: byte order only, because numpy believes flags that make it crash."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or len(code) > LONGEST_CODE or DTYPE_CODE.fullmatch(code) is None:
            raise pickle.UnpicklingError(f"dtype {_short(code)} is not a plain number, string or object type")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        order, compound = state[1], state[2:5]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "=", "|") or any(part is not None for part in compound):
            raise pickle.UnpicklingError("the state of a dtype is not that of a plain type")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array to be built from its state.

    Attributes:
        key: its key in the memo of the unpickler, None if it has none.
    """

    key: int | None = None

    def __init__(self, subtype: Any, *_: Any) -> None:
        if subtype is not NDARRAY:
            raise pickle.UnpicklingError(f"an array of class {_short(subtype)}, expected numpy.ndarray")

    def build(self, state: tuple) -> np.ndarray:
        _, shape, plain, is_fortran, content = state
        return _new_array(shape, plain, content, "F" if is_fortran else "C")


NDARRAY = object()  # stands in for numpy.ndarray, which pickled arrays name but never call


def _new_array(shape: Any, plain: Any, content: Any, order: Any) -> np.ndarray:
    """Array of objects from a list, or of numbers on the memory that was read: tables are large."""
    dtype = _dtype_of(plain)
    is_shape = type(shape) is tuple and len(shape) <= MOST_LEVELS
    if (
        not is_shape
        or not all(type(size) is int and 0 <= size < LARGEST_KEY for size in shape)
        or order not in ("C", "F")
    ):
        raise pickle.UnpicklingError("the shape or the order of an array is none")
    if dtype.hasobject and type(content) is list:
        return np.fromiter(content, dtype, len(content)).reshape(shape, order=order)
    content = content if isinstance(content, bytearray) else _as_bytes(content)
    if dtype.hasobject or len(content) != math.prod(shape) * dtype.itemsize:
        raise pickle.UnpicklingError(f"an array of shape {shape} and type {dtype} does not fit its content")
    return np.ndarray(shape, dtype, content, order=order)


def _dtype_of(plain: Any) -> np.dtype:
    if not isinstance(plain, _Dtype):
        raise pickle.UnpicklingError(f"{_short(plain)} stands where a dtype belongs")
    return plain.dtype


def _as_bytes(content: Any) -> bytes:
    """Raw memory, which Python 2 pickled as a string."""
    if not isinstance(content, str | bytes | bytearray):
        raise pickle.UnpicklingError(f"{type(content).__name__} stands where the bytes of an array belong")
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _short(value: Any) -> str:
    """A text in quotes, cut, or the kind of anything else, whose own text may have no end."""
    return repr(value[:40]) if isinstance(value, str | bytes) else type(value).__name__


def _require_key(key: Any) -> None:
    """Refuse what takes long to hash, or does so only to be found equal to others."""
    parts, pending = 0, [key]
    while pending:
        part = pending.pop()
        parts += 1
        if isinstance(part, tuple | frozenset) and parts + len(pending) + len(part) <= MOST_KEY_PARTS:
            pending += part
        elif isinstance(part, tuple | frozenset):
            raise pickle.UnpicklingError(f"a key has more than {MOST_KEY_PARTS} parts")
        elif isinstance(part, int) and not -LARGEST_KEY <= part < LARGEST_KEY:
            raise pickle.UnpicklingError("a key is a number of more than 64 bits")


def _require_tree(value: Any) -> None:
    """Refuse containers that are too deep, contain themselves, or together have too many values."""
    level, count = [value], 0
    for _ in range(MOST_LEVELS):
        inner = []
        for each in level:
            if isinstance(each, dict):
                inner += each.keys()
                inner += each.values()
            elif isinstance(each, list | tuple | set | frozenset):
                inner += each
            elif isinstance(each, np.ndarray) and each.dtype.hasobject:
                inner += each.reshape(-1).tolist()
            if count + len(inner) > MOST_OPCODES:
                raise pickle.UnpicklingError(f"it has more than {MOST_OPCODES} values")
        if not inner:
            return
        level, count = inner, count + len(inner)
    raise pickle.UnpicklingError(f"its containers are more than {MOST_LEVELS} levels deep")


class _BoundedFile:
    """A file of which nothing is read that it does not have; a length in a pickle may lie."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, os.fstat(file.fileno()).st_size
        self.readline = file.readline

    def require(self, count: int) -> None:
        if count > self.size - self.file.tell():
            raise pickle.UnpicklingError(f"it promises {count} bytes more than are there")

    def read(self, count: int) -> bytes:
        if count > LONGEST_TEXT:  # to ask the file where it is would cost more than to read a little
            self.require(count)
        return self.file.read(count)

    def readinto(self, buffer: bytearray) -> int:
        return self.file.readinto(buffer)


class _Counted:
    """The functions of the opcodes, which counts what is taken."""

    def __init__(self, reader: "_RestrictedUnpickler") -> None:
        self.reader, self.count = reader, 0

    def __getitem__(self, opcode: int) -> Callable:
        self.count += 1
        if self.count > MOST_OPCODES:
            raise pickle.UnpicklingError(f"it has more than {MOST_OPCODES} opcodes")
        if opcode in CONTAINERS:
            self.reader.spend(CONTAINER_BYTES)
        return self.reader.functions[opcode]


CONTAINERS = {*pickle.EMPTY_SET, *pickle.EMPTY_DICT, *pickle.EMPTY_LIST, *pickle.LIST, *pickle.DICT, *pickle.FROZENSET}
CONTAINERS |= {*pickle.MARK, *pickle.TUPLE, *pickle.TUPLE1, *pickle.TUPLE2, *pickle.TUPLE3}
# Instances of classes, objects that are kept elsewhere, and numbers for them: no table has any.
UNKNOWN = {*pickle.INST, *pickle.OBJ, *pickle.NEWOBJ, *pickle.NEWOBJ_EX, *pickle.PERSID, *pickle.BINPERSID}
UNKNOWN |= {*pickle.EXT1, *pickle.EXT2, *pickle.EXT4, *pickle.NEXT_BUFFER, *pickle.READONLY_BUFFER}


def _scalar(plain: Any, content: Any = b"") -> np.generic:
    dtype, content = _dtype_of(plain), _as_bytes(content)
    if dtype.hasobject or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError(f"a scalar of type {dtype} does not fit its content")
    return np.ndarray((), dtype, content)[()]


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode` for the one encoding in which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {_short(encoding)}, where pickles use 'latin1'")
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

    functions: ClassVar = {
        code: function for code, function in pickle._Unpickler.dispatch.items() if code not in UNKNOWN
    }

    def __init__(self, file: BinaryIO, keep: Callable[[np.ndarray], Any] | None) -> None:
        self.file = _BoundedFile(file)
        super().__init__(self.file, encoding="latin1")
        self.memo, self.keep = _Memo(is_table=keep is not None), keep or (lambda array: array)
        self.dispatch = _Counted(self)
        self.memory_left = MOST_MEMORY[0] + MOST_MEMORY[1] * self.file.size
        self.end = time.monotonic() + MOST_SECONDS[0] + self.file.size / MOST_SECONDS[1]
        self.admitted = {("numpy", "dtype"): _Dtype, ("numpy", "ndarray"): NDARRAY}
        self.admitted["_codecs", "encode"] = self._encode
        for core in ("numpy.core", "numpy._core"):  # the second since numpy 2.0
            self.admitted[f"{core}.multiarray", "_reconstruct"] = _Array
            self.admitted[f"{core}.multiarray", "scalar"] = _scalar
            self.admitted[f"{core}.numeric", "_frombuffer"] = self._from_buffer
        for builtins in ("builtins", "__builtin__"):  # the second in Python 2
            for container in (set, frozenset, bytearray, bytes):  # the others have their own opcodes
                self.admitted[builtins, container.__name__] = partial(self._container, container)
            self.admitted[builtins, "complex"] = _complex

    def spend(self, size: int) -> None:
        """Count memory that is taken, and look at the clock."""
        self.memory_left -= size
        if self.memory_left < 0:
            raise pickle.UnpicklingError("it would take far more memory than the file has bytes")
        if time.monotonic() > self.end:
            raise pickle.UnpicklingError("it takes too long to read")

    def _encode(self, text: str, encoding: str) -> bytes:
        self.spend(len(text))
        return _encode(text, encoding)

    def _container(self, kind: type, content: Any = (), *encoding: Any) -> Any:
        """A set, or bytes; never so many zeros, which a number would make."""
        if encoding:
            content = self._encode(content, "latin1" if encoding == ("latin-1",) else encoding[0])
        allowed = (list, tuple) if kind in (set, frozenset) else (bytes, bytearray, list, tuple)
        if not isinstance(content, allowed):
            raise pickle.UnpicklingError(f"{kind.__name__} of {_short(content)}")
        self.spend(len(content) * (CONTAINER_BYTES if isinstance(content, list | tuple) else 1))
        if kind in (set, frozenset):
            for each in content:
                _require_key(each)
        return kind(content)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.admitted[module, name]
        except KeyError:
            raise UnsafePickleError(f"it asks for {printable(f'{module[:60]}.{name[:60]}')}") from None

    def _add_items(self, items: Sequence[Any]) -> None:
        """Put keys and values by turns into the dictionary on the stack."""
        table = self.stack[-1]
        if type(table) is not dict:
            raise pickle.UnpicklingError(f"it puts keys into {_short(table)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _require_key(key)
            self.spend(CONTAINER_BYTES)
            table[key] = value

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._add_items([key, value])

    def load_setitems(self) -> None:
        self._add_items(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._add_items(items)

    def load_additems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(self._container(set, items))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(self._container(frozenset, items))

    def load_mark(self) -> None:
        if len(self.metastack) >= MOST_LEVELS:
            raise pickle.UnpicklingError(f"its containers are more than {MOST_LEVELS} levels deep")
        super().load_mark()

    def load_frame(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.file.require(size)  # Python would take what is there
        self._unframer.load_frame(size)

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.spend(size)
        buffer = bytearray(size)
        if self.readinto(buffer) != size:
            raise EOFError("it ends within an array of bytes")
        self.append(buffer)

    def load_build(self) -> None:
        """Complete a dtype or an array, and nothing else."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.build(state)
        elif isinstance(target, _Array):
            self.spend(sum(len(part) for part in state if isinstance(part, str | list)))  # which are copied
            array = target.build(state)
            self.stack[-1] = array if array.dtype.hasobject else self.keep(array)
            if target.key is not None:  # another entry of a table may refer to the same array
                self.memo[target.key] = self.stack[-1]
        else:
            raise pickle.UnpicklingError(f"it tries to change {_short(target)}")

    functions |= {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.DICT[0]: load_dict,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.MARK[0]: load_mark,
        pickle.FRAME[0]: load_frame,
        pickle.BYTEARRAY8[0]: load_bytearray8,
        pickle.BUILD[0]: load_build,
    }

    def _from_buffer(self, buffer: Any, plain: Any, shape: Any, order: str) -> Any:
        """Array of protocol 5."""
        return self.keep(_new_array(shape, plain, buffer, order))


def _complex(real: Any, imaginary: Any) -> complex:
    if not isinstance(real, float) or not isinstance(imaginary, float):
        raise pickle.UnpicklingError("a complex number of no two numbers")
    return complex(real, imaginary)


def load_restricted(path: str | Path, keep: Callable[[np.ndarray], Any] | None = None) -> Any:
    """Load a pickle of numpy arrays, numpy scalars and builtin containers.

    Pickles of Python 2 are read as latin1, which preserves their arrays and ASCII strings. The header of a `.npy` file
    in which numpy saved an object is skipped. `MOST_OPCODES` and the other limits bound time and memory.

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
            value = _RestrictedUnpickler(file, keep).load()
            _require_tree(value)
            return value
        except UnsafePickleError as error:
            raise UnsafePickleError(
                f"{path}: refused, {error}, and only numpy arrays and builtin containers are read. "
                "Do not use this file unless you know who wrote it and why it needs that."
            ) from None
        except Exception as error:  # unpickling raises whatever the bytes lead to
            raise ValueError(
                f"{path}: not a whole pickle of arrays and containers ({brief(error)}); fetch it again"
            ) from error


def _skip_npy_header(file: BinaryIO) -> None:
    """Move to the start of the pickle, past 8 bytes of magic and version, the header's length and the header."""
    start = file.read(8)
    if not start.startswith(NPY_MAGIC):
        file.seek(0)
        return
    length = file.read(2 if start[6:7] == b"\x01" else 4)
    file.seek(int.from_bytes(length, "little"), os.SEEK_CUR)
