"""One cell of a table: what was published, what the runs give, and how far apart the two are."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

METRICS = {"spearman": 3, "mse": 2}  # metric -> decimals of the paper

REPRODUCED, WITHIN_TWO, BETTER, WORSE = "reproduced", "within two s.d.", "outside, better", "outside, worse"
NO_DEVIATION, UNDEFINED, NOT_RUN, NOT_PUBLISHED = "no s.d.", "undefined", "not run", "not published"

MEANING = """
*Here* is the mean over the seeds, ± their s.d. (n - 1); checkpoints were selected on validation, unless the caveats
above say otherwise. *Published* is the paper's; its checkpoints were selected on the test split. *Against as
configured* is the difference from the same configuration without the change, mean ± s.d. over the seeds that both
have. *Ridge* is ridge regression on the same visible features, *training mean* predicts that for everyone; a `*`
stands where the model is not better than the training mean.

The distance of here and published, less half a unit of the last published digit, is measured in the s.d. over seeds:
the paper's (six seeds) for averages and complete sets of a dataset, the nearest known for its ablations too; for all
other cells that of the seeds here, of which there must be two.

- **reproduced**: no further than one s.d.
- **within two s.d.**: no further than two.
- **outside, better** or **outside, worse**: further.
- **no s.d.**: run with one seed only, and no s.d. is published: no judgement.
- **undefined**: the metric does not exist for a run (a correlation of constant predictions).
- **not run**: there is no seed of which all runs of the cell are finished; the list of runs says why.
"""


@dataclass(frozen=True)
class Cell:
    """
    Attributes:
        column: a mask, or `average`.
        metric: `spearman` or `mse` (squared judges' units).
        published: of the paper; None where it has none.
        published_deviation: the paper's s.d. over its seeds; None where it gives none.
        values: one a seed, None where undefined; empty where not run.
        ridge: of ridge regression on what the same seeds left visible.
        floor: of predicting the training mean; its correlation is undefined.
        differences: from the configuration as it is, one for each seed that both have.
    """

    column: str
    metric: str
    published: float | None
    published_deviation: float | None
    values: tuple[float | None, ...]
    ridge: tuple[float | None, ...] = ()
    mean_baseline: tuple[float | None, ...] = ()
    differences: tuple[float, ...] = ()

    @property
    def here(self) -> float | None:
        return mean_of(self.values)

    @property
    def deviation(self) -> float | None:
        return stdev(self.values) if self.here is not None and len(self.values) > 1 else None

    @property
    def beats_mean(self) -> bool:
        """Whether the mean is better than predicting the training mean: a smaller error, a positive correlation."""
        if self.here is None or self.metric == "spearman":
            return self.here is None or self.here > 0
        mean_baseline = mean_of(self.mean_baseline)
        return mean_baseline is None or self.here < mean_baseline

    @property
    def mark(self) -> str:
        """See `MEANING`."""
        if not self.values:
            return NOT_RUN
        if self.here is None:
            return UNDEFINED
        if self.published is None:
            return NOT_PUBLISHED
        deviation = self.deviation if self.published_deviation is None else self.published_deviation
        if deviation is None:
            return NO_DEVIATION
        half_a_digit = 0.5 * 10 ** -METRICS[self.metric]
        distance = round(abs(self.here - self.published) - half_a_digit, 9)  # decimal numbers meet their bounds
        if distance <= round(deviation, 9):
            return REPRODUCED
        if distance <= round(2 * deviation, 9):
            return WITHIN_TWO
        return BETTER if (self.here > self.published) == (self.metric == "spearman") else WORSE

    def to_dict(self) -> dict:
        computed = {"here": self.here, "deviation": self.deviation, "beats_floor": self.beats_mean, "mark": self.mark}
        return vars(self) | computed


def mean_of(values: Sequence[float | None]) -> float | None:
    """Over seeds; None where there is nothing, or anything undefined."""
    return mean(values) if values and None not in values else None
