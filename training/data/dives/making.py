"""A folder of simulated dives: recordings, labels, and the truth about each."""

import csv
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from tqdm.auto import tqdm

from .commentary import comment
from .judges import draw_marks, panel_score
from .performance import FAULTS, Dive, draw_dive
from .picture import draw_frames
from .recording import write_recording
from .sound import RATE, make_sound

# Share of the dives that lack each; a dive never lacks both picture and sound.
LACKING = {"picture": 0.1, "sound": 0.12, "commentary": 0.15}
ALONE = 64  # dives that one process makes; more are worth the start of others


def make_dives(folder: Path, counts: dict[str, int], seed: int, size: int, fps: int) -> None:
    """Write `recordings/<sample_id>.mp4`, `labels.csv` and `truth.csv`.

    Args:
        folder: empty folder.
        counts: number of dives of each split.
        seed: seed of all draws.
        size: height of the picture in pixels.
        fps: pictures a second.
    """
    (folder / "recordings").mkdir()
    splits = [split for split, count in counts.items() for _ in range(count)]
    dives = [(index, f"dive_{index:05d}", split) for index, split in enumerate(splits)]
    processes = 1 if len(dives) <= ALONE else joblib.cpu_count()
    tasks = (joblib.delayed(make_dive)(folder, seed, size, fps, *dive) for dive in dives)
    made = joblib.Parallel(processes, return_as="generator", batch_size=8)(tasks)
    rows = list(tqdm(made, "making dives", len(dives), unit="dive", disable=None))
    _write_csv(folder / "labels.csv", [label for label, _ in rows])
    _write_csv(folder / "truth.csv", [truth for _, truth in rows])


def make_dive(
    folder: Path, seed: int, size: int, fps: int, index: int, sample_id: str, split: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write a recording and return its rows of `labels.csv` and `truth.csv`; all depends on seed and index only."""
    seeds = np.random.SeedSequence((seed, index)).spawn(5)
    of_dive, of_picture, of_sound, of_words, of_judges = map(np.random.default_rng, seeds)
    dive = draw_dive(of_dive)
    lacks = _draw_lacking(of_words)
    frames = draw_frames(dive, of_picture, size, fps) if "picture" not in lacks else None
    sound = make_sound(dive, of_sound) if "sound" not in lacks else None
    write_recording(folder / "recordings" / f"{sample_id}.mp4", frames, fps, sound, RATE)
    marks = draw_marks(dive.severities, of_judges)[0]  # (judges,)
    text = comment(dive, of_words) if "commentary" not in lacks else ""
    label = {"sample_id": sample_id, "score": f"{panel_score(dive.difficulty, marks):.2f}", "split": split}
    return label | {"commentary": text}, {"sample_id": sample_id, "lacks": " ".join(lacks), **_truth(dive, marks)}


def _draw_lacking(generator: np.random.Generator) -> list[str]:
    chances = generator.random(len(LACKING))
    lacks = [name for (name, share), chance in zip(LACKING.items(), chances, strict=True) if chance < share]
    return [name for name in lacks if name != "sound" or "picture" not in lacks]


def _truth(dive: Dive, marks: np.ndarray) -> dict[str, Any]:
    """What happened, in columns of numbers; severities are 0 and times empty for faults that did not happen."""
    truth = {name: getattr(dive, name) for name in ("position", "half_somersaults", "half_twists", "difficulty")}
    truth |= {"armstand": int(dive.armstand), "takeoff": f"{dive.takeoff:.3f}", "entry": f"{dive.entry:.3f}"}
    truth |= {f"mark_{judge}": mark for judge, mark in enumerate(marks.tolist(), 1)}
    for name in FAULTS:
        fault = dive.faults.get(name)
        truth[name] = f"{dive.severity(name):.3f}"
        truth[f"{name}_start"], truth[f"{name}_end"] = (
            (f"{fault.start:.3f}", f"{fault.end:.3f}") if fault else ("", "")
        )
    return truth


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
