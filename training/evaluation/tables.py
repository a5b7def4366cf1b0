"""Markdown tables of evaluations, comparisons and summaries, readable in a terminal as they are."""

from collections.abc import Sequence

from ..utils.markdown import markdown_table
from .compare import Comparison, Difference
from .ensembles import Ensemble
from .results import EvaluationResult, ScoredRow
from .seeds import Summary

NOTHING = "-"
INTERVAL = "95 %"  # bootstrap interval of the column before it
NOT_BETTER = "not better than predicting the training mean for everyone."
COLUMNS = (  # heading, metric, part of a `ScoredRow`
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
)
NOT_ON_CARDS = (INTERVAL, "best", "Pearson", "rel. L2")
COMPARED = {"spearman": "Spearman", "mse": "MSE"}
LEGEND = (
    "A or B after an interval: the interval excludes 0 and that run is better.",
    "p: Williams's test of dependent correlations on ranks (approximate), two-sided, not adjusted for many rows.",
)
Labelled = list[tuple[list[str], ScoredRow]]  # cells before the metrics, and metrics


def result_caveats(leaky: bool, selected_on_test: bool = False) -> list[str]:
    """List why a result is no fair measure: leaky features, or a checkpoint selected on the test split."""
    caveats = ["leaky: the features give the label away"] if leaky else []
    return caveats + (["checkpoint selected on the test split"] if selected_on_test else [])


def title_with_caveats(title: str, caveats: Sequence[str]) -> str:
    return title + "".join(f" ({caveat})" for caveat in caveats)


def evaluation_table(result: EvaluationResult) -> str:
    """One table for each score, with a row for each mask or setting of the rates, their average, and notes below."""
    headings = ["missing rate", "hidden", "samples"] if result.summaries else ["modalities", "samples"]
    about = f"{result.samples} samples, MSE and MAE in judges' units, 95 % bootstrap intervals"
    tables = []
    for name in result.score_names:
        table = _metrics_table(headings, _labelled(result, name))
        tables.append("\n".join([f"{name}: {about}", "", table, *_after_blank(_notes(result, name))]))
        tables += [coverage] if (coverage := _coverage_table(result, name)) else []
    return "\n\n".join(tables)


def _coverage_table(result: EvaluationResult, score_name: str) -> str | None:
    """How many judged scores the calibrated intervals hold, and their mean width; None where there are none."""
    rows = {row.name: row.scores[score_name].model.get("coverage") for row in result.rows}
    rows = {name: levels for name, levels in rows.items() if levels}
    if not rows:
        return None
    headings = ["modalities"]
    for level in next(iter(rows.values())):
        headings += [f"{level['level']:.0%} holds", "width"]
    lines = []
    for name, levels in rows.items():
        shares = [NOTHING if level["coverage"] is None else f"{level['coverage']:.1%}" for level in levels]
        widths = [NOTHING if level["width"] is None else format_metric(level["width"], "mae") for level in levels]
        lines.append([name, *(cell for pair in zip(shares, widths, strict=True) for cell in pair)])
    table = markdown_table([headings, *lines])
    split = next(iter(rows.values()))[0]["calibrated_on"]
    held = f"judged scores that the intervals hold, which were calibrated on the {split} split, and their mean width"
    return f"{score_name}: {held}\n\n{table}"


def summary_table(summary: Summary) -> str:
    """A row for each mask with mean and s.d. over the repetitions, the average over the incomplete masks last."""
    rows = [([name], row) for name, row in summary.rows.items()]
    count = len(summary.repetitions)
    spread = f", mean ± s.d. of {count} repetitions" if count > 1 else ""
    title = title_with_caveats(f"{summary.title}{spread}, MSE and MAE in judges' units", summary.caveats)
    notes = [summary.note] if summary.note else []
    if any(row.not_better_than_mean for _, row in rows):
        notes.append(f"* {NOT_BETTER}")
    seeds = "; ".join(" ".join(f"{name} {seed}" for name, seed in seeds.items()) for seeds in summary.repetitions)
    notes += [f"Seeds: {seeds}."] if seeds else []
    return "\n".join([title, "", _metrics_table(["modalities"], rows), *_after_blank(notes)])


def card_table(result: EvaluationResult) -> str:
    """The table of a Hub card for each score, with intervals in brackets."""
    columns = [column for column in COLUMNS if column[0] not in NOT_ON_CARDS]
    tables = []
    for name in result.score_names:
        rows = _labelled(result, name)
        lines = [[*about, *(_card_cell(row, metric, part) for _, metric, part in columns)] for about, row in rows]
        lines = [[cell.replace(" ", "\N{NO-BREAK SPACE}") for cell in line] for line in lines]  # does not wrap
        table = markdown_table([["modalities", "samples", *(heading for heading, _, _ in columns)], *lines])
        notes = _calibration_notes(result, name)
        notes += [f"\\* {NOT_BETTER}"] if any(row.not_better_than_mean for _, row in rows) else []
        tables.append("\n".join([f"**{name}**", "", table, *_after_blank(notes)]))
    return "\n\n".join(tables)


def comparison_table(comparison: Comparison) -> str:
    """One table for each score: both runs, their difference with its interval, Williams's test, and notes below."""
    reasons = {row.tests["spearman"].reason: row.row for row in comparison.rows if row.tests}
    return "\n".join(
        [
            f"A = {comparison.first}",
            f"B = {comparison.second}",
            *(f"({caveat})" for caveat in comparison.caveats),
            "",
            _difference_tables(comparison, list(COMPARED)),
            "",
            "95 %: paired bootstrap interval of the difference, both runs on the same resamples of the samples.",
            *LEGEND,
            *(f"Not compared: {row}." for row in comparison.not_compared),
            *(f"No test for {row}: {reason}." for reason, row in reasons.items() if reason),
        ]
    )


def ensemble_table(ensemble: Ensemble) -> str:
    """The averaged predictions of several runs beside ridge, and what tells their error, as in `comparison_table`."""
    against_ridge, uncertainty = ensemble.against_ridge, ensemble.uncertainty
    return "\n".join(
        [
            f"A = {against_ridge.first}, their predictions averaged",
            f"B = {against_ridge.second}, averaged alike",
            *(f"({caveat})" for caveat in ensemble.caveats),
            "",
            _difference_tables(against_ridge, list(COMPARED), own_interval=True),
            "",
            "95 %: bootstrap interval of A, and paired one of the difference, on the same resamples of the samples.",
            *LEGEND,
            "",
            "Rank correlation with the absolute error of the averaged predictions:",
            f"A = {uncertainty.first}",
            f"B = {uncertainty.second}",
            "",
            _difference_tables(uncertainty, ["spearman"], own_interval=True),
        ]
    )


def _difference_tables(comparison: Comparison, metrics: Sequence[str], own_interval: bool = False) -> str:
    headings = ["modalities", "samples"]
    for metric in metrics:
        interval = [INTERVAL] if own_interval else []
        headings += [f"{COMPARED[metric]} A", *interval, "B", "A - B", INTERVAL, *["p"] * (metric == "spearman")]
    tables = []
    for score in dict.fromkeys(row.score_name for row in comparison.rows):
        rows = [row for row in comparison.rows if row.score_name == score]
        lines = [[row.row, str(row.samples)] for row in rows]
        for metric in metrics:
            cells = [_compared_cells(row, metric, own_interval) for row in rows]
            lines = [[*line, *more] for line, more in zip(lines, cells, strict=True)]
        tables.append(f"{score}\n\n{markdown_table([headings, *lines])}")
    return "\n\n".join(tables)


def _labelled(result: EvaluationResult, score_name: str) -> Labelled:
    """Rows of one score, the average last."""
    drawn, count = bool(result.summaries), len(result.rows)
    rows = []
    for row in result.rows:
        samples = f"{row.samples}" + (f" ({row.samples - row.complete} partly)" if row.samples > row.complete else "")
        about = [row.name, f"{row.hidden:.0%}", samples] if drawn else [row.name, samples]
        rows.append((about, row.scores[score_name]))
    average = result.averages[score_name]
    if average.model is not None and count > 1:
        name = f"average of the {count}" if drawn else f"average of the {count - 1} incomplete"
        rows.append(([name, "", ""] if drawn else [name, ""], average))
    return rows


def _metrics_table(headings: list[str], rows: Labelled) -> str:
    """The table of `COLUMNS`, without those in which nothing stands."""
    columns = [column for column in COLUMNS if any(_cell(row, *column) != NOTHING for _, row in rows)]
    lines = [[*about, *(_cell(row, *column) for column in columns)] for about, row in rows]
    return markdown_table([[*headings, *(heading for heading, _, _ in columns)], *lines])


def _cell(row: ScoredRow, heading: str, metric: str, part: str) -> str:
    if heading == INTERVAL:
        return format_interval(getattr(row, part), metric)
    return _number(row, metric, part) + _star(row, metric, part)


def _card_cell(row: ScoredRow, metric: str, part: str) -> str:
    interval = ((getattr(row, part) or {}).get("intervals") or {}).get(metric)
    has_interval = interval and part != "mean_baseline"  # which is nearly the same for every mask
    brackets = f" [{', '.join(format_metric(bound, metric) for bound in interval)}]" if has_interval else ""
    return _number(row, metric, part) + brackets + _star(row, metric, part).replace("*", "\\*")


def _number(row: ScoredRow, metric: str, part: str) -> str:
    metrics = getattr(row, part)
    if metrics is None or metric not in metrics:
        return NOTHING
    deviation = metrics.get("sd", {}).get(metric) if part in ("model", "ridge") else None
    spread = "" if deviation is None else f" ± {format_metric(deviation, metric)}"
    return format_metric(metrics[metric], metric) + spread


def _star(row: ScoredRow, metric: str, part: str) -> str:
    return "*" if part == "model" and metric in row.not_better_than_mean else ""


def _compared_cells(row: Difference, metric: str, own_interval: bool) -> list[str]:
    first, second = (format_metric(run[metric], metric) for run in (row.first, row.second))
    difference, interval = row.differences[metric], NOTHING
    if row.intervals[metric] is not None:
        low, high = row.intervals[metric]
        first_is_better = low > 0 if metric == "spearman" else high < 0
        better = (" A" if first_is_better else " B") if low > 0 or high < 0 else ""
        interval = f"{signed_metric(low, metric)} to {signed_metric(high, metric)}{better}"
    cells = [first, *([format_interval(row.first, metric)] if own_interval else []), second]
    cells += [NOTHING if difference is None else signed_metric(difference, metric), interval]
    if metric != "spearman":
        return cells
    p_value = row.tests["spearman"].p_value if row.tests else None
    return [*cells, NOTHING if p_value is None else "<.001" if p_value < 0.001 else f"{p_value:.3f}"]


def signed_metric(value: float, metric: str) -> str:
    """`format_metric` with a sign."""
    return ("+" if value >= 0 else "") + format_metric(value, metric)


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
    notes = _calibration_notes(result, score_name)
    notes += [f"* {NOT_BETTER}"] if any(row.not_better_than_mean for row in rows.values()) else []
    if any(row.samples > row.complete for row in result.rows):
        notes.append("(n partly): n of these samples lack some allowed modalities and are scored from the others.")
    if result.summaries:
        seeds = len(result.summaries[0].seeds)
        over = f"Mean ± s.d. over {seeds} draws of the masks" if seeds > 1 else "One draw of the masks"
        notes.append(f"{over}; hidden: share of the available modalities that is hidden.")
    notes += [f"No ridge for {name}: {row.ridge_reason}." for name, row in rows.items() if row.ridge_reason]
    for name, row in rows.items():
        by_reason: dict[str, list[str]] = {}
        for metric, reason in row.model["undefined"].items():
            by_reason.setdefault(reason, []).append(metric)
        notes += [f"Undefined for {name}: {', '.join(metrics)} ({why})." for why, metrics in by_reason.items()]
    if not_given := max(mask.scores[score_name].model["not_given"] for mask in result.masks):
        notes.append(f"{not_given} of {result.samples} samples have no judged {score_name} and are left out.")
    return notes


def _calibration_notes(result: EvaluationResult, score_name: str) -> list[str]:
    """The calibration line of the first mask or draw, which the scatter panel of the picture shows too."""
    first = result.masks[0]
    line = first.scores[score_name].model.get("calibration")  # absent in files of earlier versions
    if line is None or line["slope"] is None:
        return []
    ends = {part: " to ".join(format_metric(end, "mae") for end in line[part]) for part in ("predicted", "judged")}
    draw = "" if first.seed is None else f", mask seed {first.seed}"
    sign = "-" if line["intercept"] < 0 else "+"
    fitted = f"{line['slope']:.2f} * predicted {sign} {format_metric(abs(line['intercept']), 'mae')}"
    ranges = f"Predicted: {ends['predicted']}; judged: {ends['judged']}."
    return [f"Calibration line of {first.name}{draw}: judged = {fitted}. {ranges}"]


def _after_blank(notes: list[str]) -> list[str]:
    return ["", *notes] if notes else []
