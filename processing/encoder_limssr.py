"""What encoders have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import ClassVar, Literal

import numpy as np


class Encoder(ABC):
    """
    What encoders have in common.

    Args:
        feature_size (`int`): width of the clips, as the recipe says.

    Attributes:
        source (`str`): `"video"`, `"audio"`, `"pose"`, which is made of pictures, or `"text"`.
        colour (`str`): of the pictures, `"rgb24"` or `"gray"`.
        takes_parts (`bool`): whether the last window of a recording may be shorter than the others.
        consecutive (`bool`): whether each window must begin where the last one ended.
    """

    source: ClassVar[Literal["video", "audio", "pose", "text"]]
    colour: ClassVar[Literal["rgb24", "gray"]] = "rgb24"
    takes_parts: ClassVar[bool] = False
    consecutive: ClassVar[bool] = False

    def __init__(self, feature_size: int):
        self.feature_size = feature_size

    @abstractmethod
    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        """
        Encode the windows of one recording, in their order.

        Args:
            windows: pictures, uint8 `(pictures, height, width[, 3])`, sound, float32 `(samples,)`, or one whole text.

        Returns:
            float32 `(clips, feature size)`, one clip a window; an encoder of texts cuts them into clips itself.

        Raises:
            ValueError: the windows do not suffice.
        """


def mean_and_deviation(described: np.ndarray) -> np.ndarray:
    """`(frames, size)` -> mean and standard deviation over the frames, float32 `(2 * size,)`."""
    return np.concatenate([described.mean(axis=0), described.std(axis=0)]).astype(np.float32)


def batched(windows: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    windows = iter(windows)
    while batch := list(islice(windows, size)):
        yield batch
