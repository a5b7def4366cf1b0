"""The card of prepared data, which also tells `datasets` where each split is."""

from pathlib import Path

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from ..utils.files import atomic_write_text
from .aqa_data import AqaData
from .missing import MissingSummary

TEXT = """
# {title}

{description}. Prepared with [limssr](https://arxiv.org/abs/2605.00434) for action quality assessment: each row is a
performance, with the judges' scores and one nullable column of feature clips for each modality.
{leaky}
```python
from datasets import load_dataset

rows = load_dataset("{title}")  # this folder, or the name of the repository
```

`training/train.py --dataset prepared --data_options folder={title}` trains on it. The licence is that of the data it
was made from.

## Splits

{splits}

## Scores

{scores}

## Modalities

{modalities}

## Columns

{columns}

{missing} `missing.csv` names each sample, modality and cause. `sha256sum --check checksums.sha256` tells whether all
files are whole.
"""


def write_dataset_card(
    out: Path, data: AqaData, features: Features, splits: dict[str, SplitInfo], missing: MissingSummary
):
    """Writes `README.md`.

    Args:
        out: the folder.
        data: the dataset.
        features: its columns.
        splits: its splits.
        missing: what it lacks.
    """
    files = [{"split": split, "path": f"data/{split}-*.arrow"} for split in splits]
    card_data = DatasetCardData(
        tags=["action-quality-assessment", "missing-modalities", "limssr"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    info = DatasetInfo(features=features, splits=SplitDict(splits))
    DatasetInfosDict({"default": info}).to_dataset_card_data(card_data)
    scores = zip(data.score_names, data.score_minimums, data.score_ranges, strict=True)
    text = TEXT.format(
        title=out.resolve().name,
        description=data.description,
        leaky="\n**The features give the label away.**\n" if data.leaky else "",
        splits=_table(["split", "samples"], [(name, split.num_examples) for name, split in splits.items()]),
        scores=_table(["score", "lowest", "highest"], [(name, low, low + size) for name, low, size in scores]),
        modalities=_modalities(data, missing),
        columns=_table(["column", "type"], [(name, f"`{kind}`") for name, kind in features.items()]),
        missing=_missing(missing),
    )
    atomic_write_text(out / "README.md", str(DatasetCard(f"---\n{card_data.to_yaml()}\n---\n{text}")))


def _modalities(data: AqaData, missing: MissingSummary) -> str:
    counted = missing.counts()
    rows = []
    for name, size in data.modalities.items():
        causes = ", ".join(f"{count} {cause}" for cause, count in counted.get(name, {}).items())
        rows.append((name, size, causes or "none"))
    return _table(["modality", "feature size", f"missing of {missing.samples} samples"], rows)


def _missing(missing: MissingSummary) -> str:
    if not missing.features:
        return "Nothing is missing."
    left_out = f"; {len(missing.dropped)} samples had none and were left out" if missing.dropped else ""
    return f"{len(missing.features)} features are missing{left_out}."


def _table(heads: list[str], rows) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        f"| {' | '.join(f'{cell:g}' if isinstance(cell, float) else str(cell) for cell in line)} |" for line in lines
    )
