"""Recordings, feature clips and texts to model inputs: prompt, clips, placeholders of missing clips, fusion tokens."""

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import AddedToken, BatchFeature, ProcessorMixin

from ..configuration.bundle_limssr import write_code_bundle
from ..configuration.configuration_limssr import (
    TEXT,
    added_tokens,
    clip_token,
    end_token,
    feature_modalities,
    fusion_token,
    missing_token,
    start_token,
)
from .inputs_limssr import (
    LARGEST_NUMBER,
    CutCounter,
    PlainTextTokenizer,
    Prompt,
    as_clips,
    crop_clips,
    crop_position,
    pad_clips,
    require_positive,
    split_clips,
)
from .pipeline_limssr import ActionQualityAssessmentPipeline  # noqa: F401 (belongs to the code bundle)
from .recipes_limssr import ClipExtractor, Recipe
from .recordings_limssr import MissingStreamError, Recording, RecordingError


class LimssrProcessor(ProcessorMixin):
    """
    Turns samples with missing modalities into inputs of [`LimssrForScoreRegression`].

    Each sample becomes one sequence: prompt, a block for each available modality, a block of placeholders for each
    missing one, fusion tokens. [`LimssrProcessor.from_config`] makes the processor that fits a model.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tokenizer of the language model, with the added tokens.
        modalities (`dict[str, int | str]` or list of pairs): ordered name -> feature size, or `"text"`.
        num_fusion_tokens (`int`): K, number of fusion tokens at the end; 0 for a model with `fusion="mean"`.
        max_clips (`int`, defaults to 95): number of clips that longer modalities are cropped to; a warning counts
            them. [`LimssrProcessor.split_windows`] is the alternative.
        pad_to_max_clips (`bool`, defaults to `False`): pad shorter ones with zero clips that count as real, as
            published. Texts are never padded.
        max_text_tokens (`int`, defaults to 256): number of tokens that longer texts are cut to; a warning counts them.
        missing_length (`"match"` or `int`, defaults to `"match"`): number of placeholders for a missing modality: as
            many as the sample's longest modality has clips (or tokens), or a fixed number, which costs less.
        use_prompt (`bool`, defaults to `True`): start every sequence with a prompt.
        prompt (`dict`, *optional*): wording, the fields of [`Prompt`].
        recipe (`str` or `dict`, *optional*): how the features are made of recordings, what [`Recipe.load`] takes.
        max_feature (`float`, defaults to 1e15): largest absolute value of a feature; a larger one is an error.

    Raises:
        ValueError: an impossible setting, or a tokenizer without the added tokens.
    """

    def __init__(
        self,
        tokenizer,
        modalities,
        num_fusion_tokens: int = 4,
        max_clips: int = 95,
        pad_to_max_clips: bool = False,
        max_text_tokens: int = 256,
        missing_length: Literal["match"] | int = "match",
        use_prompt: bool = True,
        prompt: dict | None = None,
        recipe: str | Path | dict | None = None,
        max_feature: float = LARGEST_NUMBER,
    ):
        super().__init__(tokenizer)
        for name, limit in (("max_clips", max_clips), ("max_text_tokens", max_text_tokens)):
            if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
                raise ValueError(f"{name} is {limit!r}; allowed are whole numbers of 1 and more.")
        if missing_length != "match" and (
            isinstance(missing_length, bool) or not isinstance(missing_length, int) or missing_length < 1
        ):
            raise ValueError(
                f"missing_length is {missing_length!r}; allowed are 'match' and whole numbers of 1 and more."
            )
        self.modalities = [list(pair) for pair in dict(modalities).items()]  # pairs keep their order in sorted JSON
        self.max_feature = require_positive("max_feature", max_feature)
        self.num_fusion_tokens = num_fusion_tokens
        self.max_clips = max_clips
        self.pad_to_max_clips = pad_to_max_clips
        self.max_text_tokens = max_text_tokens
        self.missing_length = missing_length
        self.use_prompt = use_prompt
        self.prompt = asdict(Prompt(**(prompt or {})))
        self._extractor = None if recipe is None else ClipExtractor(recipe)
        self.recipe = None if recipe is None else self._extractor.recipe.to_dict()
        if recipe is not None:
            _require_sizes(self._extractor.recipe, self.feature_sizes)
        self._prompt_ids = {}
        self._crops = CutCounter(
            "{cut} of {total} feature arrays so far had more than max_clips={limit} clips and were cropped, by "
            "{excess} clips in all. To score all clips: LimssrProcessor.split_windows, or predict --windows."
        )
        self._texts = PlainTextTokenizer(tokenizer, max_text_tokens) if TEXT in dict(modalities).values() else None
        vocabulary = tokenizer.get_vocab()
        self._ids = {name: vocabulary.get(name) for name in added_tokens(dict(modalities), num_fusion_tokens)}
        if missing := [name for name, token_id in self._ids.items() if token_id is None]:
            raise ValueError(
                f"the tokenizer lacks {missing[:3]}; make the processor with LimssrProcessor.from_config."
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        Raises:
            OSError: there is no processor.
            ValueError: its files hold something else.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, ValueError, ImportError):
            raise
        except Exception as error:  # transformers and tokenizers raise whatever the files lead to
            raise ValueError(
                f"{pretrained_model_name_or_path}: its files hold no processor of LIMSSR: {error}"
            ) from error

    @classmethod
    def from_config(cls, config, tokenizer, **settings) -> "LimssrProcessor":
        """
        Make the processor that fits a model, with the added tokens in a copy of the language model's tokenizer.

        Args:
            config (`LimssrConfig`): model configuration.
            tokenizer (`PreTrainedTokenizerBase`): tokenizer of its language model.
            **settings: further arguments of the class.

        Raises:
            ValueError: the tokenizer has other tokens where the configuration puts the added ones.
        """
        return cls(
            add_tokens_with_ids(tokenizer, config.added_token_ids),
            config.modalities,
            num_fusion_tokens=config.num_fusion_tokens if config.uses_fusion_tokens else 0,
            use_prompt=config.use_prompt,
            **settings,
        )

    @property
    def modality_sizes(self) -> dict[str, int | str]:
        """Ordered modality name -> feature size, or `"text"`."""
        return dict(self.modalities)

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Modality name -> feature size, without the modalities of text."""
        return feature_modalities(self.modality_sizes)

    @property
    def extractor(self) -> ClipExtractor:
        """
        What makes clips of recordings, by the recipe of the processor.

        Raises:
            ValueError: the processor has no recipe.
        """
        if self._extractor is None:
            raise ValueError(
                "this processor has no recipe, so that nobody knows how its features are made of recordings: pass "
                "features, or make it with LimssrProcessor.from_config(config, tokenizer, recipe=...)."
            )
        return self._extractor

    @property
    def recipe_digest(self) -> str | None:
        """Digest of the recipe, which features must share; None where the processor has no recipe."""
        return None if self._extractor is None else self._extractor.recipe.digest

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask"] + [
            f"{name}_{part}" for name in self.feature_sizes for part in ("features", "clip_mask")
        ]

    def __call__(
        self,
        features: dict[str, list] | None = None,
        labels=None,
        crop: Literal["center", "random"] = "center",
        generator: torch.Generator | None = None,
        sample_ids: list[str] | None = None,
        return_tensors: Literal["pt"] = "pt",
        recordings: list | None = None,
    ) -> BatchFeature:
        """
        Args:
            features (`dict[str, list]`, *optional*): modality -> one entry a sample, an array `[clips, feature size]`
                (numpy, torch or nested lists), a string for a modality of text or one that the recipe makes of text,
                or `None` where the sample lacks it. A modality that no sample has may be left out.
            labels (*optional*): judges' scores in judges' units, `[batch]` or `[batch, scores]`; `None` or NaN = not
                given.
            crop (`"center"` or `"random"`): which clips to keep of a longer modality.
            generator (`torch.Generator`, *optional*): source of the random crop.
            sample_ids (`list[str]`, *optional*): names of the samples in error messages; their index by default.
            return_tensors (`"pt"`): PyTorch tensors, the only choice.
            recordings (`list`, *optional*): one entry a sample, see `extract_features`, for all that `features` does
                not give.

        Returns:
            `input_ids`, `attention_mask` `(batch, length)` int64, padded on the right; `{modality}_features`
            `(batch, clips, feature size)` float32 and `{modality}_clip_mask` `(batch, clips)` bool; with labels
            `labels` `(batch, scores)` float32, or in the half precision they were given in.

        Raises:
            TypeError, ValueError: bad input; the message names sample, modality, what was found and what is expected.
        """
        if return_tensors != "pt":
            raise ValueError(
                f"return_tensors is {return_tensors!r}; LimssrProcessor makes PyTorch tensors: pass 'pt'."
            )
        if recordings is not None:
            features = self.extract_features(recordings, features)
        samples = self._split_samples(features, sample_ids)
        prepared = [self._prepare(sample, name, crop, crop_position(crop, generator)) for name, sample in samples]
        batch = self._pad_sequences([self._write_sequence(contents) for contents in prepared])
        for name, feature_size in self.feature_sizes.items():
            batch |= _stack_clips(name, feature_size, [contents.get(name) for contents in prepared])
        if labels is not None:
            batch["labels"] = _stack_labels(labels, [name for name, _ in samples])
        return BatchFeature(batch)

    def extract_features(
        self, recordings: list, features: dict[str, list] | None = None, without: Sequence[str] = (), limits=None
    ) -> dict[str, list]:
        """
        Features of recordings, made by the recipe of the processor.

        Args:
            recordings (`list`): one entry a sample, a path, a dict of `path`, `start` and `end` (seconds), or `None`.
            features (`dict[str, list]`, *optional*): what is given besides, as for a call. It comes first: of a
                recording, only the modalities are made that a sample does not have there.
            without (`list[str]`, *optional*): modalities that are not made.
            limits (`DecodingLimits`, *optional*): what a recording may cost.

        Returns:
            Modality -> one entry a sample, `None` where it has neither.

        Raises:
            RecordingError: a recording cannot be used, or has nothing to make a feature of.
            ModuleNotFoundError: PyAV or OpenCV is not installed.
            TypeError: `recordings` is no list, or an entry is no recording.
            ValueError: the processor has no recipe, or other numbers of samples.
        """
        extractor = self.extractor
        if unknown := [name for name in without if name not in self.modality_sizes]:
            raise ValueError(f"unknown modality {unknown[0]!r}; this processor has {list(self.modality_sizes)}.")
        if isinstance(recordings, str | os.PathLike | dict | Recording):
            raise TypeError(
                f"recordings is {type(recordings).__name__}, expected a list of recordings, one entry a sample."
            )
        features = {name: list(entries) for name, entries in (features or {}).items()}
        if wrong := [name for name, entries in features.items() if len(entries) != len(recordings)]:
            raise ValueError(
                f"features[{wrong[0]!r}] has {len(features[wrong[0]])} samples, recordings has {len(recordings)}."
            )
        made = [name for name in extractor.recipe.recorded if name in self.feature_sizes]
        features |= {name: [None] * len(recordings) for name in made if name not in features}
        for index, recording in enumerate(recordings):
            wanted = [name for name in made if features[name][index] is None and name not in without]
            if recording is None or not wanted:
                continue
            try:
                found = extractor.extract(recording, wanted, limits)
            except MissingStreamError:
                if all(entries[index] is None for entries in features.values()):
                    raise
                continue
            for name, clips in found.items():
                features[name][index] = clips.features
        return features

    def to_dict(self) -> dict:
        """What `processor_config.json` holds, with where `AutoProcessor` finds the class in the code bundle."""
        return {**super().to_dict(), "auto_map": {"AutoProcessor": "processing_limssr.LimssrProcessor"}}

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoProcessor") -> None:
        """Do nothing: every checkpoint carries the code, of which transformers would copy a part once more."""

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs):
        """Write processor, tokenizer and the processor's part of the code bundle; upload them with `push_to_hub`."""
        files = super().save_pretrained(save_directory)
        write_code_bundle(save_directory, __name__)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    def _split_samples(self, features: dict[str, list], sample_ids: list[str] | None) -> list[tuple[str, dict]]:
        """Name and contents (modality -> array, without the missing ones) of each sample."""
        if not isinstance(features, dict) or not features:
            raise TypeError(
                f"features is {type(features).__name__}, expected a dict modality -> list with one entry a sample."
            )
        if unknown := [name for name in features if name not in self.modality_sizes]:
            raise ValueError(f"unknown modality {unknown[0]!r}; this processor has {list(self.modality_sizes)}.")
        for name, entries in features.items():
            is_sequence = isinstance(entries, Sequence) and not isinstance(entries, str)  # a column of `datasets` too
            if not is_sequence and getattr(entries, "ndim", 0) != 3:
                raise TypeError(
                    f"features[{name!r}] is {type(entries).__name__}, expected a list with one entry a sample."
                )
        lengths = {name: len(entries) for name, entries in features.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"features have different numbers of samples: {lengths}. Pass None where a modality is missing."
            )
        count = next(iter(lengths.values()))
        if count == 0:
            raise ValueError("features hold no samples.")
        names = (
            [f"sample {index}" for index in range(count)]
            if sample_ids is None
            else [f"sample {name!r}" for name in sample_ids]
        )
        if len(names) != count:
            raise ValueError(f"{len(names)} sample_ids for {count} samples.")
        given = [name for name in self.modality_sizes if name in features]
        samples = [{modality: features[modality][index] for modality in given} for index in range(count)]
        return [(name, self.encode_texts(sample, name)) for name, sample in zip(names, samples, strict=True)]

    @property
    def written(self) -> list[str]:
        """Modalities of features that the recipe makes of a text, in place of which a string may be given."""
        recipe = None if self._extractor is None else self._extractor.recipe
        return [] if recipe is None else [name for name in recipe.written if name in self.feature_sizes]

    def encode_texts(self, sample: dict, sample_name: str) -> dict:
        """
        Make the clips of the texts of one sample.

        Args:
            sample (`dict`): modality -> content.
            sample_name (`str`): its name in error messages.

        Returns:
            The same without what is `None`; a text of a modality in `written` is an array `(clips, feature size)`.

        Raises:
            RecordingError: a text has no words.
            ModuleNotFoundError, OSError, ValueError: the text encoder cannot be loaded.
        """
        encoded = {name: content for name, content in sample.items() if content is not None}
        for name in self.written:
            if not isinstance(text := encoded.get(name), str):
                continue
            try:
                encoded[name] = self.extractor.encode_text(text, name)
            except RecordingError as error:
                raise RecordingError(f"{sample_name}: {error}") from error
        return encoded

    def split_windows(
        self, features: dict[str, list], sample_ids: list[str] | None = None
    ) -> tuple[dict[str, list], list[int]]:
        """
        Cut samples into consecutive windows of at most `max_clips` clips, in place of the crop of a call.

        All modalities of a sample are cut into as many windows as the longest one needs, of about the same length, so
        that a window holds the same share of the performance in each. Texts are not cut: every window has the whole.

        Example:

        ```python
        >>> windows, samples = processor.split_windows(features)
        >>> scores = model(**processor(features=windows)).scores  # (windows, scores)
        >>> scores[torch.tensor(samples) == 0].mean(0)  # of the first sample
        ```

        Args:
            features (`dict[str, list]`): as for a call.
            sample_ids (`list[str]`, *optional*): names of the samples in error messages; their index by default.

        Returns:
            Features of all windows, and for each window the number of its sample. Whatever fits is one window.

        Raises:
            TypeError, ValueError: bad input, as for a call.
        """
        windows, numbers = [], []
        for number, (sample_name, sample) in enumerate(self._split_samples(features, sample_ids)):
            clips = {
                name: self._as_clips(name, content, f"{sample_name}, modality {name!r}")
                for name, content in sample.items()
                if name in self.feature_sizes
            }
            count = -(-max(map(len, clips.values()), default=1) // self.max_clips)
            parts = {name: split_clips(array, count) for name, array in clips.items()}
            parts |= {name: [content] * count for name, content in sample.items() if name not in clips}
            windows += [{name: part[window] for name, part in parts.items()} for window in range(count)]
            numbers += [number] * count
        return {name: [window.get(name) for window in windows] for name in features}, numbers

    def _prepare(
        self, sample: dict, sample_name: str, crop: str, position: float
    ) -> dict[str, torch.Tensor | list[int]]:
        """Check and crop a sample: modality -> clips `(clips, feature size)`, or the token ids of a text."""
        if not sample:
            raise ValueError(
                f"{sample_name} has no modality at all; give at least one of {list(self.modality_sizes)}."
            )
        prepared = {}
        for modality, content in sample.items():
            where = f"{sample_name}, modality {modality!r}"
            if self.modality_sizes[modality] == TEXT:
                prepared[modality] = self._texts.encode(content, where)
                continue
            clips = self._as_clips(modality, content, where)
            self._crops.count(
                len(clips), self.max_clips, only_once=crop == "random"
            )  # training sees the rest in other epochs
            clips = crop_clips(clips, self.max_clips, position)
            prepared[modality] = pad_clips(clips, self.max_clips) if self.pad_to_max_clips else clips
        return prepared

    def _as_clips(self, modality: str, content, where: str) -> torch.Tensor:
        return as_clips(content, self.feature_sizes[modality], where, self.max_feature)

    def _write_sequence(self, contents: dict[str, torch.Tensor | list[int]]) -> list[int]:
        """Token ids of one sample."""
        mask = tuple(name in contents for name in self.modality_sizes)
        longest = max(map(len, contents.values()))
        missing_length = longest if self.missing_length == "match" else self.missing_length
        available = [
            self._write_block(
                name, content if isinstance(content, list) else [self._ids[clip_token(name)]] * len(content)
            )
            for name, content in contents.items()
        ]
        missing = [
            self._write_block(name, [self._ids[missing_token(name)]] * missing_length)
            for name in self.modality_sizes
            if name not in contents
        ]
        fusion = [self._ids[fusion_token(slot + 1)] for slot in range(self.num_fusion_tokens)]
        return list(chain(self.encode_prompt(mask), *available, *missing, fusion))

    def sequence_length(self, contents: dict[str, int | str]) -> int:
        """Length of a sample's sequence, from modality -> number of its clips, or its text."""
        kept = {}
        for name in self.modality_sizes:
            content = contents.get(name)
            if isinstance(content, str) and self.modality_sizes[name] == TEXT:
                kept[name] = self._texts.tokenize(content)[: self.max_text_tokens]
            elif isinstance(content, int):
                kept[name] = range(self.max_clips if self.pad_to_max_clips else min(content, self.max_clips))
        return len(self._write_sequence(kept)) if kept else 0  # which a call refuses

    def _write_block(self, modality: str, ids: list[int]) -> list[int]:
        return [self._ids[start_token(modality)], *ids, self._ids[end_token(modality)]]

    def encode_prompt(self, mask: tuple[bool, ...]) -> list[int]:
        """Token ids of the prompt for a mask. There are few masks, so each is encoded once."""
        if not self.use_prompt:
            return []
        if mask not in self._prompt_ids:
            self._prompt_ids[mask] = self.tokenizer(Prompt(**self.prompt).write(self.modality_sizes, mask)).input_ids
        return self._prompt_ids[mask]

    def _pad_sequences(self, sequences: list[list[int]]) -> dict[str, torch.Tensor]:
        length = max(map(len, sequences))
        padding = self.tokenizer.pad_token_id or 0
        return {
            "input_ids": torch.tensor([ids + [padding] * (length - len(ids)) for ids in sequences]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in sequences]),
        }


def _require_sizes(recipe: Recipe, feature_sizes: dict[str, int]) -> None:
    """
    Raises:
        ValueError: the recipe makes none of the modalities, or one of another size.
    """
    shared = [name for name in recipe.modalities if name in feature_sizes]
    for name in shared:
        if recipe.feature_sizes[name] != feature_sizes[name]:
            raise ValueError(
                f"the recipe {recipe.name!r} makes {name!r} of size {recipe.feature_sizes[name]}, the model takes "
                f"{feature_sizes[name]}."
            )
    if not shared:
        raise ValueError(
            f"the recipe {recipe.name!r} makes {list(recipe.modalities)}, the model takes {list(feature_sizes)}."
        )


def add_tokens_with_ids(tokenizer, added_token_ids: dict[str, int]):
    """
    Copy a tokenizer and give each added token its id.

    A language model often has more rows in its table than its tokenizer has tokens; reserved tokens fill that gap.
    """
    tokenizer = copy.deepcopy(tokenizer)
    names = {token_id: name for name, token_id in added_token_ids.items()}
    length = len(tokenizer)
    new_ids = range(length, max(names) + 1)
    new_tokens = [names.get(token_id, f"<|reserved_{token_id}|>") for token_id in new_ids]
    tokenizer.add_tokens(
        [AddedToken(name, special=True, normalized=False) for name in new_tokens], special_tokens=True
    )
    vocabulary = tokenizer.get_vocab()
    for name, token_id in added_token_ids.items():
        if vocabulary.get(name) != token_id:
            raise ValueError(
                f"the configuration gives {name} the id {token_id}, where this tokenizer of {length} has "
                f"{tokenizer.convert_ids_to_tokens(token_id)!r}. Is it the tokenizer of the language model? If it is, "
                f"call config.place_added_tokens({length})."
            )
    return tokenizer


def _stack_clips(name: str, feature_size: int, arrays: list[torch.Tensor | None]) -> dict[str, torch.Tensor]:
    lengths = [0 if clips is None else len(clips) for clips in arrays]
    features = torch.zeros(len(arrays), max(lengths), feature_size)  # (batch, clips, feature size)
    for index, clips in enumerate(arrays):
        if clips is not None:
            features[index, : len(clips)] = clips
    clip_mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]  # (batch, clips)
    return {f"{name}_features": features, f"{name}_clip_mask": clip_mask}


def _stack_labels(labels, sample_names: list[str]) -> torch.Tensor:
    """`[batch]` or `[batch, scores]` -> `(batch, scores)`, NaN where not given."""
    half = {np.dtype("float16"): torch.float16, torch.float16: torch.float16, torch.bfloat16: torch.bfloat16}
    dtype = half.get(getattr(labels, "dtype", None), torch.float32)  # the model allows for their rounding
    if isinstance(labels, torch.Tensor):
        labels = labels.tolist()
    rows = [row if isinstance(row, list | tuple | np.ndarray) else [row] for row in labels]
    if len(rows) != len(sample_names) or len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"labels have lengths {[len(row) for row in rows]} for {len(sample_names)} samples; expected one row each."
        )
    values = []
    for name, row in zip(sample_names, rows, strict=True):
        try:
            values.append([math.nan if value is None else float(value) for value in row])
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name}: label {row} is not a list of numbers; pass one number for each score."
            ) from error
        if any(map(math.isinf, values[-1])):
            raise ValueError(f"{name}: label {row} is infinite; pass None or NaN for a score that is not given.")
    return torch.tensor(values, dtype=dtype)


__all__ = ["LimssrProcessor"]
