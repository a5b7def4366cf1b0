"""Markdown tables of evaluations, comparisons and summaries, readable in a terminal as they are."""

from collections.abc import Sequence

from ..utils.markdown import markdown_table
from .compare import Comparison, Difference
from .results import EvaluationResult, ScoredRow
from .seeds import Summary

NOTHING = "-"
INTERVAL = "95 %"  # bootstrap interval of the column before it
NOT_BETTER = "not better than predicting the training mean for everyone."
Column = tuple[str, str, str]  # heading, metric, part of a `ScoredRow`
LabelledRow = tuple[list[str], ScoredRow]
COLUMNS: list[Column] = [
    ("Spearman", "spearman", "model"),
    (INTERVAL, "spearman", "model"),
    ("ridge", "spearman", "ridge"),
    ("best", "spearman", "best"),
    ("Pearson", "pearson", "model"),
    ("MSE", "mse", "model"),
    (INTERVAL, "mse", "model"),
    ("ridge", "mse", "ridge"),
    ("mean", "mse", "mean_baseline"),
    ("best", "mse", "best"),
    ("MAE", "mae", "model"),
    ("mean", "mae", "mean_baseline"),
    ("rel. L2", "relative_l2", "model"),
]
CARD_COLUMNS: list[Column] = [
    ("Spearman", "spearman", "model"),
    ("ridge", "spearman", "ridge"),
    ("MSE", "mse", "model"),
    ("ridge", "mse", "ridge"),
    ("mean", "mse", "mean_baseline"),
    ("MAE", "mae", "model"),
    ("mean", "mae", "mean_baseline"),
]


def result_caveats(leaky: bool, selected_on_test: bool = False) -> list[str]:
    """List what keeps a result from being a fair measure.

    Args:
        leaky: the features are known to give the label away.
        selected_on_test: the checkpoint was selected on the test split.
    """
    caveats = ["leaky: the features give the label away"] if leaky else []
    return caveats + (["checkpoint selected on the test split"] if selected_on_test else [])


def title_with_caveats(title: str, caveats: Sequence[str]) -> str:
    return title + "".join(f" ({caveat})" for caveat in caveats)


def evaluation_table(result: EvaluationResult) -> str:
    """One table for each score, with a row for each mask or setting of the rates, their average, and notes below."""
    return "\n\n".join(_score_table(result, name) for name in result.score_names)


def _score_table(result: EvaluationResult, score_name: str) -> str:
    rows = _labelled_rows(result, score_name)
    headings = ["missing rate", "hidden", "samples"] if result.summaries else ["modalities", "samples"]
    title = f"{score_name}: {result.samples} samples, MSE and MAE in judges' units, 95 % bootstrap intervals"
    return "\n".join([title, "", _aligned(headings, rows), *_notes(result, score_name)])


def _labelled_rows(result: EvaluationResult, score_name: str) -> list[LabelledRow]:
    drawn, count = bool(result.summaries), len(result.rows)
    rows = []
    for row in result.rows:
        lacking = row.samples - row.complete
        samples = f"{row.samples}" + (f" ({lacking} partly)" if lacking else "")
        rows.append(([row.name, *([f"{row.hidden:.0%}"] if drawn else []), samples], row.scores[score_name]))
    average = result.averages[score_name]
    if average.model is not None and count > 1:
        name = f"average of the {count}" if drawn else f"average of the {count - 1} incomplete"
        rows.append(([name, "", ""] if drawn else [name, ""], average))
    return rows


def card_table(result: EvaluationResult) -> str:
    """The table of a Hub card for each score, with intervals in brackets."""
    return "\n\n".join(_card_score_table(result, name) for name in result.score_names)


def _card_score_table(result: EvaluationResult, score_name: str) -> str:
    rows = _labelled_rows(result, score_name)
    lines = [[*about, *(_card_value(row, metric, part) for _, metric, part in CARD_COLUMNS)] for about, row in rows]
    headings = ["modalities", "samples", *(heading for heading, _, _ in CARD_COLUMNS)]
    notes = ["", f"\\* {NOT_BETTER}"] if any(row.not_better_than_mean for _, row in rows) else []
    return "\n".join([f"**{score_name}**", "", markdown_table([headings, *lines]), *notes])


def _card_value(row: ScoredRow, metric: str, part: str) -> str:
    text, star = _number(row, metric, part), _star(row, metric, part)
    interval = ((getattr(row, part) or {}).get("intervals") or {}).get(metric)
    if interval and part != "mean_baseline":  # which is nearly the same for every mask
        text += f" [{', '.join(format_metric(bound, metric) for bound in interval)}]"
    return text + star.replace("*", "\\*")


def summary_table(summary: Summary) -> str:
    """A row for each mask with mean and s.d. over the repetitions, the average over the incomplete masks last."""
    rows = [([name], row) for name, row in summary.rows.items()]
    count = len(summary.repetitions)
    spread = f", mean ± s.d. of {count} repetitions" if count > 1 else ""
    notes = [summary.note] if summary.note else []
    if any(row.not_better_than_mean for _, row in rows):
        notes.append(f"* {NOT_BETTER}")
    seeds = "; ".join(" ".join(f"{name} {seed}" for name, seed in seeds.items()) for seeds in summary.repetitions)
    notes += [f"Seeds: {seeds}."] if seeds else []
    title = title_with_caveats(f"{summary.title}{spread}, MSE and MAE in judges' units", summary.caveats)
    return "\n".join([title, "", _aligned(["modalities"], rows), *(["", *notes] if notes else [])])


def comparison_table(comparison: Comparison) -> str:
    """One table for each score: both runs, their difference with its interval, Williams's test, and notes below."""
    lines = [f"A = {comparison.first}", f"B = {comparison.second}", *(f"({caveat})" for caveat in comparison.caveats)]
    heading = ["modalities", "samples", "Spearman A", "B", "A - B", INTERVAL, "p", "MSE A", "B", "A - B", INTERVAL]
    for score in dict.fromkeys(row.score_name for row in comparison.rows):
        rows = [_compared(row) for row in comparison.rows if row.score_name == score]
        lines += ["", score, "", markdown_table([heading, *rows])]
    lines += [
        "",
        "95 %: paired bootstrap interval of the difference, both runs measured on the same resamples of the samples.",
        "A or B after an interval: the interval excludes 0 and that run is better.",
        "p: Williams's test of dependent correlations on ranks (approximate), two-sided, not adjusted for many rows.",
    ]
    lines += [f"Not compared: {row}." for row in comparison.not_compared]
    reasons = {row.tests["spearman"].reason: row.row for row in comparison.rows if row.tests}
    lines += [f"No test for {row}: {reason}." for reason, row in reasons.items() if reason]
    return "\n".join(lines)


def _compared(row: Difference) -> list[str]:
    p_value = row.tests["spearman"].p_value if row.tests else None
    test = NOTHING if p_value is None else "<.001" if p_value < 0.001 else f"{p_value:.3f}"
    spearman, mse = ([*_both(row, metric), _difference_interval(row, metric)] for metric in ("spearman", "mse"))
    return [row.row, str(row.samples), *spearman, test, *mse]


def _both(row: Difference, metric: str) -> list[str]:
    values = [format_metric(run[metric], metric) for run in (row.first, row.second)]
    return [*values, _signed(row.differences[metric], metric)]


def _difference_interval(row: Difference, metric: str) -> str:
    interval = row.intervals[metric]
    if interval is None:
        return NOTHING
    low, high = interval
    first_is_better = low > 0 if metric == "spearman" else high < 0
    better = (" A" if first_is_better else " B") if low > 0 or high < 0 else ""
    return f"{_signed(low, metric)} to {_signed(high, metric)}{better}"


def _signed(value: float | None, metric: str) -> str:
    return NOTHING if value is None else f"{'+' if value >= 0 else ''}{format_metric(value, metric)}"


def _aligned(headings: list[str], rows: list[LabelledRow]) -> str:
    """The table of `COLUMNS`, without those in which nothing stands."""
    columns = [column for column in COLUMNS if any(_value(row, *column) != NOTHING for _, row in rows)]
    lines = [[*about, *(_value(row, *column) for column in columns)] for about, row in rows]
    return markdown_table([[*headings, *(heading for heading, _, _ in columns)], *lines])


def _value(row: ScoredRow, heading: str, metric: str, part: str) -> str:
    if heading == INTERVAL:
        return format_interval(getattr(row, part), metric)
    return _number(row, metric, part) + _star(row, metric, part)


def _number(row: ScoredRow, metric: str, part: str) -> str:
    metrics = getattr(row, part)
    if metrics is None or metric not in metrics:
        return NOTHING
    deviation = metrics.get("sd", {}).get(metric) if part in ("model", "ridge") else None
    spread = "" if deviation is None else f" ± {format_metric(deviation, metric)}"
    return format_metric(metrics[metric], metric) + spread


def _star(row: ScoredRow, metric: str, part: str) -> str:
    return "*" if part == "model" and metric in row.not_better_than_mean else ""


def format_metric(value: float | None, metric: str) -> str:
    """Three decimals for correlations; for errors fewer the larger they are."""
    if value is None:
        return "undef."
    if metric in ("spearman", "pearson") or abs(value) < 1:
        return f"{value:.3f}"
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def format_interval(metrics: dict | None, metric: str) -> str:
    """The bootstrap interval of a metric, `0.655-0.780`; a dash where there is none."""
    interval = (metrics or {}).get("intervals", {}).get(metric)
    if interval is None:
        return NOTHING
    low, high = (format_metric(value, metric) for value in interval)
    return f"{low} to {high}" if low.startswith("-") else f"{low}-{high}"


def _notes(result: EvaluationResult, score_name: str) -> list[str]:
    rows = {row.name: row.scores[score_name] for row in result.rows}
    notes = []
    if any(row.not_better_than_mean for row in rows.values()):
        notes.append(f"* {NOT_BETTER}")
    if any(row.samples > row.complete for row in result.rows):
        notes.append("(n partly): n of these samples lack some allowed modalities and are scored from the others.")
    if result.summaries:
        seeds = len(result.summaries[0].seeds)
        over = f"Mean ± s.d. over {seeds} draws of the masks" if seeds > 1 else "One draw of the masks"
        notes.append(
            f"{over}; hidden: share of the available modalities that is hidden; each sample keeps at least one."
        )
    notes += [f"No ridge for {name}: {row.ridge_reason}." for name, row in rows.items() if row.ridge_reason]
    for name, row in rows.items():
        by_reason: dict[str, list[str]] = {}
        for metric, reason in row.model["undefined"].items():
            by_reason.setdefault(reason, []).append(metric)
        notes += [f"Undefined for {name}: {', '.join(metrics)} ({why})." for why, metrics in by_reason.items()]
    not_given = max(mask.scores[score_name].model["not_given"] for mask in result.masks)
    if not_given:
        notes.append(f"{not_given} of {result.samples} samples have no judged {score_name} and are left out.")
    return ["", *notes] if notes else []
