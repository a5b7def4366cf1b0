"""Prepared data is the dataset, however often the preparation was stopped and by how many processes it was written."""

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
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Value, load_dataset

from limssr.training.benchmarking.measure import RESET
from limssr.training.data import AqaData, build, load
from limssr.training.data.prepare import Preparation
from limssr.training.data.prepare_data_run import begin, finish, prepare_data
from limssr.training.data.sources.tables import UnsafePickleError
from tests.helpers.preparation_memory import measure

SCRIPT = Path(__file__).parents[2] / "training" / "prepare_data.py"
WIDTHS = {"video": 8, "audio": 6, "flow": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of `datasets` of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_folder(write_layout, tmp_path) -> Path:
    """22 samples, of which take03 lacks `imu`, and take05 everything."""
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


@pytest.mark.parametrize("dataset", ["fs1000", "fisv", "rhythmic_gymnastics", "finediving", "folder"])
def test_prepared_data_is_the_dataset(write_layout, tmp_path, dataset):
    (tmp_path / "raw").mkdir()
    write_layout(dataset, tmp_path / "raw", WIDTHS)
    options = {"modalities": {"flow": 4, "video": 8}}
    if dataset == "rhythmic_gymnastics":
        options["apparatus"] = ["Hoop", "Ball"]
    prepare_data(dataset, str(tmp_path / "raw"), tmp_path / "out", options)
    assert_same(load("prepared", folder=tmp_path / "out"), load(dataset, folder=tmp_path / "raw", **options))


def test_data_that_is_made_rather_than_read_can_be_prepared_too(tmp_path):
    options = {"samples_train": 30, "samples_test": 7}
    prepare_data("synthetic", "-", tmp_path / "out", options, samples_per_shard=10)
    assert_same(load("prepared", folder=tmp_path / "out"), load("synthetic", **options))


def test_plain_load_dataset_reads_it(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", samples_per_shard=6)
    rows = load_dataset(str(tmp_path / "out"))
    expected = load("folder", folder=own_folder)
    assert rows["train"].features == expected.splits["train"].features
    assert rows["train"].to_dict() == expected.splits["train"].to_dict()
    names = [path.name for path in sorted((tmp_path / "out" / "data").iterdir())]
    assert names == ["test-00000-of-00001.arrow", *(f"train-{number:05}-of-00003.arrow" for number in range(3))]


def test_files_are_mapped_where_they_lie(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", samples_per_shard=6)
    rows = load("prepared", folder=tmp_path / "out").splits["train"]
    names = [f"train-{number:05}-of-00003.arrow" for number in range(3)]
    assert [each["filename"] for each in rows.cache_files] == [str(tmp_path / "out" / "data" / name) for name in names]


def test_a_shard_of_one_sample_without_any_feature_is_empty(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", samples_per_shard=1)
    expected = load("folder", folder=own_folder).splits["train"].to_dict()
    assert load("prepared", folder=tmp_path / "out").splits["train"].to_dict() == expected
    assert load_dataset(str(tmp_path / "out"))["train"].to_dict() == expected


def test_a_copy_that_lacks_something_is_refused(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out", samples_per_shard=6)
    shard = tmp_path / "out" / "data" / "train-00001-of-00003.arrow"
    content = shard.read_bytes()
    for length in (len(content) - 100, 100, 0):
        shard.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"train-00001-of-00003\.arrow is damaged: .*; copy or prepare"):
            load("prepared", folder=tmp_path / "out")
    shard.unlink()
    with pytest.raises(ValueError, match=r"out: the split train has 9 samples, 15 were written"):
        load("prepared", folder=tmp_path / "out")


def test_a_description_of_another_version_or_damaged_is_refused(own_folder, tmp_path):
    prepare_data("folder", str(own_folder), tmp_path / "out")
    path = tmp_path / "out" / "aqa_data.json"
    description = json.loads(path.read_text())
    del description["splits"], description["dropped"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"aqa_data\.json says nothing of splits, dropped: another version"):
        load("prepared", folder=tmp_path / "out")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match=r"aqa_data\.json is damaged: .*; copy or prepare"):
        load("prepared", folder=tmp_path / "out")


def test_what_is_missing_and_every_checksum_is_written_down(own_folder, tmp_path):
    out = tmp_path / "out"
    prepare_data("folder", str(own_folder), out)
    missing = (out / "missing.csv").read_text().splitlines()
    assert missing[0] == "sample_id,modality,cause"
    assert sorted(missing[1:]) == [
        "take03,imu,missing file",
        "take05,imu,missing file",
        "take05,skeleton,missing file",
    ]
    loaded = load("prepared", folder=out)
    assert loaded.missing.dropped == ["take05"]
    assert loaded.missing.counts() == load("folder", folder=own_folder).missing.counts()
    card = (out / "README.md").read_text()
    assert "| imu | 6 | 2 missing file |" in card
    assert "3 features are missing; 1 samples had none and were left out." in card
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    sums = dict(reversed(line.split("  ")) for line in (out / "checksums.sha256").read_text().splitlines())
    assert set(sums) == files - {"checksums.sha256"}
    for name, checksum in sums.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == checksum
    for name in files:
        assert str(tmp_path).encode() not in (out / name).read_bytes()  # nothing of this machine is published


def begun(own_folder, out, rank, processes) -> Preparation:
    dataset = build("folder", folder=own_folder)
    index = dataset.index()
    begin(out, "fingerprint", write=True)
    return Preparation(out, index, dataset.sources(index), 4, rank, processes)


def test_every_process_writes_tables_that_all_can_read(write_layout, tmp_path):
    (tmp_path / "raw").mkdir()
    write_layout("fisv", tmp_path / "raw", WIDTHS)
    dataset = build("fisv", folder=tmp_path / "raw", modalities=WIDTHS)
    index = dataset.index()
    begin(tmp_path / "out", "fingerprint", write=True)
    ranks = [Preparation(tmp_path / "out", index, dataset.sources(index), 60, rank, 2) for rank in (0, 1)]
    for preparation in ranks:  # what runs at the same time between two waits
        preparation.write_tables()
    for preparation in ranks:
        preparation.write_shards()
    finish(ranks[0], "fisv", "fingerprint", list_missing=False, require_complete=False)
    assert_same(load("prepared", folder=tmp_path / "out"), dataset.load())


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_any_number_of_processes_writes_the_same(own_folder, tmp_path, processes):
    for rank in reversed(range(processes)):
        preparation = begun(own_folder, tmp_path / "out", rank, processes)
        preparation.write()
    finish(preparation, "folder", "fingerprint", list_missing=False, require_complete=False)
    assert_same(load("prepared", folder=tmp_path / "out"), load("folder", folder=own_folder))


def test_a_shard_that_another_process_has_yet_to_write_is_found_missing(own_folder, tmp_path):
    preparation = begun(own_folder, tmp_path / "out", 0, 2)
    preparation.write()
    with pytest.raises(FileNotFoundError):
        finish(preparation, "folder", "fingerprint", list_missing=False, require_complete=False)


@pytest.mark.parametrize("wrong", ["twice", "lost"])
def test_an_id_that_did_not_come_out_once_is_found(own_folder, tmp_path, wrong):
    out = tmp_path / "out"
    preparation = begun(own_folder, out, 0, 1)
    preparation.write()
    first, second = (out / f"data/train-0000{number}-of-00004.arrow" for number in (0, 3))
    if wrong == "twice":
        shutil.copy(first, second)
    else:
        with pa.OSFile(str(first)) as file:
            table = pa.ipc.open_stream(file).read_all()
        with pa.ipc.new_stream(str(first), table.schema) as stream:
            stream.write_table(table.slice(1))
    said = "'take00' of the split train is there 2 times" if wrong == "twice" else "'take00' .* is there 0 times"
    with pytest.raises(ValueError, match=said):
        finish(preparation, "folder", "fingerprint", list_missing=False, require_complete=False)
    assert not (out / "aqa_data.json").exists()


def test_a_second_call_does_nothing_and_another_preparation_is_refused(own_folder, tmp_path, capsys):
    out = tmp_path / "out"
    prepare_data("folder", str(own_folder), out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare_data("folder", str(own_folder), out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert "complete already" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="prepared from other labels or with other options"):
        prepare_data("folder", str(own_folder), out, {"scores": ["execution"]})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        prepare_data("folder", str(own_folder), tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"no .*aqa_data\.json; write it, or go on"):
        load("prepared", folder=tmp_path / "full")


def test_incomplete_data_is_refused_on_request_and_only_its_shards_are_read_again(own_folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("folder", str(own_folder), out, None, 4)
    with pytest.raises(ValueError, match="`require_complete` is given"):
        prepare_data(*arguments, list_missing=True, require_complete=True)
    assert "take03\timu\tmissing file" in capsys.readouterr().out
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "data").iterdir()}
    assert set(kept) == {f"train-0000{n}-of-00004.arrow" for n in (2, 3)} | {
        f"test-0000{n}-of-00002.arrow" for n in (0, 1)
    }
    for name in ("imu/take03", "imu/take05", "skeleton/take05"):
        shutil.copy(own_folder / name.split("/")[0] / "take00.npy", own_folder / f"{name}.npy")
    prepare_data(*arguments, require_complete=True)
    assert len(load("prepared", folder=out).splits["train"]) == 16
    assert {name: (out / "data" / name).stat().st_mtime_ns for name in kept} == kept


def test_a_hostile_table_stops_the_preparation_and_runs_nothing(write_layout, tmp_path):
    write_layout("fisv", tmp_path, WIDTHS)
    (tmp_path / "Fis-feature" / "FISV_flow_I3D.npy").write_bytes(b"cos\nmkdir\n(S'ran'\ntR.")
    with pytest.raises(UnsafePickleError, match=r"FISV_flow_I3D\.npy: refused, it asks for os\.mkdir"):
        prepare_data("fisv", str(tmp_path), tmp_path / "out")
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
    prepared, expected = (
        load("prepared", folder=tmp_path / "out"),
        load("fisv", folder=tmp_path / "raw", modalities=WIDTHS),
    )
    assert_same(prepared, expected)
    found, wanted = (
        {(m.sample_id, m.modality, m.cause) for m in data.missing.features} for data in (prepared, expected)
    )
    assert found == wanted
    assert prepared.missing.counts() == {
        "video": {"absent key": 1, "wrong width": 1, "non-finite": 1, "unreadable": 2},
        "flow": {"unreadable": 500},
    }


def test_a_text_column_goes_along(tmp_path):
    features = Features({"sample_id": Value("string"), "score": Value("float32"), "notes": Value("string")})
    rows = {"sample_id": ["a", "b", "c"], "score": [1.0, 2.0, 3.0], "notes": ["clean", None, "ü"]}
    splits = DatasetDict(train=Dataset.from_dict(rows, features))
    data = AqaData(splits, {"notes": "text"}, ["score"], [0.0], [9.0], 4, "spoken")
    begin(tmp_path / "out", "f", write=True)
    preparation = Preparation(tmp_path / "out", data, [])
    preparation.write()
    finish(preparation, "own", "f", list_missing=False, require_complete=False)
    loaded = load("prepared", folder=tmp_path / "out")
    assert loaded.modalities == {"notes": "text"}
    assert loaded.splits["train"]["notes"][:] == ["clean", "ü"]
    assert loaded.missing.dropped == ["b"]


def launch(folder: Path, out: Path) -> subprocess.Popen:
    words = ["--standalone", "--nproc_per_node", "2", SCRIPT, "folder", folder, out, "--samples_per_shard", "50"]
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def test_killing_one_of_two_processes_and_starting_again_finishes(tmp_path):
    own, out = tmp_path / "own", tmp_path / "out"
    (own / "imu").mkdir(parents=True)
    lines = [f"{number},{number % 7},{'test' if number < 200 else 'train'}" for number in range(2000)]
    (own / "labels.csv").write_text("\n".join(["sample_id,score,split", *lines]))
    for number in range(2000):
        np.save(own / "imu" / f"{number}.npy", np.full((2, 3), number, np.float32))
    first = launch(own, out)
    deadline = time.monotonic() + 120
    while not (out / "data" / "train-00001-of-00036.arrow").exists():
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    workers = psutil.Process(first.pid).children()
    os.kill(max(worker.pid for worker in workers if worker.cmdline()[-1] == "50"), signal.SIGKILL)
    first.communicate(timeout=120)
    assert first.returncode != 0
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "data").glob("*.arrow")}
    assert 2 <= len(kept) < 40
    assert not (out / "aqa_data.json").exists()
    prepare_data("folder", str(own), out, samples_per_shard=50)
    assert {name: (out / "data" / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(out.rglob(".*"))
    rows = load_dataset(str(out))
    ids = [sample_id for split in ("test", "train") for sample_id in rows[split]["sample_id"]]
    assert ids == [str(number) for number in range(2000)]
    assert [cell[1][2] for cell in rows["train"]["imu"]] == list(range(200, 2000))


@pytest.mark.skipif(not RESET.exists(), reason=f"the peak is measured with {RESET}, which is not there")
@pytest.mark.parametrize("kind", ["files", "table"])
def test_the_largest_table_or_one_sample_of_files_is_in_memory_at_most(kind, tmp_path):
    found = measure(tmp_path, kind, 64)
    assert found["growth"] <= 1.3 * found["largest"]
