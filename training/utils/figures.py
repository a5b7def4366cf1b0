"""How every figure is written: a PNG, and on request a drawing for a paper beside it."""

import argparse
from pathlib import Path
from typing import Literal, get_args

FigureFormat = Literal["pdf", "svg"]


def add_figure_flag(parser: argparse.ArgumentParser) -> None:
    text = "write each figure in this format too"
    parser.add_argument("--figure_format", choices=get_args(FigureFormat), help=text)


def write_figure(figure, path: str | Path, figure_format: FigureFormat | None = None) -> None:
    """Write a matplotlib figure.

    Args:
        figure: the figure.
        path: path of the PNG.
        figure_format: another format, written beside it.
    """
    figure.savefig(path, dpi=150, format="png")
    if figure_format is not None:
        figure.savefig(Path(path).with_suffix(f".{figure_format}"), format=figure_format)
