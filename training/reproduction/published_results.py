"""The numbers of the LIMSSR paper (arXiv 2605.00434v1), to be laid beside one's own.

`published_results.json` holds its tables; each part says which table it is and what a row of it is. Columns are masks,
named as everywhere here, and `average`: over the six incomplete subsets and the tasks of a dataset, Fisher z for
Spearman, arithmetic for the squared error. LIMSSR's checkpoints were chosen on the test split.
"""

import json
from functools import cache
from pathlib import Path

COMPLETE = "video+audio+flow"
AVERAGE = "average"


@cache
def published_results() -> dict:
    """The whole file."""
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def dataset_row(dataset: str, method: str = "LIMSSR") -> dict[str, dict]:
    """Column -> metrics of table 1, means over the tasks of `fs1000`, `fisv` or `rg`; empty for any other dataset."""
    rows = published_results()["missing_modalities"]["datasets"].get(dataset, {})
    return _by_column(rows.get(method))


def task_row(task: str) -> dict[str, dict]:
    """Column -> metrics of LIMSSR on a task such as `fs1000_tes` or `rg_ball` (tables 11-13); empty for any other."""
    return _by_column(published_results()["per_score"]["LIMSSR"].get(task))


def ablation_row(table: str, line: str, dataset: str) -> dict[str, dict]:
    """`average` and the complete mask -> metrics of a line of the ablations (tables 3-9); empty where there is none.

    Args:
        table: a key of `ablations.variants`, such as `lora_rank`.
        line: one of its lines, such as `8/16`.
        dataset: `fs1000` or `fisv`; the others were not ablated.
    """
    cells = published_results()["ablations"]["variants"].get(table, {}).get(line)
    if cells is None or dataset not in ("fs1000", "fisv"):
        return {}
    first = 0 if dataset == "fs1000" else 2
    return _named({AVERAGE: cells[first], COMPLETE: cells[first + 1]})


def seed_deviations(dataset: str) -> dict[str, dict]:
    """`average` and the complete mask -> s.d. of both metrics over the paper's six seeds; empty for other datasets."""
    cells = published_results()["seeds"]["datasets"].get(dataset)
    if cells is None:
        return {}
    return {
        column: {metric: deviation for metric, (_, deviation) in zip(("spearman", "mse"), cell, strict=True)}
        for column, cell in zip((AVERAGE, COMPLETE), cells, strict=True)
    }


def _by_column(row: list | None) -> dict[str, dict]:
    return {} if row is None else _named(dict(zip(published_results()["columns"], row, strict=True)))


def _named(cells: dict[str, list | None]) -> dict[str, dict]:
    """Cells `[Spearman, MSE]` as dictionaries, without what is not published."""
    pairs = {column: zip(("spearman", "mse"), cell, strict=True) for column, cell in cells.items() if cell}
    return {column: {name: value for name, value in pair if value is not None} for column, pair in pairs.items()}
