"""What the page asks for: performances that are read once, then scored from whatever modalities are ticked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.processing_limssr import LimssrProcessor
from ...processing.recordings_limssr import DecodingLimits, Recording
from ..explanation.explanation import Explanation, explain, read_modalities
from ..explanation.page import write_page
from ..explanation.reports import DIGITS
from ..prediction.audit import digest_of_weights
from ..prediction.files import FileSample, samples_from_folder
from ..prediction.ranking import probability_better

MAX_SECONDS, MAX_PICTURES_A_SECOND = 600, 60


@dataclass(frozen=True)
class Performance:
    """A performance as the model reads it.

    Attributes:
        name: what the page calls it.
        contents: modality -> clips (clips, feature size), or a text.
        times: modality -> (clips, 2) seconds of the recording in which its clips begin and end.
        recording: file to play, or None.
    """

    name: str
    contents: dict[str, Any]
    times: dict[str, np.ndarray]
    recording: Recording | None = None

    @property
    def size(self) -> int:
        """Bytes of its clips."""
        return sum(content.nbytes for content in self.contents.values() if isinstance(content, np.ndarray))


class ScoringService:
    """
    One model, in memory once, and its examples.

    Args:
        model: the model, in eval mode.
        processor: its processor.
        examples: performances to try, by id.
        max_seconds: longest part of a recording that is read.
    """

    def __init__(
        self,
        model: LimssrForScoreRegression,
        processor: LimssrProcessor,
        examples: Mapping[str, FileSample] | None = None,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self.model, self.processor, self.examples = model, processor, dict(examples or {})
        self.limits = DecodingLimits(max_seconds=max_seconds, max_frames=round(max_seconds * MAX_PICTURES_A_SECOND))

    @property
    def takes_recordings(self) -> bool:
        return self.processor.recipe is not None

    def read(self, sample: FileSample, texts: Mapping[str, str] | None = None) -> Performance:
        """
        Read a performance.

        Args:
            sample: its recording and feature files.
            texts: modality -> text; an empty one is missing.

        Raises:
            ValueError: there is nothing to score, or something cannot be used; the message names the file.
            ModuleNotFoundError: PyAV or OpenCV is not installed.
        """
        given = {name: text.strip() for name, text in (texts or {}).items() if text and text.strip()}
        if sample.paths or sample.error:
            given |= sample.read(self.processor.recipe_digest)
        if not given and sample.recording is None:
            raise ValueError("There is nothing to score: give a recording, a feature file or a text.")
        contents, times = read_modalities(self.processor, given, sample.recording, limits=self.limits)
        return Performance(sample.sample_id, contents, times, sample.recording)

    def explain(self, performance: Performance, used: Collection[str], level: float) -> Explanation:
        """
        Score a performance from some of its modalities.

        Args:
            performance: what `read` returned.
            used: modalities to use; those that it lacks are missing.
            level: probability of the interval.

        Raises:
            ValueError: no modality is left.
        """
        contents = {name: content for name, content in performance.contents.items() if name in used}
        if not contents:
            raise ValueError("Tick one modality or more: there is nothing left to score.")
        return explain(
            self.model,
            processor=self.processor,
            features=contents,
            times=performance.times,
            sample_id=performance.name,
            level=level,
        )

    def write_report(self, performance: Performance, used: Collection[str], level: float, path: Path) -> None:
        """Write the page about a performance, as `limssr predict --report` does; raises as `explain` does."""
        explanation = self.explain(performance, used, level)
        origin = {**explanation.origin, "weights": self._digest}
        write_page(replace(explanation, recording=performance.recording, origin=origin), path)

    @cached_property
    def _digest(self) -> str:
        return digest_of_weights(self.model)[:DIGITS]

    def probability_better(self, explanations: Sequence[Explanation], number: int) -> float | None:
        """Probability that the judges score the first of two performances higher; None without a calibration."""
        config = self.model.config
        masks = [tuple(int(name in each.used) for name in config.modalities) for each in explanations]
        scores = [each.scores[[number]] for each in explanations]
        found = probability_better(config, *scores, masks, config.score_names[number])
        return None if found is None else float(found[0])


def find_examples(folder: Path, suffixes: Mapping[str, tuple[str, ...]]) -> dict[str, FileSample]:
    """
    Performances of a folder, by id.

    Args:
        folder: what `limssr predict --folder` takes, or the files of one performance, `<modality>.npy` and the like.
        suffixes: suffixes of the files of each modality, see `suffixes_of`.

    Raises:
        FeatureFileError, OSError: there is none, or the folder cannot be read.
    """
    places = {name: [folder / f"{name}{suffix}" for suffix in of_name] for name, of_name in suffixes.items()}
    single = {name: path for name, paths in places.items() for path in paths if path.is_file()}
    if single:
        return {folder.name: FileSample(folder.name, single)}
    return {sample.sample_id: sample for sample in samples_from_folder(folder, suffixes)}
