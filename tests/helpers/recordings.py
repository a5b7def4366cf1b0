"""Small recordings made with PyAV: every picture and every sound of them is known."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

CLOCK = 90_000  # ticks a second


def grey_pictures(count: int, height: int = 48, width: int = 64, step: int = 8) -> list[np.ndarray]:
    """Plain pictures whose brightness tells their number: number x `step`."""
    return [np.full((height, width, 3), number * step % 256, np.uint8) for number in range(count)]


def moving_pictures(count: int, height: int = 48, width: int = 64, speed: int = 2) -> list[np.ndarray]:
    """A textured square that moves to the right over a textured ground, `speed` pixels a picture."""
    generator = np.random.default_rng(0)
    ground = np.kron(generator.integers(0, 90, (height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[:height, :width]
    square = np.kron(generator.integers(120, 255, (4, 4)), np.ones((3, 3)))
    pictures = []
    for number in range(count):
        picture = ground.copy()
        left = 4 + speed * number % (width - 20)
        picture[height // 2 - 6 : height // 2 + 6, left : left + 12] = square
        pictures.append(np.repeat(picture[..., None], 3, axis=2).astype(np.uint8))
    return pictures


def tone(seconds: float, rate: int = 16000, frequency: float = 440.0, channels: int = 1) -> np.ndarray:
    """A sine, float32 `(channels, samples)`."""
    wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[None].astype(np.float32), channels, axis=0)


def write_recording(
    path: Path,
    pictures: Iterable[np.ndarray] = (),
    times: Sequence[float] | None = None,
    rate: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    sound: np.ndarray | None = None,
    sound_rate: int = 16000,
    sound_codec: str = "aac",
    layout: str = "mono",
    sound_start: float = 0.0,
    interlaced: bool = False,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a recording and return its path.

    Args:
        path: file; its suffix names the container.
        pictures: uint8 `(height, width, 3 or 4)`; without any there is no picture.
        times: seconds at which each is shown, by default `rate` a second.
        sound: float32 `(channels, samples)`; None for no sound.
        sound_start: seconds at which it begins.
        rotation: degrees counterclockwise that a player turns the picture.
    """
    pictures = list(pictures)
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        packets = []
        if pictures:
            video = container.add_stream(codec, rate=rate, options=options or {})
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.codec_context.time_base = Fraction(1, CLOCK) if times is not None else Fraction(1, rate)
            if rotation:
                video.set_display_rotation(rotation)
            if interlaced:
                video.codec_context.flags |= av.codec.context.Flags.interlaced_dct.value
                video.codec_context.flags |= av.codec.context.Flags.interlaced_me.value
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[2] == 4 else "rgb24")
            frame.pts = number if times is None else round(times[number] * CLOCK)
            frame.time_base = video.codec_context.time_base
            packets += video.encode(frame)
        if pictures:
            packets += video.encode(None)
        if sound is not None:
            packets += _encode_sound(audio, sound, sound_rate, layout, sound_start)
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        for packet in packets:
            container.mux(packet)
    return path


def _encode_sound(audio, sound: np.ndarray, rate: int, layout: str, start: float) -> list:
    packets = []
    for first in range(0, sound.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(sound[:, first : first + 1024]), format="fltp", layout=layout
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = first + round(start * rate)
        packets += audio.encode(frame)
    return packets + audio.encode(None)
