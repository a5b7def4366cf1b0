"""Prepared data is the dataset, however many processes wrote it, and appears only when it is complete."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from datasets import load_dataset

from limssr.training.benchmarking.measure import RESET
from limssr.training.data import AqaData, load
from limssr.training.data.prepare import prepare_data
from limssr.training.data.sources.pickles import UnsafePickleError
from limssr.training.prepare import main
from tests.helpers.preparation_memory import measure

SCRIPT = Path(__file__).parents[2] / "training" / "prepare.py"
WIDTHS = {"video": 8, "audio": 6, "flow": 4}
SMALL = 3000  # bytes; a few samples of `own_folder`


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A separate cache of `datasets`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_folder(write_layout, tmp_path) -> Path:
    """22 samples; take03 lacks `imu` and take05 everything."""
    (tmp_path / "own").mkdir()
    write_layout("folder", tmp_path / "own")
    for name in ("imu/take03", "imu/take05", "skeleton/take05"):
        (tmp_path / "own" / f"{name}.npy").unlink()
    return tmp_path / "own"


def assert_same(prepared: AqaData, expected: AqaData) -> None:
    for name in ("modalities", "score_names", "score_minimums", "score_ranges", "max_clips", "description", "leaky"):
        assert getattr(prepared, name) == getattr(expected, name)
    assert prepared.best_attainable == expected.best_attainable
    assert set(prepared.splits) == set(expected.splits)
    for name, rows in expected.splits.items():
        assert prepared.splits[name].features == rows.features
        assert prepared.splits[name].to_dict() == rows.to_dict()


def files_of(folder: Path) -> dict[Path, int]:
    """Time of the last change of each file."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("dataset", ["fs1000", "fisv", "rhythmic_gymnastics", "finediving", "folder"])
def test_prepared_data_is_the_dataset(write_layout, tmp_path, dataset):
    (tmp_path / "raw").mkdir()
    write_layout(dataset, tmp_path / "raw", WIDTHS)
    options = {"modalities": {"flow": 4, "video": 8}}
    if dataset == "rhythmic_gymnastics":
        options["apparatus"] = ["Hoop", "Ball"]
    prepare_data(dataset, str(tmp_path / "raw"), tmp_path / "out", options)
    assert_same(load("prepared", folder=tmp_path / "out"), load(dataset, folder=tmp_path / "raw", **options))


@pytest.mark.parametrize(("dataset", "processes"), [("mast_melody", 1), ("percepiano", 2), ("speechocean762", 1)])
def test_data_of_archives_can_be_prepared_too(write_layout, tmp_path, dataset, processes):
    (tmp_path / "raw").mkdir()
    write_layout(dataset, tmp_path / "raw")
    prepare_data(dataset, str(tmp_path / "raw"), tmp_path / "out", num_proc=processes)
    prepared, expected = load("prepared", folder=tmp_path / "out"), load(dataset, folder=tmp_path / "raw")
    assert_same(prepared, expected)
    assert prepared.group_column == expected.group_column is not None


def test_generated_data_can_be_prepared_too(tmp_path):
    options = {"samples_train": 30, "samples_test": 7}
    prepare_data("synthetic", "-", tmp_path / "out", options, max_shard_size=SMALL)
    assert_same(load("prepared", folder=tmp_path / "out"), load("synthetic", **options))


@pytest.mark.parametrize("processes", [2, 3, 30])
def test_any_number_of_processes_writes_the_same(own_folder, tmp_path, processes):
    prepare_data("folder", str(own_folder), tmp_path / "out", num_proc=processes, max_shard_size=SMALL)
    prepared, expected = load("prepared", folder=tmp_path / "out"), load("folder", folder=own_folder)
    assert_same(prepared, expected)
    assert prepared.missing.counts() == expected.missing.counts()
    assert prepared.missing.dropped == ["take05"]


def test_several_processes_read_the_same_tables(write_layout, tmp_path):
    (tmp_path / "raw").mkdir()
    write_layout("rhythmic_gymnastics", tmp_path / "raw", WIDTHS)
    prepare_data("rhythmic_gymnastics", str(tmp_path / "raw"), tmp_path / "out", {"modalities": WIDTHS}, num_proc=2)
    expected = load("rhythmic_gymnastics", folder=tmp_path / "raw", modalities=WIDTHS)
    assert_same(load("prepared", folder=tmp_path / "out"), expected)


def test_plain_load_dataset_reads_it(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", max_shard_size=SMALL)
    rows = load_dataset(str(tmp_path / "out"))
    expected = load("folder", folder=own_folder)
    assert rows["train"].features == expected.splits["train"].features
    assert rows["train"].to_dict() == expected.splits["train"].to_dict()
    names = [path.name for path in sorted((tmp_path / "out" / "data").iterdir())]
    assert names == ["folder-test.arrow", *(f"folder-train-{number:05}-of-00003.arrow" for number in range(3))]


def test_files_are_mapped_where_they_are(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", max_shard_size=SMALL)
    rows = load("prepared", folder=tmp_path / "out").splits["train"]
    files = [str(tmp_path / "out" / "data" / f"folder-train-{number:05}-of-00003.arrow") for number in range(3)]
    assert [each["filename"] for each in rows.cache_files] == files


def test_a_damaged_copy_is_refused(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", max_shard_size=SMALL)
    shard = tmp_path / "out" / "data" / "folder-train-00001-of-00003.arrow"
    content = shard.read_bytes()
    for length in (len(content) - 100, 100, 0):
        shard.write_bytes(content[:length])
        for verify in (True, False):
            with pytest.raises(ValueError, match=r"train-00001-of-00003\.arrow is damaged: .*; copy or prepare"):
                load("prepared", folder=tmp_path / "out", verify=verify)
    shard.unlink()
    with pytest.raises(ValueError, match=r"out: the split train has \d+ samples, 15 were written"):
        load("prepared", folder=tmp_path / "out")


def test_a_description_of_another_version_or_damaged_is_refused(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out")
    path = tmp_path / "out" / "aqa_data.json"
    description = json.loads(path.read_text())
    del description["splits"], description["dropped"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"aqa_data\.json says nothing of splits, dropped: another version"):
        load("prepared", folder=tmp_path / "out", verify=False)
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"aqa_data\.json: .*: it is damaged; copy or prepare"):
        load("prepared", folder=tmp_path / "out", verify=False)


def test_any_byte_that_changed_is_found_at_the_first_look(own_folder, tmp_path):
    out = tmp_path / "out"
    prepare_data("folder", str(own_folder), out)
    files = [out / "aqa_data.json", out / "missing.csv", *(out / "data").iterdir(), out / "checksums.sha256"]
    random = np.random.default_rng(0)
    for path in files:
        content = path.read_bytes()
        for _ in range(8):
            damaged = bytearray(content)
            damaged[random.integers(len(content))] ^= 1 << random.integers(8)
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"is damaged|is not among|cannot be read"):
                load("prepared", folder=out)
        path.write_bytes(content)
    load("prepared", folder=out)
    shutil.copy(next((out / "data").iterdir()), out / "data" / "folder-train-more.arrow")
    with pytest.raises(ValueError, match=r"folder-train-more\.arrow is not among the checksums\.sha256"):
        load("prepared", folder=out)


def test_a_file_is_verified_once_until_it_changes(own_folder, tmp_path, monkeypatch):
    prepare_data("folder", str(own_folder), tmp_path / "out")
    read, digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, kind: read.append(Path(file.name)) or digest(file, kind))
    counts = []
    for _ in range(3):
        load("prepared", folder=tmp_path / "out")
        counts.append(len(read))
    assert counts == [4, 4, 4]
    (tmp_path / "out" / "missing.csv").touch()
    load("prepared", folder=tmp_path / "out")
    assert [path.name for path in read[4:]] == ["missing.csv"]
    load("prepared", folder=tmp_path / "out", verify=False)
    assert len(read) == 5


def test_what_is_missing_and_every_checksum_is_written_down(own_folder, tmp_path):
    out = tmp_path / "out"
    prepare_data("folder", str(own_folder), out)
    missing = (out / "missing.csv").read_text().splitlines()
    assert missing == [
        "sample_id,modality,cause",
        "take03,imu,missing file",
        "take05,imu,missing file",
        "take05,skeleton,missing file",
    ]
    loaded = load("prepared", folder=out)
    assert loaded.missing.dropped == ["take05"]
    assert loaded.missing.counts() == load("folder", folder=own_folder).missing.counts()
    card = (out / "README.md").read_text()
    assert "| imu | 6 | 2 missing file |" in " ".join(card.split())
    assert "3 features are missing; 1 samples had none and were left out." in card
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    sums = dict(reversed(line.split("  ")) for line in (out / "checksums.sha256").read_text().splitlines())
    assert set(sums) == files - {"checksums.sha256"}
    for name, checksum in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == checksum
    for name in files:
        assert str(tmp_path).encode() not in (out / name).read_bytes()  # nothing of this machine is published


def test_a_second_call_does_nothing_and_another_preparation_is_refused(own_folder, tmp_path, capsys):
    out = tmp_path / "out"
    prepare_data("folder", str(own_folder), out)
    before = files_of(out)
    prepare_data("folder", str(own_folder), out)
    assert files_of(out) == before
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="prepared from other labels or with other options"):
        prepare_data("folder", str(own_folder), out, {"scores": ["execution"]})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        prepare_data("folder", str(own_folder), tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"no .*aqa_data\.json; write it with `limssr prepare`"):
        load("prepared", folder=tmp_path / "full")


def test_incomplete_data_is_refused_on_request_and_leaves_nothing(own_folder, tmp_path, capsys):
    arguments = ("folder", str(own_folder), tmp_path / "out")
    with pytest.raises(ValueError, match="`require_complete` is given"):
        prepare_data(*arguments, list_missing=True, require_complete=True)
    assert "take03\timu\tmissing file" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    for name in ("imu/take03", "imu/take05", "skeleton/take05"):
        shutil.copy(own_folder / name.split("/")[0] / "take00.npy", own_folder / f"{name}.npy")
    prepare_data(*arguments, require_complete=True)
    assert len(load("prepared", folder=tmp_path / "out").splits["train"]) == 16


def test_a_split_without_any_feature_is_refused(own_folder, tmp_path):
    for number in range(16, 22):
        for name in ("imu", "skeleton"):
            (own_folder / name / f"take{number}.npy").unlink()
    with pytest.raises(ValueError, match=r"(?s)no sample of the split 'test' has any feature; .*take16"):
        prepare_data("folder", str(own_folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_hostile_table_stops_the_preparation_and_runs_nothing(write_layout, tmp_path, processes):
    write_layout("fisv", tmp_path, WIDTHS)
    (tmp_path / "Fis-feature" / "FISV_flow_I3D.npy").write_bytes(b"cos\nmkdir\n(S'ran'\ntR.")
    with pytest.raises(UnsafePickleError, match=r"FISV_flow_I3D\.npy: refused, it asks for os\.mkdir"):
        prepare_data("fisv", str(tmp_path), tmp_path / "out", num_proc=processes)
    assert not Path("ran").exists()


def test_damaged_tables_are_missing_as_they_are_when_loaded(write_layout, tmp_path):
    (tmp_path / "raw").mkdir()
    written = write_layout("fisv", tmp_path / "raw", WIDTHS)
    place = tmp_path / "raw" / "Fis-feature"
    video = {**written["video"], "3": np.zeros((2, 9)), "5": np.full((2, 8), np.nan), "6": 7, "8": "text"}
    del video["1"]
    np.save(place / "FISV_rgb_VST.npy", video)
    (place / "FISV_flow_I3D.npy").write_bytes((place / "FISV_flow_I3D.npy").read_bytes()[:-99])
    prepare_data("fisv", str(tmp_path / "raw"), tmp_path / "out", {"modalities": WIDTHS})
    prepared = load("prepared", folder=tmp_path / "out")
    expected = load("fisv", folder=tmp_path / "raw", modalities=WIDTHS)
    assert_same(prepared, expected)
    found, wanted = (
        [(each.sample_id, each.modality, each.cause) for each in data.missing.features]
        for data in (prepared, expected)
    )
    assert found == wanted
    assert prepared.missing.counts() == {
        "video": {"absent key": 1, "wrong width": 1, "non-finite": 1, "unreadable": 2},
        "flow": {"unreadable": 500},
    }


def test_a_text_modality_is_prepared_too(tmp_path):
    lines = ["a,1,clean,train", "b,2,,train", "c,3,ü,train", "d,3,late,test"]
    (tmp_path / "labels.csv").write_text("\n".join(["sample_id,score,notes,split", *lines]))
    prepare_data("folder", str(tmp_path), tmp_path / "out", {"modalities": {"notes": "text"}})
    loaded = load("prepared", folder=tmp_path / "out")
    assert loaded.modalities == {"notes": "text"}
    assert loaded.splits["train"]["notes"][:] == ["clean", "ü"]
    assert loaded.missing.dropped == ["b"]
    assert loaded.missing.counts() == {"notes": {"not given": 1}}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num_proc", "0"], "`num_proc` is 0, expected 1 or more"),
        (["--max_shard_size", "big"], "size=big"),
        (["--data_options", "folder=x"], "give the folder of the dataset as FOLDER"),
        (["--data_options", "colour=red"], "unexpected keyword argument 'colour'"),
    ],
)
def test_mistakes_in_a_command_are_named(own_folder, tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        main(["folder", str(own_folder), str(tmp_path / "out"), *words])


def write_many(folder: Path, samples: int = 2000) -> None:
    (folder / "imu").mkdir(parents=True)
    lines = [f"{number},{number % 7},{'test' if number < 200 else 'train'}" for number in range(samples)]
    (folder / "labels.csv").write_text("\n".join(["sample_id,score,split", *lines]))
    for number in range(samples):
        np.save(folder / "imu" / f"{number}.npy", np.full((2, 3), number, np.float32))


def start(folder: Path, out: Path) -> subprocess.Popen:
    """The script with two worker processes, in a process group of its own."""
    words = [SCRIPT, "folder", folder, out, "--num_proc", "2", "--max_shard_size", "1KB"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)], stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def wait_for_shards(process: subprocess.Popen, parent: Path) -> None:
    """Until some files of the training split are written."""
    deadline = time.monotonic() + 120
    while len(list(parent.glob(".out.preparing-*/data.incomplete/folder-train-*.arrow"))) < 4:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_complete(out: Path) -> None:
    rows = load_dataset(str(out))
    assert [*rows["test"]["sample_id"], *rows["train"]["sample_id"]] == [str(number) for number in range(2000)]
    assert [clips[1][2] for clips in rows["train"]["imu"]] == list(range(200, 2000))


@pytest.mark.slow
def test_a_killed_run_leaves_no_folder_and_the_same_command_finishes(tmp_path):
    write_many(tmp_path / "own")
    process = start(tmp_path / "own", tmp_path / "out")
    try:
        wait_for_shards(process, tmp_path)
        process.kill()  # the worker processes go on, as they do when memory runs out
        process.wait()
        assert not (tmp_path / "out").exists()
        prepare_data("folder", str(tmp_path / "own"), tmp_path / "out")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert_complete(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_leaves_nothing(tmp_path):
    write_many(tmp_path / "own")
    process = start(tmp_path / "own", tmp_path / "out")
    wait_for_shards(process, tmp_path)
    workers = psutil.Process(process.pid).children()
    os.kill(min(worker.pid for worker in workers), signal.SIGKILL)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "out could not be written: One of the subprocesses has abruptly died" in complaint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


@pytest.mark.slow
def test_a_full_disk_is_named(own_folder, tmp_path):
    words = [sys.executable, SCRIPT, "folder", own_folder, tmp_path / "out", "--num_proc", "2"]
    limited = ["bash", "-c", 'ulimit -f 4 && exec "$@"', "bash", *map(str, words)]  # 4 KB for a file
    done = subprocess.run(limited, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"prepare.py: {tmp_path}/out could not be written: ")
    assert "File too large" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not RESET.exists(), reason=f"the peak is measured with {RESET}, which is not there")
@pytest.mark.parametrize("kind", ["files", "table"])
def test_no_more_than_one_sample_or_array_is_in_memory(kind, tmp_path):
    found = measure(tmp_path, kind, 64)
    assert found["growth"] <= 1.3 * found["largest"]
