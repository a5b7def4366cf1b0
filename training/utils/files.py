"""Files that are whole or not there, whenever a process is stopped."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".writing-"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A place to write to; what is there at the end is renamed to `path`, and nothing is left where writing fails.

    Args:
        path: the file; its folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as scratch:
        unfinished = Path(scratch) / path.name
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # else a machine that stops could leave the name without the content
        os.replace(unfinished, path)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text, see `atomic_write`."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def remove_unfinished(folder: str | Path) -> None:
    """Removes what killed processes left unfinished; to be called when no process writes into the folder."""
    for path in Path(folder).rglob(f"{UNFINISHED}*"):
        shutil.rmtree(path)
