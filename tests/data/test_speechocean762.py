"""speechocean762: real scores, and three layouts of the same labels."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import Audio, Dataset, DatasetDict, Features, Value

from limssr.processing.recipes_limssr import Recipe
from limssr.training.data import load
from limssr.training.data.extract import extract_features, join_material
from limssr.training.data.sources.files import LFS_POINTER
from limssr.training.data.sources.recordings import find_recordings
from limssr.training.data.speechocean762 import SCORES
from tests.helpers.recordings import tone, write_recording


@pytest.fixture
def folder(write_layout, tmp_path):
    (tmp_path / "csv").mkdir()
    write_layout("speechocean762", tmp_path / "csv")
    return tmp_path / "csv"


@pytest.fixture
def rows(folder) -> list[dict]:
    with (folder / "labels.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def kaldi(folder, rows, tmp_path) -> Path:
    """The same labels as published, the sound and each sample's own feature file beside them."""
    place = tmp_path / "kaldi"
    scores = {row["sample_id"]: {name: float(row[name]) for name in SCORES} for row in rows}
    experts = {
        row["sample_id"]: {name: [float(word) for word in row[f"{name}_experts"].split()] for name in SCORES}
        for row in rows
    }
    (place / "resource").mkdir(parents=True)
    (place / "resource" / "scores.json").write_text(json.dumps(scores))
    (place / "resource" / "scores-detail.json").write_text(json.dumps(experts))
    for split in ("train", "test"):
        own = [row for row in rows if row["split"] == split]
        speakers: dict[str, list[dict]] = {}
        for row in own:
            speakers.setdefault(row["speaker"], []).append(row)
        tables = {
            "wav.scp": [f"{row['sample_id']}\tWAVE/SPEAKER{row['speaker']}/{row['sample_id']}.WAV" for row in own],
            "text": [f"{row['sample_id']}\t{row['text'].upper()}" for row in own],
            "spk2utt": [f"{name} {' '.join(row['sample_id'] for row in own)}" for name, own in speakers.items()],
            "spk2gender": [f"{name} {own[0]['gender']}" for name, own in speakers.items()],
            "spk2age": [f"{name}\t{own[0]['age']}" for name, own in speakers.items()],
        }
        (place / split).mkdir()
        for name, lines in tables.items():
            (place / split / name).write_text("\n".join(lines) + "\n")
    data = load("speechocean762", folder=folder)
    (place / "audio").mkdir()
    for split in data.splits.values():
        for row in split:
            np.save(place / "audio" / f"{row['sample_id']}.npy", np.float32(row["audio"]))
            (place / "audio" / f"{row['sample_id']}.ogg").write_bytes(b"OggS")
    return place


def hub_splits(rows: list[dict]) -> DatasetDict:
    """As `load_dataset("mispeech/speechocean762")` has them, with sound that nobody could decode."""
    types = {name: Value("float32") for name in SCORES}
    types |= {"text": Value("string"), "speaker": Value("string"), "gender": Value("string"), "age": Value("int32")}
    features = Features({**types, "audio": {"bytes": Value("binary"), "path": Value("string")}})
    splits = {}
    for split in ("train", "test"):
        own = [
            {
                **{name: float(row[name]) for name in SCORES},
                **{name: row[name] for name in ("speaker", "gender")},
                "text": row["text"].upper(),
                "age": int(row["age"]),
                "audio": {"bytes": b"RIFF", "path": f"{row['sample_id']}.WAV"},
            }
            for row in rows
            if row["split"] == split
        ]
        splits[split] = Dataset.from_list(own, features=features).cast_column("audio", Audio(16000))
    return DatasetDict(splits)


def copy_features(folder: Path, rows: list[dict], place: Path) -> None:
    """The archive with the ids of its samples."""
    with np.load(folder / "features_whisper.npz") as archive:
        arrays = {name: archive[name] for name in archive}
    (place / "features").mkdir(parents=True, exist_ok=True)
    np.savez(place / "features" / "audio.npz", **arrays, sample_id=np.array([row["sample_id"] for row in rows]))


def test_the_real_data_has_the_known_counts_and_labels(shared):
    folder = shared / "data" / "speechocean762"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"speechocean762 is not at {folder}")
    data = load("speechocean762", folder=folder, modalities=["voice", "text"], scores=["total", "fluency"])
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 2500, "test": 2500}
    assert data.modalities == {"voice": 25, "text": "text"}
    assert (data.score_names, data.score_minimums, data.score_ranges) == (["total", "fluency"], [0, 0], [10, 10])
    sides = [set(rows["speaker"]) for rows in data.splits.values()]
    assert [len(side) for side in sides] == [125, 125]
    assert sides[0].isdisjoint(sides[1])
    assert data.group_column == "speaker"
    row = data.splits["train"][0]
    assert (row["sample_id"], row["text"], row["speaker"], row["age"]) == ("000010011", "we call it bear", "0001", 6)
    assert (row["total"], row["total_deviation"]) == pytest.approx((7.725, np.std([7.6, 9, 7.9, 6.4])), rel=1e-5)
    assert len(row["voice"]) == 13
    assert {"prosodic", "prosodic_deviation", "completeness"} <= set(row)
    assert max(len(clips) for rows in data.splits.values() for clips in rows["voice"]) == data.max_clips


def test_the_arrays_are_those_that_were_written(write_layout, tmp_path, caplog):
    written = write_layout("speechocean762", tmp_path)
    data = load("speechocean762", folder=tmp_path)
    assert data.modalities == {"audio": 384, "voice": 25, "text": "text"}
    assert data.score_names == list(SCORES)
    assert "audio from features_whisper.npz, voice from features_egemaps.npz, text read" in data.description
    assert "the split train has 16 samples, the official one has 2500" in caplog.text
    for split in data.splits.values():
        for row in split:
            for name, arrays in written.items():
                np.testing.assert_array_equal(np.float32(row[name]), arrays[row["sample_id"]])


def test_all_layouts_hold_the_same(folder, rows, kaldi, tmp_path):
    saved, parquet = tmp_path / "saved", tmp_path / "parquet"
    splits = hub_splits(rows)
    splits.save_to_disk(saved)
    (parquet / "data").mkdir(parents=True)
    for split, part in splits.items():
        part.to_parquet(parquet / "data" / f"{split}-00000-of-00001.parquet")
    for place in (saved, parquet):
        copy_features(folder, rows, place)
    expected = load("speechocean762", folder=folder, modalities=["audio", "text"])
    for place in (kaldi, saved, parquet):
        data = load("speechocean762", folder=place)
        assert data.modalities == expected.modalities
        for name, part in expected.splits.items():
            found = data.splits[name].to_dict()
            wanted = {column: values for column, values in part.to_dict().items() if column in found}
            assert set(part.column_names) - set(found) <= {f"{score}_deviation" for score in SCORES}
            assert found == wanted
        has_deviations = "total_deviation" in data.splits["train"].column_names
        assert has_deviations == (place == kaldi)


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_hub_copy_without_its_columns_is_refused(rows, tmp_path, form):
    splits = hub_splits(rows)
    place = tmp_path / form
    if form == "saved":
        splits.remove_columns("audio").save_to_disk(place)
    else:
        place.mkdir()
        for split, part in splits.items():
            part.remove_columns("speaker").to_parquet(place / f"{split}-00000-of-00001.parquet")
    lacking = {"saved": "audio", "parquet": "speaker"}[form]
    with pytest.raises(ValueError, match=f"train: there is no column '{lacking}'; the columns are total"):
        load("speechocean762", folder=place, modalities=["text"])


@pytest.mark.parametrize(
    ("content", "said"), [(b"PAR1", "not a whole parquet file"), (LFS_POINTER.encode(), "Git LFS pointer")]
)
def test_a_damaged_hub_copy_is_refused(rows, tmp_path, content, said):
    for split, part in hub_splits(rows).items():
        part.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=rf"test-00000-of-00001\.parquet: .*{said}"):
        load("speechocean762", folder=tmp_path, modalities=["text"])


def test_a_repeated_utterance_is_refused(rows, tmp_path):
    hub_splits([*rows, rows[0]]).save_to_disk(tmp_path)
    with pytest.raises(ValueError, match="sample '000010000' is already there"):
        load("speechocean762", folder=tmp_path, modalities=["text"])


def test_sentences_can_be_embedded(folder, tiny_encoder, tmp_path):
    options = {"folder": folder, "modalities": ["text", "voice"]}
    data = load("speechocean762", **options, text_encoder=str(tiny_encoder), encoder_layers=[0, 1], cache_dir=tmp_path)
    assert data.modalities == {"text": 16, "voice": 25}
    assert "text embedded" in data.description
    read = load("speechocean762", **options)
    for name, part in data.splits.items():
        assert part["sentence"][:] == read.splits[name]["text"][:]
        assert np.shape(part["text"][0])[1] == 16


def test_recordings_alone_are_not_enough(kaldi, tmp_path):
    for path in (kaldi / "audio").glob("*.npy"):
        path.unlink()
    with pytest.raises(
        ValueError, match=r"no features of 'audio', which .* features/audio\.npz .* or audio/<sample_id>"
    ):
        load("speechocean762", folder=kaldi)
    text = load("speechocean762", folder=kaldi, modalities=["text"])
    assert text.modalities == {"text": "text"}


def test_a_modality_that_is_asked_for_must_be_there(kaldi):
    assert load("speechocean762", folder=kaldi).modalities == {"audio": 384, "text": "text"}
    with pytest.raises(ValueError, match="no features of 'voice'"):
        load("speechocean762", folder=kaldi, modalities=["audio", "voice"])


def test_features_of_another_size_and_place_can_be_given(folder, rows, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for row in rows[1:]:
        np.save(elsewhere / f"{row['sample_id']}.npy", np.ones((2, 7), np.float32) * np.arange(7))
    data = load("speechocean762", folder=folder, modalities={"audio": 7}, features={"audio": str(elsewhere)})
    assert data.modalities == {"audio": 7}
    assert data.missing.dropped == [rows[0]["sample_id"]]


def test_two_places_of_features_are_refused(folder, rows):
    copy_features(folder, rows, folder)
    with pytest.raises(ValueError, match=r"in .*features_whisper\.npz and in .*audio\.npz; say which to use"):
        load("speechocean762", folder=folder)
    data = load("speechocean762", folder=folder, features={"audio": "features/audio.npz"})
    assert "audio from audio.npz" in data.description


def test_an_archive_without_ids_fits_labels_csv_alone(folder, kaldi):
    shutil.rmtree(kaldi / "audio")
    shutil.copy(folder / "features_whisper.npz", kaldi)
    with pytest.raises(ValueError, match=r"features_whisper\.npz: the archive has no array 'sample_id'"):
        load("speechocean762", folder=kaldi)


def test_a_speaker_in_both_splits_is_refused(folder):
    path = folder / "labels.csv"
    path.write_text(path.read_text().replace("test,0011,16", "test,0001,16"))
    with pytest.raises(ValueError, match="speaker '0001' of the test split is in training too"):
        load("speechocean762", folder=folder)


def change_scores(kaldi: Path, sample_id: str, change) -> None:
    path = kaldi / "resource" / "scores.json"
    scores = json.loads(path.read_text())
    change(scores, sample_id)
    path.write_text(json.dumps(scores))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda scores, name: scores.pop(name), r"scores\.json: there is no '000010000', which another file names"),
        (lambda scores, name: scores[name].pop("fluency"), r"scores\.json: there is no 'fluency'"),
        (lambda scores, name: scores[name].update(total="8"), r"sample '000010000': total is '8', expected a number"),
        (lambda scores, name: scores[name].update(total=11), "total is 11, expected 0 to 10"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(kaldi, change, said):
    change_scores(kaldi, "000010000", change)
    with pytest.raises(ValueError, match=said):
        load("speechocean762", folder=kaldi)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("train/spk2age", None, "spk2age: no such file; expected a table of Kaldi"),
        ("train/spk2age", "0001 six", r"spk2age: age of 0001 is 'six', expected a number"),
        ("train/text", "000010000", "text, line 1: '000010000' stands alone"),
        ("train/wav.scp", "a b\n\na c", r"wav\.scp, line 3: 'a' is already on a line before"),
        ("resource/scores-detail.json", "{}", r"scores-detail\.json: there is no '000010000'"),
        ("train/spk2utt", "0001 000010000", "spk2utt: there is no '000010001'"),
        ("resource/scores.json", "[]", r"scores\.json: holds list, expected names with values"),
        ("resource/scores.json", "{", r"scores\.json: not JSON"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(kaldi, file, content, said):
    if content is None:
        (kaldi / file).unlink()
    else:
        (kaldi / file).write_text(content)
    with pytest.raises(ValueError, match=said):
        load("speechocean762", folder=kaldi)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": ["speed"]}, r"scores is \['speed'\], allowed: one or more of total"),
        ({"modalities": ["video"]}, "modality 'video' has size None, allowed: audio and voice"),
        ({"modalities": {"text": 3}}, "modality 'text' has size 3"),
        ({"features": {"video": "x"}}, "features names 'video'"),
    ],
)
def test_impossible_options_are_refused(folder, options, said):
    with pytest.raises(ValueError, match=said):
        load("speechocean762", folder=folder, **options)


def test_an_empty_folder_is_refused_with_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither labels\.csv nor resource/scores\.json, nor both splits"):
        load("speechocean762", folder=tmp_path)


def test_clips_of_the_recordings_bring_their_recipe(folder, rows, tmp_path):
    classic = Recipe.load("classic").to_dict()
    recipe = {"name": "sound", "modalities": {"audio": classic["modalities"]["audio"]}}
    (tmp_path / "recordings").mkdir()
    for number, row in enumerate(rows):
        sound = tone(1.0, frequency=200 + 50 * number)
        write_recording(tmp_path / "recordings" / f"{row['sample_id']}.wav", sound=sound, sound_codec="pcm_s16le")
    out = tmp_path / "made"
    assert extract_features(join_material(find_recordings(tmp_path / "recordings"), {}), out, recipe, workers=1) == []
    options = {"modalities": {"audio": 84}, "features": {"audio": str(out / "audio")}}
    data = load("speechocean762", folder=folder, **options)
    assert data.recipe == Recipe.load(recipe).to_dict()
    assert {len(clips) for split in data.splits.values() for clips in split["audio"]} == {3}

    recipe["modalities"]["audio"]["clip"] = recipe["modalities"]["audio"]["stride"] = 4000
    (out / "recipe.json").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="another recipe"):
        load("speechocean762", folder=folder, **options)
