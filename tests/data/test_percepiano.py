"""PercePiano: real ratings, the prepared arrays, and the same features from the MIDI files."""

import io
import shutil
import sys
import zipfile

import numpy as np
import pretty_midi
import pytest

from limssr.training.data import load
from limssr.training.data.percepiano import SCORES
from limssr.training.data.sources.files import FeatureFileError
from limssr.training.data.sources.midi import FEATURE_SIZES, performance_features, read_midi

NOTHING = np.zeros((0, 2))


@pytest.fixture
def real(shared):
    folder = shared / "data" / "percepiano"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"PercePiano is not at {folder}")
    return folder


@pytest.fixture
def folder(write_layout, tmp_path):
    write_layout("percepiano", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def loaded(shared):
    folder = shared / "data" / "percepiano"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"PercePiano is not at {folder}")
    return load("percepiano", folder=folder)


def test_the_real_data_has_the_known_counts_and_labels(loaded):
    assert {name: len(rows) for name, rows in loaded.splits.items()} == {"train": 957, "test": 232}
    assert loaded.modalities == FEATURE_SIZES
    assert loaded.score_names == list(SCORES)
    assert (loaded.score_minimums[0], loaded.score_ranges[0], loaded.group_column) == (1, 6, "performer")
    rows = loaded.splits["train"][0]
    assert rows["sample_id"] == "Beethoven_WoO80_thema_8bars_11_1"
    assert (rows["timing_stability"], rows["timing_stability_deviation"]) == pytest.approx((4.4, 1.7436))
    assert (rows["performer"], rows["segment"]) == ("11", "Beethoven_WoO80_thema_8bars_1")
    assert len(rows["timing"]) == 29
    assert rows["pedal"][0] == pytest.approx([0.25574803, 0.56, 2, 0])
    scores = np.concatenate([[rows[name][:] for name in SCORES] for rows in loaded.splits.values()], axis=1)
    assert scores.shape == (19, 1189)
    assert 1 <= scores.min() < scores.max() <= 7
    lengths = [len(clips) for rows in loaded.splits.values() for clips in rows["timing"]]
    assert (min(lengths), max(lengths)) == (10, loaded.max_clips)


@pytest.mark.parametrize(("split", "group"), [("performers_held_out", "performer"), ("segments_held_out", "segment")])
def test_every_sample_is_tested_once_and_no_group_is_on_both_sides(folder, split, group):
    tested = []
    for fold in range(5):
        data = load("percepiano", folder=folder, split=split, fold=fold)
        sides = [set(data.splits[name][group]) for name in ("train", "test")]
        assert sides[0].isdisjoint(sides[1])
        assert data.group_column == group
        assert f"{group}s of fold {fold} held out" in data.description
        tested += data.splits["test"]["sample_id"][:]
    assert len(tested) == len(set(tested)) == 20


def test_its_arrays_are_those_that_were_written(write_layout, tmp_path):
    written = write_layout("percepiano", tmp_path)
    data = load("percepiano", folder=tmp_path, fold=2)
    for rows in data.splits.values():
        for row in rows:
            for name, arrays in written.items():
                np.testing.assert_array_equal(np.float32(row[name]), arrays[row["sample_id"]])


def test_machines_can_be_left_out_without_moving_anyones_features(folder):
    everyone, people = (load("percepiano", folder=folder, human_only=value).splits for value in (False, True))
    assert {*everyone["train"]["performer"], *everyone["test"]["performer"]} >= {"Score"}
    for name in ("train", "test"):
        kept = everyone[name].filter(lambda performer: performer != "Score", input_columns="performer")
        assert people[name].to_dict() == kept.to_dict()
    assert "human performances" in load("percepiano", folder=folder, human_only=True).description


def test_scores_that_are_not_chosen_stay_as_columns(folder):
    data = load("percepiano", folder=folder, scores=["tempo", "drama"])
    assert data.score_names == ["tempo", "drama"]
    assert {"interpretation", "interpretation_deviation", "tempo_deviation"} <= set(data.splits["test"].column_names)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "random"}, "split is 'random', allowed: performers_held_out, segments_held_out"),
        ({"source": "audio"}, "source is 'audio', allowed: features, midi"),
        ({"fold": 5}, r"labels\.csv: fold is 5, the folds of performer_fold are 0, 1, 2, 3, 4"),
        ({"scores": ["speed"]}, r"scores is \['speed'\], allowed: one or more of timing_stability"),
        ({"source": "midi"}, "neither a folder midi nor midi.zip"),
    ],
)
def test_impossible_options_are_refused(folder, options, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load("percepiano", folder=folder, **options)


def test_a_rating_out_of_range_is_refused_with_its_line(folder):
    path = folder / "labels.csv"
    lines = path.read_text().splitlines()
    cells = lines[3].split(",")
    lines[3] = ",".join([*cells[:5], "7.5", *cells[6:]])
    path.chmod(0o644)
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"labels\.csv, line 4, .*: timing_stability is 7\.5, expected 1 to 7"):
        load("percepiano", folder=folder)


def test_features_of_the_midi_files_are_the_prepared_ones(real, loaded):
    """All but the clips at whose very border a note begins."""
    rows = loaded.splits["test"].select(range(0, 232, 12))
    equal = {name: [] for name in FEATURE_SIZES}
    for row in rows:
        features = read_midi(real / "midi.zip", row["sample_id"])
        for name, clips in features.items():
            assert clips.shape == np.shape(row[name])
            equal[name].append(np.isclose(clips, row[name], rtol=0.01, atol=0.01).all(axis=1))
    for name, clips in equal.items():
        assert np.concatenate(clips).mean() > 0.97, name


def test_features_of_a_small_performance():
    """A chord, a rest of two clips, a note held for long; the pedal is down in the second half of the first clip."""
    notes = np.array([[1.0, 1.5, 60, 80], [1.0, 1.7, 64, 90], [2.75, 5.75, 76, 40]])
    sustain = np.array([[1.25, 127], [1.5, 0]])
    features = performance_features(notes, sustain, np.array([[0.0, 127.0]]))
    assert {name: clips.shape for name, clips in features.items()} == {n: (5, w) for n, w in FEATURE_SIZES.items()}
    chord = [2, 1, np.log(1.76), 0, np.log(0.61), 0.6 / 1.75]
    long = [1, 1, np.log(0.51), 0, np.log(3.01), 6]
    rest = [0, 0]
    expected = [chord, [*rest, *chord[2:]], [*rest, *chord[2:]], long, [*rest, *long[2:]]]
    np.testing.assert_allclose(features["timing"], expected, rtol=1e-5)
    np.testing.assert_allclose(features["dynamics"][[0, 3]], [[85, 5, 90, 80, 5], [40, 0, 40, 40, 0]])
    np.testing.assert_allclose(features["pitch"][[0, 3]], [[62, 2, 64, 60, 2], [76, 0, 76, 76, 1]])
    np.testing.assert_allclose(features["pedal"][:2], [[12 / 25, 12 / 25, 1, 1], [0, 0, 0, 1]], atol=1e-6)


def test_features_do_not_depend_on_when_the_performance_begins():
    notes = np.array([[0.0, 0.3, 60, 80], [0.61, 1.0, 62, 70], [1.2, 1.4, 64, 60]])
    pedal = np.array([[0.2, 100], [0.9, 0]])
    first = performance_features(notes, pedal, NOTHING)
    later = performance_features(notes + np.array([3.7, 3.7, 0, 0]), pedal + np.array([3.7, 0]), NOTHING)
    for name, clips in first.items():
        np.testing.assert_allclose(clips, later[name], atol=1e-5)


def midi_bytes(*notes: tuple[float, float, int, int]) -> bytes:
    performance = pretty_midi.PrettyMIDI()
    piano = pretty_midi.Instrument(0)
    piano.notes = [pretty_midi.Note(velocity, pitch, start, end) for start, end, pitch, velocity in notes]
    performance.instruments.append(piano)
    stream = io.BytesIO()
    performance.write(stream)
    return stream.getvalue()


def test_midi_files_in_a_folder_or_an_archive_are_a_source(folder):
    ids = [line.split(",")[0] for line in (folder / "labels.csv").read_text().splitlines()[1:]]
    (folder / "midi").mkdir()
    for number, sample_id in enumerate(ids[1:]):
        content = midi_bytes((0.5, 1.0, 60 + number, 80), (1.6, 2.0, 62, 70))
        (folder / "midi" / f"{sample_id}.mid").write_bytes(content)
    (folder / "midi" / f"{ids[2]}.mid").write_bytes(b"MThd nothing")
    (folder / "midi" / f"{ids[3]}.mid").write_bytes(midi_bytes())
    data = load("percepiano", folder=folder, source="midi")
    assert data.missing.counts() == {name: {"missing file": 1, "unreadable": 1, "empty": 1} for name in FEATURE_SIZES}
    assert set(data.missing.dropped) == {ids[number] for number in (0, 2, 3)}
    with zipfile.ZipFile(folder / "midi.zip", "w") as archive:
        for path in (folder / "midi").iterdir():
            archive.write(path, path.name)
    shutil.rmtree(folder / "midi")
    zipped = load("percepiano", folder=folder, source="midi")
    for name, rows in data.splits.items():
        assert zipped.splits[name].to_dict() == rows.to_dict()


def test_an_endless_performance_is_refused(tmp_path):
    (tmp_path / "long.mid").write_bytes(midi_bytes((0, 1, 60, 80), (4000, 4001, 60, 80)))
    with pytest.raises(FeatureFileError, match=r"long\.mid: lasts 4000 s, expected at most 3600"):
        read_midi(tmp_path, "long")


def test_without_the_parser_the_error_says_what_to_install(folder, monkeypatch):
    (folder / "midi").mkdir()
    monkeypatch.setitem(sys.modules, "pretty_midi", None)
    with pytest.raises(ImportError, match=r'pip install "limssr\[midi\]"'):
        load("percepiano", folder=folder, source="midi")
