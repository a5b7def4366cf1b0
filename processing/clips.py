"""Feature arrays of one sample: checked at the door, cropped, padded."""

from typing import Literal

import numpy as np
import torch


def as_clips(array, feature_size: int, where: str) -> torch.Tensor:
    """
    Any array-like (numpy, torch, nested lists) -> float32 tensor `(clips, feature_size)`.

    Args:
        array: the features of one modality of one sample.
        feature_size (`int`): the width the model was made for.
        where (`str`): sample and modality, for the error message.

    Raises:
        TypeError: not an array of real numbers.
        ValueError: wrong rank or width, no clips, NaN or infinite values.
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
    if clips.dim() != 2 or clips.shape[1] != feature_size:
        raise ValueError(f"{where}: expected shape [clips, {feature_size}], got {list(clips.shape)}.")
    if len(clips) == 0:
        raise ValueError(f"{where}: has no clips. Pass None for a modality that is missing.")
    clips = clips.to(torch.float32)
    # A finite sum has no other terms, and is found ten times as fast; where it overflows, each number is looked at.
    if not clips.sum().isfinite() and not clips.isfinite().all():
        bad = int((~clips.isfinite()).any(1).sum())
        raise ValueError(
            f"{where}: {bad} of {len(clips)} clips hold NaN or infinite values. Pass None for a missing modality."
        )
    return clips


def crop_clips(clips: torch.Tensor, max_clips: int, position: float) -> torch.Tensor:
    """At most `max_clips` consecutive clips; `position` 0..1 says where, 0.5 is the centre."""
    excess = len(clips) - max_clips
    if excess <= 0:
        return clips
    start = min(int(position * (excess + 1)), excess) if position != 0.5 else excess // 2
    return clips[start : start + max_clips]


def pad_clips(clips: torch.Tensor, length: int) -> torch.Tensor:
    """Zero clips at the end, up to `length`."""
    return torch.nn.functional.pad(clips, (0, 0, 0, max(length - len(clips), 0)))


def crop_position(crop: Literal["center", "random"], generator: torch.Generator | None) -> float:
    """One position for all modalities of a sample, so that they stay aligned in time."""
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
