"""Text from elsewhere, such as ids and names of files, made harmless for a terminal, a log and a page."""

import re

# Control characters, which a terminal obeys, and marks that change the direction in which a text is shown.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    """Return a text whose control characters, and bytes that are not UTF-8, are spelt out: `\\x1b`, `\\xb6`."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def printable_lines(text: str) -> str:
    """Return a text of several lines, such as a table, each of them `printable`."""
    return "\n".join(map(printable, text.split("\n")))
