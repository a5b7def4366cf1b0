"""A strip of pictures of a recording, at regular times."""

import base64
import io
from itertools import islice

import numpy as np

from ...processing.decoding_limssr import read_pictures
from ...processing.pictures_limssr import Geometry
from ...processing.recordings_limssr import MissingStreamError, Recording

UPRIGHT, WIDE = 12, 7  # pictures of a strip, by their form
SHORT_SIDE = 120  # pixels


def read_strip(recording: Recording, start: float, end: float) -> list[np.ndarray]:
    """
    Pictures of a part of a recording, each from the middle of its share of the time.

    Args:
        recording: the recording.
        start: second on the clock of the file.
        end: the same.

    Returns:
        uint8 (height, width, 3) each; none where the recording has no picture.

    Raises:
        RecordingError: the recording cannot be read.
    """
    geometry = Geometry(short_side=SHORT_SIDE)
    try:
        _, first = next(read_pictures(Recording(recording.path, start, recording.end), geometry, rate=1))
    except MissingStreamError:
        return []
    count = UPRIGHT if first.shape[0] > first.shape[1] else WIDE
    step = (end - start) / count
    timed = read_pictures(Recording(recording.path, start + step / 2, recording.end), geometry, rate=1 / step)
    pictures = [picture for _, picture in islice(timed, count)]
    return pictures + pictures[-1:] * (count - len(pictures))  # where the picture ends before the sound


def as_jpeg(picture: np.ndarray) -> str:
    """Data URI of a picture, uint8 (height, width, 3)."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
