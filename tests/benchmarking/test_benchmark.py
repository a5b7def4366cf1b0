"""The benchmark on a language model so small that its numbers mean nothing."""

import json
import mmap
from pathlib import Path

import pytest
import torch
from PIL import Image

from limssr.training.benchmark import report
from limssr.training.benchmarking.measure import (
    RESET,
    measure_cost,
    measure_data_path,
    measure_memory_growth,
    measure_missing,
    measure_padding,
    measure_subsets,
    ratio,
    read_peak,
    reset_peak,
    spread,
    take_turns,
)
from limssr.training.benchmarking.report import at_least, at_most
from limssr.training.benchmarking.workload import (
    CONTENDERS,
    MODALITIES,
    Contender,
    Settings,
    build_model,
    build_processor,
    draw_available,
    draw_batch,
    forward_flops,
    score_naively,
)

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 257,
}


@pytest.fixture
def settings() -> Settings:
    return Settings(
        language_model=TINY,
        batch_size=2,
        clips=6,
        repeats=1,
        clip_counts=(2, 4, 8),
        prepared_samples=16,
        trainer_steps=2,
        subset_samples=2,
        streamed_samples=200,
    )


def test_ratios_compare_what_ran_in_the_same_round():
    seconds = {"ours": [2.0, 30.0, 4.0], "other": [1.0, 10.0, 4.0]}
    assert spread(seconds["ours"]) == {"median": 4.0, "low": 2.0, "high": 30.0}
    assert ratio(seconds, "ours", "other") == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_every_call_takes_turns_and_the_first_round_is_not_timed():
    turns = []
    seconds = take_turns({name: lambda name=name: turns.append(name) for name in "ab"}, Settings(repeats=3))
    assert turns == list("abababab")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_complete_sample_of_the_full_benchmark_has_380_tokens_of_which_85_are_prompt():
    settings = Settings(batch_size=2)
    processor = build_processor(settings)
    assert draw_batch(processor, settings)["input_ids"].shape == (2, 380)
    assert len(processor.encode_prompt((True,) * 3)) == 85


def test_contenders_compute_the_same_scores_and_train_the_weights_they_say(settings):
    batch, trained = draw_batch(build_processor(settings), settings), {}
    for name in CONTENDERS:
        model = build_model(settings).train()
        contender = Contender(name, model)
        contender.training(batch)
        contender.inference(batch)
        trained[name] = {key for key, value in model.named_parameters() if value.requires_grad}
    assert any("lora" in key for key in trained["bare"])
    assert trained["bare"] == trained["limssr"] == trained["cached"]
    assert trained["naive"] == trained["bare"] | {"model.language_model.embed_tokens.weight"}
    model = build_model(settings)
    with torch.no_grad():
        outputs, logits = score_naively(model, batch)
        assert logits.shape == (*batch["input_ids"].shape, TINY["vocab_size"])
        torch.testing.assert_close(outputs.scores, model(**batch).scores, atol=1e-3, rtol=0)


def test_each_sample_keeps_a_modality_and_the_others_go_missing_at_their_rate():
    available = draw_available(0.3, 2000)
    assert all(available)
    assert sum(map(len, available)) / (3 * 2000) == pytest.approx(0.7 / (1 - 0.3**3), abs=0.02)


def test_operations_grow_with_the_weights_and_with_the_square_of_the_length(settings):
    language_model = build_model(settings).model.language_model
    weights = sum(value.numel() for name, value in language_model.named_parameters() if "lora" not in name)
    weights -= language_model.embed_tokens.weight.numel()
    attention = 4 * 2 * 32  # layers, heads * head size
    assert forward_flops(language_model, 100) == 100 * 2 * weights + 100 * 100 * attention


@pytest.mark.skipif(not RESET.exists(), reason=f"the peak is measured with {RESET}, which is not there")
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


@pytest.mark.parametrize("action", ["inference", "training"])
def test_cost_is_measured_for_every_contender(settings, action):
    cost = measure_cost(action, settings)
    assert cost["seconds"].keys() == cost["over_bare"].keys() == CONTENDERS.keys()
    assert cost["over_bare"]["bare"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    encoded_prompts = 0 if action == "inference" else 1  # scoring keeps the prefix from call to call
    assert cost["tokens"]["cached"] == cost["tokens"]["limssr"] - 85 * (settings.batch_size - encoded_prompts)


def test_missing_modalities_and_subsets_are_measured(settings):
    assert all(value > 0 for value in measure_missing(settings).values())
    assert 1 < measure_subsets(settings)["token_ratio"] < 7


def test_batches_by_length_have_little_padding(settings):
    padding = measure_padding(settings)
    assert padding["sorted"] < padding["grouped"] < 0.1 < padding["random"]


def test_data_path_and_stream_are_measured(settings, tmp_path):
    found = measure_data_path(settings, tmp_path)
    assert 0 < found.pop("trainer_share") < 1
    assert all(value > 0 for value in found.values())
    assert isinstance(measure_memory_growth(settings, tmp_path), int)
    assert {path.stem for path in tmp_path.glob("*.pkl")} == set(MODALITIES)


@pytest.mark.slow
def test_report_has_every_requirement_a_picture_and_json(settings, tmp_path, capsys):
    report(settings, tmp_path / "new" / "benchmark.json")
    printed = capsys.readouterr().out
    assert "training step, naive implementation" in printed
    assert "| inference, peak memory over bare " in printed
    assert sum(line.endswith(("yes |", " NO |")) for line in printed.splitlines()) == 17
    results = json.loads(Path(tmp_path / "new" / "benchmark.json").read_text())
    assert all(peak > 2**20 for action in ("inference", "training") for peak in results[action]["peak_bytes"].values())
    assert [point["clips"] for point in results["curve"]] == [2, 4, 8]
    assert Image.open(tmp_path / "new" / "benchmark.png").width > 1000


def test_a_requirement_is_met_or_not():
    assert at_most("a row", 1.0, 1.1) == ["a row", "1.000", "≤ 1.100", "yes"]
    assert at_most("a row", 1.2, 1.1)[-1] == at_least("a row", 1.0, 1.1)[-1] == "NO"
    assert at_least("a row", 199.6, 200, "{:.0f}") == ["a row", "200", "≥ 200", "NO"]
