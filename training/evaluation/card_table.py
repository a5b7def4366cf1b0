"""The table of a Hub card, from `metrics.json`: each mask with its intervals, beside ridge and the mean baseline."""

from .tables import format_metric

COLUMNS = [  # heading, metric, part of the cell
    ("Spearman", "spearman", "model"),
    ("ridge", "spearman", "ridge"),
    ("MSE", "mse", "model"),
    ("ridge", "mse", "ridge"),
    ("mean", "mse", "mean_baseline"),
    ("MAE", "mae", "model"),
    ("mean", "mae", "mean_baseline"),
]


def card_table(metrics: dict) -> str:
    """
    Args:
        metrics: as `EvaluationResult.to_dict` makes it, with `intervals` in the parts of a cell or without.

    Returns:
        Markdown, one table a score; an asterisk marks what is not better than the mean baseline.
    """
    return "\n\n".join(_score_table(metrics, name) for name in metrics["score_names"])


def _score_table(metrics: dict, score_name: str) -> str:
    cells = {mask["name"]: mask["scores"][score_name] for mask in metrics["masks"]}
    rows = [["shown", "samples", *(heading for heading, _, _ in COLUMNS)], [":--", *["--:"] * (len(COLUMNS) + 1)]]
    for mask in metrics["masks"]:
        cell = cells[mask["name"]]
        rows.append([mask["name"], str(mask["samples"]), *(_value(cell, metric, part) for _, metric, part in COLUMNS)])
    if average := metrics["averages"].get(score_name) if len(cells) > 1 else None:
        values = [_value(average, metric, part) for _, metric, part in COLUMNS]
        rows.append([f"average of the {len(cells) - 1} incomplete", "", *values])
    lines = [f"**{score_name}**", "", *("| " + " | ".join(row) + " |" for row in rows)]
    if any(cell["not_better_than_mean"] for cell in cells.values()):
        lines += ["", "\\* not better than predicting the training mean for everyone."]
    return "\n".join(lines)


def _value(cell: dict, metric: str, part: str) -> str:
    measured = cell.get(part)
    if measured is None or metric not in measured:
        return "-"
    text = format_metric(measured[metric], metric)
    interval = (measured.get("intervals") or {}).get(metric)
    if interval and part != "mean_baseline":  # which is the same for every mask, and known well enough
        low, high = (format_metric(bound, metric) for bound in interval)
        text += f" [{low}, {high}]"
    return text + ("\\*" if part == "model" and metric in cell.get("not_better_than_mean", []) else "")
