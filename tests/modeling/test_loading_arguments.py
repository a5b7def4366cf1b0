"""The arguments of `from_pretrained` that users of transformers know."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrModel

LOADERS = [LimssrForScoreRegression, AutoModel]


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture(params=["full", "adapter"])
def either_form(request, tiny_language_model, tmp_path):
    """Folder, and what loading it takes."""
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities={"video": 16, "audio": 12, "flow": 8}, score_ranges=[100.0]
    )
    model.save_pretrained(tmp_path / "lora", form=request.param)
    return tmp_path / "lora", {"language_model": tiny_language_model} if request.param == "adapter" else {}


@torch.no_grad()
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(
    "options",
    [{"dtype": "auto"}, {"torch_dtype": "auto"}, {"use_safetensors": True}, {"dtype": torch.float32}],
    ids=str,
)
def test_arguments_that_change_nothing(loader, options, either_form, batch):
    folder, needed = either_form
    expected = loader.from_pretrained(folder, **needed)(**batch).scores
    assert torch.equal(loader.from_pretrained(folder, **needed, **options)(**batch).scores, expected)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_half_precision_reaches_the_language_model_alone(loader, name, either_form):
    folder, needed = either_form
    model = loader.from_pretrained(folder, **needed, **{name: torch.bfloat16})
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.model.token_embeddings.dtype == torch.float32


def test_pickled_weights_cannot_be_asked_for(folder):
    with pytest.raises(ValueError, match="pickled weights, which are never loaded"):
        LimssrForScoreRegression.from_pretrained(folder, use_safetensors=False)


@torch.no_grad()
@pytest.mark.parametrize("loader", LOADERS)
def test_a_configuration_may_be_given_as_object_or_place(loader, folder, tiny_model, batch):
    for config in (str(folder), AutoConfig.from_pretrained(folder)):
        assert torch.equal(loader.from_pretrained(folder, config=config)(**batch).scores, tiny_model(**batch).scores)
    assert torch.equal(
        LimssrForScoreRegression.from_pretrained(folder, config=folder)(**batch).scores, tiny_model(**batch).scores
    )


@torch.no_grad()
@pytest.mark.parametrize("loader", [LimssrForScoreRegression, LimssrModel, AutoModel])
def test_a_subfolder_is_a_checkpoint_too(loader, folder, tiny_model, batch):
    loaded = loader.from_pretrained(folder.parent, subfolder=folder.name)
    same = tiny_model.model if loader is LimssrModel else tiny_model
    assert torch.equal(loaded.eval()(**batch)[0], same(**batch)[0])


@torch.no_grad()
@pytest.mark.parametrize("loader", LOADERS)
def test_another_number_of_scores_makes_new_last_layers(loader, either_form, batch, caplog):
    folder, needed = either_form
    changes = {"score_names": ["tes", "pcs"], "score_minimums": [0.0, 0.0], "score_ranges": [9.0, 9.0]}
    with pytest.raises(ValueError, match=r"4 mismatched, first .*cross_modal_path.score_head"):
        loader.from_pretrained(folder, **needed, **changes)
    caplog.clear()
    old = loader.from_pretrained(folder, **needed)
    new = loader.from_pretrained(folder, **needed, **changes, ignore_mismatched_sizes=True)
    assert new(**batch).scores.shape == (3, 2)
    assert "reasoning_path.score_head" in caplog.text
    assert torch.equal(new.model.token_embeddings, old.model.token_embeddings)
    assert torch.equal(new.reasoning_path.score_head[0].weight, old.reasoning_path.score_head[0].weight)


def test_another_feature_size_makes_a_new_first_layer(folder, tiny_model, caplog):
    sizes = {"video": 20, "audio": 12, "flow": 8}
    config = LimssrConfig.from_pretrained(folder, modalities=list(sizes.items()))
    new = LimssrForScoreRegression.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
    assert new.model.projectors["video"].linear_1.weight.shape[1] == 20
    assert new.model.projectors["video"].linear_1.weight.isfinite().all()
    assert "model.projectors.video.linear_1.weight" in caplog.text
    old = tiny_model.model.projectors
    assert torch.equal(new.model.projectors["video"].linear_2.weight, old["video"].linear_2.weight)
    assert torch.equal(new.model.projectors["audio"].linear_1.weight, old["audio"].linear_1.weight)


@pytest.mark.parametrize("load", [LimssrConfig.from_pretrained, LimssrForScoreRegression.from_pretrained])
def test_changed_fields_are_checked_as_those_of_a_new_configuration(load, folder):
    with pytest.raises(StrictDataclassError, match="has 1 values; `score_names` has 2: give one each"):
        load(folder, score_names=["tes", "pcs"])
    with pytest.raises(StrictDataclassError, match="lora_rank"):
        load(folder, lora_rank=0)


def test_a_configuration_changed_into_an_impossible_one_is_refused(folder):
    config = LimssrConfig.from_pretrained(folder)
    config.score_names = ["tes", "pcs"]
    with pytest.raises(StrictDataclassError, match="`score_names` has 2: give one each"):
        LimssrForScoreRegression.from_pretrained(folder, config=config)


@torch.no_grad()
@pytest.mark.parametrize("loader", LOADERS)
def test_a_folder_of_peft_loads_with_the_checkpoint_it_names(loader, either_form, batch, tmp_path):
    base, needed = either_form
    wrapped = get_peft_model(
        LimssrForScoreRegression.from_pretrained(base, **needed),
        LoraConfig(target_modules=["q_proj", "linear_1"], init_lora_weights=False),
    )
    wrapped.save_pretrained(tmp_path / "peft")
    loaded = loader.from_pretrained(tmp_path / "peft", **needed)
    assert loaded.active_adapters() == ["default"]
    torch.testing.assert_close(loaded(**batch).scores, wrapped.eval()(**batch).scores)


@pytest.mark.parametrize("load", [LimssrConfig.from_pretrained, LimssrForScoreRegression.from_pretrained])
def test_a_folder_without_a_configuration_never_makes_a_default_model(load, tmp_path):
    (tmp_path / "README.md").touch()
    with pytest.raises(OSError, match=r"config.json"):
        load(tmp_path)


def test_a_language_model_is_no_checkpoint(tiny_language_model):
    with pytest.raises(ValueError, match=r"model of type 'qwen3'.*from_language_model makes a new model around"):
        LimssrForScoreRegression.from_pretrained(tiny_language_model)


@torch.no_grad()
def test_the_part_below_the_heads_gets_new_heads(tiny_model, batch, tmp_path, caplog):
    tiny_model.model.save_pretrained(tmp_path)
    loaded = LimssrForScoreRegression.from_pretrained(tmp_path).eval()
    assert "reasoning_path.score_head" in caplog.text
    assert "model.projectors" not in caplog.text
    assert torch.equal(loaded(**batch).modality_hidden_state, tiny_model(**batch).modality_hidden_state)
    below = AutoModel.from_pretrained(tmp_path).eval()
    assert type(below) is LimssrModel
    assert torch.equal(below(**batch).modality_hidden_state, tiny_model(**batch).modality_hidden_state)
