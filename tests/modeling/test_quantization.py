"""A language model in 4 or 8 bits: LoRA trained beside it, its adapter saved and loaded, full checkpoints scored."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, Trainer, TrainingArguments
from transformers.utils import is_bitsandbytes_available

from limssr import LimssrForScoreRegression, LimssrModel
from tests.helpers.feature_rows import SIZES
from tests.helpers.models import LINEAR_LAYERS, gradients, quantised_layers, train

pytestmark = pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs the package bitsandbytes")


def eight_bits() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)


def four_bits() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")


both = pytest.mark.parametrize("bits", [eight_bits, four_bits])


def new_model(language_model, **options) -> LimssrForScoreRegression:
    torch.manual_seed(0)
    return LimssrForScoreRegression.from_language_model(
        language_model, modalities=SIZES, score_ranges=[100], **options
    )


@pytest.fixture
def batch(tiny_processor, tiny_features):
    return tiny_processor(features=tiny_features, labels=[10, 50, 90])


@both
def test_lora_trains_beside_a_quantised_language_model_which_stays_as_it_is(tiny_language_model, batch, bits):
    model = new_model(tiny_language_model, quantization_config=bits())
    assert len(quantised_layers(model.model.language_model)) == len(quantised_layers(model)) == LINEAR_LAYERS
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = train(model, batch, steps=15)
    assert losses[-1] < 0.7 * losses[0]
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("language_model" in name and "lora" not in name for name in moved)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name in trained if "language_model" in name} == {name for name in before if "lora" in name}
    assert {name for name in moved if "lora_B" in name} == {name for name in before if "lora_B" in name}
    assert all(value.dtype == torch.float32 for name, value in model.named_parameters() if name in trained)


@both
def test_scoring_in_between_changes_no_gradient(tiny_language_model, batch, bits):
    model = new_model(tiny_language_model, quantization_config=bits())
    torch.manual_seed(0)
    before = gradients(model.train(), batch)
    with torch.no_grad():
        model.eval()(**batch)
    torch.manual_seed(0)
    after = gradients(model.train(), batch)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    lowest = next(value for name, value in before.items() if ".layers.0." in name and "lora_B" in name)
    assert lowest.abs().max() > 0


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_an_adapter_loads_onto_the_language_model_as_it_was_trained_or_in_floating_point(
    tiny_language_model, batch, tmp_path, bits, dtype
):
    model = new_model(tiny_language_model, quantization_config=bits(), dtype=dtype)
    with torch.enable_grad():
        train(model, batch, steps=3)
    expected = model.eval()(**batch).scores
    model.save_pretrained(tmp_path, form="adapter")
    assert "quantization" not in (tmp_path / "config.json").read_text()
    assert all("lora" in name for name in load_file(tmp_path / "model.safetensors") if "language_model" in name)
    place = {"language_model": tiny_language_model}
    again = AutoModel.from_pretrained(tmp_path, **place, quantization_config=bits())
    assert len(quantised_layers(again)) == LINEAR_LAYERS
    assert torch.equal(again(**batch).scores, expected)
    again.save_pretrained(tmp_path / "again", form="adapter")
    first, second = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], value) for name, value in first.items())
    in_floating_point = AutoModel.from_pretrained(tmp_path, **place)
    assert not quantised_layers(in_floating_point)
    # Judges' units, of 100.
    torch.testing.assert_close(in_floating_point(**batch).scores, expected, rtol=0, atol=3.0)
    in_floating_point.save_pretrained(tmp_path / "full")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "full")(**batch).scores, in_floating_point(**batch).scores)


@pytest.mark.parametrize(("bits", "tolerance"), [(eight_bits, 1.0), (four_bits, 5.0)])  # judges' units, of 100
@torch.no_grad()
def test_a_full_checkpoint_loads_quantised_but_for_projectors_and_heads(tiny_model, batch, tmp_path, bits, tolerance):
    tiny_model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=bits())
    assert len(quantised_layers(loaded)) == LINEAR_LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in quantised_layers(loaded))
    outside = {name: value for name, value in tiny_model.state_dict().items() if "language_model" not in name}
    kept = loaded.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in outside.items())
    expected = tiny_model(**batch).scores
    scores = loaded(**batch).scores
    assert not torch.equal(scores, expected)
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerance)
    below = LimssrModel.from_pretrained(tmp_path, quantization_config=bits())
    assert len(quantised_layers(below)) == LINEAR_LAYERS


def test_modules_the_user_names_are_left_out_too(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["model.language_model.layers.0"])
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=settings)
    assert len(quantised_layers(loaded)) == LINEAR_LAYERS / 2
    assert all("language_model.layers.1." in name for name in quantised_layers(loaded))


@both
def test_the_heads_alone_train_behind_a_frozen_quantised_language_model(tiny_language_model, batch, tmp_path, bits):
    model = new_model(
        tiny_language_model, quantization_config=bits(), language_model_training="frozen", num_hidden_layers=1
    )
    assert len(quantised_layers(model)) == LINEAR_LAYERS / 2
    losses = train(model, batch, steps=10)
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path, form="adapter")
    loaded = AutoModel.from_pretrained(tmp_path, language_model=tiny_language_model, quantization_config=bits())
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).scores, model(**batch).scores, atol=1e-4, rtol=0)


@both
def test_what_a_quantised_language_model_cannot_do_is_refused(tiny_language_model, tiny_model, tmp_path, bits):
    with pytest.raises(
        ValueError, match=r"language_model_training='full' trains every weight.*give 'lora' or 'frozen'"
    ):
        new_model(tiny_language_model, quantization_config=bits(), language_model_training="full")
    model = new_model(tiny_language_model, quantization_config=bits())
    tiny_model.save_pretrained(tmp_path / "full")
    loaded = AutoModel.from_pretrained(tmp_path / "full", quantization_config=bits())
    for quantised in (model, model.model, loaded, loaded.model):
        with pytest.raises(ValueError, match=r"language model is quantised.*save form='adapter'"):
            quantised.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_language_model_trained_as_a_whole_is_not_trained_further_in_eight_bits(tiny_config, tmp_path):
    tiny_config.language_model_training = "full"
    LimssrForScoreRegression(tiny_config).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, quantization_config=eight_bits())
    with pytest.raises(ValueError, match="cannot perform fine-tuning on purely quantized models"):
        Trainer(loaded, TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"))


def test_a_language_model_stored_quantised_is_refused(tiny_language_model, tmp_path):
    AutoModel.from_pretrained(tiny_language_model, quantization_config=eight_bits()).save_pretrained(
        tmp_path / "stored"
    )
    with pytest.raises(ValueError, match="is stored quantised; give the one in floating point"):
        new_model(tmp_path / "stored")


def test_transposed_layers_get_no_lora_where_they_are_quantised_either(tmp_path):
    text_config = GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=264, bos_token_id=0, eos_token_id=0)
    AutoModelForCausalLM.from_config(text_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`lora_target_modules` names 'c_proj'"):
        new_model(tmp_path, quantization_config=four_bits(), lora_target_modules=["c_proj"])


@pytest.mark.usefixtures("without_bitsandbytes")
def test_the_missing_package_is_named(tiny_language_model):
    with pytest.raises(ImportError, match=r"requires bitsandbytes: `pip install"):
        new_model(tiny_language_model, quantization_config=eight_bits())
