"""Why a score is what it is: the part of each modality, the moments that mattered, and performances like it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.stats import spearmanr

from limssr import __version__

from ...configuration.calibration_limssr import check_level
from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.intervals_limssr import find_intervals
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...modeling_limssr.neighbours_limssr import fusion_states
from ...processing.inputs_limssr import crop_clips
from ...processing.processing_limssr import LimssrProcessor
from ...processing.recordings_limssr import MissingStreamError, Recording
from ..prediction.predictor import evaluating, input_device, load_members
from .shapley import Subset, leave_one_out, shapley_values, subsets
from .time import integrate_gradients, occlude

MOST_MODALITIES = 10  # of a sample: 1,023 subsets are scored
Method = Literal["occlusion", "gradients", "both"]


@dataclass(frozen=True)
class ClipContributions:
    """What each clip of a modality adds to the score, in judges' units, compared with the mean clip of the training.

    Attributes:
        first: number of the first clip that the model read; those before were cropped.
        times: (clips, 2) seconds in which each clip begins and ends, or None where nobody knows.
        occlusion: (clips, scores), or None: score minus the score with the mean clip in its place.
        gradients: (clips, scores), or None: integrated gradients.
    """

    first: int
    times: np.ndarray | None
    occlusion: np.ndarray | None
    gradients: np.ndarray | None

    @property
    def values(self) -> np.ndarray:
        """(clips, scores) by occlusion, the reference, or else by integrated gradients."""
        return self.gradients if self.occlusion is None else self.occlusion

    @property
    def agreement(self) -> np.ndarray | None:
        """(scores,) Spearman correlation of the two methods over the clips; None without both, or for one clip."""
        if self.occlusion is None or self.gradients is None or len(self.occlusion) < 2:
            return None
        columns = zip(self.occlusion.T, self.gradients.T, strict=True)
        return np.array([rank_correlation(one, other) for one, other in columns])


@dataclass(frozen=True)
class Neighbour:
    """A judged training performance.

    Attributes:
        sample_id: its id.
        scores: (scores,), what judges gave, in judges' units.
        similarity: cosine of the fusion states without their mean, -1 to 1; both are of the modalities that the
            explained performance has.
    """

    sample_id: str
    scores: np.ndarray
    similarity: float


@dataclass(frozen=True)
class Explanation:
    """A score and what it is made of. All numbers are in judges' units; arrays have one entry for each score.

    Attributes:
        sample_id: name of the performance.
        score_names: names of the scores.
        score_bounds: (scores, 2), lowest and highest attainable score.
        modalities: all modalities of the model.
        scores: (scores,), from the modalities that the sample has.
        baseline: (scores,), the score of a performance of which nothing is known.
        baseline_name: what that is: `training mean`, or `middle of the scale` where the checkpoint does not know it.
        contributions: modality -> (scores,), its Shapley value; baseline and contributions add up to the score.
        leave_one_out: modality -> (scores,), how much lower the score is without it.
        subset_scores: modalities -> (scores,), the score of each subset, that of the empty one included.
        level: probability that the interval promises.
        interval: (scores, 2), or None for a model without calibration.
        sufficient_evidence: (scores,) bool, or None without calibration: whether the interval says more than the
            scores of the training alone.
        complete_interval: (scores, 2), or None without calibration: the interval if nothing were missing and the score
            were the same.
        training_quantiles: (scores, quantiles) of the training scores at even levels from 0 to 1, or None.
        clips: modality -> contributions of its clips; empty where they were not asked for.
        neighbours: the judged training performances most like this one, the most similar first, see `NeighbourIndex`;
            empty without an index.
        recording: the recording that was read, or None.
        origin: what the score came from: model, version, time.
    """

    sample_id: str
    score_names: list[str]
    score_bounds: np.ndarray
    modalities: list[str]
    scores: np.ndarray
    baseline: np.ndarray
    baseline_name: str
    contributions: dict[str, np.ndarray]
    leave_one_out: dict[str, np.ndarray]
    subset_scores: dict[Subset, np.ndarray]
    level: float
    interval: np.ndarray | None = None
    sufficient_evidence: np.ndarray | None = None
    complete_interval: np.ndarray | None = None
    training_quantiles: np.ndarray | None = None
    clips: dict[str, ClipContributions] = field(default_factory=dict)
    neighbours: list[Neighbour] = field(default_factory=list)
    recording: Recording | None = None
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def used(self) -> list[str]:
        """Modalities that the score was made from."""
        return list(self.contributions)

    @property
    def missing(self) -> list[str]:
        """Modalities that the model could have used."""
        return [name for name in self.modalities if name not in self.contributions]


def explain(
    model: LimssrForScoreRegression | str | Path,
    *,
    features: Mapping[str, Any] | None = None,
    recording: Recording | str | Path | dict | None = None,
    times: Mapping[str, np.ndarray] | None = None,
    without: Sequence[str] = (),
    sample_id: str = "sample",
    processor: LimssrProcessor | None = None,
    level: float | None = None,
    method: Method | None = "occlusion",
    batch_size: int = 16,
    limits=None,
) -> Explanation:
    """
    Score a performance and explain the score.

    Every subset of its modalities is scored, in one batch, and then, by occlusion, once for each clip.

    Example:

    ```python
    >>> from limssr.training.explanation.explanation import explain
    >>> explanation = explain("user/name", recording="dive.mp4")
    >>> explanation.scores, explanation.contributions["audio"], explanation.clips["video"].times
    ```

    Args:
        model: checkpoint folder, Hub name, or a loaded model.
        features: modality -> array (clips, feature size) or text; None where it is missing.
        recording: recording that all other modalities are made of: a path, or a dict of `path`, `start` and `end`.
        times: modality -> (clips, 2) seconds in which its clips begin and end, for features that are given.
        without: modalities to leave out.
        sample_id: name of the performance.
        processor: the model's processor; by default it is loaded from where the model came from.
        level: probability of the interval; 0.9 by default.
        method: how the contributions of clips are found; None leaves them out.
        batch_size: sequences scored at a time.
        limits: `DecodingLimits`, what a recording may cost.

    Raises:
        TypeError, ValueError: the features do not fit, there are none, or there are too many modalities.
        RecordingError: the recording cannot be used.
        OSError: the checkpoint cannot be loaded.
        ModuleNotFoundError: PyAV, OpenCV or, for integrated gradients, captum is not installed.
    """
    model, processor = _load(model, processor)
    if method not in (None, *Method.__args__):
        raise ValueError(f"method is {method!r}; allowed are {', '.join(Method.__args__)} and None.")
    recording = None if recording is None else Recording.of(recording)
    contents, times = read_modalities(processor, features, recording, times, without, limits)
    if not contents:
        raise ValueError(f"sample {sample_id!r}: no modality is given; at least one is needed.")
    if len(contents) > MOST_MODALITIES:
        raise ValueError(
            f"{len(contents)} modalities have too many subsets; exact contributions end at {MOST_MODALITIES}."
        )
    level = check_level(level)
    baseline, baseline_name = find_baseline(model.config)
    outputs = score_subsets(model, processor, contents, sample_id, level, batch_size)
    values = {frozenset(): baseline, **outputs.pop("values")}
    clips = {}
    if method is not None:
        clips = _explain_clips(model, processor, contents, times, sample_id, method, batch_size)
    return Explanation(
        sample_id=sample_id,
        score_names=list(model.config.score_names),
        score_bounds=_score_bounds(model.config),
        modalities=list(model.config.modalities),
        scores=values[frozenset(contents)],
        baseline=baseline,
        baseline_name=baseline_name,
        contributions=shapley_values(values, list(contents)),
        leave_one_out=leave_one_out(values, list(contents)),
        subset_scores=values,
        level=level,
        **_read_calibration(model.config, values[frozenset(contents)], level),
        clips=clips,
        recording=recording,
        origin=_describe_origin(model),
        **outputs,
    )


def _load(model, processor: LimssrProcessor | None) -> tuple[LimssrForScoreRegression, LimssrProcessor]:
    if isinstance(model, str | Path):
        loaded, own = load_members([str(model)])[0]
        return loaded, processor or own
    if processor is None:
        processor = LimssrProcessor.from_pretrained(model.name_or_path)
    return model, processor


def read_modalities(
    processor: LimssrProcessor,
    features: Mapping[str, Any] | None = None,
    recording: Recording | None = None,
    times: Mapping[str, np.ndarray] | None = None,
    without: Sequence[str] = (),
    limits=None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Content of each modality that the sample has, in the order of the model, and times of clips; see `explain`."""
    features, times = features or {}, times or {}
    if unknown := [name for name in (*features, *without, *times) if name not in processor.modality_sizes]:
        raise ValueError(f"unknown modality {unknown[0]!r}; this model has {list(processor.modality_sizes)}.")
    given = {name: content for name, content in features.items() if name not in without}
    given = processor.encode_texts(given, "the performance")
    times = {name: seconds for name, seconds in times.items() if name in given}
    if recording is not None:
        made = [name for name in processor.extractor.recipe.recorded if name in processor.feature_sizes]
        wanted = [name for name in made if name not in given and name not in without]
        try:
            found = processor.extractor.extract(recording, wanted, limits) if wanted else {}
        except MissingStreamError:
            if not given:
                raise
            found = {}
        given |= {name: clips.features for name, clips in found.items()}
        times |= {name: clips.times for name, clips in found.items()}
    return {name: given[name] for name in processor.modality_sizes if name in given}, times


def find_baseline(config: LimssrConfig) -> tuple[np.ndarray, str]:
    """Score of a performance of which nothing is known, (scores,) in judges' units, and what it is."""
    if config.calibration is None:
        return _score_bounds(config).mean(axis=1), "middle of the scale"
    training = config.calibration["training_scores"]
    return np.array([training[name]["mean"] for name in config.score_names]), "training mean"


def _read_calibration(config: LimssrConfig, scores: np.ndarray, level: float) -> dict[str, np.ndarray]:
    """`complete_interval` and `training_quantiles`; nothing without calibration."""
    if config.calibration is None:
        return {}
    everything = torch.ones(1, len(config.modalities), dtype=torch.bool)
    interval, _ = find_intervals(config, torch.from_numpy(scores)[None], everything, level)
    quantiles = [config.calibration["training_scores"][name]["quantiles"] for name in config.score_names]
    return {"complete_interval": interval[0].numpy(), "training_quantiles": np.array(quantiles)}


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman correlation of (values,), NaN where one of them is constant."""
    return np.nan if min(np.ptp(one), np.ptp(other)) == 0 else float(spearmanr(one, other).statistic)


def _score_bounds(config: LimssrConfig) -> np.ndarray:
    minimums, ranges = np.array(config.score_minimums, float), np.array(config.score_ranges, float)
    return np.stack([minimums, minimums + ranges], axis=1)


def score_subsets(
    model, processor: LimssrProcessor, contents: Mapping[str, Any], sample_id: str, level: float, batch_size: int
) -> dict[str, Any]:
    """
    Score every subset but the empty one.

    Returns:
        `values`, subset -> (scores,) float64; of the full set `interval` and `sufficient_evidence`, or None, and
        `neighbours`.
    """
    chosen = [subset for subset in subsets(list(contents)) if subset][::-1]  # everything first
    features = {name: [content if name in subset else None for subset in chosen] for name, content in contents.items()}
    inputs = processor(features=features, sample_ids=[sample_id] * len(chosen))
    calibration = {} if model.config.calibration is None else {"level": level}
    device, outputs = input_device(model), []
    with evaluating(model), model.model.prefix_cache.keep():
        for places in torch.arange(len(chosen)).split(batch_size):
            batch = {name: values[places].to(device) for name, values in inputs.items()}
            outputs.append(model(**batch, **calibration))
    scores = torch.cat([output.scores for output in outputs]).double().cpu().numpy()
    found: dict[str, Any] = {"values": dict(zip(chosen, scores, strict=True))}
    for name in ("interval", "sufficient_evidence"):
        value = outputs[0].get(name)
        found[name] = None if value is None else value[0].cpu().numpy()
    return found | {"neighbours": _find_neighbours(model, outputs[0], list(contents))}


def _find_neighbours(model, output, used: list[str]) -> list[Neighbour]:
    """Neighbours of the first performance of an output, by the index of the model."""
    if model.neighbours is None:
        return []
    mask = "+".join(name for name in model.config.modalities if name in used)
    found = model.neighbours.nearest(fusion_states(output)[0].cpu(), mask)
    return [Neighbour(sample_id, np.array(scores), similarity) for sample_id, scores, similarity in found]


def _explain_clips(
    model,
    processor: LimssrProcessor,
    contents: Mapping,
    times: Mapping,
    sample_id: str,
    method: Method,
    batch_size: int,
) -> dict[str, ClipContributions]:
    inputs = processor(features={name: [content] for name, content in contents.items()}, sample_ids=[sample_id])
    lengths = {name: len(contents[name]) for name in processor.feature_sizes if name in contents}
    counts = {name: min(length, processor.max_clips) for name, length in lengths.items()}
    gradients, occlusion = {}, {}
    if counts and method != "occlusion":
        gradients = integrate_gradients(model, inputs, counts, batch_size)
    if method != "gradients":
        occlusion = {name: occlude(model, inputs, name, count, batch_size) for name, count in counts.items()}
    return {
        name: ClipContributions(
            first=int(crop_clips(torch.arange(length), processor.max_clips, 0.5)[0]),
            times=None if name not in times else crop_clips(np.asarray(times[name]), processor.max_clips, 0.5),
            occlusion=occlusion.get(name),
            gradients=gradients.get(name),
        )
        for name, length in lengths.items()
    }


def _describe_origin(model) -> dict[str, str]:
    name = model.name_or_path
    name = Path(name).resolve().name if name and Path(name).is_dir() else name or "unnamed"
    origin = {"model": name, "limssr": __version__}
    if revision := model.revision:
        origin["revision"] = revision
    return origin | {"time": datetime.now(UTC).isoformat(timespec="seconds")}
