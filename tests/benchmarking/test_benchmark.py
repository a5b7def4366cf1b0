"""The benchmark measures what it says, on a language model so small that the numbers mean nothing."""

import json
import mmap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from limssr.training.benchmarking.contestants import make_contestant
from limssr.training.benchmarking.curves import measure_curves
from limssr.training.benchmarking.data_path import measure_data_path
from limssr.training.benchmarking.figure import save_figure
from limssr.training.benchmarking.memory import read_peak, reset_peak
from limssr.training.benchmarking.model_cost import (
    CONTESTANTS,
    ActionCost,
    measure_missing,
    measure_times,
    measure_training_with_missing,
)
from limssr.training.benchmarking.padding import measure_padding
from limssr.training.benchmarking.report import Requirement, requirements, save_json, write_seconds, write_table
from limssr.training.benchmarking.streaming import measure_streaming
from limssr.training.benchmarking.subsets import measure_subsets
from limssr.training.benchmarking.timing import Rounds, take_turns
from limssr.training.benchmarking.trainer_overhead import measure_trainer_overhead
from limssr.training.benchmarking.workload import (
    Settings,
    build_model,
    build_processor,
    draw_features,
    forward_flops,
    make_batch,
    save_language_model,
)


@pytest.fixture
def settings(tiny_language_model) -> Settings:
    return Settings(
        language_model=str(tiny_language_model),
        batch_size=2,
        clips=6,
        repeats=2,
        clip_counts=(2, 4, 8),
        batch_sizes=(1, 2),
        missing_rates=(0.0, 0.5),
        table_samples=4,
        loaded_samples=2,
        trainer_steps=2,
        subset_samples=2,
        streamed_samples=200,
    )


@pytest.fixture
def folder(settings, tmp_path) -> Path:
    assert save_language_model(tmp_path / "language_model", settings.language_model) == settings.language_model
    return tmp_path / "language_model"


def test_ratios_compare_what_ran_in_the_same_round():
    rounds = Rounds({"ours": [2.0, 30.0, 4.0], "other": [1.0, 10.0, 4.0]})
    assert rounds.time("ours").to_dict() == {"median": 4.0, "low": 2.0, "high": 30.0}
    assert rounds.ratio("ours", "other").to_dict() == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_everybody_takes_turns_and_the_first_round_does_not_count():
    turns = []
    rounds = take_turns({name: lambda name=name: turns.append(name) for name in "ab"}, repeats=3)
    assert turns == list("abababab")
    assert {name: len(values) for name, values in rounds.seconds.items()} == {"a": 3, "b": 3}


def test_contestants_read_the_same_tokens_and_train_what_they_say(folder):
    model = build_model(folder, "cpu")
    batch = make_batch(build_processor(folder, model.config), draw_features(2, 6), "cpu")
    trained = {}
    for name in CONTESTANTS:
        own = build_model(folder, "cpu").train()
        runner = make_contestant(name, own)
        runner.train(batch)
        runner.infer(batch)
        trained[name] = {key for key, value in own.named_parameters() if value.requires_grad}
    table = "model.language_model.embed_tokens.weight"
    assert trained["limssr"] == trained["shared"] == trained["bare"]
    assert trained["naive"] == trained["limssr"] | {table}
    naive = make_contestant("naive", model.eval())
    outputs, logits = naive._score(batch)
    assert logits.shape == (*batch["input_ids"].shape, model.config.language_model_config.vocab_size)
    with torch.no_grad():
        torch.testing.assert_close(outputs.score, model(**batch).score, atol=1e-5, rtol=0)


def test_operations_grow_with_the_weights_and_with_the_square_of_the_length(folder):
    language_model = build_model(folder, "cpu").model.language_model
    weights = sum(value.numel() for name, value in language_model.named_parameters() if "lora" not in name)
    weights -= language_model.embed_tokens.weight.numel()
    attention = 4 * 2 * 32  # layers, heads * head size
    assert forward_flops(language_model, 100) == 100 * 2 * weights + 100 * 100 * attention


def test_the_peak_is_what_was_held_since_it_was_reset():
    reset_peak("cpu")
    before = read_peak("cpu")
    # Pages of its own: a tensor may be given memory that an earlier test left behind and that is counted already.
    with mmap.mmap(-1, 64 * 2**20) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        held = read_peak("cpu") - before
    assert held > 60 * 2**20
    reset_peak("cpu")
    assert read_peak("cpu") < before + 40 * 2**20


def test_trainer_data_path_and_stream_are_measured(folder, settings, tmp_path):
    (tmp_path / "work").mkdir()
    data = measure_data_path(folder, settings, tmp_path / "work", step_seconds=1.0)
    assert data["samples_per_second"] > 0
    assert data["loader_over_step"] == pytest.approx(data["samples_per_second"] / 2)
    assert data["speedup_over_tables"] == pytest.approx(
        data["samples_per_second"] / data["samples_per_second_from_tables"]
    )
    assert data["read_speedup_over_tables"] == pytest.approx(
        data["samples_per_second_read"] / data["samples_per_second_from_tables"]
    )
    assert 0 < measure_trainer_overhead(folder, settings, tmp_path / "trainer") < 1
    (tmp_path / "stream").mkdir()
    streamed = measure_streaming(tmp_path / "stream", settings.streamed_samples)
    assert len(streamed["resident_bytes"]) == 20


def test_all_rows_become_a_table_a_picture_and_json(folder, settings, tmp_path):
    results = {"language_model": "tiny", "device_name": "here", "batch_size": settings.batch_size}
    for action, key in (("infer", "inference"), ("train", "training")):
        rounds, tokens = measure_times(action, folder, settings)
        assert tokens["shared"] < tokens["limssr"]
        results[key] = ActionCost(rounds, dict.fromkeys(CONTESTANTS, 10**9), tokens).to_dict()
    results["training"]["speedup_over_naive_with_missing"] = measure_training_with_missing(folder, settings).median
    results["missing"] = {name: spread.median for name, spread in measure_missing(folder, settings).items()}
    results["all_subsets"] = measure_subsets(folder, settings)
    assert results["all_subsets"]["token_ratio"] > 1
    results["padding"] = measure_padding(folder)
    assert results["padding"]["sorted"] < results["padding"]["grouped"] < 0.1 < results["padding"]["random"]
    results["data_path"] = {"loader_over_step": 21.0, "speedup_over_tables": 199.0, "read_speedup_over_tables": 201.0}
    results |= {"trainer_overhead": 0.01, "streaming": {"samples": 200, "growth_bytes": 0}}
    results["curves"] = measure_curves(folder, replace(settings, repeats=1))
    table = write_table(results)
    assert len(table.splitlines()) == 2 + len(requirements(results))
    (tables,) = [line for line in table.splitlines() if "loader with all it does" in line]
    assert [cell.strip() for cell in tables.split("|")[2:5]] == ["199", "≥ 200", "NO"]
    assert "inference, naive" in write_seconds(results)
    save_json(results, tmp_path / "benchmark.json")
    read = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"ratio", "memory_ratio", "shared_prefix_ratio"} <= read["inference"].keys()
    assert {"ratio", "memory_ratio", "speedup_over_naive"} <= read["training"].keys()
    assert "ratio_over_tokens" in read["all_subsets"]
    save_figure(results, tmp_path / "benchmark.png")
    assert Image.open(tmp_path / "benchmark.png").width > 1000


@pytest.mark.parametrize(("value", "at_least", "met"), [(1.0, False, True), (1.2, False, False), (1.2, True, True)])
def test_a_requirement_is_met_or_not(value, at_least, met):
    assert Requirement("a row", value, 1.1, at_least).is_met == met
