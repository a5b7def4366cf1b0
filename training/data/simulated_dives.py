"""Simulated dives: real recordings of performances of which everything is known."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...configuration.configuration_limssr import TEXT
from ...processing.recipes_limssr import Recipe
from ..utils.files import read_json, scratch_folder, write_json
from .aqa_data import AqaData
from .dives.judges import HIGHEST_SCORE, best_attainable
from .extract import extract_features, join_material
from .file_dataset import FileDataset, build_label_splits
from .masks import all_subsets
from .sources.files import FeatureSource, FileSource
from .sources.labels import LabelError, Labels, read_csv, read_label_csv
from .sources.recordings import RECORDINGS, find_recordings, read_texts

TRUTH_TEXTS = ("position", "lacks")
COMMENTARY = "commentary"
MAX_CLIPS = 32  # of a modality; no dive has as many
FEW = 64  # recordings that one process reads
MADE_WITH = ("samples_train", "samples_test", "seed", "size", "fps")  # options that say how dives are made
RECORD_FILE = "dives.json"  # how the dives of a folder were made
VERSION = 1  # of the simulation; a change of what is drawn changes it


@dataclass
class SimulatedDives(FileDataset):
    """Dives drawn by a simulation: recordings with picture and sound, and what a commentator says.

    The folder is made when it is not there yet. A dive takes 0.06 s of one core, and 0.02 s for its features:

        folder/
            recordings/<sample_id>.mp4      3 s, H.264 picture and AAC sound
            labels.csv                      sample_id,score,split,commentary
            truth.csv                       what happened, see below
            dives.json                      the options
            features/<recipe>/              clips of the recordings, as `limssr extract` makes them

    A diver leaves a platform of 5 m in one of three positions, standing or from an armstand, turns half somersaults
    and half twists, opens and enters the water head first. Difficulty is 0.7 to 4.0 and grows with each of these.
    Faults become likelier and worse as the diver's skill falls. Each has a severity, its place in time, and signs:

        fault             deduction  when                            seen                   heard
        board_noise             0.8  0.5 s after the takeoff         platform shakes        a rattle
        bent_knees              1.2  in the air; tuck: when open     knees
        over_rotation           3.0  from the opening to the entry   beyond the vertical
        under_rotation          3.0  from the opening to the entry   short of the vertical
        loose_opening           1.0  opening                         early and slow
        crooked_entry           2.0  from the opening to the entry   limbs apart
        splash                  4.5  0.9 s from the entry            drops and foam         loud and long hiss

    The deduction is that of the worst form, in points; a body that meets the water badly makes a splash. Each of five
    judges begins with 10, takes off deduction times severity times exp(0.4 N(0, 1)) for every fault, adds 0.8 N(0, 1),
    and rounds to half points. The score is the difficulty times the sum of the three middle marks, 0 to 120: a
    product, which no linear model can follow (Spearman .96 at best). The commentator names the dive (5 % wrong) and
    up to two faults, which happened in most cases. A tenth of the recordings have no picture, 11 % no sound, 15 % no
    commentary.

    The best attainable prediction knows difficulty and faults: it is the mean score over all panels of such judges. By
    Monte Carlo it has a Spearman correlation of .983 and an MSE of 17.9 (judges' units), beside 763 for the mean of
    all scores. It is the same for every mask, and out of reach where a mask hides what happened.

    The truth is in further columns, which are no features: position, half somersaults and twists, armstand,
    difficulty, `takeoff` and `entry` in seconds, `mark_1` to `mark_5`, the severity of each fault (0: it did not
    happen), `<fault>_start` and `<fault>_end` in seconds, and what the dive `lacks`.

    The same options give the same labels, truth, pictures and sound, bit by bit before they are encoded, with the same
    versions of NumPy and OpenCV, and the same files with the same version of PyAV. A dive depends on seed and number
    alone, not on how many there are.

    Args:
        folder: folder as above. Dives of other options in it are an error.
        samples_train: number of training dives.
        samples_test: number of test dives.
        seed: seed of all draws.
        size: height of the picture in pixels, even; its width is five eighths of that.
        fps: pictures a second.
        recipe: name or JSON file of the recipe for the features, which are kept in the folder. The language model
            reads the commentary where the recipe, unlike `classic_text`, makes nothing of it.
    """

    folder: str | Path
    samples_train: int = 700
    samples_test: int = 300
    seed: int = 0
    size: int = 128
    fps: int = 25
    recipe: str | Path = "classic"

    name: ClassVar = "simulated_dives"

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self._recipe = Recipe.load(self.recipe)
        lowest = {"samples_train": 1, "samples_test": 1, "seed": 0, "size": 32, "fps": 5}
        for option, least in lowest.items():
            if (value := getattr(self, option)) < least:
                raise ValueError(f"simulated_dives: {option} is {value}, expected {least} or more")
        if self.size % 2:
            raise ValueError(f"simulated_dives: size is {self.size}, expected an even number of pixels")

    def make(self) -> None:
        """Make the folder unless it is there.

        Raises:
            ValueError: the folder holds something else, or PyAV or OpenCV is not installed.
        """
        options = {name: getattr(self, name) for name in MADE_WITH} | {"version": VERSION}
        if self.folder.exists() and any(self.folder.iterdir()):
            self._check_record(options)
            return
        try:
            from .dives.making import make_dives
        except ImportError as error:
            raise ValueError(
                f"simulated_dives: {error.name} is not installed, and recordings need it: pip install limssr[media]"
            ) from error
        counts = {"train": self.samples_train, "test": self.samples_test}
        with scratch_folder(self.folder.resolve()) as scratch:
            made = scratch / "made"
            made.mkdir()
            make_dives(made, counts, self.seed, self.size, self.fps)
            write_json(made / RECORD_FILE, options)
            made.rename(self.folder.resolve())

    def _check_record(self, options: dict) -> None:
        """Raise ValueError unless the folder holds dives of these options."""
        path = self.folder / RECORD_FILE
        found = read_json(path) if path.is_file() else None
        if found != options:
            held = (
                "no simulated dives" if found is None else f"dives of other options ({_differences(found, options)})"
            )
            raise ValueError(f"simulated_dives: {self.folder} holds {held}; name another folder or remove it")

    def read_labels(self) -> AqaData:
        self.make()
        labels = self._read_csv()
        modalities = {**self._recipe.feature_sizes}
        modalities.setdefault(COMMENTARY, TEXT)
        if modalities[COMMENTARY] != TEXT:  # it becomes features
            for table in labels.values():
                del table.texts[COMMENTARY]
        return AqaData(
            splits=build_label_splits(labels, ["score"]),
            modalities=modalities,
            score_names=["score"],
            score_minimums=[0.0],
            score_ranges=[HIGHEST_SCORE],
            max_clips=MAX_CLIPS,
            description=f"simulated dives, seed {self.seed}, features of the recipe {self._recipe.name}",
            best_attainable=dict.fromkeys(all_subsets(len(modalities)), best_attainable()),
            recipe=self._recipe.to_dict(),
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        """Features beside the recordings, which are extracted if they are not there."""
        place = self.folder / "features" / self._recipe.name
        texts = read_texts(self.folder / "labels.csv", self._recipe.written)
        samples = join_material(find_recordings(self.folder / RECORDINGS), texts)
        workers = 1 if len(samples) <= FEW else None  # more are worth the start of other processes
        failed = extract_features(samples, place, self._recipe, workers)
        if failed:
            raise ValueError(f"simulated_dives: {failed[0].error}; remove {self.folder} to make the dives again")
        digest = self._recipe.digest
        return {
            name: FileSource(place / name, size, recipe_digest=digest)
            for name, size in self._recipe.feature_sizes.items()
        }

    def _read_csv(self) -> dict[str, Labels]:
        """Labels of each split with the truth beside them."""
        labels = read_label_csv(self.folder / "labels.csv", ["score"], ["split", "commentary"])
        header, _ = read_csv(self.folder / "truth.csv")
        numbers = [name for name in header if name not in ("sample_id", *TRUTH_TEXTS)]
        truth = read_label_csv(self.folder / "truth.csv", numbers, TRUTH_TEXTS)
        if truth.sample_ids != labels.sample_ids:
            raise LabelError(f"{truth.path} and {labels.path.name} differ in their samples; make the dives again")
        labels.columns |= truth.columns
        labels.texts |= truth.texts
        split = labels.texts.pop("split")
        rows = {name: [row for row, value in enumerate(split) if value == name] for name in ("train", "test")}
        return {name: labels.select(chosen) for name, chosen in rows.items()}


def _differences(found: dict, options: dict) -> str:
    """Options that differ, with both values."""
    names = [name for name in {**options, **found} if found.get(name) != options.get(name)]
    return ", ".join(f"{name} {found.get(name)}, asked for: {options.get(name)}" for name in names)
