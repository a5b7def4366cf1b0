"""Recordings that are damaged, odd or hostile: clips of what is there, or one message with file and cause."""

import re
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing.recipes_limssr import ClipExtractor
from limssr.processing.recordings_limssr import RecordingError
from limssr.training.benchmarking.measure import read_peak, reset_peak
from tests.helpers.recordings import grey_pictures, moving_pictures, tone, write_recording

SECONDS = 1.2
MOST_MEMORY = 2**30  # bytes for a recording, beyond what the process holds: torch, transformers and earlier tests


@pytest.fixture(autouse=True)
def limited_memory() -> Iterator[None]:
    """Each recording of this module is read within `MOST_MEMORY`."""
    reset_peak("cpu")
    held = read_peak("cpu")
    yield
    assert read_peak("cpu") - held < MOST_MEMORY


@pytest.fixture(scope="module")
def extractor():
    return ClipExtractor("classic")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """An mp4 of 1.2 seconds that a network player could begin at once: its index comes first."""
    path = tmp_path_factory.mktemp("whole") / "a.mp4"
    index = {"movflags": "faststart"}
    options = {"g": "5"}
    write_recording(path, moving_pictures(30), sound=tone(SECONDS), options=options, container_options=index)
    return path.read_bytes()


def not_a_video(path: Path, whole: bytes) -> None:
    path.write_text("Dear judges,\n" * 100)


def empty(path: Path, whole: bytes) -> None:
    path.write_bytes(b"")


def folder(path: Path, whole: bytes) -> None:
    path.mkdir()


def absent(path: Path, whole: bytes) -> None:
    pass


def header_alone(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[:200])


def index_lost(path: Path, whole: bytes) -> None:
    place = whole.index(b"moov")
    path.write_bytes(whole[:place] + b"junk" + whole[place + 4 :])


def zeros(path: Path, whole: bytes) -> None:
    path.touch()
    with path.open("r+b") as file:
        file.truncate(10 * 2**30)  # sparse


def playlist(path: Path, whole: bytes) -> None:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/passwd\n#EXT-X-ENDLIST\n")


def playlist_of_ffmpeg(path: Path, whole: bytes) -> None:
    path.write_text("ffconcat version 1.0\nfile /etc/passwd\n")


def one_picture(path: Path, whole: bytes) -> None:
    write_recording(path, grey_pictures(1))


def huge_picture(path: Path, whole: bytes) -> None:
    write_recording(path, grey_pictures(1, 4320, 7680), codec="mjpeg", pix_fmt="yuvj420p")


def ten_hours(path: Path, whole: bytes) -> None:
    write_recording(path.with_suffix(".mkv"), grey_pictures(3), times=[0.0, 1.0, 36_000.0]).rename(path)


def mostly_noise(path: Path, whole: bytes) -> None:
    begin = whole.index(b"mdat") + 8
    noise = np.random.default_rng(0).integers(0, 255, len(whole) - begin, dtype=np.uint8).tobytes()
    path.write_bytes(whole[:begin] + noise)


def sound_of_too_many_channels(path: Path, whole: bytes, samples: int = 16000) -> None:
    """More channels than can be mixed into one."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(80)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(160 * samples))


def the_same_of_one_frame(path: Path, whole: bytes) -> None:
    sound_of_too_many_channels(path, whole, 20)


REFUSED = [
    (not_a_video, "no video or sound that FFmpeg can read"),
    (empty, "the file is empty"),
    (folder, "this is a folder, expected a recording"),
    (absent, "there is no such file"),
    (header_alone, "no video or sound that FFmpeg can read, or only a part of the file|the file holds data"),
    (index_lost, "no video or sound that FFmpeg can read, or only a part of the file"),
    (zeros, "no video or sound that FFmpeg can read"),
    (playlist, "no video or sound that FFmpeg can read"),
    (playlist_of_ffmpeg, "no video or sound that FFmpeg can read"),
    (one_picture, "'video' cannot be made: there is a single picture, which shows no motion"),
    (huge_picture, "a picture has 33177600 pixels, more than max_pixels=9437184"),
    (ten_hours, r"lasts 3600\d s by its header, more than max_seconds=3600; give start and end"),
    (mostly_noise, "can be decoded|is damaged"),
    (sound_of_too_many_channels, r"more than half of its audio stream \(pcm_s16le\) is damaged"),
    (the_same_of_one_frame, r"no frame of its audio stream \(pcm_s16le\) can be decoded"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_what_cannot_be_used_is_refused_with_file_and_cause(make, message, extractor, whole, tmp_path):
    path = tmp_path / "x.mp4"
    make(path, whole)
    with pytest.raises(RecordingError, match=rf"x\.mp4: .*({message})") as refused:
        extractor.extract(path)
    assert "\n" not in str(refused.value)


def test_a_url_is_not_fetched(extractor):
    with pytest.raises(RecordingError, match=r"https://example\.org/dive\.mp4: this is a URL\. Download the file"):
        extractor.extract("https://example.org/dive.mp4")


def cut_off(path: Path, whole: bytes) -> None:
    path.write_bytes(whole[: len(whole) * 2 // 3])


def hole(path: Path, whole: bytes) -> None:
    middle = whole.index(b"mdat") + (len(whole) - whole.index(b"mdat")) // 2
    path.write_bytes(whole[:middle] + b"\x00" * 60 + whole[middle + 60 :])


def header_lies(path: Path, whole: bytes) -> None:
    """The header claims a quarter of an hour."""
    place = whole.index(b"mvhd") + 4 + 4 + 4 + 4  # version, creation and change time
    scale = int.from_bytes(whole[place : place + 4], "big")
    path.write_bytes(whole[: place + 4] + (900 * scale).to_bytes(4, "big") + whole[place + 8 :])


@pytest.mark.parametrize("damage", [cut_off, hole, header_lies])
def test_of_a_damaged_recording_only_what_is_there_counts(damage, extractor, whole, tmp_path):
    path = tmp_path / "x.mp4"
    damage(path, whole)
    found = extractor.extract(path)
    assert 2 <= len(found["video"].features) <= 4
    assert found["video"].times.max() <= SECONDS + 0.05
    assert all(np.isfinite(clips.features).all() for clips in found.values())


def test_a_stream_that_begins_in_the_middle_of_a_broadcast_is_no_harm(extractor, tmp_path):
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (70, 48, 64, 3), dtype=np.uint8)
    parts = []
    for number, (count, sound) in enumerate([(50, None), (3, tone(0.2)), (70, None)]):
        path = tmp_path / f"{number}.ts"
        parts.append(write_recording(path, noise[:count], sound=sound, options={"qp": "10"}).read_bytes())
    path = tmp_path / "x.ts"
    path.write_bytes(b"".join(parts))
    for part in ({}, {"start": 1.5, "end": 1.9}):
        assert len(extractor.extract({"path": path, **part})["video"].features) == (1 if part else 9)


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "mov", "gif", "mp4", "ts", "flv", "dat"])
def test_formats_off_the_beaten_track_give_clips(suffix, extractor, tmp_path):
    codecs = {"webm": ("libvpx-vp9", "libopus"), "avi": ("mpeg4", "mp3"), "gif": ("gif", None)}
    codec, sound_codec = codecs.get(suffix, ("libx264", "aac"))
    settings = {"codec": codec, "pix_fmt": "rgb8" if suffix == "gif" else "yuv420p"}
    if sound_codec:
        settings |= {"sound": tone(SECONDS, 48000), "sound_codec": sound_codec, "sound_rate": 48000}
    path = tmp_path / ("x.mp4" if suffix == "dat" else f"x.{suffix}")
    write_recording(path, moving_pictures(30), **settings)
    path = path.rename(tmp_path / f"x.{suffix}")
    found = extractor.extract(path)
    assert set(found) == ({"video"} if suffix == "gif" else {"video", "audio"})
    assert len(found["video"].features) == 4
    if "audio" in found:
        assert len(found["audio"].features) in (3, 4)
        np.testing.assert_allclose(found["audio"].times[0, 0], found["video"].times[0, 0], atol=0.1)


@pytest.mark.parametrize("name", ["a b.mp4", "Sprünge.mp4", "two\nlines.mp4", "-i.mp4", "a:b%20.mp4", "'q'.mp4"])
def test_names_of_all_kinds_are_only_names(name, extractor, whole, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(whole)
    monkeypatch.chdir(tmp_path)
    assert set(extractor.extract(name)) == {"video", "audio"}
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(RecordingError) as refused:
        extractor.extract(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("rate", [1, 240])
def test_one_and_240_pictures_a_second(rate, extractor, tmp_path):
    path = write_recording(tmp_path / "x.mp4", moving_pictures(3 if rate == 1 else 120), rate=rate)
    clips = extractor.extract(path)["video"]
    assert clips.times[-1, 1] == pytest.approx(3 if rate == 1 else 0.5, abs=0.2)


def test_a_clock_that_leaps_is_said(extractor, tmp_path, caplog):
    pictures, times = moving_pictures(20), [*np.arange(10) / 25, *(np.arange(10) / 25 + 12)]
    found = extractor.extract(write_recording(tmp_path / "x.mkv", pictures, times))["video"]
    assert "x.mkv: the clock of its video stream (h264) leaps from 0.36 s to 12.00 s" in caplog.text
    assert found.times[-1, 1] == pytest.approx(12.4, abs=0.05)
    part = write_recording(tmp_path / "x.ts", moving_pictures(50), sound=tone(2.0)).read_bytes()
    (tmp_path / "joined.ts").write_bytes(2 * part)
    found = extractor.extract(tmp_path / "joined.ts")
    for kind in ("video stream (h264)", "audio stream (aac)"):
        assert re.search(
            rf"joined\.ts: the clock of its {re.escape(kind)} leaps from [12]\.\d\d s to 0\.", caplog.text
        )
    assert found["video"].times[-1, 1] == pytest.approx(2.0, abs=0.1)
