"""Damage to checkpoints: by accident, and by somebody who also writes the manifest anew."""

from collections.abc import Callable
from pathlib import Path

from limssr.training.utils.checkpoints import MANIFEST_FILE, finish_folder


def flip_a_byte(path: Path, place: int = -1) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewrite_manifest(checkpoint: Path) -> None:
    """Make the manifest agree with the files as they are now."""
    (checkpoint / MANIFEST_FILE).unlink(missing_ok=True)
    finish_folder(checkpoint.rename(checkpoint.with_name("unfinished")), checkpoint)


def rewritten(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """The change, and a manifest that agrees with it."""

    def write(checkpoint: Path) -> None:
        change(checkpoint)
        rewrite_manifest(checkpoint)

    return write
