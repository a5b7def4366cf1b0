"""Files of the published layouts, with the real labels where they are public, against an independent reading."""

import os
import pickle

import numpy as np
import pytest

from limssr.training.data import load
from limssr.training.data.sources.labels import LabelError
from limssr.training.data.sources.pickles import UnsafePickleError

MEN = "FINADivingWorldCup2021_Men"


def assert_features_are(data, written):
    """Every tensor of every split is what was written for this sample."""
    assert {name: data.modalities[name] for name in written} == data.modalities
    for split in data.splits.values():
        for row in split.with_format("arrow").iter(batch_size=1):
            sample_id = row["sample_id"][0].as_py()
            for name, arrays in written.items():
                expected = arrays[sample_id]
                expected = expected.astype(np.float64).mean(1) if expected.ndim == 3 else expected
                np.testing.assert_allclose(np.array(row[name][0].as_py()), expected, rtol=0, atol=1e-6)


def lines_of(path, skipped=0):
    return [line.split() for line in path.read_text().splitlines()[skipped:]]


def test_fs1000_is_what_was_written(write_layout, tmp_path):
    written = write_layout("fs1000", tmp_path)
    assert written["video"].popitem()[1].ndim == 3
    written = write_layout("fs1000", tmp_path)
    data = load("fs1000", folder=tmp_path)
    assert data.score_names == ["tes", "pcs", "ss", "tr", "pe", "co", "in"]
    assert data.score_ranges == [130, 60, 10, 10, 10, 10, 10]
    assert data.max_clips == 95
    assert_features_are(data, written)
    for split, name in (("train", "train_fs1000_new.txt"), ("test", "val_fs1000_new.txt")):
        rows = lines_of(tmp_path / name)
        assert data.splits[split]["sample_id"][:] == [row[0] for row in rows]
        numbers = np.array([row[1:] for row in rows], dtype=float)
        numbers[:, 1] /= numbers[:, 7]
        for column, score in enumerate(data.score_names):
            np.testing.assert_allclose(data.splits[split][score][:], numbers[:, column], rtol=1e-6)
        np.testing.assert_allclose(data.splits[split]["factor"][:], numbers[:, 7], rtol=1e-6)


def test_scores_are_chosen_and_the_others_stay(write_layout, tmp_path):
    write_layout("fs1000", tmp_path, {"video": 4, "audio": 4, "flow": 4})
    sizes = {"video": 4, "audio": 4, "flow": 4}
    data = load("fs1000", folder=tmp_path, scores=["in", "tes"], modalities=sizes)
    assert (data.score_names, data.score_ranges) == (["in", "tes"], [10, 130])
    assert {"pcs", "ss", "factor"} <= set(data.splits["test"].column_names)
    assert load("fs1000", folder=tmp_path, scores="co", modalities=sizes).score_names == ["co"]


def test_fisv_is_what_was_written(write_layout, tmp_path):
    written = write_layout("fisv", tmp_path)
    data = load("fisv", folder=tmp_path)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 400, "test": 100}
    assert (data.score_names, data.score_ranges, data.max_clips) == (["tes", "pcs"], [45, 40], 124)
    assert data.modalities == {"video": 1024, "audio": 768, "flow": 1024}
    assert_features_are(data, written)
    for split in ("train", "test"):
        rows = lines_of(tmp_path / f"{split}.txt")
        assert data.splits[split]["sample_id"][:] == [row[0] for row in rows]
        np.testing.assert_allclose(data.splits[split]["tes"][:], [float(row[1]) for row in rows], rtol=1e-6)
        np.testing.assert_allclose(data.splits[split]["pcs"][:], [float(row[2]) for row in rows], rtol=1e-6)


def test_a_header_takes_no_sample_away(write_layout, tmp_path):
    sizes = {"video": 4, "audio": 4, "flow": 4}
    write_layout("fisv", tmp_path, sizes)
    plain = load("fisv", folder=tmp_path, modalities=sizes)
    for name in ("train.txt", "test.txt"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_bytes(f"\ufeffVideo_ID TES\tPCS  Deduction\r\n{text}".replace("\n", "\r\n").encode())
    headed = load("fisv", folder=tmp_path, modalities=sizes)
    assert headed.splits["train"].to_dict() == plain.splits["train"].to_dict()
    assert len(headed.splits["test"]) == 100


def test_a_lost_row_is_said_aloud(write_layout, tmp_path, caplog):
    sizes = {"video": 4, "audio": 4, "flow": 4}
    write_layout("fisv", tmp_path, sizes)
    load("fisv", folder=tmp_path, modalities=sizes)
    assert "official" not in caplog.text
    path = tmp_path / "train.txt"
    path.write_text(path.read_text().partition("\n")[2])
    load("fisv", folder=tmp_path, modalities=sizes)
    assert "the split train has 399 samples" in caplog.text
    assert "the official one has 400" in caplog.text


def test_rhythmic_gymnastics_is_what_was_written(write_layout, tmp_path):
    sizes = {"video": 16, "audio": 12, "flow": 16}
    written = write_layout("rhythmic_gymnastics", tmp_path, sizes)
    data = load("rhythmic_gymnastics", folder=tmp_path, modalities=sizes)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 800, "test": 200}
    assert (data.score_names, data.score_ranges, data.max_clips) == (["total"], [25], 68)
    assert_features_are(data, written)
    for split in ("train", "test"):
        rows = lines_of(tmp_path / f"{split}.txt", skipped=1)
        assert data.splits[split]["sample_id"][:] == [row[0] for row in rows]
        for column, name in ((1, "difficulty"), (2, "execution"), (3, "total")):
            expected = [float(row[column]) for row in rows]
            np.testing.assert_allclose(data.splits[split][name][:], expected, rtol=1e-6)


def test_one_apparatus_has_200_and_50_routines(write_layout, tmp_path, caplog):
    written = write_layout("rhythmic_gymnastics", tmp_path)
    for path in (tmp_path / "RG-feature").glob("Ball*"):
        path.unlink()  # not asked for
    data = load("rhythmic_gymnastics", folder=tmp_path, apparatus="Clubs", scores=["total", "execution"])
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 200, "test": 50}
    assert set(data.splits["train"]["apparatus"][:]) == {"Clubs"}
    assert "Clubs" in data.description
    assert data.modalities == {"video": 1024, "audio": 768, "flow": 1024}
    assert_features_are(data, written)
    assert caplog.text == ""
    with pytest.raises(ValueError, match=r"apparatus is \['Rope'\], allowed: one or more of Ball, Clubs"):
        load("rhythmic_gymnastics", folder=tmp_path, apparatus="Rope")


def test_finediving_is_what_was_written(write_layout, tmp_path, caplog):
    written = write_layout("finediving", tmp_path)
    data = load("finediving", folder=tmp_path, scores=["score", "execution"])
    assert data.modalities == {"flow": 1024, "video": 1024}
    assert data.score_ranges == [104.5, 30]
    assert_features_are(data, written)
    annotations = pickle.loads((tmp_path / "Annotations/fine-grained_annotation_aqa.pkl").read_bytes())  # noqa: S301
    for split in ("train", "test"):
        keys = pickle.loads((tmp_path / f"Annotations/{split}_split.pkl").read_bytes())  # noqa: S301
        rows = data.splits[split]
        assert rows["sample_id"][:] == [f"{competition}/{number}" for competition, number in keys]
        assert rows["competition"][:] == [competition for competition, _ in keys]
        for row, key in zip(
            rows.select_columns(["score", "execution", "difficulty", "dive_number"]), keys, strict=True
        ):
            number, score, difficulty, *_ = annotations[key]
            assert row["dive_number"] == number
            assert row["score"] == pytest.approx(score)
            assert row["difficulty"] == pytest.approx(difficulty)
            assert row["execution"] == pytest.approx(score / difficulty, rel=1e-6)
    assert "the split train has 14 samples" in caplog.text


def test_features_can_lie_elsewhere_and_have_other_widths(write_layout, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "other").mkdir()
    written = write_layout("fisv", tmp_path / "labels", {"video": 8, "audio": 6})
    (tmp_path / "labels" / "Fis-feature" / "FISV_rgb_VST.npy").rename(tmp_path / "other" / "anything.pkl")
    for sample_id, array in written["audio"].items():
        np.save(tmp_path / "other" / f"{sample_id}.npy", array)
    features = {"video": str(tmp_path / "other" / "anything.pkl"), "audio": "../other"}
    data = load("fisv", folder=tmp_path / "labels", modalities={"video": 8, "audio": 6}, features=features)
    assert_features_are(data, {name: written[name] for name in ("video", "audio")})


def test_some_modalities_can_be_chosen_by_name(write_layout, tmp_path):
    write_layout("fisv", tmp_path)
    data = load("fisv", folder=tmp_path, modalities=["flow"])
    assert data.modalities == {"flow": 1024}
    assert "video" not in data.splits["train"].column_names


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scores": ["tes", "tes"]}, r"fisv: scores is \['tes', 'tes'\], allowed: one or more of tes, pcs"),
        ({"scores": ["total"]}, "fisv: scores is"),
        ({"modalities": ["sound"]}, "'sound' has feature size None; give one"),
        ({"modalities": {"sound": 3}}, "say where the features of 'sound' are"),
        ({"features": {"sound": "x"}}, "features names 'sound'; the modalities are video, audio, flow"),
        ({"modalities": []}, "modalities is empty"),
    ],
)
def test_impossible_options_are_refused(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        load("fisv", folder=tmp_path, **options)


@pytest.mark.parametrize(
    ("dataset", "file", "old", "new", "said"),
    [
        ("fisv", "train.txt", "3 28.79 27.89 1", "3 28,79 27.89 1", "line 2, sample '3': tes is '28,79': a comma"),
        ("fisv", "train.txt", "3 28.79 27.89 1", "1 28.79 27.89 1", r"line 2: sample '1' is already on line 1"),
        (
            "fisv",
            "train.txt",
            "3 28.79 27.89 1",
            "2 28.79 27.89 1",
            r"test\.txt, line 1.*also in the split train.*line 2",
        ),
        (
            "fisv",
            "train.txt",
            "3 28.79 27.89 1",
            "3 48.79 27.89 1",
            "line 2, sample '3': tes is 48.79, expected 0 to 45",
        ),
        ("fisv", "train.txt", "3 28.79 27.89 1", "3 28.79 27.89", "line 2: there are 3 columns, expected 4"),
        (
            "fisv",
            "train.txt",
            "3 28.79 27.89 1",
            "3 28.79 nan 1",
            "line 2, sample '3': pcs is 'nan', expected a number",
        ),
        ("rhythmic_gymnastics", "test.txt", "Ball_027\t5.60", "Rope_027\t5.60", "begins with none of Ball, Clubs"),
        ("rhythmic_gymnastics", "test.txt", "Ball_027\t5.60", "Ball_027\t-5.60", "line 3, .*difficulty is -5.6"),
        ("fs1000", "val_fs1000_new.txt", "_MF_Skater0 ", "_MF_Skater0 900", "line 1, .*tes is 900"),
    ],
)
def test_mistakes_in_labels_are_named_with_file_and_line(write_layout, tmp_path, dataset, file, old, new, said):
    write_layout(dataset, tmp_path, {"video": 2, "audio": 2, "flow": 2})
    text = (tmp_path / file).read_text()
    assert text.count(old) == 1
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(LabelError, match=said):
        load(dataset, folder=tmp_path)


def test_a_factor_of_nothing_is_refused(write_layout, tmp_path):
    write_layout("fs1000", tmp_path, {"video": 2, "audio": 2, "flow": 2})
    path = tmp_path / "train_fs1000_new.txt"
    first, rest = path.read_text().split("\n", 1)
    path.write_text(f"{first.rpartition(' ')[0]} 0\n{rest}")
    with pytest.raises(LabelError, match=r"train_fs1000_new\.txt, line 1.*factor is 0"):
        load("fs1000", folder=tmp_path)


@pytest.mark.parametrize(
    ("number", "annotation", "said"),
    [
        (3, ["107B", 120.0, 3.0], r"sample '\S+/3': score is 120, expected 0 to 104.5"),
        (3, ["107B", 50.0, 0.0], "difficulty 0.0, expected numbers above 0"),
        (3, ["107B", "much", 3.0], r"3\) has \['107B', 'much', 3.0\], expected dive number, score, difficulty"),
        (3, None, r"no dive \('\S+', 3\), which a split lists"),
    ],
)
def test_mistakes_in_annotations_are_named_with_the_dive(write_layout, tmp_path, number, annotation, said):
    write_layout("finediving", tmp_path, {"video": 2, "flow": 2})
    path = tmp_path / "Annotations" / "fine-grained_annotation_aqa.pkl"
    annotations = pickle.loads(path.read_bytes())  # noqa: S301
    annotations[f"{MEN}{number % 3}m_final", number] = annotation
    path.write_bytes(pickle.dumps(annotations))
    with pytest.raises(LabelError, match=said):
        load("finediving", folder=tmp_path)


class RunsOnLoad:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("fisv", "Fis-feature/FISV_audio_AST.npy"),
        ("rhythmic_gymnastics", "RG-feature/Hoop_rgb_VST.npy"),
        ("finediving", "Annotations/fine-grained_annotation_aqa.pkl"),
        ("finediving", "Annotations/test_split.pkl"),
    ],
)
@pytest.mark.parametrize("form", ["bare", "npy"])
def test_a_hostile_table_runs_nothing_and_is_named(write_layout, tmp_path, dataset, file, form):
    write_layout(dataset, tmp_path, {"video": 2, "audio": 2, "flow": 2})
    hostile = {"1": RunsOnLoad(tmp_path / "ran")}
    if form == "npy":
        with (tmp_path / file).open("wb") as stream:
            np.save(stream, hostile)
    else:
        (tmp_path / file).write_bytes(pickle.dumps(hostile))
    with pytest.raises(UnsafePickleError, match=rf"{(tmp_path / file).name}: refused, it asks for \w+\.mkdir"):
        load(dataset, folder=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_anything_is_said(tmp_path):
    with pytest.raises(LabelError, match=r"train\.txt: no such file"):
        load("fisv", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"fine-grained_annotation_aqa\.pkl.*on request"):
        load("finediving", folder=tmp_path)
