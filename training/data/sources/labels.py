"""Label files: the samples and their scores. Every error names its file and line."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
COMMA_DECIMAL = re.compile(r"[+-]?\d*,\d+", re.ASCII)


class LabelError(ValueError):
    """A label file that cannot be used; the message names file and line."""


@dataclass
class Labels:
    """Labels of one split.

    Attributes:
        path: label file.
        sample_ids: unique id of each sample.
        lines: line of each sample in the file, counted from 1; None for an annotation file without lines.
        columns: numbers by name, float64 (samples,); NaN where a value is not given.
        texts: other columns by name; None where a value is not given.
    """

    path: Path
    sample_ids: list[str]
    lines: list[int] | None
    columns: dict[str, np.ndarray]
    texts: dict[str, list[str | None]]

    def where(self, row: int) -> str:
        """File, line and id of a sample."""
        line = "" if self.lines is None else f", line {self.lines[row]}"
        return f"{self.path}{line}, sample {self.sample_ids[row]!r}"

    def select(self, rows: Sequence[int]) -> "Labels":
        """Labels of these rows only."""
        return Labels(
            self.path,
            [self.sample_ids[row] for row in rows],
            None if self.lines is None else [self.lines[row] for row in rows],
            {name: values[list(rows)] for name, values in self.columns.items()},
            {name: [values[row] for row in rows] for name, values in self.texts.items()},
        )


def parse_number(text: str, where: str) -> float:
    """Parse a finite decimal number, or raise LabelError with a message that starts with `where`."""
    if COMMA_DECIMAL.fullmatch(text):
        raise LabelError(f"{where} is {text!r}: a comma stands where the decimal point belongs; write a point")
    if not NUMBER.fullmatch(text) or not np.isfinite(float(text)):
        raise LabelError(f"{where} is {text!r}, expected a number")
    return float(text)


def read_label_table(path: str | Path, names: Sequence[str]) -> Labels:
    """Read a table separated by any mixture of spaces and tabs: an id, then numbers.

    The first line is a header if nothing after its first column looks like a number. A header with all the names
    (`TES`, `Total_Score`) determines the columns; otherwise they are in the order given. Further columns are ignored.

    Args:
        path: UTF-8 file, with or without a byte-order mark.
        names: number columns to read.

    Raises:
        LabelError: the file or its samples are missing, a line has another length, a number is wrong or an id repeats.
    """
    path = Path(path)
    lines = [(line, cells) for line, text in enumerate(_lines(path), 1) if (cells := text.split())]
    positions = {name: position for position, name in enumerate(names, 1)}
    if lines and not any(NUMBER.fullmatch(cell) or COMMA_DECIMAL.fullmatch(cell) for cell in lines[0][1][1:]):
        positions = _positions(lines.pop(0)[1], names, path)
    if not lines:
        raise LabelError(f"{path}: there is no sample in it; expected lines of id, {', '.join(names)}")
    wanted = max(len(lines[0][1]), 1 + max(positions.values()))
    rows = []
    for line, cells in lines:
        if len(cells) != wanted:
            expected = f"{wanted}, an id and {', '.join(names)} among them"
            raise LabelError(f"{path}, line {line}: there are {len(cells)} columns, expected {expected}")
        rows.append((line, {"sample_id": cells[0], **{name: cells[at] for name, at in positions.items()}}))
    return _build_labels(path, rows, names, [])


def read_label_csv(path: str | Path, names: Sequence[str], texts: Sequence[str]) -> Labels:
    """Read a CSV with the column `sample_id` and the number and text columns that are named.

    An empty cell is a value that is not given. Files and errors are as in `read_label_table`.
    """
    path = Path(path)
    rows = list(csv_rows(path))
    wanted = ["sample_id", *names, *texts]
    if not rows:
        raise LabelError(f"{path}: there is no sample in it; expected a line for each, with {', '.join(wanted)}")
    if lacking := [name for name in wanted if name not in rows[0][1]]:
        raise LabelError(f"{path}: there is no column {lacking[0]!r}; the columns are {', '.join(rows[0][1])}")
    return _build_labels(path, rows, names, texts)


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and stripped cells of each row of a CSV with a header; LabelError if the file is no such CSV."""
    reader = csv.reader(_lines(path), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if "sample_id" not in header or len(set(header)) < len(header):
            raise LabelError(
                f"{path}: the columns are {', '.join(header) or 'none'}; expected sample_id, split and the scores, "
                "separated by commas, each once"
            )
        for cells in reader:
            if len(cells) not in (0, len(header)):
                raise LabelError(
                    f"{path}, line {reader.line_num}: there are {len(cells)} cells, expected {len(header)}"
                )
            if cells:
                yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise LabelError(f"{path}, line {reader.line_num}: not a CSV: {error}") from error


def _build_labels(
    path: Path, rows: Sequence[tuple[int, dict[str, str]]], names: Sequence[str], texts: Sequence[str]
) -> Labels:
    """Labels from line numbers and cells."""
    sample_ids, columns = [row["sample_id"] for _, row in rows], {name: [] for name in names}
    for line, row in rows:
        for name in names:
            where = f"{path}, line {line}, sample {row['sample_id']!r}: {name}"
            columns[name].append(parse_number(row[name], where) if row[name] else float("nan"))
    lines = [line for line, _ in rows]
    check_repeated(path, sample_ids, lines)
    numbers = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    return Labels(path, sample_ids, lines, numbers, {name: [row[name] or None for _, row in rows] for name in texts})


def check_repeated(path: Path, sample_ids: Sequence[str], lines: Sequence[int] | None = None) -> None:
    """Raise LabelError if an id is empty or repeated."""
    first: dict[str, int] = {}
    for row, sample_id in enumerate(sample_ids):
        where = f"{path}" if lines is None else f"{path}, line {lines[row]}"
        if not sample_id:
            raise LabelError(f"{where}: the id of a sample is empty")
        if sample_id in first:
            before = "there" if lines is None else f"on line {lines[first[sample_id]]}"
            raise LabelError(f"{where}: sample {sample_id!r} is already {before}")
        first[sample_id] = row


def check_apart(splits: Mapping[str, Labels]) -> None:
    """Raise LabelError if a sample is in two splits."""
    found: dict[str, str] = {}
    for name, labels in splits.items():
        for row, sample_id in enumerate(labels.sample_ids):
            if sample_id in found:
                raise LabelError(f"{labels.where(row)} of the split {name}: it is also in {found[sample_id]}")
            found[sample_id] = f"the split {name}, {labels.where(row)}"


def check_range(labels: Labels, name: str, lowest: float, highest: float) -> None:
    """Raise LabelError if a number of a column is outside its range; NaN is ignored."""
    values = labels.columns[name]
    outside = np.flatnonzero((values < lowest) | (values > highest))
    if len(outside):
        row = outside[0]
        raise LabelError(f"{labels.where(row)}: {name} is {values[row]:g}, expected {lowest:g} to {highest:g}")


def _lines(path: Path) -> list[str]:
    """Lines of a text file with any line ends."""
    if not path.is_file():
        raise LabelError(f"{path}: no such file; expected the labels there")
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not text in UTF-8: {error}") from error


def _positions(header: list[str], names: Sequence[str], path: Path) -> dict[str, int]:
    """Position of each column: from a header that names them all, else in the order of `names`."""
    titles = [cell.lower().removesuffix("_score") for cell in header]
    found = {name: titles.index(name) for name in names if name in titles}
    if len(found) == len(names):
        return found
    expected = {name: position for position, name in enumerate(names, 1)}
    if any(expected[name] != position for name, position in found.items()):
        raise LabelError(f"{path}: the columns are {', '.join(header)}; expected an id, then {', '.join(names)}")
    return expected
