"""The one way from a name that somebody else chose, such as an id, to a path: below a folder, or refused."""

from pathlib import Path, PurePosixPath, PureWindowsPath


class OutsideError(ValueError):
    """A name that would lead out of its folder."""


def path_below(folder: str | Path, name: str, *, follow_links: bool = False) -> Path:
    """Return `folder / name`, or refuse.

    Args:
        folder: folder that must not be left.
        name: name, or relative path with slashes.
        follow_links: links that lie in the folder may lead out of it: for reading a user's own folder.

    Raises:
        OutsideError: see `check_inside`, or a link leads out.
    """
    check_inside(name)
    path = Path(folder, name)
    if not follow_links and not path.resolve().is_relative_to(Path(folder).resolve()):
        raise OutsideError(f"{name!r} is or lies behind a link that leads out of {folder}")
    return path


def check_inside(name: str) -> None:
    """
    Raises:
        OutsideError: the name is empty or absolute, or has `..`, a drive letter or a null byte.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if not posix.parts or windows.anchor or ".." in (*posix.parts, *windows.parts) or "\0" in name:
        raise OutsideError(f"{name!r} leads out of its folder; expected a name, or a path below it without '..'")
