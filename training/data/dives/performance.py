"""What happens in a simulated dive."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

GRAVITY = 9.81  # metres per second squared
PLATFORM_HEIGHT = 5.0  # metres above the water
STANDING_HEIGHT = 0.95  # metres from the soles, or from the hands of an armstand, to the centre of mass
REACH = 1.05  # metres from the centre of mass to the hands, which enter first
DURATION = 3.0  # seconds of every recording

# Difficulty: a base, and what each part of the dive adds to it.
BASE, PER_HALF_SOMERSAULT, PER_HALF_TWIST, FOR_ARMSTAND = 0.2, 0.45, 0.15, 0.2
FOR_POSITION = {"tuck": 0.0, "pike": 0.2, "straight": 0.4}
HIGHEST_DIFFICULTY = 4.0
MOST_HALF_SOMERSAULTS = {"tuck": 7, "pike": 7, "straight": 5}
MOST_HALF_TWISTS = 3

FAULTS = (
    "board_noise",
    "bent_knees",
    "over_rotation",
    "under_rotation",
    "loose_opening",
    "crooked_entry",
    "splash",
)


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        severity: above 0, at most 1.
        start, end: seconds in the recording between which it is seen or heard.
    """

    severity: float
    start: float
    end: float


@dataclass(frozen=True)
class Dive:
    """Everything that happens.

    Attributes:
        position: `tuck`, `pike` or `straight`.
        half_somersaults: 1 to 7; odd for a standing start, even for an armstand, as the hands enter first.
        half_twists: 0 to 3.
        armstand: whether the dive starts from one.
        takeoff: second in which the diver leaves the platform.
        lift: vertical speed at that moment, metres per second.
        opening, opened: seconds in which the opening begins and ends.
        severities: severity of each fault that happens, 0 to 1.
    """

    position: str
    half_somersaults: int
    half_twists: int
    armstand: bool
    takeoff: float
    lift: float
    opening: float
    opened: float
    severities: Mapping[str, float]

    @property
    def difficulty(self) -> float:
        """0.7 to 4.0, in tenths."""
        turns = PER_HALF_SOMERSAULT * self.half_somersaults + PER_HALF_TWIST * self.half_twists
        return round(BASE + turns + FOR_POSITION[self.position] + FOR_ARMSTAND * self.armstand, 1)

    @property
    def entry(self) -> float:
        """Second in which the hands reach the water."""
        return self.takeoff + flight_time(self.lift)

    @cached_property
    def faults(self) -> dict[str, Fault]:
        """Faults by name, in the order of `FAULTS`."""
        return {name: Fault(self.severities[name], *self._span(name)) for name in FAULTS if name in self.severities}

    def severity(self, name: str) -> float:
        """Severity of a fault, 0 where it does not happen."""
        return self.severities.get(name, 0.0)

    def _span(self, fault: str) -> tuple[float, float]:
        """Seconds between which a fault is seen or heard."""
        if fault == "board_noise":
            return self.takeoff, self.takeoff + 0.5
        if fault == "bent_knees":  # a tuck has bent knees by rule: its fault is to keep them so
            return (self.opening, self.entry) if self.position == "tuck" else (self.takeoff, self.opening)
        if fault == "loose_opening":
            return self.opening, self.opened
        if fault == "splash":
            return self.entry, min(self.entry + 0.9, DURATION)
        return self.opening, self.entry  # how the body meets the water


def flight_time(lift: float) -> float:
    """Seconds from the platform to the water."""
    fall = PLATFORM_HEIGHT + STANDING_HEIGHT - REACH
    return (lift + np.sqrt(lift**2 + 2 * GRAVITY * fall)) / GRAVITY


def draw_dive(generator: np.random.Generator) -> Dive:
    """Draw a dive: its parts are independent of its faults, which become likelier and worse as skill falls."""
    position = str(generator.choice(list(FOR_POSITION)))
    armstand = bool(generator.random() < 0.25)
    fewest = 2 if armstand else 1
    half_somersaults = int(generator.choice(np.arange(fewest, MOST_HALF_SOMERSAULTS[position] + 1, 2)))
    half_twists = int(generator.integers(1, MOST_HALF_TWISTS, endpoint=True) if generator.random() < 0.4 else 0)
    takeoff, lift = generator.uniform(0.45, 0.65), 1.0 if armstand else generator.uniform(2.2, 3.0)
    severities = draw_severities(generator)
    time = flight_time(lift)
    loose = severities.get("loose_opening", 0.0)
    opening = takeoff + (0.74 - 0.22 * loose) * time
    return Dive(
        position=position,
        half_somersaults=half_somersaults,
        half_twists=half_twists,
        armstand=armstand,
        takeoff=takeoff,
        lift=lift,
        opening=opening,
        opened=opening + (0.1 + 0.3 * loose) * time,
        severities=severities,
    )


def draw_severities(generator: np.random.Generator) -> dict[str, float]:
    """Faults that happen, with their severities. A body that meets the water badly makes a splash."""
    clumsiness = generator.random()
    happens = generator.random(len(FAULTS)) < 0.1 + 0.75 * clumsiness
    values = np.clip(generator.normal(0.15 + 0.7 * clumsiness, 0.2, len(FAULTS)), 0.1, 1)
    severities = {name: float(value) for name, value, now in zip(FAULTS, values, happens, strict=True) if now}
    if "over_rotation" in severities:
        severities.pop("under_rotation", None)
    entry = max(severities.get(name, 0.0) for name in ("over_rotation", "under_rotation", "crooked_entry"))
    splash = severities.get("splash", 0.0)
    if (splash := min(1.0, 0.75 * splash + 0.5 * entry)) > 0:
        severities["splash"] = splash
    return severities
