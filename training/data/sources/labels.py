"""Label files: the samples and their scores. Every error names its file and line."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

import numpy as np

from ...utils.paths import OutsideError, check_inside, path_below
from ...utils.text import UNPRINTABLE
from .files import LFS_ADVICE, LFS_POINTER

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
COMMA_DECIMAL = re.compile(r"[+-]?\d*,\d+", re.ASCII)
UNNAMED = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")  # an index that pandas saved, and what it becomes when read
# Title of a column of ids.
ID_TITLE = re.compile(
    r"#?((sample|video|player|clip|file|action|dive|performance)s?[_ -]?)?(ids?|names?|no|number)?", re.IGNORECASE
)

Rows = list[tuple[int, dict[str, str]]]  # line, counted from 1, and cells by column


class LabelError(ValueError):
    """A table of samples that cannot be used, labels or a list of files; the message names file and line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # a cell may hold line breaks


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

    The first line is a header if nothing after its first column looks like a number, and it is titled like an id or
    one of the names (`TES`, `Total_Score`). A header with all the names determines the columns; otherwise they are in
    the order given. Further columns are ignored.

    Args:
        path: UTF-8 file, with or without a byte-order mark.
        names: number columns to read.

    Raises:
        LabelError: the file or its samples are missing, a line has another length, a number is wrong, an id repeats,
            or the first line may be a header or a sample without a number.
    """
    path = Path(path)
    lines = [(line, cells) for line, text in enumerate(_read(path).split("\n"), 1) if (cells := text.split())]
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
    header, rows = read_csv(path)
    wanted = ["sample_id", *names, *texts]
    if lacking := [name for name in wanted if name not in header]:
        raise LabelError(f"{path}: there is no column {lacking[0]!r}; the columns are {', '.join(header)}")
    if not rows:
        raise LabelError(f"{path}: there is no sample in it; expected a line for each, with {', '.join(wanted)}")
    return _build_labels(path, rows, names, texts)


def read_csv(path: Path, others: str = "split and the scores") -> tuple[list[str], Rows]:
    """Header and rows of a CSV with the column `sample_id`; cells are stripped text, which may have line breaks.

    Python's `csv` is the reader that knows the line of each row and refuses broken quotes.

    Args:
        path: UTF-8 file, with or without a byte-order mark.
        others: the other columns, for a message.

    Raises:
        LabelError: there is no such file, a column has no name or the name of another, a row has another length, a
            quote is broken, or an id is empty or repeated.
    """
    reader = csv.reader(io.StringIO(_read(path)), strict=True)
    line, rows = 1, []
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(path, header, others)
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) not in (0, len(header)):
                raise LabelError(f"{path}, line {line}: there are {len(cells)} cells, expected {len(header)}")
            if cells:
                rows.append((line, dict(zip(header, (cell.strip() for cell in cells), strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelError(f"{path}, line {line}: not a CSV: {error}") from error
    check_repeated(path, [row["sample_id"] for _, row in rows], [line for line, _ in rows])
    return header, rows


def _check_header(path: Path, header: list[str], others: str) -> None:
    """Raise LabelError if a column of a CSV is not known by its name."""
    repeated = [name for name in header if header.count(name) > 1 and not UNNAMED.fullmatch(name)]
    unnamed = [column for column, name in enumerate(header, 1) if UNNAMED.fullmatch(name)]
    if "sample_id" not in header:
        found = ", ".join(header) or "none"
        expected = f"expected sample_id and {others}, separated by commas"
        raise LabelError(f"{path}, line 1: the columns are {found}; {expected}")
    if repeated:
        raise LabelError(f"{path}, line 1: there are two columns {repeated[0]!r}; rename or remove one")
    if unnamed:
        raise LabelError(
            f"{path}, line 1: column {unnamed[0]} has no name; name or remove it (pandas adds its index to a CSV "
            "unless to_csv gets index=False)"
        )


def _build_labels(path: Path, rows: Rows, names: Sequence[str], texts: Sequence[str]) -> Labels:
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
    """Raise LabelError if an id is empty, has a line break or the like, or is repeated.

    Ids that differ only in case or in Unicode form are the same file on many systems, so that they are repeated.
    """
    first: dict[str, int] = {}
    for row, sample_id in enumerate(sample_ids):
        where = f"{path}" if lines is None else f"{path}, line {lines[row]}"
        if not sample_id:
            raise LabelError(f"{where}: the id of a sample is empty")
        if UNPRINTABLE.search(sample_id):
            raise LabelError(f"{where}: the id {sample_id!r} has a line break or another control character")
        _check_id(sample_id, where)
        before = first.setdefault(_alike(sample_id), row)
        if before != row:
            at = "there" if lines is None else f"on line {lines[before]}"
            form = (
                ""
                if sample_ids[before] == sample_id
                else f", as {sample_ids[before]!r}: many systems see no difference"
            )
            raise LabelError(f"{where}: sample {sample_id!r} is already {at}{form}")


def _check_id(sample_id: str, where: str) -> None:
    """Raise LabelError if the files of a sample could lie outside their folder."""
    try:
        check_inside(sample_id)
    except OutsideError as error:
        raise LabelError(f"{where}: the id {error}") from None


def path_of_cell(folder: Path, cell: str, where: str, outside_paths: bool = False) -> Path:
    """Path that a cell of a table names, relative to a folder.

    Args:
        folder: folder of the table.
        cell: the cell.
        where: start of the message.
        outside_paths: the path may lead out of the folder.

    Raises:
        LabelError: it does, and may not; or it is a URL.
    """
    if "://" in cell:
        raise LabelError(f"{where}: {cell} is a URL; download the file and give its path")
    try:
        return folder / cell if outside_paths else path_below(folder, cell)
    except OutsideError as error:
        raise LabelError(f"{where}: the path {error}; `outside_paths` permits that in a table of your own") from None


def check_apart(splits: Mapping[str, Labels]) -> None:
    """Raise LabelError if a sample is in two splits."""
    found: dict[str, str] = {}
    for name, labels in splits.items():
        for row, sample_id in enumerate(labels.sample_ids):
            key = _alike(sample_id)
            if key in found:
                raise LabelError(f"{labels.where(row)} of the split {name}: it is also in {found[key]}")
            found[key] = f"the split {name}, {labels.where(row)}"


def _alike(sample_id: str) -> str:
    """The same for ids that differ only in case or in Unicode form."""
    return normalize("NFC", normalize("NFC", sample_id).casefold())


def check_range(labels: Labels, name: str, lowest: float, highest: float) -> None:
    """Raise LabelError if a number of a column is outside its range; NaN is ignored."""
    values = labels.columns[name]
    import torch  # a comparison of runs reads tables, but needs no torch

    from ....modeling_limssr.losses_limssr import is_outside

    outside = np.flatnonzero(is_outside(torch.from_numpy(values), lowest, highest))
    if len(outside):
        row = outside[0]
        raise LabelError(f"{labels.where(row)}: {name} is {values[row]:g}, expected {lowest:g} to {highest:g}")


def _read(path: Path) -> str:
    """Content of a text file, with `\\n` for any line end."""
    if not path.is_file():
        raise LabelError(f"{path}: no such file; expected a table of the samples there")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not text in UTF-8: {error}") from error
    if text.startswith(LFS_POINTER):
        raise LabelError(f"{path}: {LFS_ADVICE}")
    return text


def _positions(header: list[str], names: Sequence[str], path: Path) -> dict[str, int]:
    """Position of each column: from a header that names them all, else in the order of `names`."""
    titles = [cell.lower().removesuffix("_score") for cell in header]
    found = {name: titles.index(name) for name in names if name in titles}
    if 0 in found.values():
        raise LabelError(f"{path}, line 1: the first column is {header[0]!r}, expected one of ids")
    if len(found) == len(names):
        return found
    expected = {name: position for position, name in enumerate(names, 1)}
    if not found and not ID_TITLE.fullmatch(header[0]):
        raise LabelError(
            f"{path}, line 1: there is no number in {' '.join(header)!r}; it is neither a sample nor a header, which "
            f"would begin with `id` and name {', '.join(names)}"
        )
    if any(expected[name] != position for name, position in found.items()):
        raise LabelError(f"{path}: the columns are {', '.join(header)}; expected an id, then {', '.join(names)}")
    return expected
