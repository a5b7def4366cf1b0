"""Pictures: decoded frames, upright, scaled and cropped, as arrays."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .recordings_limssr import import_media


@dataclass(frozen=True)
class Geometry:
    """
    How a picture becomes an array. Rotation and pixels that are not square are undone first.

    Args:
        short_side (`int`, *optional*): scale the picture so that its shorter side has as many pixels.
        crop (`(height, width)`, *optional*): cut out the centre.
        size (`(height, width)`, *optional*): scale what is left to this size.
        colour (`"rgb24"` or `"gray"`): three channels or one.
    """

    short_side: int | None = None
    crop: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    colour: Literal["rgb24", "gray"] = "rgb24"


class PictureMaker:
    """Turns frames of PyAV into arrays; a frame that is shown twice is converted once."""

    def __init__(self, geometry: Geometry):
        self.geometry = geometry
        self.reformatter = import_media("av.video.reformatter").VideoReformatter()
        self.last = (None, None)
        self.kind = self.plan = None

    def __call__(self, shown: tuple) -> np.ndarray:
        """Array of a frame with the aspect of its pixels."""
        if self.last[0] is not shown:
            self.last = shown, self._convert(*shown)
        return self.last[1]

    def _convert(self, frame, pixel_aspect: float) -> np.ndarray:
        geometry = self.geometry
        kind = (frame.format.name, frame.width, frame.height, frame.rotation, pixel_aspect)
        if kind != self.kind:
            turns = round(frame.rotation / 90) % 4
            has_alpha = any(component.is_alpha for component in frame.format.components)
            self.kind, self.plan = kind, (turns, has_alpha, *self._scaled_size(frame, pixel_aspect, turns))
        turns, has_alpha, width, height = self.plan
        if frame.interlaced_frame:
            frame = _one_field(frame)
        colour = "rgba" if has_alpha else geometry.colour
        scaled = self.reformatter.reformat(frame, width, height, colour, interpolation="AREA", threads=1)
        array = scaled.to_ndarray()
        if has_alpha:
            array = _on_black(array, geometry.colour)
        if turns:
            array = np.rot90(array, turns)
        if geometry.crop is not None:
            array = _crop_centre(array, *geometry.crop)
        if geometry.size is not None and array.shape[:2] != tuple(geometry.size):
            cut = import_media("av").VideoFrame.from_ndarray(np.ascontiguousarray(array), format=geometry.colour)
            height, width = geometry.size
            array = self.reformatter.reformat(cut, width, height, interpolation="AREA", threads=1).to_ndarray()
        return np.ascontiguousarray(array)

    def _scaled_size(self, frame, pixel_aspect: float, turns: int) -> tuple[int, int]:
        """Width and height to scale to, before the picture is turned upright."""
        geometry = self.geometry
        if geometry.size is not None and geometry.crop is None and geometry.short_side is None:
            height, width = geometry.size
            return (height, width) if turns % 2 else (width, height)
        width, height = frame.width * pixel_aspect, frame.height
        scale = 1.0 if geometry.short_side is None else geometry.short_side / min(width, height)
        return max(round(width * scale), 1), max(round(height * scale), 1)


def _one_field(frame):
    """Every second line of an interlaced frame: the others show another moment."""
    av = import_media("av")
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or 1
    )
    field, sink = graph.add("field", "top"), graph.add("buffersink")
    source.link_to(field)
    field.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def _on_black(array: np.ndarray, colour: str) -> np.ndarray:
    """`(height, width, 4)` with transparency -> the picture on a black ground."""
    opaque = (array[..., :3] * (array[..., 3:] / 255.0)).round()  # (height, width, 3)
    return (opaque if colour == "rgb24" else opaque @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)


def _crop_centre(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """The centre of a picture; what is smaller than the crop stays."""
    top, left = max(array.shape[0] - height, 0) // 2, max(array.shape[1] - width, 0) // 2
    return array[top : top + height, left : left + width]
