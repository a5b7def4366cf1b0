"""Encoders: from windows of pictures or sound, or a text, to feature clips. A recipe names one for each modality.

An encoder is a class with the attributes of [`Encoder`] and `encode(windows)`. Add yours to [`ENCODERS`].
"""

from abc import abstractmethod
from collections.abc import Iterable
from itertools import groupby, pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoVideoProcessor,
    VideoMAEImageProcessorPil,
)
from transformers.audio_utils import mel_filter_bank
from transformers.video_processing_utils import BaseVideoProcessor

from .encoder_limssr import Encoder, batched, mean_and_deviation
from .flow_limssr import one_thread
from .offline_limssr import BlazePose, EfficientNetVideo, WhisperAudio
from .recordings_limssr import import_media
from .text_limssr import HubText


class ClassicVideo(Encoder):
    """
    Motion and shape without any weights; a clip is mean and deviation of its pictures.

    A picture gives, on a grid of 4 x 4 cells, the dense optical flow (DIS) to it as a histogram of 8 directions
    weighted by speed, and motion energy, the mean change of brightness; and of what moves, the pixels that changed:
    area, place, extent, direction, velocity, rotation and growth, and the outline on 6 x 6 cells of its bounding box.
    Speeds are in picture heights a second.

    Args:
        feature_size (`int`): 386.
        rate (`float`): pictures a second.
    """

    source = "video"
    colour = "gray"
    takes_parts = True
    consecutive = True
    grid, directions, outline = 4, 8, 6
    changed = 12  # levels of brightness, of 255, beyond which a pixel has changed
    together = 16  # windows described at a time: small arrays cost more to handle than to compute
    every = 4  # the finest flow that DIS computes is that of every fourth pixel
    SIZE: ClassVar[int] = 2 * (grid * grid * (directions + 1) + 13 + outline * outline)

    def __init__(self, feature_size: int, rate: float):
        super().__init__(feature_size)
        self.rate = rate

    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        with one_thread(import_media("cv2")):
            return self._encode(windows)

    def _encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        cv2, clips = import_media("cv2"), []
        engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        for _, alike in groupby(windows, key=lambda window: window.shape[1:]):
            before = None
            for batch in batched(alike, self.together):
                pictures = np.concatenate(batch if before is None else [before, *batch])
                lengths = [len(window) for window in batch]
                lengths[0] -= before is None
                if not all(lengths):
                    raise ValueError("there is a single picture, which shows no motion.")
                described = np.split(self._describe(engine, pictures), np.cumsum(lengths)[:-1])
                clips += map(mean_and_deviation, described)
                before = pictures[-1:]
        return np.stack(clips)

    def _describe(self, engine, pictures: np.ndarray) -> np.ndarray:
        """Pictures `(pictures, height, width)` -> what changes to each but the first, `(pictures - 1, SIZE / 2)`."""
        middle = slice(self.every // 2, None, self.every)
        flow = np.stack(
            [engine.calc(*pair, None)[middle, middle] for pair in pairwise(pictures)]
        )  # (pairs, rows, columns, 2)
        flow *= self.rate / pictures.shape[1]
        change = np.maximum(pictures[1:], pictures[:-1]) - np.minimum(pictures[1:], pictures[:-1])
        moving = change > self.changed  # (pairs, height, width)
        white = moving.astype(np.float32)
        boxes = np.concatenate([_ends(moving.any(2)), _ends(moving.any(1))], axis=1)  # (pairs, 4)
        described = [
            self._describe_flow(flow),
            self._describe_energy(change),
            self._describe_shape(white, boxes),
            self._describe_motion(flow, moving[:, middle, middle]),
            self._describe_outline(white, boxes),
        ]
        return np.concatenate(described, axis=1)

    def _describe_flow(self, flow: np.ndarray) -> np.ndarray:
        """`(pairs, rows, columns, 2)` -> mean speed by cell and direction, `(pairs, cells * directions)`."""
        pairs, height, width = flow.shape[:3]
        across, down = flow[..., 0], flow[..., 1]
        turn = np.arctan2(down, across) * (self.directions / (2 * np.pi))
        place = np.floor(turn).astype(np.intp) % self.directions  # (pairs, rows, columns)
        place += self.directions * (self._cells(height)[:, None] * self.grid + self._cells(width))
        size = self.grid**2 * self.directions
        place += size * np.arange(pairs)[:, None, None]
        sums = np.bincount(place.ravel(), np.hypot(across, down).ravel(), minlength=pairs * size)
        return sums.reshape(pairs, size) * (self.grid**2 / (height * width))

    def _describe_energy(self, change: np.ndarray) -> np.ndarray:
        """`(pairs, height, width)` -> mean by cell, 0 to 1, `(pairs, cells)`."""
        rows, columns = (self._cells(size) == np.arange(self.grid)[:, None] for size in change.shape[1:])
        rows, columns = (_shares(each) for each in (rows, columns))  # (grid, size)
        return (rows @ change.astype(np.float32) @ columns.T).reshape(len(change), -1) / 255.0

    def _cells(self, size: int) -> np.ndarray:
        """Cell of each row or column."""
        return np.arange(size) * self.grid // size

    def _describe_shape(self, white: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """`(pairs, height, width)` -> area, place, extent and direction of what moves, `(pairs, 9)`; 0 for nothing."""
        pairs, height, width = white.shape
        # Powers of the place, as floats: the product of matrices of integers is slow. Sums of a row are exact.
        rows, columns = (np.arange(size, dtype=float)[:, None] ** np.arange(3) for size in (height, width))
        sums = white.reshape(-1, width) @ columns.astype(np.float32)  # (pairs * height, across)
        moments = rows.T @ sums.reshape(pairs, height, 3).astype(float)  # (pairs, down, across)
        area = np.maximum(moments[:, 0, 0], 1)
        x, y = moments[:, 0, 1] / area, moments[:, 1, 0] / area
        across, down = moments[:, 0, 2] / area - x**2, moments[:, 2, 0] / area - y**2
        slant, spread = moments[:, 1, 1] / area - x * y, np.maximum(across + down, 1e-6)
        high, wide = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
        place = [moments[:, 0, 0] / (height * width), x / width, y / height, wide / width, high / height]
        shape = [spread**0.5 / height, (across - down) / spread, 2 * slant / spread, area / np.maximum(wide * high, 1)]
        return np.stack(place + shape, axis=1) * (high > 0)[:, None]

    def _describe_motion(self, flow: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """Velocity, rotation and growth of what moves, `(pairs, 4)`, in heights, turns and 2 pi sizes a second."""
        pairs, height, width = moving.shape
        down, across = (place.ravel() / height for place in np.indices((height, width)))
        places = np.stack([np.ones_like(across), across, down, across**2 + down**2], axis=1)  # (pixels, 4)
        moving = moving.reshape(pairs, -1)
        sums = moving.astype(float) @ places  # (pairs, 4)
        weight = 1 / np.maximum(sums[:, :1], 1)
        x, y, square = (sums[:, 1:] * weight).T  # means over what moves, each (pairs,)
        flows = np.where(moving[..., None], flow.reshape(pairs, -1, 2), 0).astype(float)  # (pairs, pixels, 2)
        products = (places[:, :3].T @ flows) * weight[..., None]  # (pairs, [1, x, y], [across, down])
        u, v = velocity = products[:, 0].T
        size = square - x**2 - y**2 + 1e-4
        turning = products[:, 1, 1] - products[:, 2, 0] - (x * v - y * u)
        growing = products[:, 1, 0] + products[:, 2, 1] - (x * u + y * v)
        return np.stack([*velocity, turning / size / (2 * np.pi), growing / size / (2 * np.pi)], axis=1)

    def _describe_outline(self, white: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The bounding box of what moves on a small grid, 0 to 1: `(pairs, outline ** 2)`; 0 for nothing."""
        rows = self._box_shares(boxes[:, :2], white.shape[1])
        columns = self._box_shares(boxes[:, 2:], white.shape[2])
        return (rows @ white @ columns.transpose(0, 2, 1)).reshape(len(white), -1)

    def _box_shares(self, ends: np.ndarray, size: int) -> np.ndarray:
        """Share of each row or column in each cell of a box, `(pairs, 2)` -> float32 `(pairs, outline, size)`."""
        first, length = ends[:, :1, None], np.diff(ends)[..., None]  # each (pairs, 1, 1)
        edges = first + length * (np.arange(self.outline + 1) / self.outline)[:, None]  # (pairs, outline + 1, 1)
        places = np.arange(size)
        overlap = np.minimum(edges[:, 1:], places + 1) - np.maximum(edges[:, :-1], places)
        return (overlap.clip(0) * (self.outline / np.maximum(length, 1))).astype(np.float32)


def _shares(chosen: np.ndarray) -> np.ndarray:
    """`(cells, length)` bool -> float32 whose rows have a sum of 1."""
    return chosen.astype(np.float32) / np.maximum(chosen.sum(1, keepdims=True), 1).astype(np.float32)


def _ends(is_there: np.ndarray) -> np.ndarray:
    """First and one past the last true of each row: `(rows, length)` bool -> `(rows, 2)`; (0, 0) for none."""
    first, last = is_there.argmax(1), is_there.shape[1] - is_there[:, ::-1].argmax(1)
    return np.stack([first, last], axis=1) * is_there.any(1)[:, None]


class ClassicAudio(Encoder):
    """
    Loudness by pitch without any weights; a clip is mean and deviation of its frames of 25 ms, one each 10 ms.

    A frame has the power of 40 mel bands and of the whole, both in units of 10 dB, and the onset strength, the mean
    rise of the bands since the frame before.

    Args:
        feature_size (`int`): 84.
        rate (`int`): samples a second.
    """

    source = "audio"
    takes_parts = True
    bands = 40
    SIZE: ClassVar[int] = 2 * (bands + 2)

    def __init__(self, feature_size: int, rate: int):
        super().__init__(feature_size)
        self.length, self.hop = rate // 40, rate // 100
        self.filters = mel_filter_bank(
            num_frequency_bins=self.length // 2 + 1,
            num_mel_filters=self.bands,
            min_frequency=20.0,
            max_frequency=rate / 2,
            sampling_rate=rate,
            mel_scale="htk",
        )  # (frequencies, bands)

    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack([mean_and_deviation(self._describe(window)) for window in windows])

    def _describe(self, sound: np.ndarray) -> np.ndarray:
        """Sound `(samples,)` -> `(frames, bands + 2)`."""
        if len(sound) < self.length:
            sound = np.pad(sound, (0, self.length - len(sound)))
        frames = np.lib.stride_tricks.sliding_window_view(sound, self.length)[:: self.hop]  # (frames, length)
        power = np.abs(np.fft.rfft(frames * np.hanning(self.length), axis=1)) ** 2 / self.length
        mel = np.log10(power @ self.filters + 1e-8)  # (frames, bands)
        loudness = np.log10(np.square(frames).mean(axis=1, keepdims=True) + 1e-8)
        onset = np.maximum(np.diff(mel, axis=0, prepend=mel[:1]), 0).mean(axis=1, keepdims=True)
        return np.concatenate([mel, loudness, onset], axis=1)


class HubEncoder(Encoder):
    """
    A pretrained model of the Hub, or of a folder, with its own processor; a clip is the pooled last hidden state.

    Args:
        feature_size (`int`): hidden size of the model.
        repository (`str`): Hub name or folder. Code that a repository brings is never run.
        revision (`str`, defaults to `"main"`): branch, tag or, to be sure of the same weights, commit.
        dtype (`str`, defaults to `"float32"`): precision of the model.
        pooling (`"mean"`, `"first"` or `"pooler"`, defaults to `"mean"`): mean over the tokens, first token, or the
            model's own pooled output.
        batch_size (`int`, defaults to 8): windows encoded at a time.

    Raises:
        ValueError: the model has another hidden size, or no such pooling.
    """

    def __init__(
        self,
        feature_size: int,
        repository: str,
        revision: str = "main",
        dtype: str = "float32",
        pooling: Literal["mean", "first", "pooler"] = "mean",
        batch_size: int = 8,
    ):
        super().__init__(feature_size)
        if pooling not in ("mean", "first", "pooler"):
            raise ValueError(f"pooling is {pooling!r}; allowed are 'mean', 'first' and 'pooler'.")
        self.pooling, self.batch_size = pooling, batch_size
        where = {"revision": revision, "trust_remote_code": False}
        self.model = AutoModel.from_pretrained(
            repository, dtype=getattr(torch, dtype), use_safetensors=True, **where
        ).eval()
        self.processor = self.load_processor(repository, **where)
        if torch.accelerator.is_available():
            self.model.to(torch.accelerator.current_accelerator())

    @abstractmethod
    def load_processor(self, repository: str, **where):
        """The processor that makes the model's inputs."""

    @abstractmethod
    def prepare(self, windows: list[np.ndarray]) -> dict[str, torch.Tensor]:
        """Model inputs of a batch of windows."""

    @torch.inference_mode()
    def encode(self, windows: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([self._pool(batch) for batch in batched(windows, self.batch_size)])

    def _pool(self, windows: list[np.ndarray]) -> np.ndarray:
        inputs = {
            name: values.to(self.model.device, self.model.dtype if values.is_floating_point() else None)
            for name, values in self.prepare(windows).items()
        }
        outputs = self.model(**inputs)
        if self.pooling == "pooler":
            pooled = outputs.pooler_output
        else:
            states = outputs.last_hidden_state  # (batch, tokens, hidden)
            pooled = states.float().mean(1) if self.pooling == "mean" else states[:, 0]
        if pooled.shape[-1] != self.feature_size:
            raise ValueError(
                f"the encoder gives {pooled.shape[-1]} numbers a clip, the recipe says {self.feature_size}."
            )
        return pooled.float().cpu().numpy()


class HubVideo(HubEncoder):
    """A video model (VideoMAE, V-JEPA 2, TimeSformer, ...), see [`HubEncoder`]."""

    source = "video"

    def load_processor(self, repository: str, **where):
        for kind in (AutoVideoProcessor, AutoImageProcessor):  # older models take a video as a list of pictures
            try:
                return kind.from_pretrained(repository, **where)
            except (OSError, ValueError, ImportError):
                continue
        # Without torchvision there is no video processor; this one of pictures knows the same settings.
        settings, _ = BaseVideoProcessor.get_video_processor_dict(repository, revision=where["revision"])
        return VideoMAEImageProcessorPil(**settings)

    def prepare(self, windows: list[np.ndarray]) -> dict[str, torch.Tensor]:
        prepared = dict(self.processor([list(window) for window in windows], return_tensors="pt"))
        if "pixel_values" in prepared:
            prepared = {self.model.main_input_name: prepared["pixel_values"]}
        return prepared


class HubAudio(HubEncoder):
    """
    A sound model (AST, wav2vec 2, ...), see [`HubEncoder`].

    Args:
        rate (`int`): samples a second, for which the model was made.
        **settings: arguments of [`HubEncoder`].
    """

    source = "audio"

    def __init__(self, feature_size: int, rate: int, **settings):
        super().__init__(feature_size, **settings)
        self.rate = rate

    def load_processor(self, repository: str, **where):
        return AutoFeatureExtractor.from_pretrained(repository, **where)

    def prepare(self, windows: list[np.ndarray]) -> dict[str, torch.Tensor]:
        return self.processor(windows, sampling_rate=self.rate, return_tensors="pt")


# Name in a recipe -> class.
ENCODERS: dict[str, type[Encoder]] = {
    "classic_video": ClassicVideo,
    "classic_audio": ClassicAudio,
    "efficientnet_video": EfficientNetVideo,
    "whisper_audio": WhisperAudio,
    "blaze_pose": BlazePose,
    "hub_video": HubVideo,
    "hub_audio": HubAudio,
    "hub_text": HubText,
}
