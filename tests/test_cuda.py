"""On an NVIDIA GPU: the scores and gradients of the CPU, half precision, quantisation, training, resuming, scripts."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel, set_seed
from transformers.utils import is_bitsandbytes_available, is_schedulefree_available

from limssr import LimssrForScoreRegression, LimssrProcessor
from limssr.training.data import load
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.fitting.run import run_training
from limssr.training.prediction.predictor import load_members, predict
from limssr.training.utils.loading import loading_options

from .fitting import test_trainer as trainers
from .modeling import test_golden_numbers as golden_numbers
from .modeling import test_quantization as quantization
from .modeling import test_score_promises as score_promises
from .modeling import test_transformers_habits as transformers_habits
from .prediction import test_eval_and_predict_scripts as scripts

DEVICE = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

needs_bitsandbytes = pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs the package bitsandbytes")
needs_schedulefree = pytest.mark.skipif(not is_schedulefree_available(), reason="needs the package schedulefree")

golden, converted = golden_numbers.golden, golden_numbers.converted
data, make_trainer = trainers.data, trainers.make_trainer
checkpoint, clips = scripts.checkpoint, scripts.clips


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
@pytest.mark.parametrize("form", ["merged", "trainable adapter"])
def test_all_masks_in_one_batch_give_the_published_numbers(converted, golden, form):
    model, processor = golden_numbers.load(converted, form)
    features = {name: [] for name in golden["meta"]["modality_order"]}
    for mask in golden_numbers.MASKS:
        for name, entries in golden_numbers.features_of(golden, mask).items():
            features[name] += entries
    outputs = model.to(DEVICE)(**moved(processor(features=features)))
    for name in ("scores", "reasoning_scores", "cross_modal_scores"):
        expected = torch.cat([golden["expected"][f"{mask}.{name}"] for mask in golden_numbers.MASKS])
        assert_near(outputs[name][:, 0], expected, 1e-4)
    expected = torch.cat([golden["expected"][f"{mask}.fusion_hidden"] for mask in golden_numbers.MASKS])
    assert_near(outputs.fusion_hidden_state, expected, 1e-3)


@torch.no_grad()
def test_batch_mates_and_padding_never_change_a_score(tiny_model, processor_to_device, tiny_features):
    model = tiny_model.to(DEVICE)
    together = model(**processor_to_device(features=tiny_features)).scores
    alone = score_promises.one_by_one(model, processor_to_device, tiny_features)
    assert_near(together / 100, alone / 100, 1e-4)
    sizes = model.config.modalities.items()
    longer = {name: [*tiny_features[name], torch.randn(12, size)] for name, size in sizes}
    assert_near(model(**processor_to_device(features=longer)).score[:3], together / 100, 1e-4)


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
    expected = transformers_habits.gradients(model, batch)
    after = {name: value.clone() for name, value in model.named_buffers()}
    model.load_state_dict(statistics, strict=False)
    model.to(DEVICE)
    if checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
    found = transformers_habits.gradients(model, moved(batch))
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
    test = load("synthetic", samples_train=48, samples_test=21).splits["test"]
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
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_never_stopped(make_trainer, tmp_path, settings):
    steps = {"dynamic": True, "use_cpu": False, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "no"}
    steps |= {"save_total_limit": 5, "load_best_model_at_end": False, **settings}
    straight = make_trainer("straight", **steps)
    assert straight.args.device.type == DEVICE
    straight.train()
    resumed = make_trainer("resumed", **steps)
    start = trainers.weights(resumed)
    set_seed(123)  # what the process drew before must not matter
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    first, second = trainers.weights(straight), trainers.weights(resumed)
    assert first.keys() == second.keys()
    for name, value in first.items():
        # Batch norm takes the mean away again, so these biases have no gradient but noise, and Adam steps on noise.
        if not name.endswith("linear_1.bias"):
            torch.testing.assert_close(value, second[name], atol=1e-4, rtol=0, msg=name)
    assert all(
        (value.cpu() - start[name].cpu()).abs().max() > 1e-3 for name, value in first.items() if "lora_B" in name
    )
    losses = [[entry["loss"] for entry in trainers.history(one, "loss")] for one in (straight, resumed)]
    assert len(losses[1]) == 10
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-4)


@needs_bitsandbytes
@quantization.both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_trains_beside_a_quantised_backbone_and_its_adapter_loads_again(
    tiny_language_model, batch, tmp_path, bits, dtype
):
    model = quantization.new_model(tiny_language_model, quantization_config=bits(), dtype=dtype)
    assert len(quantization.quantised_layers(model)) == quantization.LINEAR_LAYERS
    assert_all_on_device(model)  # quantised weights are made where there is a GPU, and take the others along
    batch = moved(batch)
    losses = quantization.train(model, batch, steps=15)
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path, form="adapter")
    place = {"language_model": tiny_language_model, "quantization_config": bits()}
    with torch.no_grad():
        expected = model(**batch).scores
        for options in ({}, {"device_map": DEVICE}):
            again = AutoModel.from_pretrained(tmp_path, **place, **options)
            assert len(quantization.quantised_layers(again)) == quantization.LINEAR_LAYERS
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
    test = load("synthetic", samples_train=48, samples_test=21).splits["test"]
    evaluated = evaluate_subsets(model, processor, test, progress=False)
    for first, second in zip(reported.masks, evaluated.masks, strict=True):
        # Which inputs are too large for eight bits is found batch by batch.
        np.testing.assert_allclose(first.predictions.scores, second.predictions.scores, rtol=0, atol=0.5)


@torch.no_grad()
def test_a_compiled_backbone_gives_the_same_scores(tiny_model, batch):
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
    found, expected = predict(*members[0], rows).score, predict(on_cpu, processor, rows).score
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("on_cpu", ["false", "true"])
def test_predict_scores_on_the_gpu_and_on_the_cpu(
    checkpoint, tiny_model, tiny_processor, clips, tmp_path, monkeypatch, on_cpu
):
    monkeypatch.setenv("ACCELERATE_USE_CPU", on_cpu)
    folder = scripts.write_folder(tmp_path / "features", clips)
    done = scripts.run("predict.py", checkpoint, "--folder", folder, "--format", "json")
    assert done.returncode == 0, done.stderr
    for sample, entry in zip(clips, json.loads(done.stdout), strict=True):
        expected = scripts.expected_score(tiny_model, tiny_processor, sample)
        assert entry["scores"]["score"]["score"] == pytest.approx(expected, abs=1e-2)


def test_eval_scores_on_the_gpu_as_on_the_cpu(quick_arguments, tmp_path):
    run_training(*quick_arguments(use_cpu=True, max_steps=4))
    words = [*scripts.SYNTHETIC[:2], "samples_train=48", "samples_test=21", "--output_dir", tmp_path / "evaluated"]
    done = scripts.run("eval.py", tmp_path / "run", *words)
    assert done.returncode == 0, done.stderr
    errors = []
    for folder in ("run", "evaluated"):
        masks = json.loads((tmp_path / folder / "metrics.json").read_text())["masks"]
        errors.append([mask["scores"]["score"]["model"]["mse"] for mask in masks])
    assert errors[1] == pytest.approx(errors[0], rel=1e-3)
