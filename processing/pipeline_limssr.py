"""`pipeline("action-quality-assessment", model=...)`: from recordings or features to scores, in one call."""

import math
import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import Pipeline

from .recordings_limssr import Recording

RECORDING = "recording"  # key of a sample's recording among its features


class ActionQualityAssessmentPipeline(Pipeline):
    """
    Scores performances.

    A sample is the path of a recording; a dict of `path`, `start` and `end` in seconds; an array `(clips, feature
    size)`, where its size tells the modality; or a dict of modality -> array or text, with `recording` for what is
    made of a recording, `None` for what is missing, and perhaps `sample_id`. Lists give lists; generators and other
    iterables, such as columns of `datasets`, give generators.

    Example:

    ```python
    >>> scorer = pipeline("action-quality-assessment", model="user/name", trust_remote_code=True)
    >>> scorer("dive.mp4", without=["audio"])
    [{'name': 'score', 'score': 71.2, 'reasoning_score': 70.8, 'cross_modal_score': 72.1,
      'interval': [58.3, 84.1], 'evidence': 'sufficient', 'used': ['video']}]
    ```

    Args of a call:
        inputs: one sample, or many.
        without (`list[str]`, *optional*): modalities to leave out.
        limits (`DecodingLimits`, *optional*): what a recording may cost.
        level (`float`, *optional*): probability of the interval, from 0.5 to 0.99; 0.9 by default. A model that is not
            calibrated has `None` for `interval` and `evidence`.
        batch_size (`int`, defaults to 1): samples scored at a time.

    Raises:
        RecordingError: a recording cannot be used.
        TypeError, ValueError: a sample is of no such form; the message says which.
        ValueError: a score is not finite; the message names the sample.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False

    def __call__(self, inputs, batch_size: int | None = None, **parameters):
        settings = {**self._preprocess_params, **self._sanitize_parameters(**parameters)[0]}
        size = batch_size or self._batch_size or 1
        if isinstance(inputs, str | os.PathLike | dict | np.ndarray | torch.Tensor | Recording):
            return next(self._score([inputs], 1, settings))
        if not isinstance(inputs, Iterable):
            raise TypeError(f"a sample is {type(inputs).__name__}, expected a path, an array or a dict.")
        scores = self._score(inputs, size, settings)
        return list(scores) if isinstance(inputs, list | tuple) else scores

    def _score(self, samples: Iterable, size: int, settings: dict[str, Any]) -> Iterator[list[dict]]:
        samples, settings = enumerate(samples), dict(settings)
        level = settings.pop("level", None)
        while some := list(islice(samples, size)):
            batch = [self.preprocess(sample, **settings) for _, sample in some]
            for (number, sample), scored in zip(some, self.postprocess(self.forward(batch, level)), strict=True):
                _require_finite(scored, number, sample)
                yield scored

    def _sanitize_parameters(self, without=(), limits=None, level=None, **unknown):
        if unknown:
            raise TypeError(
                f"unknown argument {next(iter(unknown))!r}; known are without, limits, level and batch_size."
            )
        given = {"without": without, "limits": limits, "level": level}
        return {name: value for name, value in given.items() if value}, {}, {}

    def preprocess(self, sample, without=(), limits=None) -> dict[str, Any]:
        """Modality -> array or text of one sample."""
        if unknown := [name for name in without if name not in self.processor.modality_sizes]:
            raise ValueError(f"without {unknown[0]!r}: the modalities are {list(self.processor.modality_sizes)}.")
        features, recording = self._split(sample)
        features = {name: [content] for name, content in features.items() if name not in without}
        if recording is not None:
            features = self.processor.extract_features([recording], features, without, limits)
        return {name: entries[0] for name, entries in features.items() if entries[0] is not None}

    def _split(self, sample) -> tuple[dict[str, Any], Any]:
        """Features and recording of a sample."""
        if isinstance(sample, str | os.PathLike | Recording):
            return {}, sample
        if isinstance(sample, dict) and "path" in sample:
            return {}, sample
        if isinstance(sample, dict):
            features = {name: content for name, content in sample.items() if name not in (RECORDING, "sample_id")}
            return features, sample.get(RECORDING)
        if not isinstance(sample, np.ndarray | torch.Tensor | list | tuple):
            raise TypeError(f"a sample is {type(sample).__name__}, expected a path, an array or a dict.")
        array = np.asarray(sample, dtype=np.float32)
        sizes = self.processor.feature_sizes
        fitting = [name for name, size in sizes.items() if array.ndim == 2 and size == array.shape[1]]
        if len(fitting) != 1:
            raise ValueError(
                f"an array of shape {list(array.shape)} fits {fitting or 'no modality'}; the feature sizes are "
                f"{sizes}. Pass a dict of modality -> array."
            )
        return {fitting[0]: array}, None

    def _forward(self, batch: list[dict[str, Any]], level: float | None = None) -> dict[str, Any]:
        names = dict.fromkeys(chain(self.processor.modality_sizes, *batch))  # the processor refuses unknown ones
        inputs = self.processor(features={name: [sample.get(name) for sample in batch] for name in names})
        outputs = self.model(**self._ensure_tensor_on_device(inputs, device=self.device), level=level)
        used = [[name for name in names if sample.get(name) is not None] for sample in batch]
        return {"outputs": outputs, "used": used}

    def forward(self, batch: list[dict[str, Any]], level: float | None = None) -> dict[str, Any]:
        with self.device_placement(), torch.inference_mode():
            return self._forward(batch, level)

    def postprocess(self, scored: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """For each sample one dict a score, in judges' units."""
        outputs, results = scored["outputs"], []
        paths = {"score": outputs.scores, "reasoning_score": outputs.reasoning_scores}
        paths["cross_modal_score"] = outputs.cross_modal_scores
        for number, used in enumerate(scored["used"]):
            of_sample = []
            for place, name in enumerate(self.model.config.score_names):
                values = {path: scores[number, place].item() for path, scores in paths.items() if scores is not None}
                values |= {"interval": None, "evidence": None}
                if outputs.interval is not None:
                    values["interval"] = outputs.interval[number, place].tolist()
                    enough = outputs.sufficient_evidence[number, place].item()
                    values["evidence"] = "sufficient" if enough else "insufficient"
                of_sample.append({"name": name, **values, "used": used})
            results.append(of_sample)
        return results


def _require_finite(scored: list[dict[str, Any]], number: int, sample: Any) -> None:
    """
    Args:
        scored: scores of a sample.
        number: of the sample in the call.
        sample: sample, as it was given.

    Raises:
        ValueError: a score is NaN or infinite.
    """
    paths = ("score", "reasoning_score", "cross_modal_score")
    if all(math.isfinite(entry[path]) for entry in scored for path in paths if path in entry):
        return
    name = sample.get("sample_id", sample.get("path")) if isinstance(sample, dict) else sample
    named = f"sample {number}" + (f", {str(name)!r}" if isinstance(name, str | os.PathLike) else "")
    raise ValueError(
        f"{named}: its score is not finite; the weights of the model are damaged, or overflow in this precision."
    )


__all__ = ["ActionQualityAssessmentPipeline"]
