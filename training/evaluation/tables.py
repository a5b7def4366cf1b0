"""What keeps a result from being an honest measure, said in every report in the same words."""

from .results import Cell, EvaluationResult, MaskResult, SeedSummary
from .seeds import Summary


def result_caveats(leaky: bool, selected_on_test: bool = False) -> list[str]:
    """
    Args:
        leaky: the features are known to give the label away.
        selected_on_test: the test split chose the checkpoint.
    """
    caveats = ["leaky: the features give the label away"] if leaky else []
    return caveats + (["checkpoint selected on the test split"] if selected_on_test else [])


def title_with_caveats(title: str, caveats: list[str]) -> str:
    return title + "".join(f" ({caveat})" for caveat in caveats)


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
    ("mean", "mse", "mean_baseline"),
    ("best", "mse", "best"),
    ("MAE", "mae", "model"),
    ("mean", "mae", "mean_baseline"),
    ("rel. L2", "relative_l2", "model"),
]
_UNDEFINED = "undef."
_NOTHING = "-"
_NOT_BETTER = "* not better than predicting the training mean for everyone."


def evaluation_table(result: EvaluationResult) -> str:
    """One table a score, one row a mask or setting of the missing rates, their average last, notes below."""
    return "\n\n".join(_score_table(result, name) for name in result.score_names)


def summary_table(summary: Summary) -> str:
    """One line a mask, mean and s.d. over the repetitions, the average over the incomplete masks last."""
    lines = _cell_lines(["shown"], [([name], cell) for name, cell in summary.rows.items()])
    count = len(summary.repetitions)
    spread = f", mean ± s.d. of {count} repetitions" if count > 1 else ""
    notes = [summary.note] if summary.note else []
    if any(cell.not_better_than_mean for cell in summary.rows.values()):
        notes.append(_NOT_BETTER)
    seeds = "; ".join(" ".join(f"{name} {seed}" for name, seed in seeds.items()) for seeds in summary.repetitions)
    notes += [f"Seeds: {seeds}."] if seeds else []
    title = title_with_caveats(f"{summary.title}{spread}, MSE and MAE in judges' units", summary.caveats)
    return "\n".join([title, "", *lines, *(["", *notes] if notes else [])])


def _score_table(result: EvaluationResult, score_name: str) -> str:
    drawn = bool(result.summaries)
    rows = []
    for row in result.rows:
        hidden = [f"{row.hidden:.0%}"] if drawn else []
        rows.append(([row.name, *hidden, _samples(row)], row.scores[score_name]))
    average = Cell(**result.averages[score_name])
    if average.model is not None and len(rows) > 1:
        rows.append(
            ([f"average of the {len(rows)}" if drawn else f"average of the {len(rows) - 1} incomplete"], average)
        )
    headings = ["missing rate", "hidden", "samples"] if drawn else ["shown", "samples"]
    title = f"{score_name}: {result.samples} samples, MSE and MAE in judges' units, 95 % bootstrap intervals"
    return "\n".join([title, "", *_cell_lines(headings, rows), *_notes(result, score_name)])


def _cell_lines(headings: list[str], rows: list[tuple[list[str], Cell]]) -> list[str]:
    """One line a row: what it is, then its cell; columns in which nothing stands are left out."""
    columns = [column for column in _ALL_COLUMNS if any(_value(cell, *column) != _NOTHING for _, cell in rows)]
    lines = [[*headings, *(heading for heading, _, _ in columns)]]
    for about, cell in rows:
        about = [*about, *[""] * (len(headings) - len(about))]
        lines.append([*about, *(_value(cell, *column) for column in columns)])
    return aligned(lines)


def _samples(row: MaskResult | SeedSummary) -> str:
    lacking = row.samples - row.complete
    return f"{row.samples}" + (f" ({lacking} partly)" if lacking else "")


def _value(cell: Cell, heading: str, metric: str, part: str) -> str:
    if heading == _INTERVAL:
        return format_interval(getattr(cell, part), metric)
    metrics = getattr(cell, part)
    if metrics is None or metric not in metrics:
        return _NOTHING
    deviation = metrics.get("sd", {}).get(metric) if part in ("model", "ridge") else None
    spread = "" if deviation is None else f" ± {format_metric(deviation, metric)}"
    mark = "*" if part == "model" and metric in cell.not_better_than_mean else ""
    return format_metric(metrics[metric], metric) + spread + mark


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
        return _NOTHING
    low, high = (format_metric(value, metric) for value in interval)
    return f"{low} to {high}" if low.startswith("-") else f"{low}-{high}"


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, the first row as heading, all but the first column to the right."""
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
    cells = {row.name: row.scores[score_name] for row in result.rows}
    notes = []
    if any(cell.not_better_than_mean for cell in cells.values()):
        notes.append(_NOT_BETTER)
    if any(row.samples > row.complete for row in result.rows):
        notes.append("(n partly): n of these samples lack some of the shown modalities and are scored from the rest.")
    if result.summaries:
        seeds = len(result.summaries[0].seeds)
        over = f"Mean ± s.d. over {seeds} draws of the masks" if seeds > 1 else "One draw of the masks"
        notes.append(f"{over}; hidden: share of the modalities that was hidden, at least one of a sample being shown.")
    notes += [f"No ridge for {name}: {cell.ridge_reason}." for name, cell in cells.items() if cell.ridge_reason]
    for name, cell in cells.items():
        by_reason: dict[str, list[str]] = {}
        for metric, reason in cell.model["undefined"].items():
            by_reason.setdefault(reason, []).append(metric)
        notes += [f"Undefined for {name}: {', '.join(metrics)} ({why})." for why, metrics in by_reason.items()]
    not_given = max(mask.scores[score_name].model["not_given"] for mask in result.masks)
    if not_given:
        notes.append(f"{not_given} of {result.samples} samples have no judged {score_name} and are left out.")
    return ["", *notes] if notes else []
