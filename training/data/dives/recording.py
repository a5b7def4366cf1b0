"""MP4 files with H.264 picture and AAC sound."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BIT_EXACT = {"fflags": "+bitexact"}  # no date and no version of the writer in the file


def write_recording(
    path: Path, frames: Iterable[np.ndarray] | None, fps: int, sound: np.ndarray | None, rate: int
) -> None:
    """Write a recording with picture, sound or both.

    Args:
        path: `.mp4` file.
        frames: uint8 RGB (height, width, 3) each, or no picture.
        fps: pictures a second.
        sound: float32 (samples,), -1 to 1, mono, or no sound.
        rate: samples a second.
    """
    with av.open(path, "w", format="mp4", options=BIT_EXACT) as file:
        # A stream must be known before the first packet of any is written.
        picture = _picture_stream(file, fps) if frames is not None else None
        voice = file.add_stream("aac", rate=rate, layout="mono", bit_rate=64000) if sound is not None else None
        for frame in frames or ():
            if not picture.width or (picture.width, picture.height) != frame.shape[1::-1]:
                picture.height, picture.width = frame.shape[:2]
            file.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        if picture is not None:
            file.mux(picture.encode(None))
        if voice is not None:
            for packet in _encode_sound(voice, sound, rate):
                file.mux(packet)


def _picture_stream(file, fps: int):
    stream = file.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "22", "threads": "1"})
    stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, fps)
    return stream


def _encode_sound(stream, sound: np.ndarray, rate: int):
    size = stream.codec_context.frame_size or 1024
    for start in range(0, len(sound), size):
        frame = av.AudioFrame.from_ndarray(sound[None, start : start + size], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)
