"""Times that can be compared: everybody takes turns in one process, several rounds."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Spread:
    """Median and range of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Rounds:
    """
    Attributes:
        seconds: of everybody, one value a round.
    """

    seconds: dict[str, list[float]]

    def time(self, name: str) -> Spread:
        """Seconds of one call."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, other: str) -> Spread:
        """How many times as long as the other it took, round by round: what slows the machine slows both."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return Spread.of([own / its for own, its in pairs])

    def times(self) -> dict[str, dict[str, float]]:
        return {name: self.time(name).to_dict() for name in self.seconds}


def take_turns(calls: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> Rounds:
    """
    Args:
        calls: what to measure, by name.
        repeats: rounds, after one that is not measured.
        device: waited for after each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            synchronize(device)
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
    return Rounds(seconds)


def synchronize(device: str) -> None:
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()
