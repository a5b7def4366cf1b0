"""Simulated dives: what is drawn is what the truth says, and every seed gives one set of files."""

import csv
import hashlib
import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from limssr.training.data import load
from limssr.training.data.dives.commentary import REMARKS, comment, dive_name
from limssr.training.data.dives.judges import DEDUCTIONS, HIGHEST_SCORE, best_attainable, draw_marks, panel_score
from limssr.training.data.dives.performance import DURATION, FAULTS, HIGHEST_DIFFICULTY, Dive, draw_dive
from limssr.training.data.dives.picture import draw_frames
from limssr.training.data.dives.pose import body_points, rotation
from limssr.training.data.dives.sound import RATE, make_sound
from limssr.training.data.simulated_dives import SimulatedDives
from tests.helpers.models import recipe_with_text

OPTIONS = {"samples_train": 24, "samples_test": 8, "seed": 4, "size": 48}
CLEAN = {
    "position": "pike",
    "half_somersaults": 3,
    "half_twists": 0,
    "armstand": False,
    "takeoff": 0.5,
    "lift": 2.5,
    "opening": 1.5,
    "opened": 1.6,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("simulated") / "dives"
    SimulatedDives(place, **OPTIONS).make()
    return place


@pytest.fixture(scope="module")
def rows(folder) -> list[dict[str, str]]:
    """Labels and truth of each dive."""
    tables = []
    for name in ("labels.csv", "truth.csv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            tables.append(list(csv.DictReader(file)))
    return [{**label, **truth} for label, truth in zip(*tables, strict=True)]


def dive(**severities: float) -> Dive:
    return Dive(**CLEAN, severities=severities)


def drawn(count: int) -> list[Dive]:
    generator = np.random.default_rng(1)
    return [draw_dive(generator) for _ in range(count)]


def brightness(frame: np.ndarray) -> float:
    return float(frame.astype(float).mean())


def test_the_score_follows_from_the_marks(rows):
    for row in rows:
        marks = [float(row[f"mark_{judge}"]) for judge in range(1, 6)]
        assert all(0 <= mark <= 10 and (2 * mark).is_integer() for mark in marks)
        middle = sorted(marks)[1:-1]
        assert float(row["score"]) == pytest.approx(float(row["difficulty"]) * sum(middle), abs=0.006)


def test_each_fault_has_its_place_in_the_recording(rows):
    assert {name for row in rows for name in FAULTS if float(row[name]) > 0} == set(FAULTS)
    for row in rows:
        assert 0 < float(row["takeoff"]) < float(row["entry"]) < DURATION
        assert not float(row["over_rotation"]) or not float(row["under_rotation"])
        for name in FAULTS:
            assert 0 <= float(row[name]) <= 1
            if not float(row[name]):
                assert row[f"{name}_start"] == row[f"{name}_end"] == ""
            else:
                assert 0 < float(row[f"{name}_start"]) < float(row[f"{name}_end"]) <= DURATION


def test_recordings_have_the_streams_that_the_truth_says(folder, rows):
    assert {lack for row in rows for lack in row["lacks"].split()} == {"picture", "sound", "commentary"}
    for row in rows:
        lacks = row["lacks"].split()
        assert ("commentary" in lacks) == (row["commentary"] == "")
        with av.open(folder / "recordings" / f"{row['sample_id']}.mp4") as file:
            assert {stream.codec.canonical_name for stream in file.streams} == {
                name for name, what in (("h264", "picture"), ("aac", "sound")) if what not in lacks
            }
            assert file.duration / av.time_base == pytest.approx(DURATION, abs=0.07)
            assert len(file.streams.video) == 0 or sum(1 for _ in file.decode(video=0)) == 75


def test_the_same_seed_gives_the_same_files(folder, tmp_path):
    def digests(place: Path) -> dict[str, str]:
        paths = [path for path in sorted(place.rglob("*")) if path.is_file()]
        return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    SimulatedDives(tmp_path / "again", **OPTIONS).make()
    assert digests(tmp_path / "again") == digests(folder)
    SimulatedDives(tmp_path / "fewer", **{**OPTIONS, "samples_train": 3, "samples_test": 1}).make()
    fewer, all_of_them = digests(tmp_path / "fewer"), digests(folder)
    assert all(all_of_them[name] == digest for name, digest in fewer.items() if name.startswith("recordings"))
    SimulatedDives(tmp_path / "other", **{**OPTIONS, "seed": 5, "samples_train": 1, "samples_test": 1}).make()
    assert digests(tmp_path / "other")["recordings/dive_00000.mp4"] != all_of_them["recordings/dive_00000.mp4"]


def test_what_is_there_is_not_made_again(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    SimulatedDives(folder, **OPTIONS).make()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_folder_with_something_else_is_refused(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"holds dives of other options \(seed 4, asked for: 9\); name another folder"
    ):
        SimulatedDives(folder, **{**OPTIONS, "seed": 9}).make()
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no simulated dives; name another folder"):
        load("simulated_dives", folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples_test": 0}, "samples_test is 0, expected 1 or more"),
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"size": 65}, "size is 65, expected an even number"),
    ],
)
def test_impossible_options(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        SimulatedDives(tmp_path, **options)


def test_truth_is_a_column_and_no_feature(folder, rows):
    data = SimulatedDives(folder, **OPTIONS).read_labels()
    assert list(data.modalities) == ["video", "audio", "commentary"]
    by_id = {row["sample_id"]: row for row in rows}
    for split in data.splits.values():
        for row in split:
            truth = by_id[row["sample_id"]]
            assert row["position"] == truth["position"]
            assert row["score"] == pytest.approx(float(truth["score"]), abs=1e-4)
            assert [row[name] for name in FAULTS] == pytest.approx([float(truth[name]) for name in FAULTS])
    assert data.score_ranges == [HIGHEST_SCORE]


def test_features_are_made_once_where_the_recording_has_the_stream(tmp_path, tiny_encoder):
    options = {"folder": tmp_path / "dives", "samples_train": 8, "samples_test": 2, "seed": 4, "size": 48}
    data = load("simulated_dives", **options)
    assert data.recipe["name"] == "classic"
    for row in (row for split in data.splits.values() for row in split):
        lacks = (row["lacks"] or "").split()
        for name, stream in (("video", "picture"), ("audio", "sound"), ("commentary", "commentary")):
            assert (row[name] is None) == (stream in lacks)
        assert row["video"] is None or np.shape(row["video"])[1] == data.modalities["video"]
    assert data.missing.features

    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "dives").rglob("*.safetensors")}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_with_text(tiny_encoder)))
    again = load("simulated_dives", **options, recipe=str(tmp_path / "recipe.json"))
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert again.modalities == {**data.modalities, "commentary": 8}
    for first, second in zip(data.splits["train"], again.splits["train"], strict=True):
        assert (first["commentary"] is None) == (second["commentary"] is None)
        assert (first["video"], first["audio"]) == (second["video"], second["audio"])

    sizes = {"video": None, "audio": None, "commentary": "text"}
    own = load("folder", folder=options["folder"], recipe="classic", modalities=sizes, scores=["score"])
    for first, second in zip(data.splits["test"], own.splits["test"], strict=True):
        assert {name: first[name] for name in sizes} == {name: second[name] for name in sizes}


def test_difficulties_and_marks_are_within_their_ranges():
    dives = drawn(2000)
    difficulties = [each.difficulty for each in dives]
    assert min(difficulties) == 0.7
    assert max(difficulties) == HIGHEST_DIFFICULTY
    assert all(each.half_somersaults % 2 == (not each.armstand) for each in dives)  # hands enter first
    assert all(each.opening < each.opened < each.entry < DURATION for each in dives)


def test_judges_deduct_for_each_fault():
    generator = np.random.default_rng(0)
    clean = draw_marks({}, generator, 4000)
    for name, deduction in DEDUCTIONS.items():
        marks = draw_marks({name: 0.5}, generator, 4000)
        assert clean.mean() - marks.mean() > 0.3 * deduction
    assert panel_score(2.0, np.array([[1.0, 9.0, 5.0, 6.0, 7.0]])).tolist() == [36.0]


def test_best_attainable_is_that_of_the_docstring(folder):
    data = SimulatedDives(folder, **OPTIONS).read_labels()
    assert all(metrics == best_attainable() for metrics in data.best_attainable.values())
    text = " ".join(SimulatedDives.__doc__.split())
    documented = re.search(r"Spearman correlation of (\.\d+) and an MSE of ([\d.]+)", text)
    assert best_attainable()["spearman"] == pytest.approx(float(documented[1]), abs=5e-4)
    assert best_attainable()["mse"] == pytest.approx(float(documented[2]), abs=0.05)


def test_the_body_turns_as_often_as_the_dive_says():
    for each in drawn(50):
        begin, end = rotation(each, np.array([each.takeoff, each.entry]))
        wrong = each.severity("over_rotation") - each.severity("under_rotation")
        assert end - begin == pytest.approx(np.pi * each.half_somersaults + 0.8 * wrong)


def test_a_clean_dive_enters_head_first_and_straight():
    points = body_points(dive(), np.array([dive().entry]))
    hands, hip, toes = (points[name][0] for name in ("left_hand", "hip", "left_toe"))
    assert hands[1] == pytest.approx(0, abs=0.15)
    assert hands[1] < hip[1] < toes[1]
    assert abs(hands[0] - toes[0]) < 0.15


@pytest.mark.parametrize(
    ("fault", "time"),
    [
        ("bent_knees", 1.0),
        ("over_rotation", 1.8),
        ("under_rotation", 1.8),
        ("loose_opening", 1.5),
        ("crooked_entry", 1.8),
        ("splash", 2.1),
        ("board_noise", 0.6),
    ],
)
def test_faults_are_seen_when_they_happen_and_not_before(fault, time):
    faulty = Dive(**{**CLEAN, "opened": 1.75 if fault == "loose_opening" else 1.6}, severities={fault: 1.0})
    pairs = zip(*(draw_frames(each, np.random.default_rng(3), 64, 25) for each in (dive(), faulty)), strict=True)
    changed = [brightness(np.abs(first.astype(int) - second)) for first, second in pairs]
    turns_otherwise = fault in ("over_rotation", "under_rotation", "loose_opening")  # from the first moment in the air
    start = faulty.takeoff if turns_otherwise else faulty.faults[fault].start
    assert max(changed[: int(start * 25)]) < 0.02
    assert changed[round(time * 25)] > 0.1


@pytest.mark.parametrize("fault", ["board_noise", "splash"])
def test_faults_are_heard_when_they_happen(fault):
    quiet, loud = (make_sound(each, np.random.default_rng(3)) for each in (dive(), dive(**{fault: 1.0})))
    where = dive(**{fault: 1.0}).faults[fault]
    during = slice(int(where.start * RATE), int((where.start + 0.3) * RATE))
    assert np.std(loud[during]) > 2 * np.std(quiet[during])
    assert np.array_equal(loud[: during.start], quiet[: during.start])
    assert np.abs(loud).max() <= 1


def test_the_commentator_names_the_dive_and_mentions_faults_not_always_rightly():
    generator = np.random.default_rng(2)
    assert dive_name(dive()) == "One and a half somersaults, pike"
    said = [(each, comment(each, generator)) for each in drawn(1000)]
    named = np.mean([text.startswith(dive_name(each)) for each, text in said])
    assert 0.9 < named < 1
    for fault, remarks in REMARKS.items():
        mentions = [any(remark in text.lower() for remark in remarks) for _, text in said]
        happened = [each.severity(fault) > 0.5 for each, _ in said]
        absent = [each.severity(fault) == 0 for each, _ in said]
        assert np.mean(np.array(mentions)[happened]) > 0.15  # of a list of two at most
        assert 0 < np.mean(np.array(mentions)[absent]) < 0.1
    assert all(text.count(". ") <= 1 and text.endswith(".") for _, text in said)
