"""The converted published checkpoint reproduces what the published implementation computed, number for number."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from limssr.modeling_limssr.adapters_limssr import strip_peft_names
from limssr.modeling_limssr.convert_limssr_original_to_hf import rename_keys
from tests.helpers.golden import MASKS, SCORES

TOLERANCE = 1e-5  # the score range is 1
FORMS = ["merged", "adapter", "trainable adapter"]
LOSS_TERMS = {
    "loss": "loss",
    "loss_regression_mse": "regression_loss",
    "loss_consistency_mse": "consistency_loss",
    "loss_token_separation": "separation_loss",
}


def load(converted, form):
    if form == "trainable adapter":
        model = AutoModel.from_pretrained(converted["adapter"], trainable=True)
    else:
        model = AutoModel.from_pretrained(converted[form])
    return model, AutoProcessor.from_pretrained(converted[form.split()[-1]])


def assert_same(found, expected, what):
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, msg=lambda text: f"{what}: {text}")


@pytest.mark.parametrize("form", FORMS)
def test_every_number_of_every_mask_is_reproduced(converted, golden, form):
    model, processor = load(converted, form)
    compared_gradients = set()
    for mask in MASKS:
        expected = {
            name.removeprefix(f"{mask}."): value for name, value in golden.expected.items() if name[:3] == mask
        }
        model.zero_grad()
        outputs = model(**processor(features=golden.features(mask), labels=golden.inputs["labels"]))
        for ours, published in SCORES.items():
            assert_same(outputs[ours][:, 0], expected[published], f"{mask} {ours}")
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
    published = {name[4:] for name in golden.expected if ".grad." in name}
    merged_away = 0 if form == "trainable adapter" else sum("lora" in name for name in published)
    assert len(compared_gradients) == len(published) - merged_away


@torch.no_grad()
@pytest.mark.parametrize("form", ["merged", "trainable adapter"])
def test_all_masks_in_one_batch_give_the_same_numbers(converted, golden, form):
    model, processor = load(converted, form)
    outputs = model(**processor(features=golden.features(*MASKS)))
    assert len(outputs.scores) == 21
    for ours, published in SCORES.items():
        assert_same(outputs[ours][:, 0], golden.under_all_masks(published), ours)
    assert_same(outputs.fusion_hidden_state, golden.under_all_masks("fusion_hidden"), "fusion states")


def test_the_prompts_are_the_published_ones_token_for_token(converted, golden):
    processor = AutoProcessor.from_pretrained(converted["merged"])
    spelled_out = json.loads((golden.folder / "prompts.json").read_text())
    for mask in MASKS:
        ids = processor.encode_prompt(tuple(there == "1" for there in mask))
        assert ids == golden.meta["prompt_ids"][mask]
        assert processor.tokenizer.decode(ids) == spelled_out[mask]


def test_the_added_tokens_keep_their_published_ids(converted, golden):
    model, processor = load(converted, "merged")
    for name, token_id in golden.meta["special_tokens"].items():
        ours = name.replace("feat_dim", "fusion")
        assert model.config.added_token_ids[ours] == token_id
        assert processor.tokenizer.convert_tokens_to_ids(ours) == token_id


def test_the_adapter_carries_its_language_model_in_a_subfolder(converted):
    folder = converted["adapter"]
    assert (folder / "language_model" / "model.safetensors").is_file()
    assert not any("embed_tokens" in name for name in load_file(folder / "model.safetensors"))
    assert not (folder / "adapter_config.json").exists()
