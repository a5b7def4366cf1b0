"""The report of a table: published numbers beside those of the runs, as Markdown and JSON."""

from collections.abc import Mapping, Sequence
from itertools import chain, groupby, product
from operator import itemgetter
from pathlib import Path
from statistics import mean, stdev

from ..evaluation.results import EvaluationResult, ScoredRow, average_rows, beats_mean, read_results
from ..utils.files import atomic_write_text, without_paths, write_json
from ..utils.markdown import markdown_table
from . import tables
from .changes import CHANGES, pair_variants, paired_table
from .runner import FINISHED, PUBLISHED_DATASETS, Run
from .tables import AS_CONFIGURED, AVERAGE, COMPLETE, HEADINGS, METRICS, PUBLISHED, Table, Variant

MEANING = """
## What the words mean

*Here* is the mean over the seeds ± their s.d. (n - 1); checkpoints are selected on validation unless a caveat above
says otherwise. *Published* is the paper's value, selected on the test split. *Against as configured* is the difference
from the same configuration without the change, mean ± s.d. over the seeds that both have. *Ridge* is ridge regression
on the same available features, *training mean* the training-mean baseline; `*` marks what does not beat the latter.

The verdict compares |here - published|, less half a unit of the last published digit, with the s.d. over seeds:
*reproduced* is within one s.d., *within two s.d.* within two, *outside* (better or worse) further away. The s.d. is
the paper's (six seeds) for averages and complete masks of a dataset and for its ablations, elsewhere that of the seeds
here; one seed alone has *no s.d.* and no verdict. *Undefined*: the metric does not exist for some seed (correlation of
constant predictions). *Not run*: for no seed are all runs finished; the list of runs says why.
"""


def write_report(path: Path, table: Table, runs: Sequence[Run], states: Sequence[str], changes: Mapping) -> None:
    """Write `<path>.md` and `<path>.json` about the runs of a table; `changes` are the settings changed in all."""
    progress = {run.name: state for run, state in zip(runs, states, strict=True)}
    results = {run.name: read_results(run.folder) for run in runs if progress[run.name] == FINISHED}
    trained = [results[run.name] for run in runs if run.name in results and run.trained is None]
    caveats = list(dict.fromkeys(caveat for result in trained for caveat in result.caveats))
    datasets = dict.fromkeys(run.dataset for run in runs)
    groups = [DatasetResults([run for run in runs if run.dataset == dataset], results) for dataset in datasets]
    entries = [entry for group in groups for entry in group.entries(table)]
    about = {"title": table.title, "table": table.number, "source": PUBLISHED["source"], "changes": dict(changes)}
    configurations = dict.fromkeys(run.configuration for run in runs) if table.is_ablation else ()
    paired = [pair_variants([run for run in runs if run.configuration == name], progress) for name in configurations]
    document = without_paths(about | {"caveats": caveats, "paired": paired, "entries": entries, "runs": progress})
    write_json(path.with_suffix(".json"), document)
    changed = ", ".join(f"`{name}={value}`" for name, value in document["changes"].items())
    parts = [
        f"# {table.title}",
        f"{table.number} of {PUBLISHED['source']}, and the runs here.",
        f"**Changed from the configurations in all runs:** {changed or 'nothing'}.",
        f"**Caveats:** {'; '.join(caveats) or 'none'}.",
    ]
    for pairs in paired:
        parts += [f"## {pairs['configuration']}: each change", paired_table(pairs)]
    for (dataset, metric), group in groupby(entries, key=itemgetter("dataset", "metric")):
        parts += [f"## {dataset}: {HEADINGS[metric]}", _format_table(metric, list(group))]
    listed = "\n".join(f"- {name}: {state}" for name, state in progress.items())
    parts += [
        MEANING.strip(),
        *([CHANGES.strip()] if paired else []),
        "## Runs",
        f"{len(results)} of {len(progress)} finished.",
        listed,
    ]
    atomic_write_text(path.with_suffix(".md"), "\n\n".join(parts) + "\n")


class DatasetResults:
    """Results of the finished runs of a dataset, by task; a task is one score of a configuration."""

    def __init__(self, runs: Sequence[Run], results: Mapping[str, EvaluationResult]):
        self.dataset, self.runs = runs[0].dataset, runs
        self.scored: dict[tuple, dict[str, ScoredRow]] = {}  # (task, variant, repetition) -> mask -> metrics
        names = {run.configuration: [run.configuration] for run in runs}
        for run, result in ((run, results[run.name]) for run in runs if run.name in results):
            if len(result.score_names) > 1:
                names[run.configuration] = [f"{run.configuration}_{score}".lower() for score in result.score_names]
            for task, score in zip(names[run.configuration], result.score_names, strict=True):
                rows = {mask.name: mask.scores[score] for mask in result.masks}
                self.scored[task, run.variant.name, run.repetition] = rows
        self.tasks = list(chain(*names.values()))
        self.complete, *self.incomplete = next(iter(self.scored.values()), [COMPLETE])
        masks = {AVERAGE, self.complete, *self.incomplete}
        self.has_paper_masks = not self.scored or masks == set(PUBLISHED["columns"])
        is_of_paper = self.dataset in PUBLISHED_DATASETS and all(map(tables.task_row, self.tasks))
        self.is_published = self.has_paper_masks and is_of_paper

    def entries(self, table: Table) -> list[dict]:
        """Compare each row and column of the table with the paper; `docs/reproduce.md` describes the keys."""
        variants = {run.variant.name: run.variant for run in self.runs}
        averages_alone = table.is_ablation and (self.is_published or len(self.tasks) > 1)  # as the paper's ablations
        rows = [None] if self.is_published or averages_alone else []  # the mean over the tasks
        rows += [] if averages_alone else self.tasks
        return [self._entry(*key) for key in product(METRICS, variants.values(), rows, self._columns(table))]

    def _columns(self, table: Table) -> list[str]:
        if table.only_complete or not (self.incomplete or self.is_published):
            return [self.complete]
        if self.is_published:
            return [AVERAGE, COMPLETE] if table.is_ablation else PUBLISHED["columns"]
        return [*self.incomplete, AVERAGE, self.complete]

    def _entry(self, metric: str, variant: Variant, task: str | None, column: str) -> dict:
        here = self._by_seed(variant.name, task, column)
        base = {} if variant.name == AS_CONFIGURED else self._by_seed(AS_CONFIGURED, task, column)
        values = [row.model[metric] for row in here.values()]
        pairs = [(row.model[metric], base[seed].model[metric]) for seed, row in here.items() if seed in base]
        published, published_deviation = (row.get(column, {}).get(metric) for row in self._published(variant, task))
        ridge, mean_baseline = ([getattr(row, part) for row in here.values()] for part in ("ridge", "mean_baseline"))
        return {
            "dataset": self.dataset,
            "task": task,
            "variant": variant.name,
            "column": column,
            "metric": metric,
            "published": published,
            "published_deviation": published_deviation,
            "values": values,
            "here": summarize(values)[0],
            "deviation": summarize(values)[1],
            "ridge": summarize([metrics[metric] for metrics in ridge if metrics])[0],
            "mean_baseline": summarize([metrics[metric] for metrics in mean_baseline if metrics])[0],
            "differences": [value - other for value, other in pairs if None not in (value, other)],
            "verdict": find_verdict(metric, values, published, published_deviation),
        }

    def _published(self, variant: Variant, task: str | None) -> tuple[dict[str, dict], dict[str, dict]]:
        """Column -> published metrics, and their s.d. over seeds."""
        is_changed = variant.name != AS_CONFIGURED
        if task is not None:
            return tables.task_row(task) if self.has_paper_masks and not is_changed else {}, {}
        ablation = tables.ablation_row(*variant.published, self.dataset) if variant.published else {}
        return ablation if is_changed else tables.dataset_row(self.dataset), tables.seed_deviations(self.dataset)

    def _by_seed(self, variant: str, task: str | None, column: str) -> dict[int, ScoredRow]:
        """Repetition -> average over the tasks and masks of an entry; left out where a task is not finished."""
        found, masks = {}, self.incomplete if column == AVERAGE else [column]
        for repetition in sorted({run.repetition for run in self.runs}):
            tasks = [self.scored.get((name, variant, repetition)) for name in ([task] if task else self.tasks)]
            if None not in tasks:
                found[repetition] = average_rows([rows[mask] for rows in tasks for mask in masks])
        return found


def find_verdict(metric: str, values: Sequence, published: float | None, published_deviation: float | None) -> str:
    """Compare the values of the runs, one per seed, with the paper; `MEANING` explains the result."""
    here, deviation = summarize(values)
    if here is None:
        return "undefined" if values else "not run"
    if published is None:
        return "not published"
    deviation = deviation if published_deviation is None else published_deviation
    if deviation is None:
        return "no s.d."
    distance = round(abs(here - published) - 0.5 * 10 ** -METRICS[metric], 9)  # decimal numbers meet their bounds
    if distance <= round(2 * deviation, 9):
        return "reproduced" if distance <= round(deviation, 9) else "within two s.d."
    return "outside, better" if (here > published) == (metric == "spearman") else "outside, worse"


def summarize(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean over seeds, None where one is undefined or there is none, and s.d. (n - 1), None for fewer than two."""
    if not values or None in values:
        return None, None
    return mean(values), stdev(values) if len(values) > 1 else None


def _format_table(metric: str, entries: Sequence[dict]) -> str:
    """Table of one dataset, with several lines for each variant of a task."""
    lines = [["row", "", *dict.fromkeys(entry["column"] for entry in entries)]]
    for (task, variant), group in groupby(entries, key=itemgetter("task", "variant")):
        group = list(group)
        seeds = max(len(entry["values"]) for entry in group)
        here = f"here, {seeds} {'seed' if seeds == 1 else 'seeds'}" if seeds else "here"
        cells = {
            "published": [_format(metric, entry["published"]) for entry in group],
            here: [_format_here(metric, entry) for entry in group],
            "verdict": [entry["verdict"] if seeds and entry["published"] is not None else "-" for entry in group],
            "against as configured": [_format(metric, *summarize(entry["differences"]), "+") for entry in group],
        }
        if not any(entry["differences"] for entry in group):  # a variant shares the baselines
            cells["ridge"] = [_format(metric, entry["ridge"]) for entry in group]
            cells["training mean"] = [_format(metric, entry["mean_baseline"]) for entry in group]
        name = (task or "mean over the tasks") + ("" if variant == AS_CONFIGURED else f", {variant.replace('_', ' ')}")
        for what, texts in cells.items():
            if what == here or set(texts) != {"-"}:
                lines.append([name, what, *texts])
                name = ""
    return markdown_table(lines, left=2)


def _format_here(metric: str, entry: Mapping) -> str:
    if entry["here"] is None:
        return entry["verdict"]
    is_better = beats_mean(metric, entry["here"], entry["mean_baseline"])
    return _format(metric, entry["here"], entry["deviation"]) + ("" if is_better else "*")


def _format(metric: str, value: float | None, deviation: float | None = None, sign: str = "") -> str:
    decimals = METRICS[metric]
    spread = "" if deviation is None else f" ± {deviation:.{decimals}f}"
    return "-" if value is None else f"{value:{sign}.{decimals}f}{spread}"
