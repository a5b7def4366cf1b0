"""What is wrong with a file, in one line for the person who gave it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_MESSAGE = 300
# What libraries raise at a file or setting that is wrong and that is neither an OSError nor a ValueError. By name,
# because a command that fails early has not imported them.
OF_LIBRARIES = {
    "SafetensorError",
    "ArrowException",
    "YAMLError",
    "UnpicklingError",
    "BadZipFile",
    "zlib.error",
    "StrictDataclassError",
}


def is_expected(error: BaseException) -> bool:
    """Return whether an error says that something is not there or does not fit; any other is a mistake of ours."""
    if isinstance(error, ModuleNotFoundError | OSError | ValueError):
        return True
    kinds = type(error).__mro__
    return any(kind.__name__ in OF_LIBRARIES or f"{kind.__module__}.{kind.__name__}" in OF_LIBRARIES for kind in kinds)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what a library raises at the content of a file into a ValueError that begins with the file.

    Raises:
        ValueError: in place of an error that `is_expected`, unless it is a line that names the file already.
    """
    try:
        yield
    except Exception as error:
        if not is_expected(error) or (str(path) in str(error) and "\n" not in str(error)):
            raise
        raise ValueError(f"{path}: {brief(error)}") from error


@contextmanager
def taking_fields(path: str | Path, advice: str) -> Iterator[None]:
    """Turn what fields lead to that are missing or of another type into a ValueError that begins with their file.

    Args:
        path: file that the fields were read from.
        advice: how to make it anew.

    Raises:
        ValueError: in place of such an error.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        wrong = f"no field {error}" if isinstance(error, KeyError) else brief(error)
        raise ValueError(f"{path} is damaged or of another version ({wrong}); {advice}") from error


def brief(error: BaseException) -> str:
    """Return the message of an error in one line of at most `LONGEST_MESSAGE` characters, or its kind if it has none.

    Libraries put the content of a file into their messages, which may be long and of several lines.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
