"""From rows with feature clips to scores: whole datasets (also over several processes) and streams of files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.processing_limssr import LimssrProcessor
from ..data.masked_dataset import longest_first, sequence_lengths
from ..data.sources.files import FeatureFileError
from ..utils.loading import resolve_packaged
from .files import FileSample

PATHS = ("scores", "reasoning_scores", "cross_modal_scores")
STREAMED_BATCHES = 4  # read ahead by `predict_stream`
Member = tuple[LimssrForScoreRegression, LimssrProcessor]


@dataclass(frozen=True)
class Predictions:
    """Scores of n rows, everything in judges' units.

    Attributes:
        sample_ids: n ids.
        scores: (n, scores) float64, the blend of both paths.
        reasoning_scores: (n, scores) reasoning path; NaN where the model has only the other one.
        cross_modal_scores: (n, scores) cross-modal path; NaN where the model has only the other one.
        modalities: the model's, in its order.
        visible: (n, modalities) bool, what each row showed.
    """

    sample_ids: list[str]
    modalities: list[str]
    scores: np.ndarray
    reasoning_scores: np.ndarray
    cross_modal_scores: np.ndarray
    visible: np.ndarray

    @property
    def path_disagreement(self) -> np.ndarray:
        """|reasoning_scores - cross_modal_scores|, (n, scores)."""
        return np.abs(self.reasoning_scores - self.cross_modal_scores)

    def used(self, row: int) -> list[str]:
        """Names of the modalities a row was scored from."""
        return [name for name, shown in zip(self.modalities, self.visible[row], strict=True) if shown]


@dataclass(frozen=True)
class SamplePrediction:
    """One sample of a stream: its scores in judges' units, or why there are none.

    Attributes:
        used: names of the modalities the score was made from.
        scores, reasoning_scores, cross_modal_scores: (scores,) float64; None with an error.
        error: None, or what was wrong with the sample.
    """

    sample_id: str
    used: list[str]
    scores: np.ndarray | None = None
    reasoning_scores: np.ndarray | None = None
    cross_modal_scores: np.ndarray | None = None
    error: str | None = None


def load_model_and_processor(
    name: str, language_model: str | None = None, device: torch.device | str | None = None, **loading
) -> tuple[LimssrForScoreRegression, LimssrProcessor]:
    """A checkpoint folder or Hub name, in eval mode.

    Args:
        name: the folder, or the name on the Hub.
        language_model: where an adapter finds its language model: folder, GGUF file, Hub name or a key of `PACKAGED_MODELS`.
        device: where to; by default the accelerator where there is one.
        **loading: of `from_pretrained`, as `loading_options` makes them.

    Raises:
        OSError, ValueError, ModuleNotFoundError: one of the two is not there or does not fit the other.
    """
    language_model = None if language_model is None else resolve_packaged(language_model)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    if "quantization_config" in loading:  # quantised weights are made where they stay
        loading["device_map"] = {"": device}
    model = LimssrForScoreRegression.from_pretrained(name, language_model=language_model, **loading)
    model = model if "device_map" in loading else model.to(device)
    return model.eval(), LimssrProcessor.from_pretrained(name)


def load_members(
    names: Sequence[str], language_model: str | None = None, device: torch.device | str | None = None, **loading
) -> list[Member]:
    """Models whose scores can be averaged.

    Args:
        names: checkpoint folders or Hub names, one or more.
        language_model: as for `load_model_and_processor`, and so are the next two; the same for all.
        device: where to.
        **loading: of `from_pretrained`.

    Raises:
        ValueError: one has other modalities or other scores than the first, or cannot be loaded.
        OSError, ModuleNotFoundError: one cannot be loaded.
    """
    members = [load_model_and_processor(name, language_model, device, **loading) for name in names]
    first = members[0][0].config
    for name, (model, _) in zip(names, members, strict=True):
        for field in ("modalities", "score_names"):
            found, expected = getattr(model.config, field), getattr(first, field)
            if found != expected:
                raise ValueError(
                    f"`{field}` is {found} in {name} and {expected} in {names[0]}; only models with the same "
                    "modalities and scores can be averaged"
                )
    return members


def mean_predictions(of_members: Sequence[Predictions]) -> Predictions:
    """The mean of what several models say of the same rows; NaN for a path that one of them does not have."""
    means = {name: np.mean([getattr(one, name) for one in of_members], axis=0) for name in PATHS}
    return replace(of_members[0], **means)


def predict(
    model, processor, rows: Sequence[dict], batch_size: int = 16, accelerator=None, progress=None
) -> Predictions:
    """Scores every row once, from whatever modalities it has.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`; its mode is restored afterwards.
        processor: the model's `LimssrProcessor`.
        rows: `datasets.Dataset`, `MaskedDataset` or any sequence of row dictionaries with `sample_id`.
        batch_size: rows a batch and process; masks may mix freely, and the longest are scored first, together.
        accelerator: shares the rows over its processes; each of them returns all predictions.
        progress: tqdm bar, moved on by the number of rows scored.

    Returns:
        `Predictions` in the order of `rows`.
    """
    unwrapped = accelerator.unwrap_model(model) if accelerator else model
    config, modalities = unwrapped.config, list(unwrapped.config.modalities)
    if hasattr(rows, "with_format"):
        rows = rows.with_format("numpy")  # ten times faster than nested Python lists
    order = longest_first(sequence_lengths(rows, processor))
    collate = _Collate(processor, modalities)
    loader = DataLoader(NumberedRows(rows), batch_size=batch_size, sampler=order, collate_fn=collate)
    loader = accelerator.prepare(loader) if accelerator else loader
    shape = (len(rows), len(config.score_names))
    result = {name: np.full(shape, np.nan) for name in PATHS}
    visible = np.zeros((len(rows), len(modalities)), dtype=bool)
    with evaluating(model), accelerator.autocast() if accelerator else nullcontext():
        for batch in loader:
            inputs = {name: value.to(unwrapped.device) for name, value in batch.pop("inputs").items()}
            outputs = {**batch, **path_scores(model(**inputs))}
            outputs = accelerator.gather_for_metrics(outputs) if accelerator else outputs
            index = outputs["index"].cpu().numpy()  # each row goes to its own place, so none can count twice
            visible[index] = outputs["visible"].cpu().numpy()
            for name in result:
                result[name][index] = outputs[name].cpu().numpy()
            if progress is not None:
                progress.update(len(index))
    return Predictions(read_sample_ids(rows), modalities, visible=visible, **result)


def predict_stream(
    members: Sequence[Member], samples: Iterable[FileSample], batch_size: int = 16
) -> Iterator[SamplePrediction]:
    """Scores samples in the order they come, holding a few batches at a time in memory, to sort them by length.

    A sample that cannot be read or that the processor refuses gives a `SamplePrediction` with its `error`; the others
    are scored all the same.

    Args:
        members: a model with its processor, or several (see `load_members`), whose mean is the score.
        samples: the files.
        batch_size: samples a batch.
    """
    samples = iter(samples)
    while window := list(islice(samples, batch_size * STREAMED_BATCHES)):
        yield from _predict_readable(members, window, batch_size)


def _predict_readable(
    members: Sequence[Member], window: list[FileSample], batch_size: int
) -> Iterator[SamplePrediction]:
    model, processor = members[0]
    rows, errors = [], {}
    for number, sample in enumerate(window):
        try:
            row = {"sample_id": sample.sample_id, **sample.read()}
            _Collate(processor, list(model.config.modalities))([{"index": 0, **row}])  # the processor's own checks
            rows.append(row)
        except FeatureFileError as error:
            errors[number] = str(error)
        except (TypeError, ValueError) as error:  # the processor's message names sample and modality, not the file
            errors[number] = f"{error} Read from {', '.join(map(str, sample.paths.values()))}"
    predictions = mean_predictions([predict(*member, rows, batch_size) for member in members]) if rows else None
    position = 0
    for number, sample in enumerate(window):
        if number in errors:
            yield SamplePrediction(sample.sample_id, [], error=errors[number])
            continue
        scores = (
            predictions.scores[position],
            predictions.reasoning_scores[position],
            predictions.cross_modal_scores[position],
        )
        yield SamplePrediction(sample.sample_id, predictions.used(position), *scores)
        position += 1


def read_sample_ids(rows: Sequence[dict]) -> list[str]:
    if hasattr(rows, "select_columns"):  # without reading a single feature
        return [str(sample_id) for sample_id in rows.select_columns(["sample_id"])["sample_id"]]
    return [str(rows[index]["sample_id"]) for index in range(len(rows))]


def path_scores(output) -> dict[str, torch.Tensor]:
    """The blended score and those of both paths, each `(batch, scores)`; NaN for a path the model leaves out."""
    missing = torch.full_like(output.scores, float("nan"))
    return {name: missing if output.get(name) is None else output[name] for name in PATHS}


@contextmanager
def evaluating(model) -> Iterator[None]:
    """Eval mode without gradients; every submodule gets back the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class NumberedRows(Dataset):
    """Rows that know their position, which is how predictions from several processes find their place."""

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return {**self.rows[index], "index": index}


class _Collate:
    """Rows -> processor inputs, their positions (batch,) and what they show (batch, modalities)."""

    def __init__(self, processor, modalities: list[str]):
        self.processor = processor
        self.modalities = modalities

    def __call__(self, rows: list[dict]) -> dict:
        features = {name: [row.get(name) for row in rows] for name in self.modalities}
        visible = torch.tensor([[values[row] is not None for values in features.values()] for row in range(len(rows))])
        sample_ids = [str(row["sample_id"]) for row in rows]
        inputs = self.processor(features=features, sample_ids=sample_ids, crop="center", return_tensors="pt")
        return {"inputs": dict(inputs), "index": torch.tensor([row["index"] for row in rows]), "visible": visible}
