"""The picture of a dive: a camera at the side of the pool, which does not move."""

from collections.abc import Iterator

import cv2
import numpy as np

from .performance import DURATION, GRAVITY, PLATFORM_HEIGHT, Dive
from .pose import body_points, step

HEIGHT = 8.2  # metres
LEFT, BOTTOM = -1.9, -0.8  # metres, the corner of the picture
ASPECT = 0.625  # width of the picture for its height
SHIFT = 4  # binary digits of a pixel's fraction in OpenCV's drawing
WALL, WATER, PLATFORM = (176, 190, 196), (46, 120, 168), (120, 116, 112)  # RGB
SKINS = ((236, 196, 168), (198, 150, 116), (150, 104, 76), (104, 70, 52))
SUITS = ((190, 30, 40), (24, 40, 120), (20, 20, 24), (40, 120, 60))
FOAM = (240, 246, 250)
DROPS = 130  # of the largest splash


def draw_frames(dive: Dive, generator: np.random.Generator, size: int, fps: int) -> Iterator[np.ndarray]:
    """Draw a recording: uint8 RGB (size, 0.625 size, 3), one picture at a time.

    Args:
        dive: what happens.
        generator: of the looks of pool and diver, of the drops and of the camera's noise.
        size: height in pixels.
        fps: pictures a second.
    """
    times = np.arange(round(DURATION * fps)) / fps
    points = body_points(dive, times)
    facing = points.pop("facing")[:, 0]
    pixels = {name: _to_pixels(values, size) for name, values in points.items()}
    pool = _draw_pool(generator, size)
    looks = SKINS[generator.integers(len(SKINS))], SUITS[generator.integers(len(SUITS))]
    hands = (points["left_hand"] + points["right_hand"]) / 2
    splash = _Splash(dive, float(np.interp(dive.entry, times, hands[:, 0])), generator)
    surface = round(float(_to_pixels(np.zeros((1, 2)), size)[0, 1]))
    noise = generator.normal(0, 2.0, (len(times), size, picture_width(size))).astype(np.int8)
    for index, time in enumerate(times):
        frame = pool.copy()
        _draw_platform(frame, dive, time)
        _draw_body(frame, {name: values[index] for name, values in pixels.items()}, facing[index], *looks)
        _cover_with_water(frame, pool, surface, time)
        splash.draw(frame, time)
        yield cv2.add(frame, cv2.merge([noise[index]] * 3), dtype=cv2.CV_8U)


def picture_width(size: int) -> int:
    """Width of a picture in pixels, even as H.264 wants it, for its height."""
    return 2 * round(size * ASPECT / 2)


def _to_pixels(points: np.ndarray, size: int) -> np.ndarray:
    """Metres (..., 2) -> pixels (..., 2), y down."""
    scaled = (points - (LEFT, BOTTOM)) / HEIGHT
    return np.stack([scaled[..., 0], 1 - scaled[..., 1]], axis=-1) * size


def _fixed(point: np.ndarray) -> tuple[int, int]:
    """A point for OpenCV's drawing with fractions of a pixel."""
    x, y = np.round(point * 2**SHIFT).astype(int).tolist()
    return x, y


def _draw_pool(generator: np.random.Generator, size: int) -> np.ndarray:
    """Wall, tower and water: what stands still."""
    light = generator.uniform(0.85, 1.1)
    texture = cv2.resize(generator.normal(0, 6, (16, 10)), (picture_width(size), size))[..., None]
    picture = np.clip(np.array(WALL) * light + texture, 0, 255)
    picture[:: size // 8] -= 14  # tiles
    picture[:, :: size // 8] -= 14
    surface = round(float(_to_pixels(np.zeros((1, 2)), size)[0, 1]))
    depth = np.linspace(1.0, 0.6, size - surface)[:, None, None]
    picture[surface:] = np.array(WATER) * light * depth + texture[surface:] / 2
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    corners = _to_pixels(np.array([[-1.7, 0.0], [-1.0, PLATFORM_HEIGHT - 0.3]]), size)
    cv2.rectangle(picture, *(_fixed(corner) for corner in corners), PLATFORM, -1, cv2.LINE_AA, SHIFT)
    return picture


def _draw_platform(frame: np.ndarray, dive: Dive, time: float) -> None:
    """The platform, whose end shakes after a noisy takeoff."""
    size, since = len(frame), time - dive.takeoff
    shake = 0.0
    if since > 0:
        shake = 0.22 * dive.severity("board_noise") * np.exp(-5 * since) * np.sin(2 * np.pi * 6 * since)
    root, end = (LEFT - 0.2, PLATFORM_HEIGHT - 0.15), (0.15, PLATFORM_HEIGHT - 0.15 - shake)
    line = [_fixed(point) for point in _to_pixels(np.array([root, end]), size)]
    cv2.line(frame, *line, PLATFORM, max(1, round(0.28 * size / HEIGHT)), cv2.LINE_AA, SHIFT)


def _draw_body(frame: np.ndarray, at: dict[str, np.ndarray], facing: float, skin: tuple, suit: tuple) -> None:
    """Limbs of the far side, trunk and head, limbs of the near side; the back is darker than the front."""
    scale = len(frame) / HEIGHT
    shade = 0.82 + 0.18 * facing

    def draw(color: tuple, width: float, *names: str) -> None:
        path = np.array([_fixed(at[name]) for name in names], dtype=np.int32)
        thickness = max(1, round(width * scale))
        cv2.polylines(frame, [path], False, [shade * value for value in color], thickness, cv2.LINE_AA, SHIFT)

    for side, color in (("left", tuple(0.75 * value for value in skin)), ("right", skin)):
        if side == "right":
            outline = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
            trunk = np.array([_fixed(at[name]) for name in outline], dtype=np.int32)
            cv2.fillPoly(frame, [trunk], [shade * value for value in skin], cv2.LINE_AA, SHIFT)
            draw(skin, 0.26, "shoulder", "hip")
            middle = {"waist": 0.6 * at["hip"] + 0.4 * at["shoulder"]}
            at = at | middle
            draw(suit, 0.28, "waist", "hip")
            cv2.circle(frame, _fixed(at["head"]), round(0.14 * scale * 2**SHIFT), skin, -1, cv2.LINE_AA, SHIFT)
        draw(color, 0.15, f"{side}_hip", f"{side}_knee", f"{side}_ankle", f"{side}_toe")
        draw(color, 0.1, f"{side}_shoulder", f"{side}_elbow", f"{side}_hand")


def _cover_with_water(frame: np.ndarray, pool: np.ndarray, surface: int, time: float) -> None:
    """What is under water is seen faintly; ripples move along the surface."""
    frame[surface:] = cv2.addWeighted(frame[surface:], 0.15, pool[surface:], 0.85, 0)
    columns = np.arange(frame.shape[1])
    ripples = np.sin(columns * (40 / frame.shape[1]) + 5 * time) + np.sin(columns * (71 / frame.shape[1]) - 7 * time)
    frame[surface : surface + 2] = np.clip(frame[surface : surface + 2] + 9 * ripples[None, :, None], 0, 255)


class _Splash:
    """Drops on parabolas from the place of the entry, above foam; a crooked body throws them to one side."""

    def __init__(self, dive: Dive, place: float, generator: np.random.Generator) -> None:
        self.place = place  # metres
        self.start, self.severity = dive.entry, dive.severity("splash")
        self.extent = 0.08 + 0.92 * self.severity
        side = dive.severity("crooked_entry") - dive.severity("under_rotation") + dive.severity("over_rotation")
        self.aside = 0.6 * side + (0.35 + 0.5 * self.extent) * generator.normal(size=DROPS)  # metres per second
        self.up = (1.2 + 5.3 * self.extent) * generator.uniform(0.3, 1.0, DROPS)
        self.delay = generator.uniform(0, 0.15, DROPS)
        self.radius = (0.04 + 0.05 * self.extent) * generator.uniform(0.5, 1.0, DROPS)
        self.thrown = np.arange(DROPS) < round(DROPS * self.extent)

    def draw(self, frame: np.ndarray, time: float) -> None:
        since = time - self.start
        if since < 0:
            return
        size, scale = len(frame), len(frame) / HEIGHT
        flown = since - self.delay
        height = self.up * flown - GRAVITY * flown**2 / 2
        in_air = self.thrown & (flown > 0) & (height > 0)
        drops = np.stack([self.place + self.aside * flown, height], axis=1)[in_air]
        for point, radius in zip(_to_pixels(drops, size), self.radius[in_air], strict=True):
            cv2.circle(frame, _fixed(point), round(radius * scale * 2**SHIFT), FOAM, -1, cv2.LINE_AA, SHIFT)
        width = (0.3 + 1.1 * self.extent) * float(step(np.array(since), 0, 0.25))
        fade = np.exp(-1.2 * since)
        centre = _fixed(_to_pixels(np.array([self.place, -0.05]), size))
        axes = _fixed(np.array([width, 0.06 + 0.12 * self.extent]) * scale)
        foam = frame.copy()
        cv2.ellipse(foam, centre, axes, 0, 0, 360, FOAM, -1, cv2.LINE_AA, SHIFT)
        cv2.addWeighted(foam, 0.8 * fade, frame, 1 - 0.8 * fade, 0, frame)
