"""Optical flow as pictures, for encoders that were made for pictures."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np

from .recordings_limssr import import_media

FASTEST = 20  # pixels from one picture to the next that are white, or black in the other direction


def flow_pictures(pictures: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[float, np.ndarray]]:
    """
    Dense optical flow (DIS) between consecutive pictures, as is usual for two-stream networks: speed to the right,
    speed down, both with 128 for rest and +-20 pixels at the ends, and speed whatever its direction.

    Args:
        pictures: time and uint8 `(height, width)` of each.

    Yields:
        Time of the first picture of a pair, and uint8 `(height, width, 3)`; one less than there are pictures.
    """
    cv2 = import_media("cv2")
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for (time, before), (_, after) in pairwise(pictures):
        if before.shape != after.shape:  # a film may change its size
            continue
        with one_thread(cv2):
            flow = engine.calc(before, after, None)  # (height, width, 2)
        speed = np.hypot(flow[..., 0], flow[..., 1])[..., None]
        shown = np.concatenate([128 + flow * (127 / FASTEST), speed * (255 / FASTEST)], axis=-1)
        yield time, shown.clip(0, 255).astype(np.uint8)


@contextmanager
def one_thread(cv2) -> Iterator[None]:
    """Compute with one thread of OpenCV: the flow depends on their number."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
