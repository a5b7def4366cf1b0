"""The tables of the LIMSSR paper (arXiv 2605.00434v1): their variants (`tables.yaml`) and their published numbers.

`published_results.json` holds the numbers and says of each part which table it is and what a row holds. Columns are
masks, by the names used here, and `average`: over the six incomplete masks and the tasks of a dataset, Fisher z for
Spearman, arithmetic for MSE. The paper selected its checkpoints on the test split.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PUBLISHED = json.loads(Path(__file__).with_name("published_results.json").read_text(encoding="utf-8"))
AVERAGE, COMPLETE = "average", "video+audio+flow"
METRICS = {"spearman": 3, "mse": 2}  # metric -> decimals in the paper
HEADINGS = {"spearman": "Spearman", "mse": "MSE"}
AS_CONFIGURED = "as_configured"  # the variant that changes nothing


@dataclass(frozen=True)
class Variant:
    """One idea changed in any configuration; `tables.yaml` describes the fields."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    published: Sequence[str] = ()
    impossible: str = ""
    random_language_model: bool = False
    wrong_prompt: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the paper; `tables.yaml` describes the fields."""

    title: str
    variants: dict[str, Variant]
    number: str = "One of tables 3 to 9"
    only_complete: bool = False

    @property
    def is_ablation(self) -> bool:
        return len(self.variants) > 1


TABLES = {
    table: Table(
        **fields | {"variants": {name: Variant(name, **change) for name, change in fields["variants"].items()}}
    )
    for table, fields in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")).items()
}


def dataset_row(dataset: str, method: str = "LIMSSR") -> dict[str, dict]:
    """Table 1: column -> metrics, means over the tasks of `fs1000`, `fisv` or `rg`; empty for any other dataset."""
    return _by_column(PUBLISHED["columns"], PUBLISHED["missing_modalities"]["datasets"].get(dataset, {}).get(method))


def task_row(task: str) -> dict[str, dict]:
    """Tables 11-13: column -> metrics of a task such as `fs1000_tes` or `rg_ball`; empty for any other."""
    return _by_column(PUBLISHED["columns"], PUBLISHED["per_score"]["LIMSSR"].get(task))


def ablation_row(table: str, row: str, dataset: str) -> dict[str, dict]:
    """Tables 3-9, on `fs1000` or `fisv`: `average` and the complete mask -> metrics; empty where not published."""
    first = {"fs1000": 0, "fisv": 2}.get(dataset)
    cells = PUBLISHED["ablations"]["variants"].get(table, {}).get(row)
    return {} if None in (first, cells) else _by_column((AVERAGE, COMPLETE), cells[first : first + 2])


def seed_deviations(dataset: str) -> dict[str, dict]:
    """`average` and the complete mask -> s.d. of both metrics over the paper's six seeds; empty for other datasets."""
    cells = PUBLISHED["seeds"]["datasets"].get(dataset, [])
    return _by_column((AVERAGE, COMPLETE), [[deviation for _, deviation in cell] for cell in cells])


def _by_column(columns: Sequence[str], cells: Sequence[list | None] | None) -> dict[str, dict]:
    """Column -> metrics of the cells `[Spearman, MSE]`, without what is not published."""
    published = zip(columns, cells or [], strict=False)
    return {column: dict(zip(METRICS, cell, strict=True)) for column, cell in published if cell}
