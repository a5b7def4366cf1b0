"""Scoring into a folder: whatever is killed, removed or mixed up, every sample comes out once or it is said."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from limssr import LimssrForScoreRegression
from limssr.training.data.sources.files import SUFFIXES
from limssr.training.prediction.cluster import (
    PROGRESS,
    RESULT_FILE,
    Worker,
    digest_of,
    is_finished,
    merge,
    predict_into_folder,
    read_samples,
    sample_table,
)
from limssr.training.prediction.files import FileSample, samples_from_folder
from limssr.training.prediction.predictor import load_members, predict_stream
from limssr.training.utils.locks import LOCK_FILE, LockedError, lock
from tests.helpers.feature_rows import write_folder

PREDICT = Path(__file__).parents[2] / "training" / "predict.py"
NAMES = ["video", "audio"]


@pytest.fixture
def samples(tmp_path):
    """`samples(count)` writes samples and lists them."""
    return lambda count: samples_from_folder(
        write_folder(tmp_path / "features", count), dict.fromkeys(NAMES, SUFFIXES)
    )


@pytest.fixture
def score_by_hand(checkpoint, tmp_path):
    """`score_by_hand(samples)` fills the folder as Ray does, in shards of two, up to the merge; returns the shards."""

    def score(samples: list[FileSample]) -> list[Path]:
        out, table, digest = tmp_path / "out", sample_table(samples), digest_of(load_members([checkpoint]))
        assert not is_finished(out, table, digest)
        worker = Worker({"names": [checkpoint]}, digest, batch_size=2, tries=tmp_path)
        parts = out / PROGRESS / "parts"
        parts.mkdir()
        shards = [parts / f"{start:03}.parquet" for start in range(0, len(table), 2)]
        for shard in reversed(shards):
            pq.write_table(worker(table.slice(int(shard.stem), 2)), shard)
        return shards

    return score


def scores_of(out: Path) -> dict[str, float | None]:
    table = pq.read_table(out / RESULT_FILE)
    assert len(set(table["sample_id"].to_pylist())) == table.num_rows
    return dict(zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def expected_scores(members, samples) -> dict[str, float]:
    return {one.sample_id: one.scores[0] for one in predict_stream(members, samples)}


def launch(*words, **environment) -> subprocess.Popen:
    command = [sys.executable, PREDICT, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def committed(out: Path) -> list[Path]:
    """The parts that Ray's checkpoint knows."""
    names = [path.stem for path in (out / PROGRESS / "done").glob("*.parquet") if ".pending" not in path.name]
    return [path for name in names for path in (out / PROGRESS / "parts").glob(f"{name}*")]


def wait_for(count: int, out: Path, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while len(committed(out)) < count:
        assert running.poll() is None, running.stdout.read()[-3000:]
        assert time.monotonic() < deadline, f"no {count} shards were written"
        time.sleep(0.01)


def workers_of(running: subprocess.Popen) -> list[psutil.Process]:
    processes = psutil.Process(running.pid).children(recursive=True)
    return [each for each in processes if "".join(each.cmdline()[:1]).startswith("ray::MapWorker")]


def change_scores(part: Path, score: float) -> list[str]:
    """Leaves a mark that scoring the samples anew would wipe out; returns their ids."""
    table = pq.read_table(part)
    place = table.schema.get_field_index("score")
    pq.write_table(table.set_column(place, "score", pa.array([score] * table.num_rows, pa.float64())), part)
    return table["sample_id"].to_pylist()


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_run_lose_nothing_and_repeat_little(
    checkpoint, samples, tiny_model, tiny_processor, tmp_path
):
    listed, out = samples(120), tmp_path / "out"
    (tmp_path / "features" / "video" / "s007.npy").write_bytes(b"damaged")
    words = [checkpoint, "--folder", tmp_path / "features", "--output_dir", out, "--samples_per_shard", 2]
    words += ["--workers", 2]
    with launch(*words) as running:
        wait_for(2, out, running)
        victim, _ = workers_of(running)
        victim.kill()
        wait_for(len(committed(out)) + 4, out, running)  # the run goes on
        descendants = psutil.Process(running.pid).children(recursive=True)
        running.kill()
        assert running.wait() != 0
    psutil.wait_procs(descendants, timeout=60)  # Ray ends with its driver, but leaves its folder
    for session in Path("/").glob(f"tmp/ray-*/session_*_{running.pid}"):
        shutil.rmtree(session.parent)
    left = committed(out)
    assert 6 <= len(left) < 60
    assert not (out / RESULT_FILE).exists()
    whole = (part for part in left if "s007" not in pq.read_table(part)["sample_id"].to_pylist())
    kept = change_scores(next(whole), 123.0)

    with launch(*words) as running:
        output, _ = running.communicate(timeout=400)
    assert running.returncode == 1, output[-3000:]
    assert "1 of 120 samples could not be scored" in output
    assert str(tmp_path / "features" / "video" / "s007.npy") in output
    scores = scores_of(out)
    assert list(scores) == [sample.sample_id for sample in listed]
    assert [sample_id for sample_id, score in scores.items() if score == 123.0] == kept
    assert scores.pop("s007") is None
    rest = [sample for sample in listed if sample.sample_id not in (*kept, "s007")]
    expected = expected_scores([(tiny_model, tiny_processor)], rest)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    assert [path.name for path in out.iterdir()] == [RESULT_FILE]


@pytest.mark.slow
def test_an_existing_cluster_scores_several_models_and_another_model_is_refused(
    checkpoint, samples, tiny_model, tiny_config, tiny_processor, tmp_path, monkeypatch
):
    torch.manual_seed(1)
    other = LimssrForScoreRegression(tiny_config).eval()
    other.save_pretrained(tmp_path / "other")
    tiny_processor.save_pretrained(tmp_path / "other")
    listed, out = samples(7), tmp_path / "out"
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    start = ["ray.scripts.scripts", "start", "--head", "--port=0", "--num-cpus=2", "--block"]
    start += ["--include-dashboard=false", "--object-store-memory=100000000"]
    log = tmp_path / "ray.log"
    with (
        log.open("w") as stream,
        subprocess.Popen([sys.executable, "-m", *start], stdout=stream, stderr=stream) as head,
    ):
        try:
            deadline = time.monotonic() + 120
            while "ray start --address=" not in log.read_text():
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            address = log.read_text().split("ray start --address='")[1].split("'")[0]
            words = (checkpoint, "--folder", tmp_path / "features", "--output_dir", out, "--workers", 1)
            with launch(*words, "--ensemble_with", tmp_path / "other", RAY_ADDRESS=address) as running:
                output, _ = running.communicate(timeout=300)
            assert running.returncode == 0, output
            with launch(*words, RAY_ADDRESS=address) as running:
                refused, _ = running.communicate(timeout=300)
            assert running.returncode == 1
        finally:
            head.terminate()
    expected = expected_scores([(tiny_model, tiny_processor), (other, tiny_processor)], listed)
    assert scores_of(out) == pytest.approx(expected, abs=1e-3)
    assert "holds scores of another model or of other samples" in refused
    assert "Traceback" not in refused


@pytest.mark.slow
def test_the_memory_of_a_worker_does_not_grow_with_the_number_of_samples(checkpoint, tmp_path):
    write_folder(tmp_path / "features", 100)
    lines = [f"{number},features/video/s{number % 100:03}.npy" for number in range(3000)]
    (tmp_path / "list.csv").write_text("\n".join(["sample_id,video", *lines]))
    out, resident = tmp_path / "out", []
    words = ("--csv", tmp_path / "list.csv", "--output_dir", out, "--workers", 1, "--samples_per_shard", 50)
    with launch(checkpoint, *words) as running:
        for parts in range(10, 60, 10):
            wait_for(parts, out, running)
            resident.append(max(worker.memory_info().rss for worker in workers_of(running)))
        running.communicate(timeout=300)
    assert running.returncode == 0
    assert pq.read_metadata(out / RESULT_FILE).num_rows == 3000
    assert resident[-1] - resident[0] < 30e6, resident


@pytest.mark.slow
def test_what_is_wrong_with_a_model_is_said_in_words(samples, tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        predict_into_folder([str(tmp_path / "nowhere")], samples(2), tmp_path / "out", workers=1)


def test_all_scores_come_out_in_the_order_of_the_samples(score_by_hand, samples, tiny_model, tiny_processor, tmp_path):
    listed = samples(7)
    score_by_hand(listed)
    merge(tmp_path / "out")
    scores = scores_of(tmp_path / "out")
    assert list(scores) == [sample.sample_id for sample in listed]
    assert scores == pytest.approx(expected_scores([(tiny_model, tiny_processor)], listed), abs=1e-3)
    for row in pq.read_table(tmp_path / "out" / RESULT_FILE).to_pylist():
        assert row["path_disagreement"] == pytest.approx(abs(row["reasoning_score"] - row["cross_modal_score"]))
        assert row["used"] == ("video+audio" if int(row["sample_id"][1:]) % 3 == 0 else "video")


def test_samples_that_cannot_be_read_come_out_too(score_by_hand, samples, tmp_path):
    listed = samples(4)
    listed[1].paths["video"].write_bytes(b"damaged")
    score_by_hand(listed)
    merge(tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / RESULT_FILE).to_pylist()
    assert [row["score"] is None for row in rows] == [False, True, False, False]
    assert str(listed[1].paths["video"]) in rows[1]["error"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.slice(1), "'s002' is there 0 times, expected 1"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "'s002' is there 2 times, expected 1"),
        (
            lambda table: table.set_column(0, "row", pc.subtract(table["row"], 2)),
            "'s000' is there 2 times, expected 1",
        ),
    ],
    ids=["lost", "twice", "of another shard"],
)
def test_a_merge_finds_what_did_not_come_out_once(score_by_hand, samples, tmp_path, spoil, message):
    shards = score_by_hand(samples(5))
    pq.write_table(spoil(pq.read_table(shards[1])), shards[1])
    with pytest.raises(ValueError, match=rf"\.scoring: sample {message}; remove this folder"):
        merge(tmp_path / "out")
    assert not (tmp_path / "out" / RESULT_FILE).exists()


@pytest.mark.parametrize("finished", [False, True])
def test_scores_of_other_samples_or_another_model_are_never_mixed(
    checkpoint, score_by_hand, samples, tmp_path, finished
):
    out, listed, members = tmp_path / "out", samples(4), load_members([checkpoint])
    score_by_hand(listed)
    if finished:
        merge(out)
    digest = digest_of(members)
    assert is_finished(out, sample_table(listed), digest) == finished
    with pytest.raises(FileExistsError, match="of other samples"):
        is_finished(out, sample_table(listed[1:]), digest)
    with torch.no_grad():
        members[0][0].reasoning_weight += 0.01
    with pytest.raises(FileExistsError, match="another model"):
        is_finished(out, sample_table(listed), digest_of(members))


def test_a_worker_that_loads_another_model_scores_nothing(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="loads another model than the first machine"):
        Worker({"names": [checkpoint]}, "another", batch_size=2, tries=tmp_path)


def test_a_shard_that_ended_three_workers_is_named_and_ends_no_more(checkpoint, samples, tmp_path):
    worker = Worker({"names": [checkpoint]}, digest_of(load_members([checkpoint])), batch_size=2, tries=tmp_path)
    shard = sample_table(samples(3)).slice(1)
    (tmp_path / "1").write_text("..")  # as two workers left it that ended
    assert worker(shard).num_rows == 2
    assert not (tmp_path / "1").exists()
    (tmp_path / "1").write_text("...")
    with pytest.raises(ValueError, match="3 workers ended while they scored s001 to s002; move the files away"):
        worker(shard)


def test_a_folder_with_something_else_or_in_use_is_left_alone(checkpoint, samples, tmp_path):
    pytest.importorskip("ray")
    listed = samples(2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="are no scores"):
        predict_into_folder([checkpoint], listed, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    (tmp_path / "used" / PROGRESS).mkdir(parents=True)
    with lock(tmp_path / "used" / PROGRESS / LOCK_FILE), pytest.raises(LockedError, match="in use by process"):
        predict_into_folder([checkpoint], listed, tmp_path / "used")


def test_the_table_keeps_samples_as_they_were():
    samples = [
        FileSample("a", {"video": Path("/v.npy"), "audio": Path("/a.npy")}),
        FileSample("b", {"audio": Path("/b.npy")}),
        FileSample("c", error="two files"),
    ]
    assert list(read_samples(sample_table(samples))) == samples
    (relative,) = read_samples(sample_table([FileSample("a", {"video": Path("v.npy")})]))
    assert relative.paths == {"video": Path.cwd() / "v.npy"}  # a worker may run elsewhere
    with pytest.raises(ValueError, match="'a' is given twice"):
        sample_table([*samples, samples[0]])
    with pytest.raises(ValueError, match="no sample"):
        sample_table([])


def test_a_digest_follows_weights_precision_and_processor_and_not_the_place(
    tiny_model, tiny_processor, tiny_tokenizer, tmp_path
):
    expected = digest_of([(tiny_model, tiny_processor)])
    for name in ("one", "two"):
        tiny_model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    load, read = type(tiny_model).from_pretrained, type(tiny_processor).from_pretrained
    folders = [tmp_path / name for name in ("one", "two", "three")]
    assert len({digest_of([(load(folder), read(folder))]) for folder in folders}) == 1
    others = {expected, digest_of([(load(tmp_path / "one", dtype=torch.bfloat16), tiny_processor)])}
    others.add(digest_of([(tiny_model, tiny_processor)] * 2))
    tiny_processor.max_clips = 11
    others.add(digest_of([(tiny_model, tiny_processor)]))
    tiny_processor.tokenizer.add_tokens(["score"])
    others.add(digest_of([(tiny_model, tiny_processor)]))
    assert len(others) == 5


def test_the_result_is_read_with_one_call(score_by_hand, samples, tmp_path):
    datasets = pytest.importorskip("datasets")
    score_by_hand(samples(3))
    merge(tmp_path / "out")
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / RESULT_FILE), cache_dir=tmp_path / "cache"
    )
    assert np.isfinite(read["train"]["score"]).all()
