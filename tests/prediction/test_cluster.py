"""Scores in shards: whatever is stopped, removed or mixed up, every sample comes out exactly once or it is said."""

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

from limssr.training.prediction.cluster import RESULT_FILE, ShardedPrediction, digest_of, read_samples, sample_table
from limssr.training.prediction.files import FileSample, samples_from_folder
from limssr.training.prediction.predictor import predict_stream

PREDICT = Path(__file__).parents[2] / "training" / "predict.py"


@pytest.fixture
def features(tmp_path):
    """`features(count)` writes samples s00 ... and returns their folder; every third has audio too."""

    def write(count: int) -> Path:
        random = np.random.default_rng(0)
        for number in range(count):
            for name, size in (("video", 16), ("audio", 12))[: 1 + (number % 3 == 0)]:
                (tmp_path / "features" / name).mkdir(parents=True, exist_ok=True)
                clips = random.normal(size=(2 + number % 4, size)).astype("float32")
                np.save(tmp_path / "features" / name / f"s{number:02}.npy", clips)
        return tmp_path / "features"

    return write


@pytest.fixture
def sharded(tiny_model, tiny_processor, tmp_path):
    """`sharded(**settings)`: shards of two samples, into the same folder each time."""
    settings = {"samples_per_shard": 2, "batch_size": 2}
    return lambda **changes: ShardedPrediction(tmp_path / "out", [(tiny_model, tiny_processor)], **settings | changes)


def scores_of(folder: Path) -> dict[str, float | None]:
    table = pq.read_table(folder / RESULT_FILE)
    assert len(set(table["sample_id"].to_pylist())) == table.num_rows
    return dict(zip(table["sample_id"].to_pylist(), table["score"].to_pylist(), strict=True))


def assert_all_scored(folder: Path, model, processor, samples) -> None:
    expected = {each.sample_id: each.scores[0] for each in predict_stream([(model, processor)], samples)}
    assert scores_of(folder) == pytest.approx(expected, abs=1e-3)


def change_score(shard: Path, score: float) -> None:
    """Leaves a mark in a shard that scoring it anew would wipe out."""
    table = pq.read_table(shard)
    column = table.schema.get_field_index("score")
    pq.write_table(table.set_column(column, "score", pa.array([score] * table.num_rows, pa.float64())), shard)


def test_killing_one_of_two_processes_costs_only_the_shards_that_were_not_there(
    tiny_model, tiny_processor, features, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    folder, out = features(40), tmp_path / "out"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words = [PREDICT, tmp_path / "model", "--folder", folder, "--output_dir", out, "--samples_per_shard", 1]
    command = [*launch, *map(str, [*words, "--batch_size", 1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as running:
        deadline = time.monotonic() + 400
        while len(shards := list((out / ".scoring").glob("shard-*.parquet"))) < 3:
            assert running.poll() is None, "the processes ended before anything was written"
            assert time.monotonic() < deadline, "no shard was written"
            time.sleep(0.002)
        descendants = psutil.Process(running.pid).children(recursive=True)
        (second,) = [each for each in descendants if each.environ().get("RANK") == "1"]
        second.kill()
        assert running.wait(timeout=120) != 0
    left = sorted((out / ".scoring").glob("shard-*.parquet"))
    assert {*shards} <= {*left}
    assert len(left) < 40
    assert not (out / RESULT_FILE).exists()
    change_score(left[0], 123.0)

    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    scores, samples = scores_of(out), samples_from_folder(folder, list(tiny_model.config.modalities))
    kept = samples[int(left[0].stem.removeprefix("shard-"))].sample_id
    assert scores.pop(kept) == 123.0
    rest = [sample for sample in samples if sample.sample_id != kept]
    expected = {each.sample_id: each.scores[0] for each in predict_stream([(tiny_model, tiny_processor)], rest)}
    assert scores == pytest.approx(expected, abs=1e-3)
    assert sorted(path.name for path in out.iterdir()) == [RESULT_FILE]


def test_any_number_of_processes_writes_the_same_and_in_the_order_of_the_samples(
    sharded, features, tiny_model, tiny_processor, tmp_path
):
    samples = samples_from_folder(features(7), ["video", "audio"])
    sharded().begin(samples)
    for rank in (2, 0, 1):
        sharded(rank=rank, processes=3).write()
    sharded().merge()
    assert_all_scored(tmp_path / "out", tiny_model, tiny_processor, samples)
    assert list(scores_of(tmp_path / "out")) == [sample.sample_id for sample in samples]


def test_another_number_of_processes_goes_on(sharded, features, tmp_path):
    samples = samples_from_folder(features(8), ["video", "audio"])
    sharded().begin(samples)
    sharded(rank=1, processes=2).write()
    change_score(sharded().shard_file(1), 123.0)
    sharded().begin(samples)
    sharded().write()
    sharded().merge()
    scores = scores_of(tmp_path / "out")
    assert [sample_id for sample_id, score in scores.items() if score == 123.0] == ["s02", "s03"]
    assert len(scores) == 8


def test_samples_that_cannot_be_read_come_out_too(sharded, features):
    folder = features(4)
    (folder / "video" / "s01.npy").write_bytes(b"damaged")
    sharded().begin(samples_from_folder(folder, ["video", "audio"]))
    sharded().write()
    sharded().merge()
    (failed,) = sharded().failures().to_pylist()
    assert failed["sample_id"] == "s01"
    assert str(folder / "video" / "s01.npy") in failed["error"]
    assert [score is None for score in scores_of(sharded().out).values()] == [False, True, False, False]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.slice(1), "'s02' is there 0 times, expected 1"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "'s02' is there 2 times, expected 1"),
        (lambda table: table.replace_schema_metadata({b"limssr": b'{"samples": "a", "model": "b"}'}), "another model"),
        (
            lambda table: table.set_column(0, "sample_id", pc.replace_substring(table["sample_id"], "s02", "s00")),
            "'s00' is there 1 times, expected 0",
        ),
    ],
    ids=["lost", "twice", "of another model", "of another shard"],
)
def test_a_merge_finds_what_did_not_come_out_once(sharded, features, spoil, message):
    sharded().begin(samples_from_folder(features(5), ["video", "audio"]))
    sharded().write()
    shard = sharded().shard_file(1)
    pq.write_table(spoil(pq.read_table(shard)), shard)
    with pytest.raises(ValueError, match=rf"shard-00001\.parquet.*{message}.*same command again"):
        sharded().merge()
    assert not sharded().is_finished()
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00001\.parquet is not there"):
        sharded().merge()
    sharded().write()
    sharded().merge()
    assert len(scores_of(sharded().out)) == 5


@pytest.mark.parametrize("finished", [False, True])
def test_scores_of_other_samples_or_another_model_are_never_mixed(sharded, features, tiny_model, finished):
    samples = samples_from_folder(features(4), ["video", "audio"])
    sharded().begin(samples)
    sharded().write()
    if finished:
        sharded().merge()
    sharded().begin(samples)  # the same is welcome
    with pytest.raises(FileExistsError, match="of other samples"):
        sharded().begin(samples[1:])
    with pytest.raises(FileExistsError, match="in other shards"):
        sharded(samples_per_shard=3).begin(samples)
    with torch.no_grad():
        tiny_model.reasoning_weight += 0.01
    with pytest.raises(FileExistsError, match="another model"):
        sharded().begin(samples)
    if not finished:
        with pytest.raises(ValueError, match="process 1 loaded another model"):
            sharded(rank=1, processes=2).write()


def test_a_folder_with_something_else_is_left_alone(sharded, features, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="no scores"):
        sharded().begin(samples_from_folder(features(2), ["video"]))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_plan_keeps_samples_as_they_were():
    samples = [
        FileSample("a", {"video": Path("v.npy"), "audio": Path("a.npy")}),
        FileSample("b", {"audio": Path("b.npy")}),
        FileSample("c", error="two files"),
    ]
    assert read_samples(sample_table(samples, ["video", "audio"])) == samples
    with pytest.raises(ValueError, match="'a' is given twice"):
        sample_table([*samples, samples[0]], ["video", "audio"])
    with pytest.raises(ValueError, match="no sample"):
        sample_table([], ["video"])


def test_a_digest_follows_weights_precision_and_processor_and_not_the_place(tiny_model, tiny_processor, tmp_path):
    expected = digest_of([(tiny_model, tiny_processor)])
    for name in ("one", "two"):
        tiny_model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    shutil.copytree(tmp_path / "one", tmp_path / "three")
    load = type(tiny_model).from_pretrained
    digests = {digest_of([(load(tmp_path / name), tiny_processor)]) for name in ("one", "two", "three")}
    assert len(digests) == 1
    others = {expected, digest_of([(load(tmp_path / "one", dtype=torch.bfloat16), tiny_processor)])}
    others.add(digest_of([(tiny_model, tiny_processor)] * 2))
    tiny_processor.max_clips = 11
    others.add(digest_of([(tiny_model, tiny_processor)]))
    assert len(others) == 4
