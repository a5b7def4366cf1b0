"""The comparison of two runs as aligned Markdown tables, readable in a terminal as they are."""

from .compare import Comparison, Difference
from .tables import aligned, format_metric

_METRICS = {"spearman": "Spearman", "mse": "MSE"}


def comparison_table(comparison: Comparison) -> str:
    """One table a score, one line a row: both runs, their difference with its interval, the test; notes below."""
    lines = [f"A = {comparison.first}", f"B = {comparison.second}", *(f"({caveat})" for caveat in comparison.caveats)]
    for score in dict.fromkeys(cell.score_name for cell in comparison.cells):
        cells = [cell for cell in comparison.cells if cell.score_name == score]
        heading = ["shown", "samples"]
        for title in _METRICS.values():
            heading += [f"{title} A", "B", "A - B", "95 %"] + (["p"] if title == "Spearman" else [])
        lines += ["", score, "", *aligned([heading, *(_line(cell) for cell in cells)])]
    lines += [
        "",
        "95 %: paired bootstrap interval of the difference, both runs measured on the same resamples of the samples.",
        "A or B after an interval: it leaves 0 out, and that run is the better one.",
        "p: Williams's test of dependent correlations on ranks (approximate), two-sided, not adjusted for many rows.",
    ]
    lines += [f"Not compared: {row}." for row in comparison.not_compared]
    reasons = {cell.tests["spearman"].reason: cell.row for cell in comparison.cells if cell.tests}
    lines += [f"No test for {row}: {reason}." for reason, row in reasons.items() if reason]
    return "\n".join(lines)


def _line(cell: Difference) -> list[str]:
    line = [cell.row, str(cell.samples)]
    for metric in _METRICS:
        line += [format_metric(run[metric], metric) for run in (cell.first, cell.second)]
        line += [_signed(cell.differences[metric], metric), _interval(cell, metric)]
        if metric == "spearman":
            p_value = cell.tests[metric].p_value if cell.tests else None
            line.append("-" if p_value is None else "<.001" if p_value < 0.001 else f"{p_value:.3f}")
    return line


def _signed(value: float | None, metric: str) -> str:
    return "-" if value is None else f"{'+' if value >= 0 else ''}{format_metric(value, metric)}"


def _interval(cell: Difference, metric: str) -> str:
    interval = cell.intervals[metric]
    if interval is None:
        return "-"
    low, high = interval
    first_is_better = low > 0 if metric == "spearman" else high < 0
    mark = (" A" if first_is_better else " B") if low > 0 or high < 0 else ""
    return f"{_signed(low, metric)} to {_signed(high, metric)}{mark}"
