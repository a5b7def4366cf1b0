"""Recordings as a dataset: made once by `limssr extract`, or read as they are."""

import json
import os
import resource

import numpy as np
import pytest
from safetensors import safe_open

pytest.importorskip("av", reason="the extra `media` is not installed")

import av

from limssr.processing.recipes_limssr import ClipExtractor, Recipe
from limssr.processing.recordings_limssr import Recording
from limssr.training import extract_features as script
from limssr.training.data import load
from limssr.training.data.extract import Material, extract_features, find_material, read_record
from limssr.training.data.prepare import prepare_data
from tests.helpers.models import recipe_with_text
from tests.helpers.recordings import moving_pictures, tone, write_recording

DIGEST = Recipe.load("classic").digest


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Six recordings with labels: `b` has no sound, `c` is damaged, `meet/e` no picture."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "recordings" / "meet").mkdir(parents=True)
    for number, name in enumerate(["a", "b", "c", "d", "meet/e", "f"]):
        path = folder / "recordings" / f"{name}.{'wav' if name == 'meet/e' else 'mp4'}"
        if name == "c":
            path.write_bytes(b"no recording at all")
            continue
        pictures = [] if name == "meet/e" else moving_pictures(16 + number)
        sound = None if name == "b" else tone(0.7, frequency=200 * (number + 1))
        write_recording(path, pictures, sound=sound, sound_codec="pcm_s16le" if name == "meet/e" else "aac")
    rows = ["a,1,train", "b,2,train", "c,3,train", "d,4,test", "meet/e,5,test", "f,6,validation"]
    (folder / "labels.csv").write_text("\n".join(["sample_id,score,split", *rows]) + "\n")
    return folder


def run(*words) -> int:
    return script.main([*map(str, words), "--workers", "1"])


@pytest.fixture(scope="module")
def extracted(archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("extracted") / "out"
    assert run(archive, out) == 1
    return out


def test_features_lie_in_the_layout_of_a_folder_with_times_and_recipe(archive, extracted, capsys):
    assert sorted(path.relative_to(extracted).as_posix() for path in extracted.rglob("*.safetensors")) == [
        *(f"audio/{name}.safetensors" for name in ("a", "d", "f", "meet/e")),
        *(f"video/{name}.safetensors" for name in ("a", "b", "d", "f")),
    ]
    expected = ClipExtractor("classic").extract(archive / "recordings" / "a.mp4")
    with safe_open(extracted / "video" / "a.safetensors", framework="np") as file:
        assert file.metadata() == {"recipe": DIGEST}
        np.testing.assert_array_equal(file.get_tensor("clips"), expected["video"].features)
        np.testing.assert_array_equal(file.get_tensor("times"), expected["video"].times)
    assert Recipe.load(extracted / "recipe.json").digest == DIGEST


def test_a_broken_recording_is_listed_and_stops_nothing(archive, tmp_path, capsys):
    assert run(archive / "recordings", tmp_path / "out") == 1
    out, errors = capsys.readouterr()
    assert out == f"5 of 6 recordings are in {tmp_path / 'out'}\n"
    assert f"ERROR c: {archive / 'recordings' / 'c.mp4'}: no video or sound that FFmpeg can read" in errors
    assert not (tmp_path / "out" / "labels.csv").exists()


def test_a_stopped_extraction_continues(archive, extracted, monkeypatch):
    made = {path: path.stat().st_mtime_ns for path in extracted.rglob("*.safetensors")}
    (extracted / "video" / "d.safetensors").unlink()
    with (extracted / "extraction.jsonl").open("ab") as record:
        record.write('\n{"sample_id": "é'.encode()[:-1])  # as a killed run leaves it
    assert run(archive, extracted) == 1
    again = {path: path.stat().st_mtime_ns for path in extracted.rglob("*.safetensors")}
    assert again.keys() == made.keys()
    assert {path.stem for path in made if made[path] != again[path]} == {"d"}
    assert read_record(extracted)["d"].clips == {"video": 2, "audio": 2}
    record = (extracted / "extraction.jsonl").read_bytes().splitlines()
    assert json.loads(record[-1])["sample_id"] == "d"


def test_what_is_made_of_something_else_now_is_made_again(archive, tmp_path):
    table, out = tmp_path / "list.csv", tmp_path / "out"
    (tmp_path / "a.mp4").write_bytes((archive / "recordings" / "a.mp4").read_bytes())
    (tmp_path / "f.mp4").write_bytes((archive / "recordings" / "f.mp4").read_bytes())

    def extract(*cells: str) -> dict[str, int]:
        table.write_text("sample_id,recording,start,end\n" + "\n".join(cells))
        assert run(table, out) == 0
        return {path.stem: path.stat().st_mtime_ns for path in (out / "video").iterdir()}

    before = extract("x,a.mp4,,", "y,f.mp4,,")
    after = extract("x,a.mp4,0.32,", "y,f.mp4,,")
    assert (after["x"] != before["x"], after["y"]) == (True, before["y"])
    assert read_record(out)["x"].clips == {"video": 1, "audio": 1}
    (tmp_path / "a.mp4").write_bytes((archive / "recordings" / "b.mp4").read_bytes())  # has no sound
    extract("x,a.mp4,0.32,", "y,f.mp4,,")
    assert [path.stem for path in (out / "audio").iterdir()] == ["y"]
    last = extract("x,a.mp4,0.32,", "y,f.mp4,,")
    (tmp_path / "a.mp4").unlink()  # to save space: what was made of it is kept
    assert extract("x,a.mp4,0.32,", "y,f.mp4,,") == last


def test_of_a_recording_with_broken_sound_the_picture_is_kept(tmp_path, capsys):
    (tmp_path / "recordings").mkdir()
    sound = np.random.default_rng(0).normal(scale=0.1, size=(1, 16000)).astype(np.float32)
    path = write_recording(tmp_path / "recordings" / "a.mkv", moving_pictures(20), sound=sound)
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(audio=0)]
    content = path.read_bytes()
    for packet in filter(None, packets):
        content = content.replace(packet, b"\xff" * len(packet))
    path.write_bytes(content)
    (tmp_path / "labels.csv").write_text("sample_id,score,split\na,1,train\n")
    for _ in range(2):
        assert run(tmp_path, tmp_path / "out") == 1
        assert "a.mkv: no frame of its audio stream (aac) can be decoded" in capsys.readouterr().err
        assert [path.parent.name for path in (tmp_path / "out").rglob("*.safetensors")] == ["video"]


def test_nothing_of_a_folder_with_something_else_is_touched(archive, tmp_path):
    (tmp_path / "labels.csv").write_text("sample_id,recording,score\na,a.mp4,1\n")
    (tmp_path / "a.mp4").write_bytes((archive / "recordings" / "a.mp4").read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "labels.csv").write_text("mine")
    for out in (tmp_path, tmp_path / "other"):
        before = {path: path.read_bytes() for path in out.glob("[!.]*.*")}
        with pytest.raises(SystemExit, match="is not empty, and what is in it are no features"):
            run(tmp_path, out)
        assert {path: path.read_bytes() for path in out.glob("[!.]*.*")} == before


def test_a_folder_whose_labels_name_the_recordings(archive, tmp_path):
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "one.mp4").write_bytes((archive / "recordings" / "a.mp4").read_bytes())
    (tmp_path / "labels.csv").write_text("sample_id,recording,start,score,split\na,films/one.mp4,0.32,1,train\n")
    assert run(tmp_path, tmp_path / "out") == 0
    assert (tmp_path / "out" / "labels.csv").read_text() == "sample_id,score,split\na,1,train\n"
    assert {name: entry.clips for name, entry in read_record(tmp_path / "out").items()} == {
        "a": {"video": 1, "audio": 1}
    }


def test_what_is_no_folder_and_no_table_is_named(archive, tmp_path):
    for place, said in (
        (archive / "recordings" / "a.mp4", "this is a recording"),
        (tmp_path / "no", "there is no such"),
    ):
        with pytest.raises(SystemExit, match=rf"{place.name}: {said}.*; expected a folder of recordings, or a CSV"):
            run(place, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_share_the_work_and_another_recipe_is_refused(archive, tmp_path, capsys):
    samples = find_material(archive / "recordings", Recipe.load("classic"))
    assert list(samples) == ["a", "b", "c", "d", "f", "meet/e"]
    assert run(archive / "recordings", tmp_path / "out", "--part", "2/3") == 0
    assert list(read_record(tmp_path / "out")) == ["b", "f"]
    other = Recipe.load("classic").to_dict()
    other["modalities"]["video"]["short_side"] = 48
    with pytest.raises(FileExistsError, match="holds features of another recipe"):
        extract_features(samples, tmp_path / "out", other, 1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty, and what is in it are no features"):
        extract_features(samples, tmp_path / "full", "classic", 1)
    with pytest.raises(SystemExit):
        run(archive, tmp_path / "out", "--part", "4/3")
    assert "'4/3' is no part; expected K/N" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_extract_the_same(archive, extracted, tmp_path):
    samples = find_material(archive, Recipe.load("classic"))
    failed = extract_features(samples, tmp_path / "out", "classic", 2)
    assert [each.sample_id for each in failed] == ["c"]
    for path in extracted.rglob("*.safetensors"):
        assert (tmp_path / "out" / path.relative_to(extracted)).read_bytes() == path.read_bytes()


def test_a_table_names_recordings_and_their_parts(archive, tmp_path):
    table = archive / "list.csv"
    table.write_text(
        "sample_id,recording,start,end,score,split\nx,recordings/a.mp4,0.32,0.64,7,train\n"
        "y,recordings/a.mp4,,,8,test\nz,,,,9,test\n"
    )
    assert run(table, tmp_path / "out") == 0
    assert (tmp_path / "out" / "labels.csv").read_text() == "sample_id,score,split\nx,7,train\ny,8,test\nz,9,test\n"
    counts = {name: entry.clips for name, entry in read_record(tmp_path / "out").items()}
    assert counts == {"x": {"video": 1, "audio": 1}, "y": {"video": 2, "audio": 2}}
    table.write_text("sample_id,recording,start,end\nx,recordings/a.mp4,2,1\n")
    with pytest.raises(SystemExit, match=r"line 2, sample 'x': .*expected 0 <= start < end"):
        run(table, tmp_path / "out")
    table.write_text("sample_id,recording\nx,https://example.org/a.mp4\n")
    with pytest.raises(SystemExit, match=r"line 2, sample 'x': https://example.org/a.mp4 is a URL; download the file"):
        run(table, tmp_path / "out")
    table.write_text("sample_id,file\nx,recordings/a.mp4\n")
    with pytest.raises(SystemExit, match="there is no column 'recording'; the columns are sample_id, file"):
        run(table, tmp_path / "out")


def test_what_was_extracted_and_what_is_read_from_recordings_are_the_same_data(archive, extracted, tmp_path):
    made = load("folder", folder=extracted)
    read = load("folder", folder=archive, recipe="classic")
    for data in (made, read):
        assert data.modalities == {"video": 386, "audio": 84} or data.modalities == {"audio": 84, "video": 386}
        assert Recipe.load(data.recipe).digest == DIGEST
        assert data.missing.dropped == ["c"]
    assert read.missing.counts()["audio"] == {"no such stream": 1, "unreadable": 1}
    for split in made.splits:
        for one, other in zip(made.splits[split], read.splits[split], strict=True):
            assert one == other
    prepare_data("folder", str(archive), tmp_path / "prepared", {"recipe": "classic"})
    prepared = load("prepared", folder=tmp_path / "prepared")
    assert prepared.recipe == read.recipe
    assert prepared.splits["test"][0] == read.splits["test"][0]


def test_a_column_of_the_labels_names_recordings(archive, tmp_path):
    (tmp_path / "labels.csv").write_text(
        f"sample_id,recording,start,end,score,split\nx,{archive}/recordings/a.mp4,0.32,0.64,7,train\n"
        f"w,{archive}/recordings/d.mp4,,,6,train\ny,{archive}/recordings/a.mp4,,,8,test\nz,,,,9,test\n"
    )
    options = {"folder": tmp_path, "recipe": "classic", "modalities": ["video"]}
    with pytest.raises(ValueError, match=r"sample 'x': the path .* leads out of its folder.*`outside_paths` permits"):
        load("folder", **options)
    data = load("folder", **options, outside_paths=True)
    assert data.score_names == ["score"]
    assert data.modalities == {"video": 386}
    assert [len(row["video"]) for row in data.splits["train"]] == [1, 2]
    assert data.missing.dropped == ["z"]


def test_features_of_another_recipe_are_no_features(extracted, tmp_path):
    for path in ("labels.csv", "video", "audio"):
        os.symlink(extracted / path, tmp_path / path)
    other = json.loads((extracted / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({**other, "version": 99}))
    with pytest.raises(ValueError, match=r"made by the recipe [0-9a-f]{12}, expected [0-9a-f]{12}"):
        load("folder", folder=tmp_path)


def test_a_full_disk_is_one_line_and_the_rest_comes_later(archive, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1200, before[1]))  # the recipe fits, the features do not
    try:
        with pytest.raises(SystemExit, match=r"video/a\.safetensors could not be written: .*File too large"):
            run(archive / "recordings", tmp_path / "out", "--part", "1/6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run(archive / "recordings", tmp_path / "out", "--part", "1/6") == 0
    assert list(read_record(tmp_path / "out")) == ["a"]


@pytest.mark.parametrize("sample_id", ["../outside", "a/../../outside", "/outside", "C:\\outside", "..\\outside"])
def test_an_id_that_leaves_the_folder_is_refused_before_anything_is_written(archive, tmp_path, sample_id):
    material = Material(Recording(archive / "recordings" / "a.mp4"))
    with pytest.raises(ValueError, match="its features would lie outside the folder"):
        extract_features({"inside": material, sample_id: material}, tmp_path / "out", "classic", workers=1)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def narrated(archive, tmp_path, tiny_encoder):
    """A table of recordings with a column of texts, and the recipe that reads them."""
    (tmp_path / "recipe.json").write_text(json.dumps(recipe_with_text(tiny_encoder)))
    (tmp_path / "labels.csv").write_text(
        "sample_id,recording,commentary,score,split\n"
        f"x,{archive}/recordings/a.mp4,she dive into the water,7,train\n"
        f'w,,"nice pike, and twist",6,train\nz,{archive}/recordings/b.mp4,,9,test\nempty,,,5,test\n'
    )
    return tmp_path


def test_texts_beside_recordings_become_clips(narrated, tmp_path):
    recipe, out = narrated / "recipe.json", tmp_path / "out"
    assert run(narrated / "labels.csv", out, "--recipe", recipe, "--outside_paths") == 0
    counts = {name: entry.clips for name, entry in read_record(out).items()}
    assert counts == {"x": {"commentary": 3, "video": 2, "audio": 2}, "w": {"commentary": 2}, "z": {"video": 2}}
    assert (out / "labels.csv").read_text().splitlines()[0] == "sample_id,score,split"
    made = load("folder", folder=out)
    read = load("folder", folder=narrated, recipe=str(recipe), outside_paths=True)
    assert made.missing.dropped == read.missing.dropped == ["empty"]
    columns = ("sample_id", "score", "video", "audio", "commentary")
    for split in ("train", "test"):
        for one, other in zip(made.splits[split], read.splits[split], strict=True):
            assert {name: one[name] for name in columns} == {name: other[name] for name in columns}
    options = {"recipe": str(recipe), "outside_paths": True}
    prepare_data("folder", str(narrated), tmp_path / "prepared", options)
    assert (
        load("prepared", folder=tmp_path / "prepared").splits["train"][0]["commentary"]
        == (read.splits["train"][0]["commentary"])
    )


def test_a_recipe_of_texts_alone_needs_no_recording(narrated, tmp_path):
    recipe = json.loads((narrated / "recipe.json").read_text())
    recipe["modalities"] = {"commentary": recipe["modalities"]["commentary"]}
    (narrated / "recipe.json").write_text(json.dumps(recipe))
    (narrated / "texts.csv").write_text("sample_id,commentary\nx,she dive\ny,\u200b\nz,nice\n")
    assert run(narrated / "texts.csv", tmp_path / "out", "--recipe", narrated / "recipe.json") == 0
    assert {name: entry.clips for name, entry in read_record(tmp_path / "out").items()} == {
        "x": {"commentary": 1},
        "y": {"commentary": 1},  # an unknown word of the tiny encoder
        "z": {"commentary": 1},
    }


def test_the_language_model_reads_a_text_where_that_is_said(narrated):
    sizes = {"video": None, "commentary": "text"}
    options = {"recipe": str(narrated / "recipe.json"), "outside_paths": True, "scores": ["score"]}
    data = load("folder", folder=narrated, modalities=sizes, **options)
    assert data.splits["train"][0]["commentary"] == "she dive into the water"


def test_a_recipe_that_finds_no_texts_says_where_they_belong(archive, narrated, tmp_path):
    recipe = narrated / "recipe.json"
    for place, message in (
        (archive / "recordings", r"recordings/labels\.csv: there is no such file; .* makes 'commentary' of text"),
        (archive, r"labels\.csv: there is no column 'commentary', with the texts"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(place, tmp_path / "out", "--recipe", recipe)
    with pytest.raises(ValueError, match="there is no column 'commentary', with the texts"):
        load("folder", folder=archive, recipe=str(recipe))
