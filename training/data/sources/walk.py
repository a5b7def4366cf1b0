"""Files below a folder: the one walk of all readers."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from unicodedata import normalize

from ...utils.text import printable


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not data: `.ipynb_checkpoints`, `._a.npy`, `.DS_Store`, `__MACOSX`."""
    return name.startswith(".") or name == "__MACOSX"


def walk_files(folder: Path) -> Iterator[Path]:
    """Files below a folder at any depth, without hidden ones.

    Links are followed; a folder that contains itself through a link is not entered again. A link to nothing counts as
    a file, so that whoever reads it says so.

    Raises:
        OSError: a folder cannot be read.
    """
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        place = Path(place)
        folders[:] = sorted(name for name in folders if not is_hidden(name) and not _is_loop(place / name))
        yield from (place / name for name in sorted(files) if not is_hidden(name))


def find_samples(folder: Path, suffixes: Collection[str]) -> dict[str, list[Path]]:
    """Sample id -> its files with one of the suffixes below a folder.

    The id is the path below the folder without its suffix, in the normal form NFC, because systems write the same
    letters in different forms. Control characters and bytes that are not UTF-8 are spelt out, see `printable`.
    """
    found: dict[str, list[Path]] = {}
    for path in walk_files(folder):
        if path.suffix in suffixes:
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(normalize("NFC", printable(name)), []).append(path)
    return found


def _is_loop(folder: Path) -> bool:
    """Whether a folder is one of those that lead to it."""
    folder = folder.absolute()
    return any(os.path.samefile(folder, parent) for parent in folder.parents)


def _refuse(error: OSError) -> None:
    raise error
