"""Read pickles of strangers who want to run something, or to take all time and memory."""

import argparse
import pickle
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import numpy as np

from ..data.sources.files import FeatureFileError, read_features
from ..data.sources.pickles import load_restricted
from ..data.sources.tables import TableSource
from .checking import Usage

MOST_MEMORY = 2**28  # bytes for a file
# What hostile pickles call: processes, code, files, the network, and what leads to them.
CALLED = (
    "os.system",
    "posix.system",
    "os.popen",
    "os.execv",
    "os.mkdir",
    "os.remove",
    "subprocess.Popen",
    "subprocess.call",
    "pty.spawn",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.open",
    "builtins.getattr",
    "builtins.setattr",
    "builtins.globals",
    "builtins.breakpoint",
    "builtins.type",
    "builtins.object",
    "builtins.map",
    "builtins.print",
    "builtins.bytes.fromhex",
    "importlib.import_module",
    "runpy.run_path",
    "code.interact",
    "types.FunctionType",
    "types.CodeType",
    "marshal.loads",
    "pickle.loads",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools.partial",
    "functools.reduce",
    "shutil.rmtree",
    "pathlib.Path",
    "io.open",
    "ctypes.CDLL",
    "socket.socket",
    "urllib.request.urlopen",
    "webbrowser.open",
    "timeit.timeit",
    "cProfile.run",
    "pdb.run",
    "numpy.load",
    "numpy.fromfile",
    "numpy.memmap",
    "numpy.save",
    "numpy.core.multiarray.fromstring",
    "numpy._core.multiarray.frombuffer",
    "torch.load",
    "copyreg._reconstructor",
    "copyreg.__newobj__",
    "numpy.ndarray.__reduce__",
    "limssr.training.data.load",
)
LIES = {b"T": "<I", b"X": "<I", b"B": "<I", b"\x8b": "<i", b"\x8d": "<Q", b"\x8e": "<Q", b"\x96": "<Q", b"\x95": "<Q"}
EVENTS = ("os.", "subprocess.", "socket.", "shutil.", "exec", "ctypes.", "urllib.", "webbrowser.", "pty.")


def _text(text: str) -> bytes:
    encoded = text.encode()
    return (
        b"\x8c" + bytes([len(encoded)]) + encoded if len(encoded) < 256 else b"X" + pack("<I", len(encoded)) + encoded
    )


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def hostile_calls(target: str) -> Iterator[tuple[str, bytes]]:
    """Each function of `CALLED`, called with the name of a file by each opcode that could."""
    for called in CALLED:
        module, _, name = called.rpartition(".")
        argument = _text(target)
        yield f"{called} by REDUCE", b"\x80\x02}" + _text("a") + _global(module, name) + argument + b"\x85Rs."
        yield f"{called} by STACK_GLOBAL", b"\x80\x04" + _text(module) + _text(name) + b"\x93" + argument + b"\x85R."
        yield f"{called} by INST", b"(" + argument + f"i{module}\n{name}\n.".encode()
        yield f"{called} by OBJ", b"(" + _global(module, name) + argument + b"o."
        yield f"{called} by NEWOBJ", b"\x80\x02" + _global(module, name) + argument + b"\x85\x81."


def _array(
    dtype: bytes,
    shape: bytes,
    content: bytes,
    state: bytes = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
):
    """A pickled array, of parts that may lie."""
    start = b"\x80\x02" + _global("numpy._core.multiarray", "_reconstruct") + _global("numpy", "ndarray")
    plain = _global("numpy", "dtype") + dtype + b"K\x00K\x01\x87R" + state
    return start + b"K\x00\x85U\x01b\x87R(K\x01" + shape + plain + b"\x89" + content + b"tb."


def costly_pickles() -> Iterator[tuple[str, bytes]]:
    """Little files that ask for much time, memory or depth, or that are damaged."""
    double = b"2\x86"  # DUP TUPLE2: a pair of what is on the stack and itself
    nested = {
        "pairs": b"K\x01" + double * 100,
        "deep": b")" + b"\x85" * 100_000,
        "frozensets": b"\x80\x04(K\x01\x91"
        + b"".join(b"\x94(h" + bytes([i]) + b"K" + bytes([i]) + b"\x91" for i in range(90)),
    }
    for name, key in nested.items():
        yield f"key of nested {name}", b"}" + key + b"K\x01s."
        yield f"key of nested {name} among many", b"}(" + key + b"K\x01u."
        yield f"key of nested {name} in DICT", b"(" + key + b"K\x01d."
        yield f"set of nested {name}", b"\x80\x04\x8f(" + key + b"\x90."
        yield f"frozenset of nested {name}", b"\x80\x04(" + key + b"\x91."
        yield f"builtins.set of nested {name}", _global("builtins", "set") + b"](" + key + b"e\x85R."
        yield f"value of nested {name}", b"}K\x01" + key + b"s."
        yield f"dtype of nested {name}", _global("numpy", "dtype") + key + b"\x85R."
        yield f"shape of nested {name}", _array(b"U\x02f8", key, b"U\x00")
        yield (
            f"state of a dtype of nested {name}",
            _array(b"U\x02f8", b"K\x00\x85", b"U\x00", b"(K\x03" + key + b"NNNtb"),
        )
        yield f"encoding of nested {name}", _global("_codecs", "encode") + _text("a") + key + b"\x86R."
        yield f"content of nested {name}", _array(b"U\x01O", b"K\x01\x85", b"](" + key + b"e")
        yield f"change of nested {name}", key + b"}b."
    yield "list key", b"}]K\x01s."
    yield "lists in lists", b"]" * 100_000 + b"a" * 99_999 + b"."
    pairs = b"".join(b"](h%ch%ceq%c" % (number, number, number + 1) for number in range(60))
    yield "pairs of lists", b"\x80\x02]q\x00K\x01a" + pairs + b"."
    yield "list in itself", b"\x80\x02]q\x00h\x00a."
    yield "dictionary in itself", b"\x80\x02}q\x00K\x01h\x00s."
    for opcode, form in LIES.items():
        yield f"length of {opcode!r} lies", b"\x80\x05" + opcode + pack(form, 2**31 - 1) + b"x."
        if form == "<Q":
            yield f"length of {opcode!r} lies more", b"\x80\x05" + opcode + pack(form, 2**63 - 1) + b"x."
    yield "LONG_BINPUT of a high number", b"Nr" + pack("<I", 2**32 - 1) + b"."
    yield "PUT of a high number", b"Np" + b"9" * 4000 + b"\n."
    yield "GET of nothing", b"\x80\x02h\x07."
    yield "MEMOIZE of nothing", b"\x80\x04\x94."
    yield "marks", b"(" * 1_000_000 + b"."
    yield "POP_MARK without mark", b"\x80\x02N1."
    yield "POP_MARK of many", b"(" + b"N" * 500_000 + b"1N."
    yield "empty sets", b"\x80\x04" + b"\x8f" * 3_000_000 + b"."
    yield "empty dictionaries", b"}" * 3_000_000 + b"."
    yield "opcodes", b"N0" * 1_500_000 + b"N."
    for kind in ("bytearray", "bytes"):
        yield f"{kind} of a number", _global("builtins", kind) + b"J" + pack("<i", 2 * 10**9) + b"\x85R."
        yield (
            f"{kind} of a number, as a new object",
            b"\x80\x02" + _global("builtins", kind) + b"J\x00\x94\x35\x77\x85\x81.",
        )
        yield f"{kind} of a list", _global("builtins", kind) + b"](J" + pack("<i", 10**9) + b"e\x85R."
    text = "x" * 100_000
    again = b"h\x01h\x02\x86R0"
    yield (
        "one text made bytes again and again",
        b"\x80\x02"
        + _global("_codecs", "encode")
        + b"q\x01"
        + _text(text)
        + b"q\x02"
        + b"0h\x01h\x02"
        + _text("latin1")
        + b"q\x03\x86R0"
        + b"h\x01h\x02h\x03\x86R" * 20_000
        + b".",
    )
    yield (
        "without its arguments",
        b"\x80\x02" + _global("_codecs", "encode") + b"q\x01" + _text("a") + b"q\x02" + again + b".",
    )
    yield "bytearray of text", _global("builtins", "bytearray") + _text("a") + b"\x85R."
    yield (
        "colliding keys",
        b"}("
        + b"".join(b"\x8a\x11" + ((2**61 - 1) * (2**64 + i)).to_bytes(17, "little") + b"N" for i in range(20_000))
        + b"u.",
    )
    yield "number of many digits", b"I" + b"9" * 1_000_000 + b"\n."
    yield "long of many digits", b"L" + b"9" * 1_000_000 + b"L\n."
    yield "float of many digits", b"F" + b"9" * 1_000_000 + b"\n."
    yield "text without end", b"V" + b"x" * 100
    for name, content in {
        "nothing": b"",
        "STOP": b".",
        "protocol 255": b"\x80\xffN.",
        "no opcode": b"\xff.",
        "half": pickle.dumps({"a": np.arange(99)})[:100],
    }.items():
        yield name, content
    yield "persistent id", b"Pfile\n."
    yield "persistent object", b"NQ."
    for opcode in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        yield f"extension {opcode!r}", b"\x80\x02" + opcode + b"."
    yield "buffer out of band", b"\x80\x05\x97."
    yield "read-only buffer", b"\x80\x05N\x98."
    for name, target in {
        "list": b"]",
        "text": _text("a"),
        "encoder": _global("_codecs", "encode"),
        "array class": _global("numpy", "ndarray"),
    }.items():
        yield f"BUILD of a {name}", target + b"}b."
        yield f"SETITEM of a {name}", target + b"K\x00K\x01s."
        yield f"ADDITEMS of a {name}", b"\x80\x04" + target + b"(K\x00\x90."
        yield f"APPEND to a {name}", target + b"K\x00a."
    shapes = {
        "negative": b"J\xff\xff\xff\xff\x85",
        "huge": b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85",
        "float": b"G?\xf0\x00\x00\x00\x00\x00\x00\x85",
        "no tuple": b"K\x01",
        "of 100": b"(" + b"K\x01" * 100 + b"t",
    }
    for name, shape in shapes.items():
        yield f"array of a shape that is {name}", _array(b"U\x02f8", shape, b"U\x08" + bytes(8))
    for code in (
        "O",
        "S999999999",
        "V8",
        "M8[s]",
        "f8,i4",
        "a" * 9000,
        "f" + "9" * 9000,
        "{'names':['a'],'formats':['O']}",
    ):
        yield f"array of {code[:20]}", _array(_text(code), b"K\x01\x85", b"U\x08" + b"A" * 8)
    yield (
        "array whose flags lie",
        _array(
            b"U\x02f8", b"K\x01\x85", b"U\x08" + b"A" * 8, b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ftb"
        ),
    )
    yield (
        "scalar that does not fit",
        _global("numpy._core.multiarray", "scalar")
        + _global("numpy", "dtype")
        + b"U\x02f8K\x00K\x01\x87RU\x01x\x86R.",
    )


def as_npy(content: bytes) -> bytes:
    """The same pickle in a `.npy` file, as numpy saves objects."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    return b"\x93NUMPY\x01\x00" + pack("<H", len(header)) + header + content


def attack(content: bytes, folder: Path) -> list[str]:
    """Read a pickle in three ways, and return what does not hold."""
    path, npy = folder / "table.pkl", folder / "table.npy"
    path.write_bytes(content)
    npy.write_bytes(as_npy(content))
    readers = {
        "load_restricted": lambda: load_restricted(path),
        "TableSource": lambda: TableSource(npy, 4).open()("a"),
        "read_features": lambda: read_features(npy),
    }
    problems = []
    for name, read in readers.items():
        usage = Usage()
        try:
            read()
        except (FeatureFileError, ValueError, pickle.UnpicklingError) as error:
            if "table." not in str(error) or "\n" in str(error) or len(str(error)) > 1000:
                problems.append(f"{name}: no line that names the file: {str(error)[:200]!r}")
        except Exception as error:
            problems.append(f"{name}: {error!r:.200}")
        if excess := usage.excess(MOST_MEMORY):
            problems.append(f"{name}: {excess}")
    return problems


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="print the name of each pickle")


def run(arguments: argparse.Namespace) -> bool:
    """Attack with every pickle, and print what does not hold: also what an audit hook of Python saw happen."""
    happened: list[str] = []
    with tempfile.TemporaryDirectory() as work:
        folder, target = Path(work), Path(work, "ran")
        armed = False

        def watch(event: str, values: tuple) -> None:
            if armed and event.startswith(EVENTS) and not event.startswith(("os.scandir", "os.listdir")):
                happened.append(f"{event} {values!r:.100}")

        sys.addaudithook(watch)
        attack(b"Va\n.", folder)  # imports what a reader needs
        corpus = [*hostile_calls(f"touch {target}"), *costly_pickles()]
        failed = 0
        for name, content in corpus:
            armed = True
            problems = attack(content, folder)
            armed = False
            if target.exists():
                problems.append("it ran")
            failed += bool(problems or happened)
            if arguments.list or problems or happened:
                print(f"{name}: {'; '.join([*problems, *happened]) or 'refused or read'}", flush=True)
            happened.clear()
    print(f"{len(corpus)} pickles, three ways in: {failed} did not hold", flush=True)
    return not failed
