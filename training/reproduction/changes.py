"""What each variant changes: its runs paired with those of the configuration as it is."""

from collections.abc import Mapping, Sequence
from itertools import product

from ..evaluation.paired import COMPLETE, INCOMPLETE, METRICS, compare_seeds, measure_run
from ..evaluation.tables import format_metric, signed_metric
from ..utils.markdown import markdown_table
from .runner import FINISHED, Run
from .tables import AS_CONFIGURED, HEADINGS

COLUMNS = tuple(product(METRICS, (COMPLETE, INCOMPLETE)))
CHANGES = """
*Each change*: the mean over the seeds, of averages over all scores and, for *incomplete*, over the incomplete masks.
*Difference* is that from the configuration as it is with the same seeds; in brackets its 95 % interval over other test
samples (paired bootstrap), `*` where it excludes 0. Other seeds could move it further. *Score change* is the mean
absolute difference between the two scores of a test sample over the incomplete masks, in judges' units. *Wrong prompt*
trains nothing: the model as configured reads the prompt of the complete mask where a modality is missing, and that of
the first modality alone where none is.
"""


def pair_variants(runs: Sequence[Run], progress: Mapping[str, str]) -> dict:
    """Compare each variant of one configuration with the configuration as it is, see `compare_seeds`."""
    variants, states = {}, {}
    for run in runs:
        measured = variants.setdefault(run.variant.name, {})
        if progress[run.name] == FINISHED:
            measured[run.repetition] = measure_run(run.folder)
        else:
            states[run.variant.name] = progress[run.name]
    base = variants.get(AS_CONFIGURED, {})
    rows = {}
    for name, measured in variants.items():
        seeds = [seed for seed in measured if seed in base]
        rows[name] = {"seeds": len(seeds), "state": states.get(name), **compare_seeds(measured, base)}
    samples = {run.samples for measured in variants.values() for run in measured.values()}
    return {"configuration": runs[0].configuration, "samples": max(samples, default=None), "variants": rows}


def paired_table(pairs: Mapping) -> str:
    """A row for each variant: its metrics, and their differences from the configuration as it is; notes below."""
    headings = ["variant", "seeds"]
    for metric, column in COLUMNS:
        headings += [f"{HEADINGS[metric]}, {column}", "difference"]
    lines, notes = [[*headings, "score change"]], []
    for name, row in pairs["variants"].items():
        label = name.replace("_", " ")
        cells = [cell for metric, column in COLUMNS for cell in _pair_cells(name, metric, row.get(column))]
        change = row.get(INCOMPLETE, row.get(COMPLETE, {})).get("score_change")
        is_changed = change is not None and name != AS_CONFIGURED
        lines.append([label, row["seeds"], *cells, f"{change:.3g}" if is_changed else "-"])
        notes += [f"- {label}: {row['state']}"] if row["state"] else []
    samples = [] if pairs["samples"] is None else [f"{pairs['samples']} test samples."]
    return "\n\n".join([*samples, markdown_table(lines), *(["\n".join(notes)] if notes else [])])


def _pair_cells(variant: str, metric: str, compared: Mapping | None) -> list[str]:
    """Value and difference of one metric."""
    if compared is None:
        return ["-", "-"]
    entry = compared[metric]
    value, difference, interval = entry["value"], entry["difference"], entry["interval"]
    if variant == AS_CONFIGURED or difference is None:
        return [format_metric(value, metric), "-"]
    if interval is None:
        return [format_metric(value, metric), signed_metric(difference, metric)]
    low, high = interval
    marker = " *" if low > 0 or high < 0 else ""
    between = f"({signed_metric(low, metric)} to {signed_metric(high, metric)})"
    return [format_metric(value, metric), f"{signed_metric(difference, metric)} {between}{marker}"]
