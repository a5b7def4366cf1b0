"""Time and memory of inference and of a training step, beside the bare language model and the naive way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .contestants import make_contestant
from .memory import measure_peak
from .timing import Rounds, Spread, take_turns
from .tokens import positions_read
from .workload import Settings, build_model, build_processor, draw_features, draw_shown, make_batch

MISSING_RATE = 0.3
BATCHES_WITH_MISSING = 2
CONTESTANTS = ("bare", "limssr", "shared", "naive")


@dataclass(frozen=True)
class ActionCost:
    """Of `infer` or `train`.

    Attributes:
        rounds: seconds of `CONTESTANTS`.
        peaks: bytes of each at most.
        tokens: positions that run through the language model, of `limssr` and of `shared`.
    """

    rounds: Rounds
    peaks: dict[str, int]
    tokens: dict[str, int]

    def to_dict(self) -> dict:
        ratios = {name: self.rounds.ratio(name, "bare").to_dict() for name in CONTESTANTS[1:]}
        memory = {name: self.peaks[name] / self.peaks["bare"] for name in CONTESTANTS[1:]}
        return {
            "ratio": ratios["limssr"]["median"],
            "memory_ratio": memory["limssr"],
            "shared_prefix_ratio": ratios["shared"]["median"],
            "shared_prefix_token_ratio": self.tokens["shared"] / self.tokens["limssr"],
            "shared_prefix_memory_ratio": memory["shared"],
            "speedup_over_naive": self.rounds.ratio("naive", "shared").median,
            "ratios_over_bare": ratios,
            "seconds": self.rounds.times(),
            "peak_bytes": self.peaks,
            "tokens": self.tokens,
        }


def measure_action(action: str, folder: Path, settings: Settings) -> ActionCost:
    """
    Args:
        action: `infer` or `train`.
        folder: the saved language model.
        settings: batch size, clips, rounds and device.
    """
    rounds, tokens = measure_times(action, folder, settings)
    peaks = {name: measure_peak(folder, name, action, settings) for name in CONTESTANTS}
    return ActionCost(rounds, peaks, tokens)


def measure_times(action: str, folder: Path, settings: Settings) -> tuple[Rounds, dict[str, int]]:
    """Seconds of everybody, and the positions that the language model reads of `limssr` and of `shared`."""
    model, naive = build_model(folder, settings.device), build_model(folder, settings.device)
    processor = build_processor(folder, model.config)
    batch = make_batch(processor, draw_features(settings.batch_size, settings.clips), settings.device)
    # The naive one trains more weights, so it has its own.
    contestants = {name: make_contestant(name, naive if name == "naive" else model) for name in CONTESTANTS}
    for one in (model, naive):
        one.train(action == "train")
    calls = {name: partial(getattr(contestant, action), batch) for name, contestant in contestants.items()}
    rounds = take_turns(calls, settings.repeats, settings.device)
    tokens = {}
    for name in ("limssr", "shared"):
        with positions_read(model) as counted:
            calls[name]()
        tokens[name] = sum(counted)
    return rounds, tokens


def measure_training_with_missing(folder: Path, settings: Settings) -> Spread:
    """The speed-up of training over the naive way when 30 % of each modality is missing, over some batches: here every
    sample has its own mask, short placeholders and batch mates of its length, as with `group_by_length`; the naive way
    has one mask for a batch and a placeholder for every clip."""
    shown = sorted(draw_shown(MISSING_RATE, BATCHES_WITH_MISSING * settings.batch_size), key=len)
    batches = [shown[start : start + settings.batch_size] for start in range(0, len(shown), settings.batch_size)]

    def trainer_of(name: str, missing_length: int | str, batches: list[list[set[str]]]) -> Callable[[], None]:
        model = build_model(folder, settings.device).train()
        processor = build_processor(folder, model.config, missing_length)
        drawn = [draw_features(settings.batch_size, settings.clips, shown=batch) for batch in batches]
        inputs = [make_batch(processor, features, settings.device) for features in drawn]
        contestant = make_contestant(name, model)

        def train() -> None:
            for batch in inputs:
                contestant.train(batch)

        return train

    one_mask = [[batch[-1]] * settings.batch_size for batch in batches]
    calls = {"shared": trainer_of("shared", 1, batches), "naive": trainer_of("naive", "match", one_mask)}
    return take_turns(calls, settings.repeats, settings.device).ratio("naive", "shared")


def measure_missing(folder: Path, settings: Settings) -> dict[str, Spread]:
    """How many times as fast as complete samples those are that lack two of three modalities, with the prefix shared:
    `short`, with one placeholder each, and `match`, with as many as there are clips."""
    model = build_model(folder, settings.device).eval()
    runner = make_contestant("shared", model)

    def call(missing_length: int | str, shown: list[set[str]] | None) -> Callable[[], None]:
        processor = build_processor(folder, model.config, missing_length)
        features = draw_features(settings.batch_size, settings.clips, shown=shown)
        return partial(runner.infer, make_batch(processor, features, settings.device))

    video_alone = [{"video"}] * settings.batch_size
    calls = {"complete": call("match", None), "short": call(1, video_alone), "match": call("match", video_alone)}
    rounds = take_turns(calls, settings.repeats, settings.device)
    return {name: rounds.ratio("complete", name) for name in ("short", "match")}
