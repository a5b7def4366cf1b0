"""From feature clips to scores: one loop for whole datasets, several masks, several models and streams of files."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain, islice

import numpy as np
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from ...modeling_limssr.intervals_limssr import find_intervals
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.processing_limssr import LimssrProcessor
from ...processing.recordings_limssr import RecordingError
from ..data.aqa_data import NAMED_SAMPLES
from ..data.masked_dataset import MaskedDataset, longest_first, sequence_lengths
from ..data.masks import Mask
from ..data.sources.files import FeatureFileError
from ..utils.errors import brief, reading
from ..utils.loading import place_of_language_model
from ..utils.text import printable
from .files import FileSample, SamplePrediction
from .predictions import PATHS, Predictions

logger = logging.getLogger(__name__)

STREAMED_BATCHES = 4  # read ahead by `predict_stream`
# The projectors of a sharded model exist only inside its forward pass.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
Member = tuple[LimssrForScoreRegression, LimssrProcessor]
Inputs = dict[str, torch.Tensor]
NOT_FINITE = "the score is not a finite number: the weights of the model are damaged, or overflow in this precision"
ORIGIN = ("transformers_version", "_name_or_path")  # of settings: where they came from


def load_members(
    names: Sequence[str],
    language_model: str | None = None,
    device: torch.device | str | None = None,
    revisions: Sequence[str | None] | None = None,
    **loading,
) -> list[Member]:
    """Load checkpoints whose scores can be averaged, in eval mode.

    Args:
        names: checkpoint folders or Hub names, one or more.
        language_model: the adapters' language model: see `resolve_model`; or a YAML file of a training that names it.
        device: device of the models; by default the accelerator where there is one.
        revisions: revision on the Hub of each; by default the current one.
        **loading: arguments of `from_pretrained`, see `loading_options`.

    Raises:
        ValueError: a model has other modalities or scores than the first one.
        OSError, ValueError, ModuleNotFoundError: a model cannot be loaded.
    """
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    loading["language_model"] = place_of_language_model(language_model, names)
    if "quantization_config" in loading:  # quantised weights are made where they stay
        loading["device_map"] = {"": device}
    members = []
    for name, revision in zip(names, revisions or [None] * len(names), strict=True):
        pinned = {} if revision is None else {"revision": revision}
        with reading(name):
            model = LimssrForScoreRegression.from_pretrained(name, **pinned, **loading)
            processor = LimssrProcessor.from_pretrained(name, **pinned)
        model = model if "device_map" in loading else model.to(device)
        if never_seen := _never_seen(model):
            said = "%s was trained without a sample that has %s: what it makes of it is not learnt, leave it out"
            logger.warning(said, name, ", ".join(never_seen))
        members.append((model.eval(), processor))
        described = [_shared_settings(*each) for each in (members[-1], members[0])]
        for field, found in described[0].items():
            expected = described[1][field]
            if found != expected:
                raise ValueError(
                    f"`{field}` is {found} in {name} and {expected} in {names[0]}; only models with the same "
                    "modalities, scores and recipe can be averaged"
                )
    return members


def _never_seen(model: LimssrForScoreRegression) -> list[str]:
    """Modalities of features of which a trained model has seen no clip: its projectors count batches."""
    counts = {name: projector.norm_1.num_batches_tracked for name, projector in model.model.projectors.items()}
    counts = {name: int(count) for name, count in counts.items() if count.device.type != "meta"}
    return [name for name, count in counts.items() if count == 0] if any(counts.values()) else []


def _shared_settings(model: LimssrForScoreRegression, processor: LimssrProcessor) -> dict[str, object]:
    """What models must share to be averaged."""
    config = model.config
    return {
        "modalities": config.modalities,
        "score_names": config.score_names,
        "recipe": None if processor.recipe_digest is None else processor.recipe_digest[:12],
    }


def predict(
    model,
    processor,
    rows: Sequence[dict],
    batch_size: int = 16,
    accelerator=None,
    progress=None,
    windows: bool = False,
) -> Predictions:
    """Score every row once, from the modalities it has.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`; its mode is restored afterwards.
        processor: the model's `LimssrProcessor`.
        rows: `datasets.Dataset`, `MaskedDataset` or any sequence of row dictionaries with `sample_id`.
        batch_size: rows per batch and process; a batch may mix masks.
        accelerator: shares the rows over its processes; each process returns all predictions.
        progress: tqdm bar, advanced by the number of rows scored.
        windows: score all clips of a row, as the mean over windows of `LimssrProcessor.split_windows`, instead of the
            middle `max_clips`.

    Returns:
        `Predictions` in the order of `rows`.

    Raises:
        TypeError, ValueError: the processor refuses a row; the message names its `sample_id`.
    """
    if hasattr(rows, "with_format"):
        rows = rows.with_format("numpy")  # ten times faster than nested Python lists
    scorer = _Scorer([(model, processor)], batch_size, accelerator, windows)
    scores, used = scorer.score_dataset(rows, [scorer.modalities], np.ones((len(rows), 1), dtype=bool), progress)
    if hasattr(rows, "select_columns"):  # without reading a single feature
        sample_ids = rows.select_columns(["sample_id"])["sample_id"]
    else:
        sample_ids = [rows[index]["sample_id"] for index in range(len(rows))]
    scores = {path: values[:, 0] for path, values in scores.items()}
    return Predictions(list(map(str, sample_ids)), scorer.modalities, used=used, **scores)


def predict_masks(
    members: Sequence[Member],
    dataset: Dataset,
    wanted: Mapping[Mask, np.ndarray],
    modalities: Sequence[str],
    batch_size: int = 16,
    accelerator=None,
    progress=None,
) -> dict[Mask, dict[str, np.ndarray]]:
    """Score samples under several masks; a feature is read only if one of the sample's masks has it.

    Args:
        members: models with their processors; their mean is the score.
        dataset: one column per modality, and `sample_id`.
        wanted: mask -> (samples,) bool, the samples to score under it; each has every modality of the mask.
        modalities: names in mask order; other modalities of the model are hidden.
        batch_size: sequences per batch and process.
        accelerator: shares the samples over its processes; each process returns all scores.
        progress: tqdm bar, advanced by the number of samples and masks scored.

    Returns:
        Mask -> path of `PATHS` -> (samples, scores) float64 in judges' units, NaN where not wanted.
    """
    masks, chosen = list(wanted), np.stack(list(wanted.values()), axis=1)  # (samples, masks)
    samples = np.flatnonzero(chosen.any(axis=1))
    needed = chosen[samples].astype(int) @ np.array(masks) > 0  # (samples, modalities)
    columns = [name for name in ("sample_id", *modalities) if name in dataset.column_names]
    rows = MaskedDataset(dataset.select_columns(columns).select(samples), modalities, needed.astype(int).tolist())
    names = [[name for name, bit in zip(modalities, mask, strict=True) if bit] for mask in masks]
    scores, _ = _Scorer(members, batch_size, accelerator).score_dataset(rows, names, chosen[samples], progress)
    results = {path: np.full((len(dataset), *values.shape[1:]), np.nan) for path, values in scores.items()}
    for path, values in scores.items():
        results[path][samples] = values
    return {mask: {path: results[path][:, number] for path in PATHS} for number, mask in enumerate(masks)}


def predict_stream(
    members: Sequence[Member],
    samples: Iterable[FileSample],
    batch_size: int = 16,
    windows: bool = False,
    level: float | None = None,
) -> Iterator[SamplePrediction]:
    """Score samples in the order they come, with a few batches in memory to sort them by length.

    A sample that cannot be read or that a processor refuses gives a `SamplePrediction` with its `error`.

    Args:
        members: models with their processors, see `load_members`; their mean is the score.
        samples: samples whose features are on disk.
        batch_size: samples per batch.
        windows: score all clips of a sample, as for `predict`.
        level: probability of the intervals, see `find_intervals`. Several models, and a model that scores in windows,
            have none: their scores are not those that were calibrated.
    """
    scorer, samples = _Scorer(members, batch_size, windows=windows, level=level), iter(samples)
    while some := list(islice(samples, batch_size * STREAMED_BATCHES)):
        yield from scorer.score_files(some)


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


class _Scorer:
    """The scoring loop.

    Args:
        members: models with their processors.
        batch_size: sequences per batch.
        accelerator: shares datasets over its processes.
        windows: score all clips of a row, as the mean over windows.
        level: probability of the intervals of samples from files.
    """

    def __init__(
        self,
        members: Sequence[Member],
        batch_size: int,
        accelerator=None,
        windows: bool = False,
        level: float | None = None,
    ) -> None:
        self.windows, self.level = windows, level
        self.models, self.batch_size, self.accelerator = [model for model, _ in members], batch_size, accelerator
        self.bare = [accelerator.unwrap_model(model) if accelerator else model for model in self.models]
        self.modalities, self.num_scores = list(self.bare[0].config.modalities), self.bare[0].config.num_scores
        alike: dict[str, LimssrProcessor] = {}  # members whose processors agree share one, and what it writes
        keys = [describe_processor(processor) if len(members) > 1 else "" for _, processor in members]
        self.processors = [alike.setdefault(key, processor) for key, (_, processor) in zip(keys, members, strict=True)]
        self.projects_ahead = accelerator is None or accelerator.distributed_type not in SHARDED

    def score_dataset(
        self, rows: Sequence[dict], masks: Sequence[Sequence[str]], wanted: np.ndarray, progress=None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Score rows under masks, the longest first: what does not fit in memory fails at once.

        Args:
            rows: rows of a dataset.
            masks: names of the modalities of each mask; those that a row lacks are missing.
            wanted: (rows, masks) bool, what to score.
            progress: tqdm bar or None.

        Returns:
            Path -> (rows, masks, scores) float64, the mean of the members, NaN where not wanted; and the modalities
            that each row has, (rows, modalities) bool.
        """
        loader = DataLoader(
            range(len(rows)),
            batch_size=self.batch_size,
            sampler=longest_first(sequence_lengths(rows, self.processors[0])),
            collate_fn=lambda numbers: {"index": torch.tensor(numbers), "rows": [rows[number] for number in numbers]},
        )
        loader = self.accelerator.prepare(loader) if self.accelerator else loader
        shape = (*wanted.shape, len(self.models), self.num_scores)
        results = {path: np.full(shape, np.nan) for path in PATHS}
        used = np.zeros((len(rows), len(self.modalities)), dtype=bool)
        with self._ready():
            for batch in loader:
                outputs = self._score_rows(batch["rows"], masks, wanted[batch["index"].cpu().numpy()])
                outputs["index"] = batch["index"]
                outputs = self.accelerator.gather_for_metrics(outputs) if self.accelerator else outputs
                outputs = {name: values.cpu().numpy() for name, values in outputs.items()}
                index = outputs["index"]  # each row goes to its own place, so none can count twice
                used[index] = outputs["used"]
                for path in PATHS:
                    results[path][index] = outputs[path]
                if progress is not None:
                    progress.update(int(wanted[index].sum()))
        wrong = (wanted & ~np.isfinite(results["scores"]).all(axis=(2, 3))).any(axis=1)
        if wrong.any():
            ids = ", ".join(repr(str(rows[int(row)]["sample_id"])) for row in np.flatnonzero(wrong)[:NAMED_SAMPLES])
            raise ValueError(f"{wrong.sum()} of {len(rows)} samples, such as {ids}: {NOT_FINITE}")
        return {path: values.mean(axis=2) for path, values in results.items()}, used

    def score_files(self, samples: Sequence[FileSample]) -> list[SamplePrediction]:
        """Score a few samples from files, or say what is wrong with them."""
        sequences, used, found = [], {}, {}
        for number, sample in enumerate(samples):
            try:
                row = {"sample_id": sample.sample_id, **self._read(sample)}
                sequences.append((number, self._write(row, self.modalities)))
                used[number] = [name for name in self.modalities if name in row]
            except (FeatureFileError, RecordingError) as error:
                found[number] = SamplePrediction(sample.sample_id, [], error=str(error))
            except ImportError:  # which no sample can do anything about
                raise
            except Exception as error:  # the processor names sample and modality, not the file
                files = ", ".join(map(str, sample.paths.values() or [sample.recording]))
                message = printable(f"{brief(error)} Read from {files}")
                found[number] = SamplePrediction(sample.sample_id, [], error=message)
        sequences.sort(key=lambda sequence: -_length(sequence[1][0][0]))
        with self._ready():
            for batch in _split(sequences, self.batch_size):
                scores = {path: values.double().cpu().numpy() for path, values in self._score(batch).items()}
                for place, (number, _) in enumerate(batch):
                    means = {path: values[place].mean(axis=0) for path, values in scores.items()}
                    if np.isfinite(means["scores"]).all():
                        means |= self._interval(means["scores"], used[number])
                        found[number] = SamplePrediction(samples[number].sample_id, used[number], **means)
                    else:
                        found[number] = SamplePrediction(samples[number].sample_id, [], error=NOT_FINITE)
        return [found[number] for number in range(len(samples))]

    def _interval(self, scores: np.ndarray, used: list[str]) -> dict[str, np.ndarray]:
        """Interval and evidence of one sample's scores (scores,); empty where there are none."""
        if len(self.models) > 1 or self.windows:
            return {}
        mask = torch.tensor([[name in used for name in self.modalities]])
        found = find_intervals(self.bare[0].config, torch.from_numpy(scores)[None], mask, self.level)
        named = zip(("interval", "sufficient_evidence"), found, strict=True)
        return {name: values[0].numpy() for name, values in named if values is not None}

    def _read(self, sample: FileSample) -> dict[str, np.ndarray | str]:
        """Modality -> content of the files of a sample, and what the recipe makes of its recording."""
        limits = {None if self.windows else processor.max_clips for processor in self.processors}
        contents = sample.read(self.processors[0].recipe_digest, limits.pop() if len(limits) == 1 else None)
        contents = self.processors[0].encode_texts(contents, f"sample {sample.sample_id!r}")  # once for all members
        if sample.recording is None:
            return contents
        given = {name: [content] for name, content in contents.items()}
        made = self.processors[0].extract_features([sample.recording], given, sample.without)
        return {name: entries[0] for name, entries in made.items() if entries[0] is not None}

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Eval mode, precision of the accelerator, and prompt prefixes kept from batch to batch."""
        with ExitStack() as stack:
            for model, bare in zip(self.models, self.bare, strict=True):
                stack.enter_context(evaluating(model))
                stack.enter_context(bare.model.prefix_cache.keep())
            stack.enter_context(self.accelerator.autocast() if self.accelerator else nullcontext())
            yield

    def _score_rows(self, rows: list[dict], masks: Sequence[Sequence[str]], wanted: np.ndarray) -> Inputs:
        """`used` (rows, modalities), and path -> (rows, masks, members, scores), NaN where not wanted."""
        places = np.argwhere(wanted.T)  # (mask, row), mask by mask
        sequences = [(row, self._write(rows[row], masks[mask])) for mask, row in places.tolist()]
        used = torch.tensor([[row.get(name) is not None for name in self.modalities] for row in rows])
        outputs = {"used": used.to(input_device(self.bare[0]))}
        for path, values in self._score(sequences).items():
            outputs[path] = values.new_full((len(rows), len(masks), *values.shape[1:]), torch.nan)
            outputs[path][places[:, 1], places[:, 0]] = values
        return outputs

    def _write(self, row: dict, names: Sequence[str]) -> list[list[Inputs]]:
        """For each member the windows of a row, each a batch of one sample; processors that agree run once."""
        features = {name: [row.get(name) if name in names else None] for name in self.modalities}
        different = {id(processor): processor for processor in self.processors}
        written = {key: self._write_windows(each, features, str(row["sample_id"])) for key, each in different.items()}
        return [written[id(processor)] for processor in self.processors]

    def _write_windows(self, processor: LimssrProcessor, features: dict[str, list], sample_id: str) -> list[Inputs]:
        if not self.windows:
            return [dict(processor(features=features, sample_ids=[sample_id]))]
        parts, numbers = processor.split_windows(features, sample_ids=[sample_id])
        windows = [{name: [entries[number]] for name, entries in parts.items()} for number in range(len(numbers))]
        return [dict(processor(features=window, sample_ids=[sample_id])) for window in windows]

    def _score(self, sequences: list[tuple[int, list[list[Inputs]]]]) -> dict[str, torch.Tensor]:
        """Score sequences of a few rows, each given by its row's number and by its windows for each member.

        Returns:
            Path -> (sequences, members, scores).
        """
        of_members = [
            self._score_member(member, [(row, windows[member]) for row, windows in sequences])
            for member in range(len(self.models))
        ]
        return {path: torch.stack([scores[path] for scores in of_members], dim=1) for path in PATHS}

    def _score_member(self, member: int, sequences: list[tuple[int, list[Inputs]]]) -> dict[str, torch.Tensor]:
        """Path -> (sequences, scores), the mean over windows; NaN for a path the model leaves out."""
        bare, tokenizer = self.bare[member], self.processors[member].tokenizer
        inputs = [dict(window) for _, windows in sequences for window in windows]
        if self.projects_ahead:
            numbered = ((row, len(windows), number) for row, windows in sequences for number in range(len(windows)))
            _project(bare, list(numbered), inputs)
        device = input_device(bare)
        scores = {path: torch.full((len(inputs), self.num_scores), torch.nan, device=device) for path in PATHS}
        for places in _split(longest_first([_length(each) for each in inputs]), self.batch_size):
            batch = _stack([inputs[place] for place in places], padding=tokenizer.pad_token_id or 0)
            output = self.models[member](**{name: values.to(device) for name, values in batch.items()})
            for path in PATHS:
                if output.get(path) is not None:
                    scores[path][places] = output[path].float()
        counts = [len(windows) for _, windows in sequences]
        return {path: torch.stack([each.mean(0) for each in values.split(counts)]) for path, values in scores.items()}


def _project(model, windows: Sequence[tuple[int, ...]], inputs: list[Inputs]) -> None:
    """Replace features with what the projectors make of them; the clips of a window are projected once.

    Args:
        model: the scoring model.
        windows: number of the row, of its windows and of the window: the same for sequences of the same clips.
        inputs: sequences, changed in place.
    """
    for name, projector in model.model.projectors.items():
        clips = {}
        for window, each in sorted(zip(windows, inputs, strict=True), key=lambda pair: pair[0]):
            # The linear shortcut reads the features too.
            take = each.get if model.config.linear_shortcut else each.pop
            features = take(f"{name}_features")[0]  # (clips, feature size)
            if len(features):
                clips.setdefault(window, features)
        together = torch.cat([torch.zeros(0, model.config.modalities[name]), *clips.values()])  # of no clip, too
        projected = projector(together.to(input_device(model)))  # (clips, hidden)
        of_window = dict(zip(clips, projected.split([len(each) for each in clips.values()]), strict=True))
        for window, each in zip(windows, inputs, strict=True):
            has_clips = each[f"{name}_clip_mask"].any()
            each[f"{name}_projected"] = (of_window[window] if has_clips else projected[:0])[None]  # (1, clips, hidden)


def input_device(model) -> torch.device:
    """Device a model computes on. Offloaded weights are on none, their buffers stay there."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors if tensor.device.type != "meta"), torch.device("cpu"))


def _stack(inputs: Sequence[Inputs], padding: int) -> Inputs:
    """Batches of one sample -> one batch, padded at the end as the processor does."""
    fill = {"input_ids": padding}
    return {
        name: pad_sequence([each[name][0] for each in inputs], batch_first=True, padding_value=fill.get(name, 0))
        for name in inputs[0]
    }


def _length(inputs: Inputs) -> int:
    return inputs["input_ids"].shape[1]


def _split(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))


def describe_processor(processor: LimssrProcessor) -> str:
    """All that decides what a processor writes: its settings and its tokenizer, but not where they came from."""
    settings = {name: value for name, value in processor.to_dict().items() if name not in ORIGIN}
    backend = getattr(processor.tokenizer, "backend_tokenizer", None)
    words = sorted(processor.tokenizer.get_vocab().items()) if backend is None else backend.to_str()
    return json.dumps([settings, type(processor.tokenizer).__name__, words], sort_keys=True, default=str)
