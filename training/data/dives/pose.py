"""How the body of a diver moves: its points in the picture plane over time."""

import numpy as np

from .performance import GRAVITY, PLATFORM_HEIGHT, STANDING_HEIGHT, Dive

TORSO, NECK, UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.55, 0.18, 0.3, 0.32, 0.45, 0.45, 0.14  # metres
HALF_SHOULDERS, HALF_HIPS = 0.2, 0.12
# Angles in radians of hip, knee, shoulder (0: arms beside the body) and elbow (negative: towards the front).
SHAPES = {
    "tuck": (2.2, 2.3, 1.0, -0.9),
    "pike": (2.1, 0.0, 1.75, 0.0),
    "straight": (0.0, 0.0, 0.35, -1.2),
}
STRETCHED = (0.0, 0.0, np.pi, 0.0)
# Speed of rotation in the shape beside that of the stretched body: a smaller body turns faster.
SPEED_UP = {"tuck": 3.0, "pike": 2.3, "straight": 1.0}
LIFT_PHASE = 0.1  # seconds from the platform to the shape
WRONG_ROTATION = 0.8  # radians too far, or too short, in the worst case
SPREAD = 0.75  # radians of each leg and arm to its side in the worst crooked entry
POINTS = ("hip", "shoulder", "head", "elbow", "hand", "knee", "ankle", "toe")  # all but the first three on both sides


def step(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """0 before `start`, 1 after `end`, smooth between."""
    share = np.clip((times - start) / max(end - start, 1e-6), 0, 1)
    return share * share * (3 - 2 * share)


def body_points(dive: Dive, times: np.ndarray) -> dict[str, np.ndarray]:
    """Points of the body at some times, in metres from the foot of the platform's edge, y up from the water.

    Args:
        dive: what happens.
        times: seconds in the recording, (frames,).

    Returns:
        `hip`, `shoulder`, `head`, and for each side `left_` and `right_` of the body `shoulder`, `elbow`, `hand`,
        `hip`, `knee`, `ankle`, `toe`: (frames, 2). `facing` is (frames, 1), 1 for a side view, 0 for front or back.
    """
    hip_angle, knee_angle, shoulder_angle, elbow_angle, spread = joint_angles(dive, times)
    tilt, twist = rotation(dive, times), twisting(dive, times)
    up = np.stack([np.sin(tilt), np.cos(tilt)], axis=1)  # (frames, 2), from the hips to the head
    front = np.stack([np.cos(tilt), -np.sin(tilt)], axis=1)
    facing, sideways = np.cos(twist)[:, None], -np.sin(twist)[:, None]

    def place(along: np.ndarray, forward: np.ndarray, aside: np.ndarray) -> np.ndarray:
        """Vectors of the body in the picture plane."""
        return along[:, None] * up + (forward[:, None] * facing + aside[:, None] * sideways) * front

    def limb(angle: np.ndarray, length: float, side: float, from_below: bool) -> np.ndarray:
        """A part at an angle from hanging straight down, or from standing up, towards the front, and to its side."""
        flat, out = length * np.cos(spread), length * np.sin(spread) * side
        return place((1 if from_below else -1) * flat * np.cos(angle), flat * np.sin(angle), out)

    zero = np.zeros(len(times))
    points = {"hip": np.zeros((len(times), 2)), "shoulder": place(zero + TORSO, zero, zero)}
    points["head"] = points["shoulder"] + place(zero + NECK, zero + 0.03, zero)
    # Where the body is seen from the side, spread limbs are still seen a little, as cameras never look along an axis.
    for name, side in (("left", -1.0), ("right", 1.0)):
        skew = side * 0.8 * spread
        shoulder = points["shoulder"] + place(zero, zero, zero + side * HALF_SHOULDERS)
        elbow = shoulder + limb(shoulder_angle + skew, UPPER_ARM, side, from_below=False)
        hand = elbow + limb(shoulder_angle + elbow_angle + skew, FOREARM, side, from_below=False)
        hip = place(zero, zero, zero + side * HALF_HIPS)
        knee = hip + limb(hip_angle + skew, THIGH, side, from_below=False)
        ankle = knee + limb(hip_angle - knee_angle + skew, SHIN, side, from_below=False)
        toe = ankle + limb(hip_angle - knee_angle + skew, FOOT, side, from_below=False)
        joints = {"shoulder": shoulder, "elbow": elbow, "hand": hand, "hip": hip, "knee": knee, "ankle": ankle}
        points |= {f"{name}_{joint}": position for joint, position in {**joints, "toe": toe}.items()}
    shift = centre_of_mass(dive, times) - _centre(points)
    points = {name: position + shift for name, position in points.items()}
    return points | {"facing": facing}


def _centre(points: dict[str, np.ndarray]) -> np.ndarray:
    """Centre of mass: the trunk with half of the weight, the legs with a third, arms and head with the rest."""
    trunk = (points["hip"] + points["shoulder"]) / 2
    legs = sum(points[f"{side}_{joint}"] for side in ("left", "right") for joint in ("hip", "knee", "ankle")) / 6
    arms = sum(points[f"{side}_elbow"] for side in ("left", "right")) / 2
    return 0.5 * trunk + 0.33 * legs + 0.1 * arms + 0.07 * points["head"]


def centre_of_mass(dive: Dive, times: np.ndarray) -> np.ndarray:
    """On the platform, then along a parabola, then braked by the water: (frames, 2) in metres."""
    flight = np.clip(times, dive.takeoff, dive.entry) - dive.takeoff
    height = PLATFORM_HEIGHT + STANDING_HEIGHT + dive.lift * flight - GRAVITY * flight**2 / 2
    sinking = 2.6 * (1 - np.exp(-3.8 * np.maximum(times - dive.entry, 0)))
    return np.stack([-0.15 + 1.15 * flight, height - sinking], axis=1)


def shape_share(dive: Dive, times: np.ndarray) -> np.ndarray:
    """How far the body is in the shape of its position, 0 to 1; a loose opening leaves it early and slowly."""
    return step(times, dive.takeoff + 0.02, dive.takeoff + LIFT_PHASE + 0.1) - step(times, dive.opening, dive.opened)


def rotation(dive: Dive, times: np.ndarray) -> np.ndarray:
    """Tilt of the body in radians: 0 stands upright, pi is head down."""
    wrong = WRONG_ROTATION * (dive.severity("over_rotation") - dive.severity("under_rotation"))
    total = np.pi * dive.half_somersaults + wrong
    grid = np.linspace(dive.takeoff, dive.entry, 200)
    speed = 1 + (SPEED_UP[dive.position] - 1) * shape_share(dive, grid)
    turned = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2)])
    return np.pi * dive.armstand + total * np.interp(times, grid, turned / turned[-1])


def twisting(dive: Dive, times: np.ndarray) -> np.ndarray:
    """Twist about the body's own axis in radians."""
    return np.pi * dive.half_twists * step(times, dive.takeoff + LIFT_PHASE, dive.opening)


def joint_angles(dive: Dive, times: np.ndarray) -> list[np.ndarray]:
    """Angles of hip, knee, shoulder and elbow and the spread of the limbs, (frames,) each, in radians."""
    share = shape_share(dive, times)
    start = STRETCHED if dive.armstand else (0.0, 0.0, 0.2, 0.0)
    begun = step(times, dive.takeoff - 0.15, dive.takeoff + 0.02)  # arms swing up before the diver leaves
    angles = []
    for shape, first, last in zip(SHAPES[dive.position], start, STRETCHED, strict=True):
        stretched = first + (last - first) * begun
        angles.append(stretched + (shape - stretched) * share)
    crouch = 0 if dive.armstand else step(times, dive.takeoff - 0.4, dive.takeoff - 0.2) * (1 - begun)
    angles[0], angles[1] = angles[0] + 0.7 * crouch, angles[1] + 1.2 * crouch
    if bent := dive.faults.get("bent_knees"):
        angles[1] = angles[1] + 2.0 * bent.severity * _bump(times, bent.start, bent.end)
        angles[0] = angles[0] + 0.5 * bent.severity * _bump(times, bent.start, bent.end)
    crooked = SPREAD * dive.severity("crooked_entry") * step(times, dive.opening, dive.opened)
    return [*angles, crooked]


def _bump(times: np.ndarray, start: float, end: float) -> np.ndarray:
    """1 between two times, 0 outside, with smooth borders."""
    return step(times, start, start + 0.12) - step(times, end - 0.02, end + 0.1)
