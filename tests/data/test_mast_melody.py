"""MAST melody: each performance beside a reference of its melody, in any key."""

import numpy as np
import pytest

from limssr.training.data import load
from limssr.training.data.mast_melody import encode_contour
from limssr.training.data.sources.files import FeatureFileError


@pytest.fixture
def folder(write_layout, tmp_path):
    write_layout("mast_melody", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def loaded(shared):
    folder = shared / "data" / "mast_melody"
    if not (folder / "labels.csv").is_file():
        pytest.skip(f"MAST melody is not at {folder}")
    return load("mast_melody", folder=folder)


def all_rows(data) -> list[dict]:
    return [row for split in data.splits.values() for row in split]


def test_the_real_data_has_the_known_counts_and_labels(loaded):
    assert {name: len(rows) for name, rows in loaded.splits.items()} == {"train": 789, "test": 207}
    assert loaded.modalities == {"performance": 20, "reference": 20}
    assert (loaded.score_names, loaded.score_minimums, loaded.score_ranges) == (["score"], [1], [3])
    rows = {row["sample_id"]: row for row in all_rows(loaded)}
    row = rows["510_mel1_per109558"]  # graded 1, 1, 1, 2, 1
    assert (row["score"], row["score_deviation"], row["melody"]) == pytest.approx((1.2, 0.4, "510_mel1"))
    assert max(len(row[name]) for row in rows.values() for name in loaded.modalities) == loaded.max_clips
    clips = np.concatenate([row["performance"] for row in rows.values()])  # (all clips, 20)
    assert np.isfinite(clips).all()
    assert (clips[:, :10][clips[:, 10:] == 0] == 0).all()  # no pitch where nothing is voiced
    assert 0 <= clips[:, 10:].min() < clips[:, 10:].max() <= 1


def test_melodies_are_held_out_and_references_are_of_the_same_melody(folder):
    tested = []
    for fold in range(5):
        data = load("mast_melody", folder=folder, fold=fold)
        sides = [set(data.splits[name]["melody"]) for name in ("train", "test")]
        assert sides[0].isdisjoint(sides[1])
        assert data.group_column == "melody"
        assert all(row["reference_id"].startswith(f"{row['melody']}_reference") for row in all_rows(data))
        tested += data.splits["test"]["sample_id"][:]
    assert len(tested) == len(set(tested)) == 20


def test_training_draws_references_by_the_seed_and_the_test_split_takes_the_first(folder):
    first, again, other = (load("mast_melody", folder=folder, seed=seed).splits for seed in (0, 0, 1))
    drawn = [splits["train"]["reference_id"][:] for splits in (first, again, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({reference[-1] for reference in drawn[0]}) == 3
    for splits in (first, other):
        assert {reference[-1] for reference in splits["test"]["reference_id"]} == {"0"}


def test_a_melody_in_another_key_has_the_same_clips(folder):
    """The first performance of a melody is its first reference, five semitones higher."""
    rows = load("mast_melody", folder=folder).splits["test"]
    for row in rows:
        if row["sample_id"].endswith("0"):
            np.testing.assert_allclose(row["performance"], row["reference"], atol=1e-5)


def test_a_contour_becomes_clips_of_relative_pitch_and_voiced_share():
    contour = np.array([[np.nan, 0.25], [30, 1], [32, 0.5], [37, 1], [np.nan, 0]])
    clips = encode_contour(contour, 2, "here")
    assert clips.dtype == np.float32
    np.testing.assert_array_equal(clips, [[0, -2, 0, 1], [0, 5, 0.5, 1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(encode_contour(contour, 5, "here"), [[0, -2, 0, 5, 0, 0, 1, 0.5, 1, 0]])


@pytest.mark.parametrize(
    ("contour", "said", "cause"),
    [
        (np.full((3, 2), np.nan), "here: none of the 3 steps has a pitch", "empty"),
        (np.zeros((0, 2)), "here: none of the 0 steps has a pitch", "empty"),
        (np.zeros((3, 3)), r"here: shape \[3, 3\] of float64, expected numbers \[steps, 2\]", "unreadable"),
        (np.array([[1.0, 1], [np.inf, 1]]), "here: a step is infinite", "non-finite"),
    ],
)
def test_a_contour_without_a_melody_is_a_missing_modality(contour, said, cause):
    with pytest.raises(FeatureFileError, match=said) as raised:
        encode_contour(contour, 2, "here")
    assert raised.value.cause == cause


def rewrite(folder, change) -> None:
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(change(lines)))


def test_a_performance_without_a_score_is_left_out_with_a_warning(folder, caplog):
    sample_id = (folder / "labels.csv").read_text().splitlines()[1].split(",")[0]
    rewrite(folder, lambda lines: [lines[0], lines[1].rpartition(",")[0] + ",", *lines[2:]])
    rows = all_rows(load("mast_melody", folder=folder))
    assert len(rows) == 19
    assert sample_id not in {row["sample_id"] for row in rows}
    assert "1 performances without a score are left out" in caplog.text


def test_gradings_that_are_not_given_do_not_count(folder):
    def change(lines):
        cells = lines[1].split(",")
        return [lines[0], ",".join([*cells[:4], "1", "", "", "", "3", "2"]), *lines[2:]]

    rewrite(folder, change)
    sample_id = (folder / "labels.csv").read_text().splitlines()[1].split(",")[0]
    row = next(row for row in all_rows(load("mast_melody", folder=folder)) if row["sample_id"] == sample_id)
    assert (row["score"], row["score_deviation"]) == (2, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [line.replace("mel1_reference1", "mel1_reference0") for line in lines], "is already on line"),
        (lambda lines: [line.replace(",reference,", ",piano,") for line in lines], "kind is 'piano', expected one of"),
        (lambda lines: [line for line in lines if "mel3,reference" not in line], "melody 'mel3' has no reference"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(folder, change, said):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=said):
        load("mast_melody", folder=folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fold": 7}, r"labels\.csv: fold is 7, the folds of melody_fold are 0, 1, 2, 3, 4"),
        ({"clip_steps": 0}, "clip_steps is 0, expected 1 or more"),
    ],
)
def test_impossible_options_are_refused(folder, options, said):
    with pytest.raises(ValueError, match=said):
        load("mast_melody", folder=folder, **options)
