"""Contents of one sequence: checked and cropped clips, tokenised texts, the wording of the prompt."""

import json
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from transformers.utils import logging

# Largest feature that is believed, by default: a sum of 10^8 squares is still a float32, and no feature of a
# performance comes near it. A single larger one would spoil the statistics of batch norm for all samples.
LARGEST_NUMBER = 1e15


def as_clips(array, feature_size: int, where: str, largest: float = LARGEST_NUMBER) -> torch.Tensor:
    """
    Convert any array-like (numpy, torch, nested lists) to a float32 tensor `(clips, feature_size)`.

    Args:
        array: features of one modality of one sample, `(clips, feature_size)` or `(1, clips, feature_size)`.
        feature_size (`int`): width the model was made for.
        where (`str`): sample and modality, for error messages.
        largest (`float`, defaults to 1e15): largest absolute value.

    Raises:
        TypeError: not an array of real numbers.
        ValueError: wrong rank or width, no clips, NaN, infinite or larger values.
    """
    try:
        clips = (
            array.detach().cpu()
            if isinstance(array, torch.Tensor)
            else torch.from_numpy(np.require(array, requirements=["C", "W"]))  # copied only where torch needs it
        )
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{where}: expected an array of numbers [clips, {feature_size}], got {_describe(array)}."
        ) from error
    if clips.dtype == torch.bool or clips.is_complex():
        raise TypeError(f"{where}: expected real numbers, got dtype {clips.dtype}.")
    if clips.dim() == 3 and len(clips) == 1:  # a batch of one, as feature extractors write it
        logger.warning_once("Features of shape [1, clips, feature size] are taken for [clips, feature size].")
        clips = clips[0]
    if clips.dim() != 2 or clips.shape[1] != feature_size:
        raise ValueError(f"{where}: expected shape [clips, {feature_size}], got {list(clips.shape)}.")
    if len(clips) == 0:
        raise ValueError(f"{where}: has no clips. Pass None for a modality that is missing.")
    clips = clips.to(torch.float32)
    low, high = clips.aminmax()
    if not (low >= -largest and high <= largest):  # so for NaN too
        bad = int((~clips.isfinite()).any(1).sum())
        if bad:
            raise ValueError(
                f"{where}: {bad} of {len(clips)} clips hold NaN or infinite values. Pass None for a missing modality."
            )
        raise ValueError(
            f"{where}: a feature is {max(high, -low):g}, expected at most max_feature={largest:g}. Pass None for a "
            "missing modality, or scale the features."
        )
    return clips


def require_positive(name: str, value) -> float:
    """Return a setting that must be a finite number above 0; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value!r}; allowed are finite numbers above 0.")
    return value


def crop_clips(clips: torch.Tensor, max_clips: int, position: float) -> torch.Tensor:
    """Keep at most `max_clips` consecutive clips; `position` 0..1 says where, 0.5 is the centre."""
    excess = len(clips) - max_clips
    if excess <= 0:
        return clips
    start = min(int(position * (excess + 1)), excess) if position != 0.5 else excess // 2
    return clips[start : start + max_clips]


def split_clips(clips: torch.Tensor, windows: int) -> list[torch.Tensor]:
    """Consecutive parts of about the same length; with fewer clips than windows, neighbours share a clip."""
    bounds = [len(clips) * number // windows for number in range(windows + 1)]
    return [clips[start : max(end, start + 1)] for start, end in pairwise(bounds)]


def pad_clips(clips: torch.Tensor, length: int) -> torch.Tensor:
    """Add zero clips at the end, up to `length`."""
    return torch.nn.functional.pad(clips, (0, 0, 0, max(length - len(clips), 0)))


def crop_position(crop: Literal["center", "random"], generator: torch.Generator | None) -> float:
    """Position 0..1 of the crop, one for all modalities of a sample, which stay aligned in time."""
    if crop not in ("center", "random"):
        raise ValueError(f"crop is {crop!r}; allowed are 'center' and 'random'.")
    return 0.5 if crop == "center" else torch.rand((), generator=generator).item()


def _describe(array) -> str:
    dtype = getattr(array, "dtype", None)
    return (
        f"{type(array).__name__} of dtype {dtype}"
        if dtype is not None
        else f"{type(array).__name__} {str(array)[:60]!r}"
    )


logger = logging.get_logger(__name__)


class CutCounter:
    """
    Counts what is longer than a limit, and warns at the first time and each time the number has doubled.

    Args:
        message (`str`): warning, with `{cut}` of `{total}` contents, `{limit}`, and `{excess}`, all that was cut off.
    """

    def __init__(self, message: str):
        self.message = message
        self.total = self.cut = self.excess = 0

    def count(self, length: int, limit: int, only_once: bool = False) -> None:
        """Count a content; `only_once` warns at the first cut alone."""
        self.total += 1
        if length <= limit:
            return
        self.cut += 1
        self.excess += length - limit
        if self.cut == 1 or (self.cut & (self.cut - 1) == 0 and not only_once):
            counts = {"cut": self.cut, "total": self.total, "limit": limit, "excess": self.excess}
            logger.warning(self.message.format(**counts))


class PlainTextTokenizer:
    """
    Encodes texts in the tokenizer's ordinary vocabulary.

    A text is data: a string in it that looks like a special or added token (`<|im_end|>`, `<|video_end|>`, ...) is
    spelt out in ordinary tokens and means nothing.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): tokenizer of the language model, with the added tokens.
        max_tokens (`int`): number of tokens that longer texts are cut to.

    Raises:
        ValueError: a tokenizer that the `tokenizers` library does not back.
    """

    def __init__(self, tokenizer, max_tokens: int):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"a modality of text needs a tokenizer of the library `tokenizers`, got {type(tokenizer).__name__}."
            )
        without_added = json.loads(backend.to_str()) | {"added_tokens": [], "truncation": None, "padding": None}
        self.encoder = type(backend).from_str(json.dumps(without_added))
        self.max_tokens = max_tokens
        self.counter = CutCounter(
            "{cut} of {total} texts so far had more than max_text_tokens={limit} tokens and were cut, by {excess} "
            "tokens in all."
        )

    def encode(self, text: str, where: str) -> list[int]:
        """
        Token ids of a text, cut to `max_tokens`.

        Args:
            text (`str`): content of one modality of one sample.
            where (`str`): sample and modality, for error messages.

        Raises:
            TypeError: not a string.
            ValueError: a text without words.
        """
        if not isinstance(text, str):
            raise TypeError(f"{where}: expected a text, got {type(text).__name__} {str(text)[:60]!r}.")
        if not text.strip():
            raise ValueError(f"{where}: the text is empty. Pass None for a modality that is missing.")
        ids = self.tokenize(text)
        self.counter.count(len(ids), self.max_tokens)
        return ids[: self.max_tokens]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, neither checked nor cut."""
        return self.encoder.encode(text, add_special_tokens=False).ids


@dataclass
class Prompt:
    """
    Wording of the prompt.

    Args:
        template (`str`): prompt with `{available}` and `{missing}` where the modalities are named, or with neither.
            What does not depend on them comes first, so that all samples share it.
        modality_names (`dict[str, str]`): modality -> its name in the prompt; its own name by default.
        separator (`str`): text between two names.
        none (`str`): text in place of an empty list of names.

    Raises:
        ValueError: the template has one of `{available}` and `{missing}` without the other, or other words in braces.
    """

    template: str = (
        "Judge how well this performance is executed. Infer what is missing from what is available, and gather all "
        "that matters for the score at the end. Available: {available}. Missing: {missing}."
    )
    modality_names: dict[str, str] = field(default_factory=dict)
    separator: str = ", "
    none: str = "none"

    def __post_init__(self):
        named = set(re.findall(r"{\w*}", self.template))
        if named not in (set(), {"{available}", "{missing}"}):
            raise ValueError(
                f"prompt template must contain {{available}} and {{missing}}, both or neither, and no other word in "
                f"braces; got {self.template!r}."
            )

    def write(self, modalities, mask: tuple[bool, ...]) -> str:
        """Prompt of a sample; `mask` says for each modality whether the sample has it."""

        def name_all(wanted: bool) -> str:
            names = [
                self.modality_names.get(name, name)
                for name, there in zip(modalities, mask, strict=True)
                if there == wanted
            ]
            return self.separator.join(names) or self.none

        return self.template.replace("{available}", name_all(True)).replace("{missing}", name_all(False))
