"""`predict.py`: one sample, a folder or a CSV; what it prints, and what it says about mistakes."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.processing.recipes_limssr import Recipe
from limssr.training import predict as script
from limssr.training.utils.launching import exit_on_error
from tests.helpers.feature_rows import write_folder
from tests.helpers.models import make_calibration, recipe_with_text


@pytest.fixture
def folder(tmp_path):
    """Samples s000 to s003 with video; s000 and s003 have audio too."""
    return write_folder(tmp_path / "features", 4)


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(*words)` calls the script in this process and returns its exit status, output and errors."""

    def call(*words) -> tuple[int | str, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, words)])
        try:
            status = script.main()
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status, out, err

    return call


def score_of(model, processor, **features) -> float:
    with torch.no_grad():
        return (
            model.eval()(**processor(features={name: [clips] for name, clips in features.items()})).scores[0, 0].item()
        )


def test_the_script_scores_one_sample_from_npy_and_safetensors(checkpoint, tiny_model, tiny_processor, tmp_path):
    video, audio = np.random.default_rng(0).normal(size=(2, 3, 16)).astype("float32")
    np.save(tmp_path / "a.npy", video)
    save_file({"clips": torch.from_numpy(audio[:, :12].copy())}, tmp_path / "b.safetensors")
    command = [sys.executable, Path(script.__file__), checkpoint, "--video", "a.npy", "--audio", "b.safetensors"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")  # no bar where there is no terminal, no word of a library
    (entry,) = json.loads(done.stdout)
    assert entry["used"] == ["video", "audio"]
    values = entry["scores"]["score"]
    assert values["score"] == pytest.approx(
        score_of(tiny_model, tiny_processor, video=video, audio=audio[:, :12]), abs=1e-2
    )
    assert values["path_disagreement"] == pytest.approx(abs(values["reasoning_score"] - values["cross_modal_score"]))


@pytest.mark.parametrize("flags", [(), ("--zeros_are_missing",)])
def test_zeros_are_scored_as_missing_where_that_is_said(
    run, checkpoint, folder, tiny_model, tiny_processor, tmp_path, flags
):
    video, audio = np.load(folder / "video" / "s000.npy"), np.zeros((2, 12), np.float32)
    np.save(folder / "audio" / "s000.npy", audio)
    np.save(folder / "video" / "s001.npy", np.zeros_like(video))
    status, out, _ = run(checkpoint, "--folder", folder, "--format", "json", *flags)
    first, second, *_ = json.loads(out)
    given = {"video": video} if flags else {"video": video, "audio": audio}
    assert first["used"] == list(given)
    assert first["scores"]["score"]["score"] == pytest.approx(score_of(tiny_model, tiny_processor, **given), abs=1e-2)
    assert status == len(flags)
    assert second["error"] == ("sample s001: all its files hold only zeros" if flags else None)


def test_a_calibrated_model_gives_intervals_in_every_format(run, checkpoint, folder, tmp_path):
    settings = json.loads((checkpoint / "config.json").read_text())
    settings["calibration"] = make_calibration(["score"], {"video": 10.0}, widest=100.0)  # audio beside it: unknown
    (checkpoint / "config.json").write_text(json.dumps(settings))
    flags = ("--folder", folder, "--level", "0.8")
    _, out, _ = run(checkpoint, *flags, "--format", "json")
    for entry in json.loads(out):
        values = entry["scores"]["score"]
        if entry["used"] == ["video"]:
            assert values["interval"] == pytest.approx([values["score"] - 8, values["score"] + 8], abs=1e-4)
            assert values["evidence"] == "sufficient"
        else:
            assert (values["interval"], values["evidence"]) == ([0.0, 100.0], "insufficient")
    _, out, _ = run(checkpoint, *flags, "--format", "csv")
    first, second = list(csv.DictReader(io.StringIO(out)))[:2]
    assert [first["lower"], first["upper"], first["evidence"]] == ["0.0", "100.0", "insufficient"]
    assert float(second["upper"]) - float(second["lower"]) == pytest.approx(16)
    _, out, _ = run(checkpoint, *flags)
    assert "0.00 to 100.00 ?" in out
    run(checkpoint, *flags, "--output", tmp_path / "a.parquet")
    assert pq.read_table(tmp_path / "a.parquet")["evidence"].to_pylist()[:2] == ["insufficient", "sufficient"]


def test_without_a_calibration_there_is_no_interval(run, checkpoint, folder):
    _, out, _ = run(checkpoint, "--folder", folder, "--format", "json")
    assert {entry["scores"]["score"]["interval"] for entry in json.loads(out)} == {None}


@pytest.mark.parametrize("flags", [("--level", "0.3"), ("--level", "0.9", "--windows")])
def test_a_level_that_gives_no_interval_is_refused(run, checkpoint, folder, flags):
    status, _, errors = run(checkpoint, "--folder", folder, *flags)
    assert (status, "level" in errors) == (2, True)


def test_a_modality_called_like_a_flag_gets_another_flag():
    parser, flags = script.build_parser({"csv": 4, "video": 8})
    assert flags == ["--csv_file", "--video"]
    given = vars(parser.parse_args(["model", "--csv_file", "a.npy", "--csv", "list.csv"]))
    assert (given["features of csv"], given["csv"]) == (Path("a.npy"), Path("list.csv"))


def test_a_bad_file_loses_no_other_sample_of_a_folder(run, checkpoint, folder, tiny_model, tiny_processor, tmp_path):
    (folder / "video" / "s001.npy").write_bytes(b"damaged")
    np.save(folder / "audio" / "s003.npy", np.zeros((2, 99)))  # a width the model does not have
    output = tmp_path / "scores.csv"
    words = ("--folder", folder, "--format", "csv", "--output", output, "--batch_size", 2)
    status, _, errors = run(checkpoint, *words)
    assert status == 1
    assert "2 of 4 samples could not be scored" in errors
    rows = {row["sample_id"]: row for row in csv.DictReader(output.open())}
    assert list(rows) == ["s000", "s001", "s002", "s003"]
    assert str(folder / "video" / "s001.npy") in rows["s001"]["error"]
    assert "99" in rows["s003"]["error"]
    assert rows["s001"]["score"] == rows["s003"]["score"] == ""
    expected = score_of(tiny_model, tiny_processor, video=np.load(folder / "video" / "s002.npy"))
    assert float(rows["s002"]["score"]) == pytest.approx(expected, abs=1e-2)
    assert rows["s002"]["used"] == "video"
    assert rows["s002"]["error"] == ""


def test_an_empty_cell_of_a_csv_is_a_missing_modality(run, checkpoint, folder):
    table = "sample_id,video,audio\none,video/s000.npy,audio/s000.npy\ntwo,,audio/s003.npy\nthree,video/lost.npy,\n"
    (folder / "list.csv").write_text(table)
    status, out, errors = run(checkpoint, "--csv", folder / "list.csv")
    header, one, two, three = out.splitlines()
    assert (one.split()[0], one.split()[-1], two.split()[-1]) == ("one", "video+audio", "audio")
    assert one.index("video") == header.index("from")
    assert "ERROR" in three
    assert "lost.npy: no such file" in three
    assert status == 1
    assert errors.endswith("1 of 3 samples could not be scored\n")
    assert "lost.npy" not in errors  # once is enough


def test_text_csv_and_json_say_the_same(run, checkpoint, folder):
    words = (checkpoint, "--folder", folder, "--format")
    texts, entries = run(*words, "text")[1].splitlines()[1:], json.loads(run(*words, "json")[1])
    for text, entry, row in zip(texts, entries, csv.DictReader(run(*words, "csv")[1].splitlines()), strict=True):
        assert entry["sample_id"] == row["sample_id"] == text.split()[0]
        assert (row["score_name"], row["used"]) == ("score", "+".join(entry["used"]))
        values = entry["scores"]["score"]
        assert (values.pop("interval"), values.pop("evidence")) == (None, None)
        assert {name: float(row[name]) for name in values} == values
        assert text.split()[2] == f"{values['score']:.2f}"


def test_the_suffix_of_the_file_decides_what_is_written(run, checkpoint, folder, tmp_path):
    entries = json.loads(run(checkpoint, "--folder", folder, "--format", "json")[1])
    expected = [(entry["sample_id"], entry["scores"]["score"]["score"]) for entry in entries]

    def written(name: str) -> Path:
        status, out, _ = run(checkpoint, "--folder", folder, "--output", tmp_path / name)
        assert (status, out) == (0, "")
        return tmp_path / name

    def read_rows(rows) -> list[tuple[str, float]]:
        return [(row["sample_id"], float(row["score"])) for row in rows]

    assert read_rows(csv.DictReader(written("scores.csv").open())) == expected
    assert read_rows(csv.DictReader(written("scores.TSV").open(), delimiter="\t")) == expected
    assert read_rows(pq.read_table(written("scores.parquet")).to_pylist()) == expected
    assert json.loads(written("scores.json").read_text()) == entries
    assert [json.loads(line) for line in written("scores.jsonl").read_text().splitlines()] == entries
    assert written("scores.txt").read_text().startswith("sample ")
    assert "\ts000" not in written("scores.csv").read_text()


def test_a_yaml_file_names_the_language_model_of_an_adapter(run, tiny_language_model, folder, tmp_path):
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, modalities={"video": 16, "audio": 12})
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny_language_model)
    LimssrProcessor.from_config(model.config, tokenizer).save_pretrained(tmp_path / "adapter")
    words = (tmp_path / "adapter", "--folder", folder, "--format", "json", "--language_model")
    (tmp_path / "task.yaml").write_text(f"dataset: folder\nlanguage_model: {tiny_language_model}\n")
    assert run(*words, tmp_path / "task.yaml")[1] == run(*words, tiny_language_model)[1]
    assert "there is no file nowhere.yaml" in run(*words, "nowhere.yaml")[0]


def test_a_path_that_the_model_does_not_have_is_no_number(run, tiny_config, tiny_processor, folder, tmp_path):
    config = type(tiny_config)(**{**tiny_config.to_dict(), "aggregation": "reasoning"})
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "one_path")
    tiny_processor.save_pretrained(tmp_path / "one_path")
    words = (tmp_path / "one_path", "--folder", folder, "--format")
    for entry in json.loads(run(*words, "json")[1]):
        values = entry["scores"]["score"]
        assert values["score"] == values["reasoning_score"]
        assert values["cross_modal_score"] is values["path_disagreement"] is None
    assert run(*words, "text")[1].splitlines()[1].split()[4:6] == ["-", "-"]


def test_several_models_give_their_mean(run, checkpoint, tiny_config, tiny_processor, folder, tmp_path):
    torch.manual_seed(1)
    LimssrForScoreRegression(tiny_config).save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")

    def scores(*words) -> np.ndarray:
        entries = json.loads(run(*words, "--folder", folder, "--format", "json")[1])
        return np.array([list(entry["scores"]["score"].values())[:3] for entry in entries])

    one, other = scores(checkpoint), scores(tmp_path / "other")
    assert np.abs(one - other).min() > 0
    np.testing.assert_allclose(scores(checkpoint, "--ensemble_with", tmp_path / "other"), (one + other) / 2, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--vidoe", "a.npy"],
            "unknown argument --vidoe; the modalities of {checkpoint} are --video, --audio, --flow",
        ),
        ([], "give files of one sample (--video, --audio, --flow, --recording), or --folder, or --csv"),
        (["--video", "a.npy", "--csv", "list.csv"], "give files of one sample"),
        (["--csv", "{checkpoint}/config.json"], "expected sample_id and one or more of ['video', 'audio', 'flow']"),
        (["--folder", "{checkpoint}"], "expected a folder with at least one subfolder of"),
        (["--csv", "list.csv", "--output", "a", "--output_dir", "b"], "not allowed with argument --output"),
        (["--video", "a.npy", "--output", "a.xlsx"], "--output a.xlsx: the suffix is none of .txt, .csv, .tsv, .json"),
        (["--video", "a.npy", "--format", "parquet"], "parquet is no text: name a file, --output FILE.parquet"),
    ],
)
def test_a_mistake_is_named_before_a_model_is_loaded(run, checkpoint, words, message):
    status, out, errors = run(checkpoint, *(word.format(checkpoint=checkpoint) for word in words))
    assert status == 2
    assert message.format(checkpoint=checkpoint) in errors
    assert out == ""


def test_a_model_that_cannot_be_loaded_is_named_in_one_line(run, checkpoint, folder, tmp_path):
    assert "cannot load the model nowhere" in run(tmp_path / "nowhere", "--folder", folder)[0].replace(
        f"{tmp_path}/", ""
    )
    status, *_ = run(checkpoint, "--folder", folder, "--ensemble_with", tmp_path / "nowhere")
    assert status.startswith(f"cannot load {checkpoint} and {tmp_path / 'nowhere'}: ")
    assert "\n" not in status


def test_help_shows_the_modalities_of_the_model(run, checkpoint):
    status, out, _ = run(checkpoint, "--help")
    assert status == 0
    assert "clips [clips, 12], .npy or .safetensors" in out


def test_several_processes_of_the_script_are_refused(run, checkpoint, folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it once, without a launcher" in run(checkpoint, "--folder", folder)[0]


def test_scoring_into_a_folder_says_what_to_install(run, checkpoint, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, *_ = run(checkpoint, "--folder", folder, "--output_dir", tmp_path / "out")
    assert status == "predict.py: --output_dir needs the package ray: pip install 'ray[data]'"
    assert not (tmp_path / "out").exists()


def test_a_mistake_ends_a_script_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match=r"^cannot load it: .*nowhere'$"), exit_on_error("cannot load it"):
        (tmp_path / "nowhere").read_text()


def test_windows_score_all_clips_of_a_long_file(checkpoint, tiny_model, tiny_processor, tmp_path, run):
    video = np.random.default_rng(0).normal(size=(24, 16)).astype("float32")
    np.save(tmp_path / "a.npy", video)
    halves = [score_of(tiny_model, tiny_processor, video=part) for part in (video[:12], video[12:])]
    for flags, expected in (((), score_of(tiny_model, tiny_processor, video=video)), (["--windows"], np.mean(halves))):
        status, out, _ = run(checkpoint, "--video", tmp_path / "a.npy", "--format", "json", *flags)
        assert status == 0
        assert json.loads(out)[0]["scores"]["score"]["score"] == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Recordings `a.mp4`, `b.mp4` (without sound) and `c.mp4`, which is damaged."""
    pytest.importorskip("av", reason="the extra `media` is not installed")
    from tests.helpers.recordings import moving_pictures, tone, write_recording

    folder = tmp_path_factory.mktemp("films")
    write_recording(folder / "a.mp4", moving_pictures(30), sound=tone(1.2))
    write_recording(folder / "b.mp4", moving_pictures(20))
    (folder / "c.mp4").write_bytes(b"damaged")
    return folder


@pytest.fixture
def judge(tiny_text_config, tiny_tokenizer, tmp_path) -> Path:
    """A checkpoint whose features the recipe `classic` makes."""
    config = LimssrConfig(text_config=tiny_text_config, modalities={"video": 386, "audio": 84}, score_ranges=[100.0])
    torch.manual_seed(0)
    LimssrForScoreRegression(config).save_pretrained(tmp_path / "judge")
    LimssrProcessor.from_config(config, tiny_tokenizer, recipe="classic").save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def test_a_recording_is_scored_whole_in_part_and_without_sound(run, judge, films):
    model, processor = LimssrForScoreRegression.from_pretrained(judge), LimssrProcessor.from_pretrained(judge)
    recording = {"path": films / "a.mp4", "start": 0.32, "end": 0.96}
    for words, entry, used in (
        ((), films / "a.mp4", ["video", "audio"]),
        (("--without", "audio"), films / "a.mp4", ["video"]),
        (("--start", 0.32, "--end", 0.96), recording, ["video", "audio"]),
    ):
        status, out, _ = run(judge, "--recording", films / "a.mp4", "--format", "json", *words)
        (found,) = json.loads(out)
        assert (status, found["used"]) == (0, used)
        features = processor.extract_features([entry], without=[name for name in ("audio",) if name not in used])
        expected = score_of(model, processor, **{name: features[name][0] for name in used})
        assert found["scores"]["score"]["score"] == pytest.approx(expected, abs=1e-2)


def test_texts_that_the_recipe_reads_are_files(run, films, tiny_encoder, tiny_text_config, tiny_tokenizer, tmp_path):
    recipe, judge = recipe_with_text(tiny_encoder), tmp_path / "judge"
    sizes = Recipe.load(recipe).feature_sizes
    config = LimssrConfig(text_config=tiny_text_config, modalities=sizes, score_ranges=[100.0])
    torch.manual_seed(0)
    model = LimssrForScoreRegression(config)
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, recipe=recipe)
    model.save_pretrained(judge)
    processor.save_pretrained(judge)
    for place in ("commentary", "recordings"):
        (tmp_path / "many" / place).mkdir(parents=True)
    note = tmp_path / "many" / "commentary" / "a.txt"
    note.write_text("she dive into the water")
    shutil.copy(films / "a.mp4", tmp_path / "many" / "recordings")
    expected = score_of(model, processor, commentary=note.read_text())
    everything = {**processor.extract_features([films / "a.mp4"]), "commentary": [note.read_text()]}
    together = score_of(model, processor, **{name: everything[name][0] for name in sizes})
    for words, score in (
        (("--commentary", note), expected),
        (("--commentary", note, "--recording", films / "a.mp4"), together),
        (("--folder", tmp_path / "many"), together),
    ):
        status, out, _ = run(judge, *words, "--format", "json")
        (found,) = json.loads(out)
        assert (status, found["scores"]["score"]["score"]) == (0, pytest.approx(score, abs=1e-2))


def test_folders_and_tables_of_recordings_lose_no_other_sample(run, judge, films, tmp_path):
    status, out, errors = run(judge, "--folder", films, "--format", "json")
    by_id = {entry["sample_id"]: entry for entry in json.loads(out)}
    assert [entry["used"] for entry in by_id.values()] == [["video", "audio"], ["video"], []]
    assert status == 1
    assert f"ERROR c: {films / 'c.mp4'}: no video or sound that FFmpeg can read" in errors
    table = tmp_path / "list.csv"
    table.write_text(
        f"sample_id,recording,start,end,audio\nx,{films}/a.mp4,0.32,0.64,\ny,{films}/b.mp4,,,sound.npy\nz,,,,sound.npy\n"
    )
    np.save(tmp_path / "sound.npy", np.ones((3, 84), np.float32))
    assert "leads out of its folder" in run(judge, "--csv", table)[2]
    status, out, _ = run(judge, "--csv", table, "--format", "json", "--outside_paths")
    assert [entry["used"] for entry in json.loads(out)] == [["video", "audio"], ["video", "audio"], ["audio"]]
    assert status == 0
    table.write_text(f"sample_id,recording,start\nx,{films}/a.mp4,soon\n")
    status, _, errors = run(judge, "--csv", table, "--outside_paths")
    assert (status, "line 2, sample 'x': start is 'soon', expected a number" in errors) == (2, True)


def test_mistakes_with_recordings_are_named(run, judge, checkpoint, films):
    status, out, _ = run(checkpoint, "--recording", films / "a.mp4")
    assert status == 1
    assert "this processor has no recipe" in out
    for words, message in (
        (("--recording", "nowhere.mp4"), "nowhere.mp4: there is no such file"),
        (("--recording", "https://example.org/a.mp4"), "this is a URL. Download the file and give its path."),
    ):
        status, out, _ = run(judge, *words)
        assert status == 1
        assert message in out
    for words, message in (
        (("--recording", "a.mp4", "--without", "sound"), "--without sound: the modalities of"),
        (("--recording", "a.mp4", "--start", "3", "--end", "2"), "expected 0 <= start < end"),
        (("--recording", "a.mp4", "--folder", films), "give files of one sample (--video, --audio, --recording)"),
        (("--folder", films, "--start", "3"), "--start and --end are of --recording"),
    ):
        status, out, errors = run(judge, *words)
        assert status == 2
        assert message in errors


def test_features_of_another_recipe_are_refused_and_of_none_a_warning(run, judge, tmp_path, caplog):
    video = torch.ones(3, 386)
    for name, metadata in (("other", {"recipe": "0" * 64}), ("silent", None)):
        save_file({"clips": video}, tmp_path / f"{name}.safetensors", metadata=metadata)
    digest = LimssrProcessor.from_pretrained(judge).recipe_digest
    tensors = {"clips": video, "times": torch.zeros(3, 2)}
    save_file(tensors, tmp_path / "same.safetensors", metadata={"recipe": digest})
    assert run(judge, "--video", tmp_path / "same.safetensors")[0] == 0
    assert "recipe" not in caplog.text
    status, out, _ = run(judge, "--video", tmp_path / "other.safetensors")
    assert status == 1
    assert f"made by the recipe 000000000000, expected {digest[:12]}" in out
    assert run(judge, "--video", tmp_path / "silent.safetensors")[0] == 0
    assert "do not say which recipe made them" in caplog.text
