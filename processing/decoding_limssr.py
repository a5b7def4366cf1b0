"""Recordings as streams of pictures and of sound, on the clock of the file; nothing is ever held as a whole."""

from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain, count
from typing import Literal

import numpy as np
from transformers.utils import logging

from .pictures_limssr import Geometry, PictureMaker
from .recordings_limssr import (
    DecodingLimits,
    MissingStreamError,
    Recording,
    RecordingError,
    TooLittleError,
    codec_name,
    import_media,
    open_recording,
)

logger = logging.get_logger(__name__)

SOUND_TOLERANCE = 0.1  # seconds that the timestamps of sound may be off before silence is put in or sound left out
LONGEST_SILENCE = 1.0  # seconds of silence put in at a time
BROADCAST_ENTRY = 10.0  # seconds before the start at which a stream without an index is entered, several keyframes
LONG_GAP, LONG_RETURN = 10.0, 1.0  # seconds by which a clock may leap forwards, or backwards, without a warning
TRUNCATED = 0.9  # share of the header's duration below which a recording is called truncated


def read_pictures(
    recording: Recording,
    geometry: Geometry,
    rate: float | None = None,
    total: int | None = None,
    limits: DecodingLimits | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """
    Pictures of a recording at regular times: at each, the one that a player shows then.

    Args:
        recording (`Recording`): the file and the part of it.
        geometry (`Geometry`): how a picture becomes an array.
        rate (`float`, *optional*): pictures a second, from the first one on.
        total (`int`, *optional*): in place of a rate, as many pictures, evenly from the first to the last.
        limits (`DecodingLimits`, *optional*): what it may cost.

    Yields:
        Time in seconds on the clock of the file, and the picture, uint8 `(height, width, 3)`, or `(height, width)`
        for gray.

    Raises:
        MissingStreamError: the file has no picture, or none in this part.
        RecordingError: nothing can be decoded, or a limit is exceeded.
    """
    shown, times, ends = None, None, None
    make = PictureMaker(geometry)
    for time, seconds, frame in _decoded_frames(recording, limits or DecodingLimits()):
        if times is None:
            start = max(time, recording.first)
            times = _regular_times(start, rate) if total is None else _even_times(recording, start, total)
            due = next(times)
        while shown is not None and due is not None and due < time - 1e-6:
            yield due, make(shown)
            due = next(times, None)
        shown, ends = frame, time + seconds
    ends = min(ends, recording.last) if ends is not None else -1.0
    while shown is not None and due is not None and (due < ends - 1e-6 or total is not None):
        yield due, make(shown)
        due = next(times, None)


def read_sound(
    recording: Recording, rate: int, limits: DecodingLimits | None = None
) -> Iterator[tuple[float, np.ndarray]]:
    """
    Sound of a recording, its channels mixed into one. Gaps between its packets are silence.

    Args:
        recording (`Recording`): the file and the part of it.
        rate (`int`): samples a second.
        limits (`DecodingLimits`, *optional*): what it may cost.

    Yields:
        Time of its first sample in seconds on the clock of the file, and float32 `(samples,)`.

    Raises:
        MissingStreamError: the file has no sound, or none in this part.
        RecordingError: nothing can be decoded, or a limit is exceeded.
    """
    first, written = None, 0
    for time, sound in _resampled_sound(recording, rate, limits or DecodingLimits()):
        if first is None:
            skipped = max(round((recording.first - time) * rate), 0)
            if skipped >= len(sound):
                continue
            first, sound = time + skipped / rate, sound[skipped:]
        if np.isfinite(recording.last):
            sound = sound[: max(round((recording.last - first) * rate) - written, 0)]
        if len(sound):
            yield first + written / rate, sound
        written += len(sound)


def _regular_times(start: float, rate: float) -> Iterator[float]:
    return (start + number / rate for number in count())


def _even_times(recording: Recording, start: float, total: int) -> Iterator[float]:
    """`total` times from the first to the last picture, which the packets tell before anything is decoded."""
    with open_recording(recording) as container:
        stream = _find_stream(container, recording, "video")
        zero = _zero(container)
        times = [
            float(packet.pts * stream.time_base) - zero
            for packet in _demux(container, stream)
            if packet.pts is not None
        ]
    last = max((time for time in times if time < recording.last), default=start)
    return iter(np.linspace(start, max(start, last), total).tolist())


def _decoded_frames(recording: Recording, limits: DecodingLimits) -> Iterator[tuple[float, float, tuple]]:
    """Time, duration, and frame of PyAV with the aspect of its pixels, in the order of time."""
    with open_recording(recording) as container:
        stream = _find_stream(container, recording, "video")
        context = stream.codec_context
        _check_pixels(recording, context.width * context.height, limits)
        usual = float(1 / (stream.average_rate or stream.guessed_rate or 25))
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        decoder = _Decoder(recording, container, stream, limits)
        zero, before, end = _zero(container), None, None
        first, last = recording.first, recording.last
        for number, frame in enumerate(decoder):
            if number >= limits.max_frames:
                raise RecordingError(
                    f"{recording}: more than max_frames={limits.max_frames} pictures; give start and end."
                )
            _check_pixels(recording, frame.width * frame.height, limits)
            time = frame.time
            time = time - zero if time is not None else 0.0 if end is None else end
            decoder.watch_clock(before, time)
            if frame.is_corrupt or (before is not None and time <= before):
                continue
            if time >= last:
                break
            _check_seconds(recording, time - first, limits)
            before, seconds = time, (frame.duration or 0) * float(frame.time_base or 0) or usual
            end = time + seconds
            yield time, seconds, (frame, pixel_aspect)
        decoder.report(end)


def _resampled_sound(recording: Recording, rate: int, limits: DecodingLimits) -> Iterator[tuple[float, np.ndarray]]:
    """Time and samples without gaps, from the first packet at or after a keyframe before the start."""
    av = import_media("av")
    with open_recording(recording) as container:
        stream = _find_stream(container, recording, "audio")
        decoder = _Decoder(recording, container, stream, limits)
        zero, expected, layout, resampler = _zero(container), None, None, None
        for frame in decoder:
            time = frame.time - zero if frame.time is not None else expected or 0.0
            expected = max(time, 0.0) if expected is None else expected
            seconds = frame.samples / frame.sample_rate
            decoder.watch_clock(expected, time)
            if time < expected - SOUND_TOLERANCE or frame.is_corrupt:
                continue
            if expected >= recording.last:
                break
            _check_seconds(recording, time - recording.first, limits)
            while time - expected > SOUND_TOLERANCE and expected < recording.last:
                silence = min(time - expected, LONGEST_SILENCE)
                yield expected, np.zeros(round(silence * rate), np.float32)
                expected += silence
            if layout != (layout := (frame.format.name, frame.layout.name, frame.sample_rate)):
                resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            try:
                parts = resampler.resample(frame)
            except av.FFmpegError:  # a damaged frame may claim more channels than can be mixed
                decoder.damaged += 1
                layout = resampler = None
                continue
            for part in parts:
                yield expected, part.to_ndarray()[0]
            expected += seconds
        if resampler is not None:
            for part in resampler.resample(None):
                yield expected, part.to_ndarray()[0]
        decoder.report(expected)


class _Decoder:
    """
    Frames of one stream; damaged packets are left out, and counted.

    Args:
        recording: the file.
        container, stream: of PyAV.
        limits: what it may cost.
    """

    def __init__(self, recording: Recording, container, stream, limits: DecodingLimits):
        self.recording, self.container, self.stream = recording, container, stream
        self.kind = f"{stream.type} stream ({codec_name(stream)})"
        self.damaged = self.packets = 0
        self.has_leapt = False
        header = container.duration / 1e6 if container.duration else 0.0
        self.header_end = float(stream.duration * stream.time_base) if stream.duration else header
        if recording.end is None:
            _check_seconds(recording, max(header, self.header_end) - recording.first, limits, " by its header")
        _limit_codec(stream, limits)
        # Below a second, decoding from the beginning is as fast.
        entry = _find_entry(recording, stream.type, limits) if recording.first > 1 else None
        if entry is not None:
            container.seek(entry)

    def __iter__(self):
        av = import_media("av")
        for packet in chain(self._packets(), [None]):  # None: what the decoder still holds
            self.packets += 1
            try:
                frames = self.stream.codec_context.decode(packet)
            except av.EOFError:  # it had given all
                return
            except av.FFmpegError:
                self.damaged += 1
                continue
            yield from frames

    def _packets(self):
        av = import_media("av")
        try:
            yield from _demux(self.container, self.stream)
        except av.FFmpegError:  # the file ends in the middle of a packet
            self.damaged += 1

    def watch_clock(self, before: float | None, time: float) -> None:
        """Warn, once, of a clock that leaps, as in files that were joined or are damaged."""
        if before is None or self.has_leapt or -LONG_RETURN <= time - before <= LONG_GAP:
            return
        self.has_leapt = True
        logger.warning(
            f"{self.recording}: the clock of its {self.kind} leaps from {before:.2f} s to {time:.2f} s. A gap is a "
            "still picture or silence; what goes back in time is left out."
        )

    def report(self, end: float | None) -> None:
        """
        Warn of what is damaged or missing.

        Raises:
            TooLittleError: there is nothing in the part that counts.
            RecordingError: nothing, or less than half of it, can be decoded.
        """
        is_empty = end is None or end <= 0
        if is_empty and not self.damaged:
            is_part = self.recording.start is not None or self.recording.end is not None
            where = " in the part asked for" if is_part else ""
            raise TooLittleError(f"{self.recording}: its {self.kind} holds nothing{where}.")
        if is_empty:
            raise RecordingError(f"{self.recording}: no frame of its {self.kind} can be decoded.")
        if end <= self.recording.first:
            raise TooLittleError(
                f"{self.recording}: its {self.kind} ends at {end:.2f} s, before start={self.recording.start:g}."
            )
        if self.damaged > self.packets / 2:
            raise RecordingError(f"{self.recording}: more than half of its {self.kind} is damaged.")
        if self.damaged:
            logger.warning(f"{self.recording}: {self.damaged} packets of its {self.kind} are damaged and left out.")
        if self.recording.end is None and end < TRUNCATED * self.header_end:
            logger.warning(
                f"{self.recording}: its {self.kind} ends at {end:.2f} s, its header says {self.header_end:.2f} s; "
                "what is there is used."
            )


def _find_entry(recording: Recording, kind: str, limits: DecodingLimits) -> int | None:
    """
    Where to begin to read for the start of a part: what [`Container.seek`] of PyAV takes, or None for the beginning.

    A file may not be entered at all, or only so that its first whole frame comes after the start.
    """
    av = import_media("av")
    with open_recording(recording) as container:
        stream, zero = _find_stream(container, recording, kind), _zero(container)
        _limit_codec(stream, limits)
        early = BROADCAST_ENTRY if _is_broadcast(container) else 0.0
        entry = round((max(recording.first - early, 0.0) + zero) * 1e6)
        try:
            container.seek(entry)
            first = next((frame for packet in _demux(container, stream) for frame in packet.decode()), None)
        except av.FFmpegError:
            return None
        if first is None or first.time is None or first.time - zero > recording.first:
            return None
        return entry


def _demux(container, stream) -> Iterator:
    """Packets of a stream. PyAV stops at the first packet of another that begins in the middle of the file."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            continue


def _limit_codec(stream, limits: DecodingLimits) -> None:
    stream.codec_context.thread_count = 1  # each thread would hold pictures of its own
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}


def _find_stream(container, recording: Recording, kind: Literal["video", "audio"]):
    """The main stream of a kind, which a cover picture is not."""
    streams = getattr(container.streams, kind)
    attached = import_module("av.stream").Disposition.attached_pic
    usable = [stream for stream in streams if not stream.disposition & attached and stream.codec_context is not None]
    if not usable:
        found = ", ".join(f"{stream.type} ({codec_name(stream)})" for stream in container.streams) or "no stream"
        raise MissingStreamError(f"{recording}: has no {kind} stream; the file holds {found}.")
    size: Callable = (lambda stream: stream.width * stream.height) if kind == "video" else (lambda stream: 0)
    return max(usable, key=size)


def _zero(container) -> float:
    """Where the clock of the file begins: at 0, but for broadcast streams, whose clock begins anywhere."""
    return (container.start_time or 0) / 1e6 if _is_broadcast(container) else 0.0


def _is_broadcast(container) -> bool:
    """Whether the format is made to be entered anywhere, such as MPEG-TS, and has no index."""
    return bool(container.format.flags & import_module("av.format").Flags.ts_discont.value)


def _check_pixels(recording: Recording, pixels: int, limits: DecodingLimits) -> None:
    if pixels > limits.max_pixels:
        raise RecordingError(
            f"{recording}: a picture has {pixels} pixels, more than max_pixels={limits.max_pixels}; make it smaller, "
            "or raise the limit in Python with limits=DecodingLimits(...)."
        )


def _check_seconds(recording: Recording, seconds: float, limits: DecodingLimits, source: str = "") -> None:
    if seconds > limits.max_seconds:
        raise RecordingError(
            f"{recording}: lasts {seconds:.0f} s{source}, more than max_seconds={limits.max_seconds:g}; give start "
            "and end."
        )
