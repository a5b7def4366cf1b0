"""MAST melody: each performance beside a reference of its melody, in any key."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from limssr.training.data import load
from limssr.training.data.mast_melody import encode_contour, resample
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
    assert loaded.modalities == {"performance": 4, "reference": 4}
    assert (loaded.score_names, loaded.score_minimums, loaded.score_ranges) == (["score"], [1], [3])
    rows = {row["sample_id"]: row for row in all_rows(loaded)}
    row = rows["510_mel1_per109558"]  # graded 1, 1, 1, 2, 1
    assert (row["score"], row["score_deviation"], row["melody"]) == pytest.approx((1.2, 0.4, "510_mel1"))
    assert {len(row[name]) for row in rows.values() for name in loaded.modalities} == {loaded.max_clips}
    clips = np.concatenate([row["performance"] for row in rows.values()])  # (all clips, 4)
    assert np.isfinite(clips).all()
    np.testing.assert_allclose((clips[:, 1:3] ** 2).sum(1), 1, atol=1e-5)  # cosine and sine
    assert 0 <= clips[:, 3].min() < clips[:, 3].max() <= 1


def test_the_distance_of_the_real_contours_tells_the_score(loaded):
    """Moment by moment, an octave apart or not; the paper's scores lie in the comparison."""
    rows = all_rows(loaded)
    contours = [[np.array(row[name])[:, 1:3] for name in loaded.modalities] for row in rows]
    distances = [np.square(performance - reference).sum(1).mean() for performance, reference in contours]
    assert spearmanr(distances, [row["score"] for row in rows]).statistic < -0.5


def test_melodies_are_held_out(folder):
    tested = []
    for fold in range(5):
        data = load("mast_melody", folder=folder, fold=fold)
        sides = [set(data.splits[name]["melody"]) for name in ("train", "test")]
        assert sides[0].isdisjoint(sides[1])
        assert data.group_column == "melody"
        tested += data.splits["test"]["sample_id"][:]
    assert len(tested) == len(set(tested)) == 20


def test_the_reference_is_the_median_of_the_recordings_of_the_melody(folder):
    archive = np.load(folder / "contours.npz")
    starts = np.concatenate([[0], np.cumsum(archive["n"])])
    lines = (folder / "labels.csv").read_text().splitlines()[1:]
    of_melody = [
        resample(archive["contour"][starts[row] : starts[row + 1]], 32, line)
        for row, line in enumerate(lines)
        if line.startswith("mel0_reference")
    ]
    assert len(of_melody) > 1
    for row in all_rows(load("mast_melody", folder=folder)):
        if row["melody"] == "mel0":
            np.testing.assert_array_equal(row["reference"], encode_contour(np.median(of_melody, axis=0)))


def test_a_contour_is_read_from_its_first_to_its_last_pitch():
    contour = np.array([[np.nan, 0.25], [30, 1], [np.nan, 0.5], [36, 1], [np.nan, 0]])
    np.testing.assert_allclose(resample(contour, 5, "here"), [[30, 1], [31.5, 0.5], [33, 0], [34.5, 0.5], [36, 1]])
    np.testing.assert_allclose(resample(contour[1:2], 3, "here"), [[30, 1]] * 3)  # a single pitch


def test_clips_hold_pitch_and_pitch_class():
    contour = np.array([[24, 1], [36, 0.5], [27, 0]])
    clips = encode_contour(contour)
    assert clips.dtype == np.float32
    expected = [[-0.25, 1, 0, 1], [0.75, 1, 0, 0.5], [0, 0, 1, 0]]
    np.testing.assert_allclose(clips, expected, atol=1e-6)
    np.testing.assert_allclose(encode_contour(contour + np.array([12, 0])), expected, atol=1e-6)  # an octave higher


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
        resample(contour, 2, "here")
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
        ({"clips": 1}, "clips is 1, expected 2 or more"),
    ],
)
def test_impossible_options_are_refused(folder, options, said):
    with pytest.raises(ValueError, match=said):
        load("mast_melody", folder=folder, **options)


def test_training_rows_are_sung_in_another_key_and_rubato(folder):
    data = load("mast_melody", folder=folder)
    row = data.splits["train"].with_format("numpy")[0]
    before = {name: row[name].copy() for name in data.modalities}
    first, second = (data.augment(row, np.random.default_rng(seed)) for seed in (0, 1))
    for name in data.modalities:
        np.testing.assert_array_equal(row[name], before[name])  # the row itself is left alone
        assert not np.allclose(first[name], second[name])
    angles = [np.unwrap(np.arctan2(*clips[:, 2:0:-1].T)) for clips in (before["reference"], first["reference"])]
    assert np.ptp(np.mod(angles[1] - angles[0] + 1, 2 * np.pi)) < 1e-4  # the same interval throughout
    np.testing.assert_array_equal(first["reference"][:, [0, 3]], before["reference"][:, [0, 3]])
    alone = data.augment({**row, "reference": None}, np.random.default_rng(0))
    assert alone["reference"] is None
    np.testing.assert_array_equal(alone["performance"], first["performance"])
