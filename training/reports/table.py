"""The evaluation as an aligned Markdown table, readable in a terminal as it is."""

from ..evaluation import Cell, EvaluationResult, MaskResult

_INTERVAL = "95 %"  # bootstrap interval of the column before it
_ALL_COLUMNS = [  # heading, metric, part of the cell
    ("Spearman", "spearman", "model"),
    (_INTERVAL, "spearman", "model"),
    ("ridge", "spearman", "ridge"),
    ("best", "spearman", "best"),
    ("Pearson", "pearson", "model"),
    ("MSE", "mse", "model"),
    (_INTERVAL, "mse", "model"),
    ("ridge", "mse", "ridge"),
    ("floor", "mse", "floor"),
    ("best", "mse", "best"),
    ("MAE", "mae", "model"),
    ("floor", "mae", "floor"),
    ("rel. L2", "relative_l2", "model"),
]
_UNDEFINED = "undef."


def evaluation_table(result: EvaluationResult) -> str:
    """One table a score, one row a mask, the average over the incomplete masks last, notes below."""
    return "\n\n".join(_score_table(result, name) for name in result.score_names)


def _score_table(result: EvaluationResult, score_name: str) -> str:
    cells = [mask.scores[score_name] for mask in result.masks]
    columns = [column for column in _ALL_COLUMNS if any(getattr(cell, column[2]) is not None for cell in cells)]
    rows = [["shown", "samples", *(heading for heading, _, _ in columns)]]
    for mask, cell in zip(result.masks, cells, strict=True):
        rows.append([mask.name, _samples(mask), *(_value(cell, *column) for column in columns)])
    if len(result.masks) > 1:
        average = Cell(**result.averages[score_name])
        values = [_value(average, *column) for column in columns]
        rows.append([f"average of the {len(result.masks) - 1} incomplete", "", *values])
    title = f"{score_name}: {result.samples} samples, MSE and MAE in judges' units, 95 % bootstrap intervals"
    return "\n".join([title, "", *_aligned(rows), *_notes(result, score_name)])


def _samples(mask: MaskResult) -> str:
    lacking = mask.samples - mask.complete
    return f"{mask.samples}" + (f" ({lacking} partly)" if lacking else "")


def _value(cell: Cell, heading: str, metric: str, part: str) -> str:
    if heading == _INTERVAL:
        return format_interval(getattr(cell, part), metric)
    text = _plain(getattr(cell, part), metric)
    return text + "*" if part == "model" and metric in cell.not_better_than_floor else text


def _plain(metrics: dict | None, metric: str) -> str:
    if metrics is None or metric not in metrics:
        return "-"
    return format_metric(metrics[metric], metric)


def format_metric(value: float | None, metric: str) -> str:
    """Three decimals for correlations; errors with as many as their size deserves; undefined is said."""
    if value is None:
        return _UNDEFINED
    if metric in ("spearman", "pearson") or abs(value) < 1:
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def format_interval(metrics: dict | None, metric: str) -> str:
    """The bootstrap interval of a metric, `0.655-0.780`; a dash where there is none."""
    interval = (metrics or {}).get("intervals", {}).get(metric)
    if interval is None:
        return "-"
    low, high = (format_metric(value, metric) for value in interval)
    return f"{low} to {high}" if low.startswith("-") else f"{low}-{high}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, rest = (
            row[0].ljust(widths[0]),
            [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)],
        )
        lines.append("| " + " | ".join([first, *rest]) + " |")
    rule = "|:" + "-" * widths[0] + " |" + "|".join(" " + "-" * width + ":" for width in widths[1:]) + "|"
    return [lines[0], rule.replace(" |", "-|").replace("| ", "|-"), *lines[1:]]


def _notes(result: EvaluationResult, score_name: str) -> list[str]:
    cells = {mask.name: mask.scores[score_name] for mask in result.masks}
    notes = []
    if any(cell.not_better_than_floor for cell in cells.values()):
        notes.append("* not better than predicting the training mean for everyone.")
    if any(mask.samples > mask.complete for mask in result.masks):
        notes.append("(n partly): n of these samples lack some of the shown modalities and are scored from the rest.")
    notes += [f"No ridge for {name}: {cell.ridge_reason}." for name, cell in cells.items() if cell.ridge_reason]
    for name, cell in cells.items():
        by_reason: dict[str, list[str]] = {}
        for metric, reason in cell.model["undefined"].items():
            by_reason.setdefault(reason, []).append(metric)
        notes += [f"Undefined for {name}: {', '.join(metrics)} ({why})." for why, metrics in by_reason.items()]
    not_given = max(cell.model["not_given"] for cell in cells.values())
    if not_given:
        notes.append(f"{not_given} of {result.samples} samples have no judged {score_name} and are left out.")
    return ["", *notes] if notes else []
