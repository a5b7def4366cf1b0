"""What a commentator says about a dive, who does not see everything and is not always right."""

import numpy as np

from .judges import DEDUCTIONS
from .performance import FAULTS, Dive

NUMBERS = {2: "one", 4: "two", 6: "three"}
TWISTS = {1: "half a twist", 2: "a full twist", 3: "one and a half twists"}
REMARKS = {
    "board_noise": ("noisy off the platform", "you could hear the platform on the takeoff"),
    "bent_knees": ("the knees are bent", "she lets the knees go"),
    "over_rotation": ("that goes over", "past the vertical"),
    "under_rotation": ("short of vertical", "she does not get it round"),
    "loose_opening": ("a loose opening", "slow to come out of it"),
    "crooked_entry": ("a crooked entry", "the legs come apart at the water"),
    "splash": ("a big splash", "a lot of water"),
}
PRAISE = ("beautifully done", "hardly a ripple", "very clean", "that will score well")
MENTIONED = 0.7  # share of the worst faults that are mentioned; milder ones less often
INVENTED = 0.04  # of each fault that did not happen
WRONG_NAME = 0.05  # of all dives


def comment(dive: Dive, generator: np.random.Generator) -> str:
    """One or two sentences: the name of the dive, and one or two remarks on how it went."""
    name = dive_name(dive, generator.random() < WRONG_NAME)
    chances = [MENTIONED * dive.severity(fault) or INVENTED for fault in FAULTS]
    mentioned = [fault for fault, chance in zip(FAULTS, chances, strict=True) if generator.random() < chance]
    mentioned = sorted(mentioned, key=lambda fault: -dive.severity(fault) * DEDUCTIONS[fault])[:2]
    remarks = [str(generator.choice(REMARKS[fault])) for fault in mentioned]
    if not remarks and generator.random() < 0.6:
        remarks = [str(generator.choice(PRAISE))]
    second = " and ".join(remarks)
    return f"{name}. {second[0].upper()}{second[1:]}." if second else f"{name}."


def dive_name(dive: Dive, wrong: bool = False) -> str:
    """Such as `Armstand two somersaults with half a twist, pike`; if `wrong`, with another number of somersaults."""
    halves = dive.half_somersaults + (2 if wrong else 0)
    whole = halves - halves % 2
    count = NUMBERS.get(whole, "four") if whole else ""
    turns = (f"{count} and a half somersaults" if whole else "half a somersault") if halves % 2 else None
    turns = turns or f"{count} somersault{'s' if whole > 2 else ''}"
    start = "armstand " if dive.armstand else ""
    twists = f" with {TWISTS[dive.half_twists]}" if dive.half_twists else ""
    name = f"{start}{turns}{twists}, {dive.position}"
    return name[0].upper() + name[1:]
