"""A folder holds one checkpoint: what an earlier save left is gone, what a stranger left stays."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrModel, LimssrProcessor
from limssr.modeling_limssr.language_model_limssr import CHECKPOINT_SUBFOLDER
from tests.helpers.feature_rows import SIZES

STRANGERS = ["notes.txt", "model_card.md", "pytorch_model.bin", "model_of_mine.safetensors", "metrics.json"]


@pytest.fixture
def lora_model(tiny_language_model) -> LimssrForScoreRegression:
    torch.manual_seed(0)
    return LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities=SIZES, score_ranges=[100.0], lora_rank=2
    ).eval()


SAVES = {
    "full": {},
    "shards": {"max_shard_size": "40KB"},
    "more shards": {"max_shard_size": "20KB"},
    "adapter": {"form": "adapter"},
}


@torch.no_grad()
@pytest.mark.parametrize("second", SAVES)
@pytest.mark.parametrize("first", SAVES)
def test_what_was_saved_last_is_what_loads(first, second, lora_model, batch, tiny_language_model, tmp_path):
    folder = tmp_path / "checkpoint"
    lora_model.save_pretrained(folder, **SAVES[first])
    for name in STRANGERS:
        (folder / name).write_text("mine")
    lora_model.reasoning_weight.fill_(0.1)
    lora_model.model.token_embeddings.add_(1)
    lora_model.save_pretrained(folder, **SAVES[second])
    options = {"language_model": tiny_language_model} if second == "adapter" else {}
    found = AutoModel.from_pretrained(folder, **options)(**batch).scores
    torch.testing.assert_close(found, lora_model(**batch).scores, atol=1e-4, rtol=0)
    alone = tmp_path / "alone"
    lora_model.save_pretrained(alone, **SAVES[second])
    expected = {file.name for file in alone.iterdir()}
    assert {file.name for file in folder.iterdir()} == expected | set(STRANGERS)
    assert all((folder / name).read_text() == "mine" for name in STRANGERS)


def test_an_adapter_of_peft_in_the_folder_is_replaced_too(tiny_model, batch, tmp_path):
    from peft import LoraConfig, get_peft_model

    tiny_model.save_pretrained(tmp_path)
    wrapped = get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    wrapped.save_pretrained(tmp_path)
    model = wrapped.unload()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(**batch).scores, model(**batch).scores)


def test_a_language_model_carried_by_an_adapter_goes_with_it(converted, tmp_path):
    adapter = AutoModel.from_pretrained(converted["adapter"], trainable=True)
    carrying = tmp_path / "carrying"
    carrying.mkdir()
    for file in converted["adapter"].rglob("*"):
        if file.is_file():
            (carrying / file.relative_to(converted["adapter"])).parent.mkdir(exist_ok=True)
            (carrying / file.relative_to(converted["adapter"])).write_bytes(file.read_bytes())
    adapter.save_pretrained(carrying, form="adapter")
    AutoModel.from_pretrained(carrying)  # the language model is still there
    adapter.save_pretrained(carrying)
    assert not list((carrying / CHECKPOINT_SUBFOLDER).glob("*.safetensors"))
    AutoModel.from_pretrained(carrying)
    # An adapter that is saved elsewhere has no language model beside it, and does not claim one.
    adapter.save_pretrained(tmp_path / "elsewhere", form="adapter")
    with pytest.raises(ValueError, match="pass language_model=FOLDER_OR_FILE"):
        AutoModel.from_pretrained(tmp_path / "elsewhere")
    AutoModel.from_pretrained(tmp_path / "elsewhere", language_model=converted["adapter"] / CHECKPOINT_SUBFOLDER)


def test_a_save_that_is_refused_leaves_the_earlier_checkpoint(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="save form='full'"):
        tiny_model.save_pretrained(tmp_path, form="adapter")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_weights_that_are_not_finite_are_not_saved(tiny_model, lora_model, tmp_path):
    with torch.no_grad():
        tiny_model.model.language_model.norm.weight[1] = torch.nan
        lora_model.reasoning_weight[0] = torch.inf
    for model, form, name in (
        (tiny_model, "full", "language_model.norm.weight"),
        (lora_model, "adapter", "reasoning_"),
    ):
        with pytest.raises(ValueError, match=rf"is not written: 1 tensors of the model, such as \S*{name}"):
            model.save_pretrained(tmp_path / form, form=form)
        assert not (tmp_path / form).exists()


def test_saving_leaves_configuration_and_processor_as_they_were(tiny_model, tiny_processor, tmp_path):
    before = tiny_model.config.to_dict(), tiny_processor.to_dict()
    tiny_model.save_pretrained(tmp_path / "one")
    tiny_processor.save_pretrained(tmp_path / "one")
    assert (tiny_model.config.to_dict(), tiny_processor.to_dict()) == before
    AutoModel.from_config(tiny_model.config)
    tiny_model.config.save_pretrained(tmp_path / "one")
    assert type(AutoModel.from_pretrained(tmp_path / "one")) is LimssrForScoreRegression
    tiny_model.model.save_pretrained(tmp_path / "below")
    assert type(AutoConfig.from_pretrained(tmp_path / "below")) is LimssrConfig


def test_the_second_argument_says_whether_this_process_writes(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "no", False)
    assert not list((tmp_path / "no").glob("*.safetensors"))
    tiny_model.save_pretrained(tmp_path / "yes", True)
    assert (tmp_path / "yes" / "model.safetensors").exists()


def test_classes_registered_for_the_auto_classes_save_as_before(tiny_model, tiny_processor, tmp_path, monkeypatch):
    for part in (LimssrForScoreRegression, LimssrConfig, LimssrProcessor):
        monkeypatch.setattr(part, "_auto_class", None, raising=False)
    LimssrForScoreRegression.register_for_auto_class("AutoModel")
    LimssrConfig.register_for_auto_class()
    LimssrProcessor.register_for_auto_class()
    tiny_model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_limssr.LimssrConfig",
        "AutoModel": "modeling_limssr.LimssrForScoreRegression",
    }
    assert type(AutoModel.from_pretrained(tmp_path)) is LimssrForScoreRegression


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def test_a_weight_file_that_is_cut_off_is_named(lora_model, tiny_language_model, tmp_path):
    for name, options in SAVES.items():
        folder = tmp_path / name
        lora_model.save_pretrained(folder, **options)
        file = sorted(folder.glob("*.safetensors"))[-1]
        cut_off(file)
        for loader in (AutoModel, LimssrForScoreRegression, LimssrModel):
            with pytest.raises(OSError, match=rf"{file} cannot be read .*cut off"):
                loader.from_pretrained(folder, language_model=tiny_language_model)


def test_a_language_model_that_is_cut_off_is_named(lora_model, tiny_language_model, tmp_path):
    lora_model.save_pretrained(tmp_path / "adapter", form="adapter")
    cut_off(tiny_language_model / "model.safetensors")
    message = rf"{tiny_language_model / 'model.safetensors'} cannot be read"
    with pytest.raises(OSError, match=message):
        AutoModel.from_pretrained(tmp_path / "adapter", language_model=tiny_language_model)
    with pytest.raises(OSError, match=message):
        LimssrForScoreRegression.from_language_model(tiny_language_model, modalities=SIZES)
