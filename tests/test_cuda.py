"""On an NVIDIA GPU: the scores and gradients of the CPU, half precision, quantisation, training, resuming, scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available, is_schedulefree_available

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training.data import load
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.fitting.run import run_training
from limssr.training.prediction.predictor import load_members, predict
from limssr.training.utils.loading import loading_options
from tests.helpers.golden import MASKS, SCORES
from tests.helpers.models import LINEAR_LAYERS, gradients, quantised_layers, score_one_by_one, train

DEVICE = "cuda"
TRAINING = Path(__file__).parents[1] / "training"
SYNTHETIC = {"samples_train": 48, "samples_test": 21}  # as in `quick_run`

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

needs_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs the package bitsandbytes")
needs_schedulefree = pytest.mark.skipif(not is_schedulefree_available(), reason="needs the package schedulefree")


@pytest.fixture(autouse=True)
def full_precision():
    """Products of float32 matrices in float32: TensorFloat-32 would round the factors to ten bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def deterministic():
    """Sums in the same order every time, where there is such a kernel."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def clips(tiny_model) -> list[dict[str, np.ndarray]]:
    """Three samples, modality -> array."""
    random = np.random.default_rng(0)
    sizes = tiny_model.config.modalities.items()
    return [{name: random.normal(size=(3, size)).astype("float32") for name, size in sizes} for _ in range(3)]


def run_script(script: str, *words) -> str:
    """Standard output of `python training/SCRIPT WORDS`."""
    command = [sys.executable, TRAINING / script, *map(str, words)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def batch(tiny_processor, tiny_features) -> dict[str, torch.Tensor]:
    """On the CPU."""
    return dict(tiny_processor(features=tiny_features, labels=[10.0, 50.0, 90.0]))


@pytest.fixture
def processor_to_device(tiny_processor):
    """The processor, but what it makes lies on the GPU."""
    return lambda **arguments: moved(tiny_processor(**arguments))


def moved(batch) -> dict[str, torch.Tensor]:
    return {name: value.to(DEVICE) for name, value in batch.items()}


def assert_all_on_device(model) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert [name for name, tensor in tensors.items() if tensor.device.type != DEVICE] == []


def assert_near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found.cpu(), expected.cpu(), atol=tolerance, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("form", "trainable"), [("merged", False), ("adapter", True)])
def test_all_masks_in_one_batch_give_the_published_numbers(converted, golden, form, trainable):
    model = AutoModel.from_pretrained(converted[form], trainable=trainable).to(DEVICE)
    processor = AutoProcessor.from_pretrained(converted[form])
    outputs = model(**moved(processor(features=golden.features(*MASKS))))
    for ours, published in SCORES.items():
        assert_near(outputs[ours][:, 0], golden.under_all_masks(published), 1e-4)
    assert_near(outputs.fusion_hidden_state, golden.under_all_masks("fusion_hidden"), 1e-3)


@torch.no_grad()
def test_batch_mates_and_padding_never_change_a_score(tiny_model, processor_to_device, tiny_features):
    model = tiny_model.to(DEVICE)
    together = model(**processor_to_device(features=tiny_features)).scores
    assert_near(together, score_one_by_one(model, processor_to_device, tiny_features), 0.01)  # judges' units, of 100
    sizes = model.config.modalities.items()
    longer = {name: [*tiny_features[name], torch.randn(12, size)] for name, size in sizes}
    assert_near(model(**processor_to_device(features=longer)).scores[:3], together, 0.01)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_hidden_and_padded_values_never_change_a_score(tiny_model, batch, value):
    model, batch = tiny_model.to(DEVICE), moved(batch)
    expected = model(**batch)
    for name in model.config.modalities:
        batch[f"{name}_features"][~batch[f"{name}_clip_mask"]] = value
    found = model(**batch)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.fusion_hidden_state, expected.fusion_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("device_map", [DEVICE, "auto", {"": 0}])
def test_a_checkpoint_placed_by_a_device_map_scores_as_on_the_cpu(tiny_model, batch, tmp_path, device_map):
    tiny_model.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, device_map=device_map)
    assert_all_on_device(model)
    scores = model(**moved(batch)).scores
    assert scores.device.type == DEVICE
    assert_near(scores, tiny_model(**batch).scores, 1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2.0), (torch.float16, 0.5)])
def test_half_precision_scores_nearly_as_the_cpu_and_survives_saving(tiny_model, batch, tmp_path, dtype, tolerance):
    tiny_model.save_pretrained(tmp_path / "float32")
    half = AutoModel.from_pretrained(tmp_path / "float32", device_map=DEVICE, dtype=dtype)
    assert {value.dtype for value in half.model.language_model.parameters()} == {dtype}
    scores = half(**moved(batch)).scores
    assert scores.dtype == torch.float32
    assert_near(scores, tiny_model(**batch).scores, tolerance)
    half.save_pretrained(tmp_path / "half")
    again = AutoModel.from_pretrained(tmp_path / "half", device_map=DEVICE)
    assert again.dtype == dtype
    assert torch.equal(again(**moved(batch)).scores, scores)


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["kept", "reentrant", "not reentrant"])
@pytest.mark.parametrize("hidden", [(), ("audio", "flow")], ids=["all modalities", "video alone"])
def test_gradients_are_those_of_the_cpu(tiny_config, tiny_processor, tiny_features, checkpointing, hidden):
    # A modality that nobody has runs an empty list of clips through its projector.
    features = {name: [None if name in hidden else clips for clips in tiny_features[name]] for name in tiny_features}
    features["video"][1] = torch.randn(4, tiny_config.modalities["video"])
    batch = tiny_processor(features=features, labels=[10.0, 50.0, 90.0])
    tiny_config.language_model_training = "full"
    tiny_config.projector_dropout = tiny_config.head_dropout = 0.0
    torch.manual_seed(0)
    model = LimssrForScoreRegression(tiny_config).train()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    expected = gradients(model, batch)
    after = {name: value.clone() for name, value in model.named_buffers()}
    model.load_state_dict(statistics, strict=False)
    model.to(DEVICE)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    found = gradients(model, moved(batch))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.cpu(), expected[name], atol=1e-4, rtol=1e-3, msg=name)
    for name, value in model.named_buffers():
        torch.testing.assert_close(value.cpu(), after[name], atol=1e-5, rtol=1e-4, msg=name)


# Judges' units, of 100: the run reports what it scored in its own precision.
@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [({}, 0.01), ({"bf16": True}, 2.0), ({"fp16": True}, 0.5)],
    ids=["float32", "bfloat16", "float16"],
)
def test_a_run_leaves_a_checkpoint_that_scores_on_the_cpu_as_reported(quick_arguments, tmp_path, precision, tolerance):
    reported = run_training(*quick_arguments(logging_strategy="steps", logging_steps=1, **precision))
    folder = tmp_path / "run"
    record = json.loads((folder / "run.json").read_text())
    assert record["device"].startswith(DEVICE)
    losses = [entry["loss"] for entry in record["history"] if "loss" in entry]
    assert len(losses) == record["selection"]["steps"] > 0
    assert None not in losses  # which the record has in place of what is not finite
    model, processor = LimssrForScoreRegression.from_pretrained(folder), LimssrProcessor.from_pretrained(folder)
    assert model.dtype == torch.float32
    test = load("synthetic", **SYNTHETIC).splits["test"]
    on_cpu = evaluate_subsets(model, processor, test, progress=False)
    for first, second in zip(reported.masks, on_cpu.masks, strict=True):
        assert np.isfinite(first.predictions.scores).all()
        np.testing.assert_allclose(first.predictions.scores, second.predictions.scores, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="float32"),
        pytest.param({"bf16": True}, id="bfloat16"),
        pytest.param({"fp16": True}, id="float16 with a scaled loss"),
        pytest.param({"optim": "adamw_bnb_8bit"}, id="optimizer of eight bits", marks=needs_bitsandbytes),
        pytest.param(
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant_with_warmup"},
            id="schedule-free optimizer",
            marks=needs_schedulefree,
        ),
    ],
)
@pytest.mark.usefixtures("deterministic")
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_never_stopped(
    quick_arguments, tiny_language_model, tmp_path, settings
):
    steps = {"text_config": None, "language_model": str(tiny_language_model), "lora_rank": 2, "learning_rate": 0.01}
    steps |= {"missingness": "dynamic", "missing_rates": None, "select_on": "nothing", "save_strategy": "steps"}
    steps |= {"eval_strategy": "no", "load_best_model_at_end": False}
    steps |= {"save_steps": 3, "save_total_limit": 9, "logging_strategy": "steps", "logging_steps": 1, **settings}
    run_training(*quick_arguments(**steps, output_dir=str(tmp_path / "straight")))
    torch.manual_seed(123)  # what the process drew before must not matter
    middle = str(tmp_path / "straight" / "checkpoint-3")
    run_training(*quick_arguments(**steps, output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=middle))
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "resumed"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        # Batch norm takes the mean away again, so these biases have no gradient but noise, and Adam steps on noise.
        if not name.endswith("linear_1.bias"):
            torch.testing.assert_close(value, second[name], atol=1e-4, rtol=0, msg=name)
    moved_factors = [value.abs().max() > 1e-3 for name, value in first.items() if "lora_B" in name]  # from 0
    assert moved_factors
    assert all(moved_factors)
    losses = []
    for name in ("straight", "resumed"):
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert record["device"].startswith(DEVICE)
        losses.append([entry["loss"] for entry in record["history"] if "loss" in entry])
    assert len(losses[0]) > 3
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", [{"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_trains_beside_a_quantised_language_model_and_its_adapter_loads_again(
    tiny_language_model, batch, tmp_path, bits, dtype
):
    bits = BitsAndBytesConfig(**bits)
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model,
        modalities={"video": 16, "audio": 12, "flow": 8},
        score_ranges=[100],
        quantization_config=bits,
        dtype=dtype,
    )
    assert len(quantised_layers(model)) == LINEAR_LAYERS
    assert_all_on_device(model)  # quantised weights are made where there is a GPU, and take the others along
    batch = moved(batch)
    losses = train(model, batch, steps=15)
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path, form="adapter")
    place = {"language_model": tiny_language_model, "quantization_config": bits}
    with torch.no_grad():
        expected = model(**batch).scores
        for options in ({}, {"device_map": DEVICE}):
            again = AutoModel.from_pretrained(tmp_path, **place, **options)
            assert len(quantised_layers(again)) == LINEAR_LAYERS
            assert_all_on_device(again)
            assert_near(again(**batch).scores, expected, 1e-3)
        in_floating_point = AutoModel.from_pretrained(tmp_path, language_model=tiny_language_model, device_map=DEVICE)
        assert_near(in_floating_point(**batch).scores, expected, 5.0)


@needs_bitsandbytes
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_quantised_run_leaves_an_adapter_that_scores_as_reported(
    quick_arguments, tiny_language_model, tmp_path, bits
):
    settings = {
        "language_model_config": None,
        "language_model": str(tiny_language_model),
        "lora_rank": 2,
        "quantization": bits,
    }
    reported = run_training(*quick_arguments(**settings))
    options = loading_options(quantization=bits)
    ((model, processor),) = load_members([tmp_path / "run"], str(tiny_language_model), **options)
    assert_all_on_device(model)
    test = load("synthetic", **SYNTHETIC).splits["test"]
    evaluated = evaluate_subsets(model, processor, test, progress=False)
    for first, second in zip(reported.masks, evaluated.masks, strict=True):
        # Which inputs are too large for eight bits is found batch by batch.
        np.testing.assert_allclose(first.predictions.scores, second.predictions.scores, rtol=0, atol=0.5)


@torch.no_grad()
def test_a_compiled_language_model_gives_the_same_scores(tiny_model, batch):
    model, batch = tiny_model.to(DEVICE), moved(batch)
    expected = model(**batch).scores
    torch._dynamo.reset()
    model.model.shares_prefix = False  # one pass a batch
    model.model.language_model.compile(fullgraph=True)  # a graph break is an error
    assert_near(model(**batch).scores, expected, 1e-2)


def test_members_lie_on_the_gpu_unless_told_otherwise(checkpoint, clips):
    rows = [{"sample_id": str(number), **sample} for number, sample in enumerate(clips)]
    members = load_members([checkpoint, checkpoint])
    for model, _ in members:
        assert_all_on_device(model)
    ((on_cpu, processor),) = load_members([checkpoint], device="cpu")
    assert on_cpu.device.type == "cpu"
    found, expected = predict(*members[0], rows).scores, predict(on_cpu, processor, rows).scores
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("on_cpu", ["false", "true"])
def test_predict_scores_on_the_gpu_and_on_the_cpu(
    checkpoint, tiny_model, tiny_processor, clips, tmp_path, monkeypatch, on_cpu
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", on_cpu)
    for number, sample in enumerate(clips):
        for name, array in sample.items():
            (tmp_path / "features" / name).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "features" / name / f"sample{number}.npy", array)
    printed = run_script("predict.py", checkpoint, "--folder", tmp_path / "features", "--format", "json")
    features = {name: [sample[name] for sample in clips] for name in clips[0]}
    with torch.no_grad():
        expected = tiny_model(**tiny_processor(features=features)).scores[:, 0].tolist()
    found = [entry["scores"]["score"]["score"] for entry in json.loads(printed)]
    assert found == pytest.approx(expected, abs=1e-2)


def test_eval_scores_on_the_gpu_as_on_the_cpu(quick_arguments, tmp_path):
    run_training(*quick_arguments(use_cpu=True, max_steps=4))
    options = [f"{name}={value}" for name, value in SYNTHETIC.items()]
    words = ["synthetic", "--data_options", *options, "--output_dir", tmp_path / "evaluated"]
    run_script("eval.py", tmp_path / "run", *words)
    errors = []
    for folder in ("run", "evaluated"):
        masks = json.loads((tmp_path / folder / "metrics.json").read_text())["masks"]
        errors.append([mask["scores"]["score"]["model"]["mse"] for mask in masks])
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)
