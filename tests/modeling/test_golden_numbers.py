"""The converted published checkpoint reproduces what the published implementation computed, number for number."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from limssr.modeling_limssr.convert_limssr_original_to_hf import ConversionArguments, convert, rename_keys
from limssr.modeling_limssr.language_model_limssr import strip_peft_names

MASKS = ["111", "110", "101", "011", "100", "010", "001"]
TOLERANCE = 1e-5
LOSS_TERMS = {
    "loss": "loss",
    "loss_regression_mse": "regression_loss",
    "loss_consistency_mse": "consistency_loss",
    "loss_token_separation": "separation_loss",
}


@pytest.fixture(scope="module")
def golden(shared):
    folder = shared / "golden" / "qwen3_tiny"
    return {
        "folder": folder,
        "meta": json.loads((folder / "meta.json").read_text()),
        "inputs": load_file(folder / "inputs.safetensors"),
        "expected": load_file(folder / "expected.safetensors"),
    }


@pytest.fixture(scope="module")
def converted(golden, tmp_path_factory):
    """Both forms: LoRA merged (by the command line program), and LoRA kept apart."""
    folders = {"merged": tmp_path_factory.mktemp("merged"), "adapter": tmp_path_factory.mktemp("adapter")}
    options = {
        "checkpoint": str(golden["folder"] / "original_checkpoint.pkl"),
        "language_model": str(golden["folder"] / "llm"),
        "prompt": str(golden["folder"] / "prompt.json"),
        "max_clips": golden["meta"]["clip_num"],
        "lora_alpha": golden["meta"]["lora_alpha"],
    }
    convert(ConversionArguments(**options, output_dir=str(folders["adapter"]), keep_lora=True))
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    program = [sys.executable, "-m", "limssr.modeling_limssr.convert_limssr_original_to_hf"]
    finished = subprocess.run(
        [*program, *flags, "--output_dir", folders["merged"]], capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert str(folders["merged"]) in finished.stdout
    return folders


def load(converted, form):
    if form == "trainable adapter":
        model = AutoModel.from_pretrained(converted["adapter"], trainable=True)
    else:
        model = AutoModel.from_pretrained(converted[form])
    return model, AutoProcessor.from_pretrained(converted[form.split()[-1]])


def features_of(golden, mask):
    order = golden["meta"]["modality_order"]
    return {
        name: [clips if there == "1" else None for clips in golden["inputs"][name]]
        for name, there in zip(order, mask, strict=True)
    }


def assert_same(found, expected, what):
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, msg=lambda text: f"{what}: {text}")


FORMS = ["merged", "adapter", "trainable adapter"]


@pytest.mark.parametrize("form", FORMS)
def test_every_number_of_every_mask_is_reproduced(converted, golden, form):
    model, processor = load(converted, form)
    compared_gradients = set()
    for mask in MASKS:
        expected = {
            name.removeprefix(f"{mask}."): value for name, value in golden["expected"].items() if name[:3] == mask
        }
        model.zero_grad()
        outputs = model(**processor(features=features_of(golden, mask), labels=golden["inputs"]["labels"]))
        for name in ("score", "reasoning_scores", "cross_modal_scores"):
            assert_same(outputs[name][:, 0], expected[name], f"{mask} {name}")
        assert_same(outputs.fusion_hidden_state, expected["fusion_hidden"], f"{mask} fusion states")
        availability = torch.tensor([[float(there) for there in mask]] * 3)
        pooled = model.cross_modal_path.pool(outputs.modality_hidden_state, availability)
        assert_same(pooled, expected["modal_feature"], f"{mask} pooled vector")
        for published, ours in LOSS_TERMS.items():
            assert_same(outputs[ours], expected[published], f"{mask} {published}")
        outputs.loss.backward()
        parameters = strip_peft_names(dict(model.named_parameters()))
        for name, value in expected.items():
            if name.startswith("grad."):
                ((ours, gradient),) = rename_keys({name.removeprefix("grad."): value}).items()
                if ours in parameters:
                    assert_same(parameters[ours].grad, gradient, f"{mask} gradient of {ours}")
                    compared_gradients.add(ours)
    published = {name[4:] for name in golden["expected"] if ".grad." in name}
    merged_away = 0 if form == "trainable adapter" else sum("lora" in name for name in published)
    assert len(compared_gradients) == len(published) - merged_away


@torch.no_grad()
@pytest.mark.parametrize("form", ["merged", "trainable adapter"])
def test_all_masks_in_one_batch_give_the_same_numbers(converted, golden, form):
    model, processor = load(converted, form)
    features = {name: [] for name in golden["meta"]["modality_order"]}
    for mask in MASKS:
        for name, entries in features_of(golden, mask).items():
            features[name] += entries
    outputs = model(**processor(features=features))
    assert len(outputs.score) == 21
    for name in ("score", "reasoning_scores", "cross_modal_scores"):
        expected = torch.cat([golden["expected"][f"{mask}.{name}"] for mask in MASKS])
        assert_same(outputs[name][:, 0], expected, name)
    expected = torch.cat([golden["expected"][f"{mask}.fusion_hidden"] for mask in MASKS])
    assert_same(outputs.fusion_hidden_state, expected, "fusion states")


def test_the_prompts_are_the_published_ones_token_for_token(converted, golden):
    processor = AutoProcessor.from_pretrained(converted["merged"])
    spelled_out = json.loads((golden["folder"] / "prompts.json").read_text())
    for mask in MASKS:
        ids = processor.encode_prompt(tuple(there == "1" for there in mask))
        assert ids == golden["meta"]["prompt_ids"][mask]
        assert processor.tokenizer.decode(ids) == spelled_out[mask]


def test_the_added_tokens_keep_their_published_ids(converted, golden):
    model, processor = load(converted, "merged")
    published = golden["meta"]["special_tokens"]
    for name, token_id in published.items():
        ours = name.replace("feat_dim", "fusion")
        assert model.config.added_token_ids[ours] == token_id
        assert processor.tokenizer.convert_tokens_to_ids(ours) == token_id


def test_the_adapter_carries_its_backbone_in_a_subfolder_and_needs_no_language_model(converted):
    folder = converted["adapter"]
    assert (folder / "backbone" / "model.safetensors").is_file()
    assert not any("embed_tokens" in name for name in load_file(folder / "model.safetensors"))
    assert not (folder / "adapter_config.json").exists()
