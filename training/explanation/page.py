"""A page about one performance: a single HTML file that reads without scripts, without a network, and on paper."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..utils.files import atomic_write_text
from .explanation import ClipContributions, Explanation
from .frames import as_jpeg, read_strip

TEMPLATE = Path(__file__).with_name("page.html.jinja")
BINS = 40  # of the distribution of the training scores
MARGIN = 0.08  # of an axis, on both sides of what is drawn
THINNEST = 0.4  # per cent of the width, of a bar that is too short to be seen
MARKED = 2  # clips of a modality with the largest contributions


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`; places on it are per cent of its width."""

    low: float
    high: float

    @classmethod
    def around(cls, values) -> "Axis":
        low, high = min(values), max(values)
        space = MARGIN * (high - low or 1.0)
        return cls(low - space, high + space)

    def place(self, value: float) -> float:
        return float(np.clip(100 * (value - self.low) / (self.high - self.low), 0, 100))

    def bar(self, one: float, other: float) -> dict[str, float]:
        left, right = sorted((self.place(one), self.place(other)))
        return {"left": left, "width": max(right - left, THINNEST)}


def write_page(explanation: Explanation, path: str | Path) -> None:
    """
    Write the page, one sheet of A4 for each score.

    Args:
        explanation: what `explain` returns.
        path: HTML file.

    Raises:
        ModuleNotFoundError: Jinja2 is not installed.
        RecordingError: the pictures of the recording cannot be read.
        OSError: the file cannot be written.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Pages need the package jinja2: pip install jinja2, or 'limssr[explain]'."
        ) from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "signed": signed, "seconds": seconds}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    span = find_span(explanation)
    is_seen = explanation.recording is not None and span is not None
    frames = [as_jpeg(picture) for picture in read_strip(explanation.recording, *span)] if is_seen else []
    sheets = [make_sheet(explanation, score) for score in range(len(explanation.score_names))]
    recording = explanation.recording
    text = template.render(
        explanation=explanation,
        sheets=sheets,
        frames=frames,
        percent=f"{100 * explanation.level:g}",
        recording_name=None if recording is None else Path(recording.path).name,
    )
    atomic_write_text(path, text)


def make_sheet(explanation: Explanation, score: int) -> dict:
    """What the template draws for a score."""
    interval, evidence = explanation.interval, explanation.sufficient_evidence
    low, high = explanation.score_bounds[score]
    return {
        "name": explanation.score_names[score],
        "score": float(explanation.scores[score]),
        "decimals": int(np.clip(round(3 - np.log10(high - low)), 0, 3)),
        "interval": None if interval is None else interval[score].tolist(),
        "is_sufficient": evidence is None or bool(evidence[score]),
        "scale": make_scale(explanation, score),
        "waterfall": make_waterfall(explanation, score),
        "widening": find_widening(explanation, score),
        "timeline": make_timeline(explanation, score),
        "neighbours": [
            {"sample_id": each.sample_id, "score": float(each.scores[score]), "similarity": each.similarity}
            for each in explanation.neighbours
        ],
    }


def make_scale(explanation: Explanation, score: int) -> dict:
    """The score and its interval among the training scores, on the scale of all attainable scores."""
    low, high = map(float, explanation.score_bounds[score])
    axis, bars = Axis(low, high), []
    if explanation.training_quantiles is not None:
        shares = distribution(explanation.training_quantiles[score], np.linspace(low, high, BINS + 1))
        bars = (100 * shares / shares.max()).tolist()
    interval = None if explanation.interval is None else axis.bar(*explanation.interval[score])
    places = {"score": axis.place(explanation.scores[score]), "baseline": axis.place(explanation.baseline[score])}
    return {"low": low, "high": high, "bars": bars, "interval": interval, **places}


def distribution(quantiles: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Share of the training scores in each bin.

    Args:
        quantiles: (quantiles,) at even levels from 0 to 1.
        edges: (bins + 1,) rising scores; each bin holds its upper edge, the first one its lower edge too.
    """
    levels = np.linspace(0, 1, len(quantiles))
    values, places = np.unique(quantiles[::-1], return_index=True)
    below = np.interp(edges, values, levels[::-1][places], left=0, right=1)  # share of the scores up to each edge
    below[0] = 0
    return np.diff(below)


def make_waterfall(explanation: Explanation, score: int) -> dict:
    """Bars that lead from the baseline to the score, one for each modality, on an axis of their own."""
    parts = [float(explanation.contributions[name][score]) for name in explanation.used]
    ends = np.cumsum([float(explanation.baseline[score]), *parts]).tolist()
    axis = Axis.around(ends)
    rows = [
        {
            "name": name,
            "value": part,
            "without": float(explanation.scores[score] - explanation.leave_one_out[name][score]),
            **axis.bar(before, after),
        }
        for name, part, before, after in zip(explanation.used, parts, ends, ends[1:], strict=False)
    ]
    return {"rows": rows, "start": ends[0], "baseline": axis.place(ends[0]), "score": axis.place(ends[-1])}


def find_widening(explanation: Explanation, score: int) -> dict[str, float] | None:
    """Width of the interval beside its width if nothing were missing; None where that is not known."""
    if explanation.interval is None or explanation.complete_interval is None or not explanation.missing:
        return None
    width, complete = (float(np.ptp(each[score])) for each in (explanation.interval, explanation.complete_interval))
    return {"width": width, "complete": complete}


def make_timeline(explanation: Explanation, score: int) -> dict | None:
    """Bars of the clips, along the seconds of the recording, or along the numbers of the clips."""
    clips = _several(explanation)
    if not clips:
        return None
    span = find_span(explanation)
    largest = float(max(np.abs(each.values[:, score]).max() for each in clips.values())) or 1.0
    rows = [{"name": name, "clips": _clip_bars(each, score, span, largest)} for name, each in clips.items()]
    ticks = [] if span is None else [(Axis(*span).place(tick), tick) for tick in find_ticks(*span)]
    return {"span": span, "ticks": ticks, "rows": rows}


def _several(explanation: Explanation) -> dict[str, ClipContributions]:
    """Modalities of more than one clip: a single one says what the modality says."""
    return {name: each for name, each in explanation.clips.items() if len(each.values) > 1}


def find_span(explanation: Explanation) -> tuple[float, float] | None:
    """Seconds of the first and the last moment of all clips; None where those of a modality are not known."""
    times = [each.times for each in _several(explanation).values()]
    if not times or any(each is None for each in times):
        return None
    return min(float(each.min()) for each in times), max(float(each.max()) for each in times)


def find_ticks(start: float, end: float, most: int = 8) -> list[float]:
    """Round seconds between two times, `most` or fewer."""
    steps = [base * 10.0**power for power in range(-2, 5) for base in (1, 2, 5)]
    step = next((step for step in steps if (end - start) / step <= most - 1), steps[-1])
    return [round(number * step, 6) for number in range(int(np.ceil(start / step)), int(end / step) + 1)]


def _clip_bars(clips: ClipContributions, score: int, span: tuple[float, float] | None, largest: float) -> list[dict]:
    values = clips.values[:, score].tolist()
    if span is None:
        axis, edges = Axis(0, len(values)), [(place, place + 1) for place in range(len(values))]
    else:
        axis, edges = Axis(*span), clips.times.tolist()
    marked = np.argsort(-np.abs(values), kind="stable")[:MARKED].tolist()
    return [
        {
            "number": clips.first + place + 1,
            "seconds": None if clips.times is None else clips.times[place].tolist(),
            "value": value,
            "height": 100 * abs(value) / largest,
            "is_marked": place in marked,
            **axis.bar(*ends),
        }
        for place, (ends, value) in enumerate(zip(edges, values, strict=True))
    ]


def number(value: float, decimals: int) -> str:
    """A score; zero without a sign."""
    return f"{round(value, decimals) + 0.0:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float, decimals: int) -> str:
    """A difference."""
    text = number(value, decimals)
    return f"+{text}" if round(value, decimals) > 0 else text


def seconds(value: float) -> str:
    """A time; with minutes from one on."""
    minutes, rest = divmod(value, 60)
    return f"{rest:.2f} s" if minutes < 1 else f"{int(minutes)}:{rest:04.1f} min"
