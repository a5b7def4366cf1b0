"""Markdown tables that also read well in a terminal."""

from collections.abc import Sequence

from .text import printable


def markdown_table(rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Format rows as an aligned Markdown table.

    Args:
        rows: cells, as many in every row, the heading first; a float is written in its shortest form.
        left: number of leading columns that are aligned to the left, the others to the right.
    """
    texts = [[f"{cell:g}" if isinstance(cell, float) else _plain(str(cell)) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(*texts, strict=True)]
    dashes = ["-" * (width + 1) for width in widths]
    rule = [f":{dash}" for dash in dashes[:left]] + [f"{dash}:" for dash in dashes[left:]]
    heading, *lines = ["|" + "|".join(_pad(row, widths, left)) + "|" for row in texts]
    return "\n".join([heading, "|" + "|".join(rule) + "|", *lines])


def _plain(cell: str) -> str:
    """A name in a cell ends no cell, moves no cursor and is no HTML."""
    return printable(cell).replace("|", "\\|").replace("<", "&lt;")


def _pad(cells: list[str], widths: list[int], left: int) -> list[str]:
    columns = enumerate(zip(cells, widths, strict=True))
    return [f" {cell.ljust(width) if number < left else cell.rjust(width)} " for number, (cell, width) in columns]
