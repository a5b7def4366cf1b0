"""Decoding: what is shown and heard at which second, whatever the file is like."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="the extra `media` is not installed")

from limssr.processing.decoding_limssr import read_pictures, read_sound
from limssr.processing.pictures_limssr import Geometry
from limssr.processing.recordings_limssr import DecodingLimits, MissingStreamError, Recording, RecordingError
from tests.helpers.recordings import grey_pictures, moving_pictures, tone, write_recording

GREY = Geometry(colour="gray")


def read(path: Path, rate: float | None = 25, geometry: Geometry = GREY, start=None, end=None, **options):
    """Times and pictures."""
    found = list(read_pictures(Recording(path, start, end), geometry, rate, **options))
    return [time for time, _ in found], [picture for _, picture in found]


def shown(pictures: list[np.ndarray], step: int = 8) -> list[int]:
    """Numbers of `grey_pictures`."""
    return [round(float(picture.mean()) / step) for picture in pictures]


def hear(path: Path, rate: int = 16000, start=None, end=None) -> tuple[float, np.ndarray]:
    """Time of the first sample, and all samples."""
    found = list(read_sound(Recording(path, start, end), rate))
    times = [time for time, _ in found]
    lengths = np.cumsum([0] + [len(sound) for _, sound in found])[:-1]
    np.testing.assert_allclose(times, times[0] + lengths / rate, atol=1e-6)  # without gaps
    return times[0], np.concatenate([sound for _, sound in found])


def test_pictures_are_those_of_their_seconds(tmp_path):
    path = write_recording(tmp_path / "a.mp4", grey_pictures(20))
    times, pictures = read(path)
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-6)
    assert shown(pictures) == list(range(20))
    assert pictures[0].shape == (48, 64)
    assert shown(read(path, rate=12.5)[1]) == list(range(0, 20, 2))
    assert shown(read(path, rate=50)[1]) == [number for number in range(20) for _ in range(2)]


def test_a_variable_rate_shows_each_picture_until_the_next(tmp_path):
    times = [0.0, 0.04, 0.2, 0.24, 0.5, 0.9]
    path = write_recording(tmp_path / "a.mkv", grey_pictures(6, step=40), times)
    found, pictures = read(path, rate=20)
    expected = [np.searchsorted(times, time + 1e-6) - 1 for time in found]
    assert shown(pictures, 40) == expected
    assert found[-1] >= 0.9 - 1e-6


@pytest.mark.parametrize("rate", [1, 240])
def test_slow_and_fast_recordings_have_the_same_clock(tmp_path, rate):
    path = write_recording(tmp_path / "a.mp4", grey_pictures(3 if rate == 1 else 120, step=2), rate=rate)
    times, pictures = read(path, rate=10)
    assert len(times) == pytest.approx(30 if rate == 1 else 5, abs=1)
    np.testing.assert_allclose(shown(pictures, 2), [int(time * rate + 1e-6) for time in times], atol=1)


def test_a_part_begins_and_ends_where_it_should(tmp_path):
    path = write_recording(tmp_path / "a.mp4", grey_pictures(100, step=2), options={"g": "10"})
    times, pictures = read(path, start=2.02, end=2.5)
    assert times[0] == pytest.approx(2.02)
    assert times[-1] < 2.5
    assert len(times) == 12
    np.testing.assert_allclose(shown(pictures, 2), np.arange(50, 62), atol=1)
    with pytest.raises(RecordingError, match=r"ends at 4\.00 s, before start=7"):
        read(path, start=7, end=8)
    with pytest.raises(RecordingError, match=r"expected 0 <= start < end"):
        Recording(path, 2, 1)


@pytest.mark.parametrize(
    ("name", "codec", "sound_codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.ts", "libx264", "aac"),
        ("a.mpg", "mpeg2video", "mp2"),
        ("a.mkv", "libx264", "aac"),
        ("a.h264", "libx264", None),
    ],
)
def test_a_part_is_whole_whatever_the_format_can_be_entered_at(tmp_path, name, codec, sound_codec):
    """Streams without an index are entered anywhere, and can be decoded from the next keyframe on."""
    sound = {} if sound_codec is None else {"sound": tone(8.0, 48000), "sound_rate": 48000, "sound_codec": sound_codec}
    options = {"g": "50"} | ({"qp": "1"} if codec == "libx264" else {"b": "4000k"})
    path = write_recording(tmp_path / name, grey_pictures(200, step=1), codec=codec, options=options, **sound)
    whole_times, whole = read(path)
    for start, end in ((3.5, 5.5), (6.3, 7.6)):
        times, pictures = read(path, start=start, end=end)
        assert times[0] == pytest.approx(start)
        assert times[-1] == pytest.approx(end - 0.04, abs=0.021)
        then = [np.searchsorted(whole_times, time + 1e-6) - 1 for time in times]
        np.testing.assert_allclose(shown(pictures, 1), shown([whole[number] for number in then], 1), atol=1)
        if sound_codec is not None:
            time, heard = hear(path, start=start, end=end)
            assert time == pytest.approx(start, abs=1e-3)
            assert len(heard) == pytest.approx(16000 * (end - start), abs=20)


def test_a_number_of_pictures_is_spread_evenly(tmp_path):
    path = write_recording(tmp_path / "a.mp4", grey_pictures(31))
    times, pictures = read(path, None, total=4)
    np.testing.assert_allclose(times, [0, 0.4, 0.8, 1.2], atol=1e-6)
    assert shown(pictures) == [0, 10, 20, 30]
    assert len(read(path, None, total=96)[0]) == 96


@pytest.mark.parametrize(("turn", "corner"), [(0, (0, 0)), (90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))])
def test_a_turned_phone_gives_an_upright_picture(tmp_path, turn, corner):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:16, :16] = 255  # above on the left as the sensor has it; a player turns it counterclockwise
    path = write_recording(tmp_path / "a.mp4", [picture] * 3, rotation=turn)
    found = read(path)[1][0]
    assert found.shape == ((64, 48) if turn in (90, -90) else (48, 64))
    assert found[::-1, ::-1][corner] < 50
    assert found[corner] > 200


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("odd.mkv", {"pix_fmt": "yuv444p"}),
        ("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}),
        ("hevc.mov", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("vp9.webm", {"codec": "libvpx-vp9"}),
        ("old.avi", {"codec": "mpeg4", "pix_fmt": "yuv420p"}),
        ("lossless.mkv", {"codec": "ffv1", "pix_fmt": "bgr0"}),
        ("broadcast.ts", {}),
        ("motion.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("film.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
        ("wrong_suffix.txt", {"container": "mp4"}),
    ],
)
def test_formats_give_the_same_pictures_at_the_same_seconds(tmp_path, name, settings):
    size = (47, 61) if name.startswith("odd") else (48, 64)
    written = tmp_path / (f"a.{settings.pop('container')}" if "container" in settings else name)
    path = write_recording(written, grey_pictures(10, *size, step=20), **settings).rename(tmp_path / name)
    times, pictures = read(path)
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=0.011)  # a GIF counts hundredths
    assert pictures[0].shape == size
    brightness = [float(picture.mean()) for picture in pictures]
    np.testing.assert_allclose(brightness, np.arange(10) * 20, atol=20 if name.endswith("gif") else 6)


def test_transparent_pictures_lie_on_black(tmp_path):
    picture = np.full((48, 64, 4), 200, np.uint8)
    picture[:, :32, 3] = 0
    path = write_recording(tmp_path / "a.mov", [picture] * 2, codec="png", pix_fmt="rgba")
    found = read(path)[1][0]
    assert found[:, :30].max() == 0
    assert found[:, 34:].min() > 150


def test_of_interlaced_pictures_one_moment_is_shown(tmp_path):
    combed = np.zeros((48, 64, 3), np.uint8)
    combed[1::2] = 250  # the second field, of a moment later
    settings = {"interlaced": True, "options": {"x264-params": "tff=1", "qp": "1"}}
    path = write_recording(tmp_path / "a.mkv", [combed] * 5, **settings)
    assert read(path)[1][0].max() < 30


def test_geometry_scales_crops_and_keeps_proportions(tmp_path):
    path = write_recording(tmp_path / "a.mp4", moving_pictures(2, 120, 200))
    assert read(path, geometry=Geometry(short_side=60))[1][0].shape == (60, 100, 3)
    assert read(path, geometry=Geometry(60, crop=(50, 40)))[1][0].shape == (50, 40, 3)
    assert read(path, geometry=Geometry(60, (50, 60), (32, 32)))[1][0].shape == (32, 32, 3)
    assert read(path, geometry=Geometry(size=(30, 40)))[1][0].shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("rate", "layout", "channels"),
    [(8000, "mono", 1), (16000, "stereo", 2), (44100, "5.1", 6), (48000, "quad", 4), (96000, "mono", 1)],
)
def test_sound_of_any_rate_and_channels_is_one_channel_at_the_rate_asked_for(tmp_path, rate, layout, channels):
    sound = np.zeros((channels, rate), np.float32)
    sound[:, rate // 2 : rate // 2 + rate // 20] = tone(0.05, rate, 1000)
    path = write_recording(tmp_path / "a.mkv", sound=sound, sound_rate=rate, layout=layout, sound_codec="pcm_s16le")
    time, heard = hear(path)
    assert time == 0
    assert len(heard) == pytest.approx(16000, abs=40)
    loud = np.flatnonzero(np.abs(heard) > 0.1) / 16000
    assert loud[0] == pytest.approx(0.5, abs=0.003)
    assert loud[-1] == pytest.approx(0.55, abs=0.003)


def test_sound_keeps_its_offset_and_its_part(tmp_path):
    sound = np.concatenate([tone(0.5), np.zeros((1, 8000), np.float32)], axis=1)
    path = write_recording(
        tmp_path / "a.mkv", grey_pictures(40), sound=sound, sound_start=0.3, sound_codec="pcm_s16le"
    )
    time, heard = hear(path)
    assert time == pytest.approx(0.3, abs=0.002)
    assert read(path)[0][0] == 0
    assert np.abs(heard[:8000]).mean() > 0.2
    assert np.abs(heard[8100:]).max() < 0.01
    time, heard = hear(path, start=0.5, end=0.9)
    assert time == pytest.approx(0.5, abs=0.002)
    assert len(heard) == pytest.approx(0.4 * 16000, abs=2)
    assert np.flatnonzero(np.abs(heard) > 0.1)[-1] / 16000 == pytest.approx(0.3, abs=0.003)


def test_sound_of_an_mp4_is_at_the_seconds_of_its_picture(tmp_path):
    sound = np.zeros((1, 32000), np.float32)
    sound[:, 16000:17000] = 0.9
    path = write_recording(tmp_path / "a.mp4", grey_pictures(50, step=4), sound=sound)
    time, heard = hear(path)
    beginning = np.flatnonzero(np.abs(heard) > 0.2)[0]
    assert time + beginning / 16000 == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (DecodingLimits(max_pixels=1000), "a picture has 3072 pixels, more than max_pixels=1000"),
        (DecodingLimits(max_frames=10), "more than max_frames=10 pictures; give start and end"),
        (DecodingLimits(max_seconds=0.5), r"lasts 1 s by its header, more than max_seconds=0\.5"),
    ],
)
def test_limits_end_what_costs_too_much(tmp_path, limits, message):
    path = write_recording(tmp_path / "a.mp4", grey_pictures(25))
    with pytest.raises(RecordingError, match=message):
        read(path, limits=limits)


def test_a_recording_without_picture_or_sound_says_what_it_holds(tmp_path):
    silent = write_recording(tmp_path / "a.mp4", grey_pictures(5))
    with pytest.raises(MissingStreamError, match=r"a\.mp4: has no audio stream; the file holds video \(h264\)"):
        hear(silent)
    dark = write_recording(tmp_path / "b.wav", sound=tone(0.5), sound_codec="pcm_s16le")
    with pytest.raises(MissingStreamError, match=r"has no video stream; the file holds audio \(pcm_s16le\)"):
        read(dark)


def test_an_edit_list_says_where_a_film_begins(tmp_path):
    path = write_recording(tmp_path / "a.mov", grey_pictures(20), options={"g": "5", "bf": "0"})
    content = bytearray(path.read_bytes())
    scale = int.from_bytes(content[(place := content.index(b"mdhd") + 16) : place + 4])  # ticks a second
    start = content.index(b"elst") + 16  # after version, count and duration: where the film is entered
    content[start : start + 4] = (10 * scale // 25).to_bytes(4)
    path.write_bytes(content)
    times, pictures = read(path)
    np.testing.assert_allclose(times, np.arange(10) / 25, atol=1e-6)
    assert shown(pictures) == list(range(10, 20))
