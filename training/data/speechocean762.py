"""speechocean762: 5,000 English sentences read by 250 learners, with experts' scores."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from ...configuration.configuration_limssr import TEXT
from ..utils.files import read_json
from .aqa_data import AqaData, feature_column
from .file_dataset import (
    FileDataset,
    build_label_splits,
    check_made_by,
    choose_modalities,
    choose_scores,
    find_recipe,
)
from .sources.archives import ArchiveSource
from .sources.files import SUFFIXES, FeatureSource, FileSource, read_start
from .sources.labels import LabelError, Labels, check_range, check_repeated, parse_number, read_label_csv
from .sources.text import embed_texts
from .sources.walk import walk_files

logger = logging.getLogger(__name__)

SCORES = ("total", "accuracy", "fluency", "prosodic", "completeness")
HIGHEST = 10.0  # of each score; the lowest is 0
SPLITS = ("train", "test")
OFFICIAL_COUNT = 2500  # of each split
# Modality -> feature size, and where its features are looked for: archives, then a folder of files.
FEATURE_SIZES = {"audio": 384, "voice": 25}
PLACES = {
    "audio": ("features_whisper.npz", "features/audio.npz", "audio"),
    "voice": ("features_egemaps.npz", "features/voice.npz", "voice"),
}
HUB_COLUMNS = (*SCORES, "text", "speaker", "gender", "age")


@dataclass
class SpeechOcean762(FileDataset):
    """speechocean762: 250 speakers whose first language is Mandarin, half of them children, scored by five experts.

    The labels lie in one of three layouts, and the features beside them:

        speechocean762/
            train/ and test/                wav.scp, text, spk2utt, spk2age, spk2gender, as published (Kaldi)
            resource/scores.json            with scores-detail.json, where it is there, for the experts' deviation
          or
            train/ and test/                `load_dataset("mispeech/speechocean762").save_to_disk(folder)`
            data/<split>-*.parquet          or the files of that repository
          or
            labels.csv                      sample_id,split,speaker,age,gender,text, each score, each <score>_experts

            features_whisper.npz            `audio`: Whisper tiny.en encoder states, 384, 5 clips a second; or
                                            features/audio.npz, or audio/<sample_id>.npy
            features_egemaps.npz            `voice`: eGeMAPS low-level descriptors, 25, 5 clips a second; or
                                            features/voice.npz, or voice/<sample_id>.npy

    `limssr extract speechocean762/audio FEATURES --recipe speech` makes clips of the recordings themselves, for
    `features={audio: FEATURES/audio}`; a model of these scores recordings.

    An archive is as `sources.archives.read_archive` says, with the clips in `x`; it may leave out `sample_id` if its
    order is that of labels.csv. The id of a sample is that of the utterance, such as `000010011`.

    Scores: `total`, `accuracy`, `fluency`, `prosodic` and `completeness`, 0 to 10. Modalities: `audio` and `voice`,
    where their features are there, and `text`, the sentence in lower case, which the language model reads. With
    `text_encoder` it is embedded, and the sentence is the column `sentence`. Further columns: `speaker`, `gender`,
    `age`, the scores that are not chosen and, where the experts' scores are there, `<score>_deviation`, their standard
    deviation (divided by their number, not by one less). The split is the official one, in which no speaker is in both
    parts; validation holds back speakers, too. labels.csv has the mean scores of the first release, the other layouts
    the scores of their release.

    Source: https://github.com/jimbozhang/speechocean762, free for commercial and non-commercial use (Hub: Apache-2.0).
    Zhang et al., "speechocean762: an open-source non-native English speech corpus for pronunciation assessment",
    Interspeech 2021.

    Args:
        folder: folder as above.
        scores: scores to learn, by default all five.
        modalities: names, or sizes by name for features of another size; by default `text` and those that are there.
        features: other places of features, each an archive or a folder; a relative path starts at `folder`.
        text_encoder: embed the sentences with it, see `MtlAqa`, in place of having the language model read them.
        encoder_layers, window, cache_dir: see `MtlAqa`.
        max_clips: clips that a processor keeps; the longest recording has 102.
    """

    folder: str | Path
    scores: list[str] | None = None
    modalities: dict[str, int | str] | list[str] | None = None
    features: dict[str, str] = field(default_factory=dict)
    text_encoder: str | None = None
    encoder_layers: list[int] = field(default_factory=lambda: [-1])
    window: int = 3
    cache_dir: str | Path | None = None
    max_clips: int = 102

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.scores = choose_scores("speechocean762", self.scores, SCORES)
        self.encoder_layers = [self.encoder_layers] if isinstance(self.encoder_layers, int) else self.encoder_layers
        known = {**FEATURE_SIZES, TEXT: TEXT}
        wanted = choose_modalities("speechocean762", self.modalities, known, self.features)
        for name, size in wanted.items():
            is_feature = name in FEATURE_SIZES and type(size) is int and size > 0
            if not is_feature and (name, size) != (TEXT, TEXT):
                raise ValueError(
                    f"speechocean762: modality {name!r} has size {size!r}, allowed: audio and voice with a feature "
                    "size of 1 or more, and text"
                )
        self._sizes = wanted

    def read_labels(self) -> AqaData:
        labels = self._read_splits()
        _check(labels)
        places, splits = self._places(), build_label_splits(labels, self.scores)
        recipe = find_recipe(places.values())
        sizes = {name: size for name, size in self._sizes.items() if name in places or name == TEXT}
        if self.text_encoder is not None and TEXT in sizes:
            splits = self._embed(splits)
            sizes[TEXT] = splits["train"].features[TEXT].feature.length
        origins = [f"{name} from {path.name}" for name, path in places.items()]
        origins += [f"text {'read' if sizes[TEXT] == TEXT else 'embedded'}"] if TEXT in sizes else []
        return AqaData(
            splits=splits,
            modalities=sizes,
            score_names=self.scores,
            score_minimums=[0.0] * len(self.scores),
            score_ranges=[HIGHEST] * len(self.scores),
            max_clips=self.max_clips,
            description=f"speechocean762, official split, {', '.join(origins)}",
            group_column="speaker",
            recipe=None if recipe is None else recipe.to_dict(),
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        places = self._places()
        sources = {name: self._source(path, self._sizes[name]) for name, path in places.items()}
        return check_made_by(find_recipe(places.values()), sources)

    def _source(self, path: Path, size: int) -> FeatureSource:
        return ArchiveSource(path, "x", size, self._order) if path.suffix == ".npz" else FileSource(path, size)

    def _places(self) -> dict[str, Path]:
        """Where the features of each modality are; ValueError if none are, or not those that were asked for."""
        wanted = [name for name in self._sizes if name in FEATURE_SIZES]
        found = {name: path for name in wanted if (path := self._place(name)) is not None}
        lacking = wanted if not found else [name for name in wanted if name not in found]
        if lacking and (self.modalities is not None or not found):
            name = lacking[0]
            raise ValueError(
                f"speechocean762: {self.folder} has no features of {name!r}, which are needed beside the recordings; "
                f"expected {' or '.join(PLACES[name][:-1])} (n, x, sample_id), or {PLACES[name][-1]}/<sample_id>.npy "
                f"[clips, {self._sizes[name]}]; or choose modalities=[text]"
            )
        return found

    def _place(self, modality: str) -> Path | None:
        if modality in self.features:
            return self.folder / self.features[modality]
        *archives, folder = (self.folder / place for place in PLACES[modality])
        found = [path for path in archives if path.is_file()]
        if folder.is_dir() and any(path.suffix in SUFFIXES for path in walk_files(folder)):
            found.append(folder)
        if len(found) > 1:
            raise ValueError(
                f"speechocean762: the features of {modality!r} are in {found[0]} and in {found[1]}; say which to use, "
                f"features={{{modality}: ...}}"
            )
        return found[0] if found else None

    def _read_splits(self) -> dict[str, Labels]:
        csv, kaldi = self.folder / "labels.csv", self.folder / "resource" / "scores.json"
        self._order = None  # of the samples in an archive that does not name them
        if csv.is_file():
            table = _read_csv(csv)
            self._order = tuple(table.sample_ids)
            return _split(table)
        if kaldi.is_file():
            return {split: _read_kaldi(kaldi, self.folder / split) for split in SPLITS}
        tables = {split: _read_hub_table(self.folder, split) for split in SPLITS}
        if None in tables.values():
            raise FileNotFoundError(
                f"speechocean762: {self.folder} has neither labels.csv nor resource/scores.json, nor both splits of "
                "the Hub data set mispeech/speechocean762, saved by save_to_disk or as parquet files"
            )
        return {split: _read_hub(table, self.folder / split) for split, table in tables.items()}

    def _embed(self, splits: DatasetDict) -> DatasetDict:
        """Splits whose `text` is embedded."""
        embedded = {}
        for name, split in splits.items():
            split = split.rename_column(TEXT, "sentence")
            texts = [text or "" for text in split["sentence"][:]]
            clips = embed_texts(texts, self.text_encoder, self.window, self.cache_dir, self.encoder_layers)
            embedded[name] = Dataset(split.data.table.append_column(TEXT, feature_column(*clips)))
        return DatasetDict(embedded)


def _check(labels: Mapping[str, Labels]) -> None:
    """Raise LabelError for a repeated id, a score out of range or a speaker in both splits; warn of another size."""
    for split, table in labels.items():
        check_repeated(table.path, table.sample_ids, table.lines)
        for name in SCORES:
            check_range(table, name, 0, HIGHEST)
        if len(table.sample_ids) != OFFICIAL_COUNT:
            message = (
                "speechocean762: the split %s has %d samples, the official one has %d; results cannot be compared"
            )
            logger.warning(message, split, len(table.sample_ids), OFFICIAL_COUNT)
    train = set(labels["train"].texts["speaker"])
    for row, speaker in enumerate(labels["test"].texts["speaker"]):
        if speaker in train:
            raise LabelError(f"{labels['test'].where(row)}: speaker {speaker!r} of the test split is in training too")


def _deviations(scores: list[list[float]]) -> np.ndarray:
    """Deviation of the experts' scores of each sample, (samples,); NaN where there are none."""
    return np.array([np.std(each) if each else np.nan for each in scores])


def _read_csv(path: Path) -> Labels:
    """Labels of both splits, with the column `split`."""
    experts = [f"{name}_experts" for name in SCORES]
    table = read_label_csv(path, [*SCORES, "age"], ["split", "speaker", "gender", TEXT, *experts])
    table.texts[TEXT] = [text and text.lower() for text in table.texts[TEXT]]
    for name, column in zip(SCORES, experts, strict=True):
        given = [
            [parse_number(word, f"{table.where(row)}: {column}") for word in (words or "").split()]
            for row, words in enumerate(table.texts.pop(column))
        ]
        table.columns[f"{name}_deviation"] = _deviations(given)
    return table


def _split(table: Labels) -> dict[str, Labels]:
    rows = {split: [] for split in SPLITS}
    for row, split in enumerate(table.texts.pop("split")):
        if split not in rows:
            raise LabelError(f"{table.where(row)}: split is {split!r}, expected one of {', '.join(SPLITS)}")
        rows[split].append(row)
    return {split: table.select(chosen) for split, chosen in rows.items()}


def _read_kaldi(path: Path, split: Path) -> Labels:
    """Labels of a split, given the file of the scores and the folder of the split."""
    sample_ids = list(_read_pairs(split / "wav.scp"))
    ages, genders, texts, utterances = (
        _read_pairs(split / name) for name in ("spk2age", "spk2gender", "text", "spk2utt")
    )
    speakers = {sample_id: speaker for speaker, words in utterances.items() for sample_id in words.split()}
    speaker = [_find(speakers, sample_id, split / "spk2utt") for sample_id in sample_ids]
    columns = _read_scores(path, sample_ids)
    place = split / "spk2age"
    columns["age"] = np.array([parse_number(_find(ages, name, place), f"{place}: age of {name}") for name in speaker])
    words = {
        "speaker": speaker,
        "gender": [_find(genders, name, split / "spk2gender") for name in speaker],
        TEXT: [_find(texts, sample_id, split / "text").lower() for sample_id in sample_ids],
    }
    return Labels(path, sample_ids, None, columns, words)


def _read_scores(path: Path, sample_ids: list[str]) -> dict[str, np.ndarray]:
    """Scores of each utterance and, if there is a file of the experts' scores beside, their deviations."""
    scores, detail = read_json(path), path.with_name("scores-detail.json")
    columns = {}
    for name in SCORES:
        values = [_find(_find(scores, sample_id, path), name, path) for sample_id in sample_ids]
        for sample_id, value in zip(sample_ids, values, strict=True):
            if type(value) not in (int, float):
                raise LabelError(f"{path}, sample {sample_id!r}: {name} is {value!r}, expected a number")
        columns[name] = np.array(values, dtype=np.float64)
    if detail.is_file():
        experts = read_json(detail)
        for name in SCORES:
            given = [_find(_find(experts, sample_id, detail), name, detail) for sample_id in sample_ids]
            for sample_id, each in zip(sample_ids, given, strict=True):
                if not isinstance(each, list) or not all(type(score) in (int, float) for score in each):
                    raise LabelError(f"{detail}, sample {sample_id!r}: {name} is {each!r}, expected a list of numbers")
            columns[f"{name}_deviation"] = _deviations(given)
    return columns


def _read_pairs(path: Path) -> dict[str, str]:
    """Table of Kaldi: a key, then the rest of the line."""
    if not path.is_file():
        raise LabelError(f"{path}: no such file; expected a table of Kaldi, a key and its value on each line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not text in UTF-8: {error}") from error
    pairs = {}
    for number, line in enumerate(lines, 1):
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key and not value.strip():
            raise LabelError(f"{path}, line {number}: {key!r} stands alone, expected a value behind it")
        if key in pairs:
            raise LabelError(f"{path}, line {number}: {key!r} is already on a line before")
        if key:
            pairs[key] = value.strip()
    return pairs


def _find(table: Mapping[str, Any], key: str, path: Path) -> Any:
    if key not in table:
        raise LabelError(f"{path}: there is no {key!r}, which another file names")
    return table[key]


def _read_hub_table(folder: Path, split: str) -> pa.Table | None:
    """Labels of a split of the Hub data set, without its sound; None if it is not there."""
    if (folder / split / "dataset_info.json").is_file():
        saved = Dataset.load_from_disk(str(folder / split))
        wanted = [name for name in (*HUB_COLUMNS, "audio") if name in saved.column_names]
        return saved.select_columns(wanted).with_format("arrow")[:]
    files = sorted([*folder.glob(f"{split}-*.parquet"), *folder.glob(f"data/{split}-*.parquet")])
    if not files:
        return None
    return pa.concat_tables(map(_read_parquet, files))


def _read_parquet(path: Path) -> pa.Table:
    read_start(path, "a parquet file")
    try:
        return pq.ParquetFile(path).read(columns=[*HUB_COLUMNS, "audio.path"])
    except (pa.ArrowInvalid, OSError) as error:
        raise LabelError(f"{path}: not a whole parquet file: {error}") from error


def _read_hub(table: pa.Table, path: Path) -> Labels:
    """Labels of a split, given its table and what messages call it."""
    if lacking := [name for name in (*HUB_COLUMNS, "audio") if name not in table.column_names]:
        raise LabelError(f"{path}: there is no column {lacking[0]!r}; the columns are {', '.join(table.column_names)}")
    names = pc.struct_field(table["audio"], "path").to_pylist()
    if None in names:
        raise LabelError(f"{path}: row {names.index(None)} has an audio without a path, which names the utterance")
    speakers = [f"{each:04d}" if isinstance(each, int) else each for each in table["speaker"].to_pylist()]
    columns = {name: np.array(table[name].to_pylist(), dtype=np.float64) for name in (*SCORES, "age")}
    words = {
        "speaker": speakers,
        "gender": table["gender"].to_pylist(),
        TEXT: [text.lower() for text in table[TEXT].to_pylist()],
    }
    return Labels(path, [Path(name).stem for name in names], None, columns, words)
