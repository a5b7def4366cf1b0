"""What is saved scores as the model did, whatever PEFT and `torch.compile` have put into it."""

import os
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, Trainer, TrainerCallback, TrainingArguments

from limssr import LimssrForScoreRegression, LimssrModel
from tests.helpers.feature_rows import SIZES

EVERYWHERE = ["q_proj", "v_proj", "linear_1", "linear_2", "gate.0"]  # language model, projectors, heads


@pytest.fixture
def lora_model(tiny_language_model) -> LimssrForScoreRegression:
    """With the LoRA of the configuration, moved away from zero."""
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities=SIZES, score_ranges=[100.0], lora_rank=4, lora_alpha=8
    )
    return randomise_lora(model)


@torch.no_grad()
def randomise_lora(model):
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.normal_(std=0.2)
    return model.eval()


@torch.no_grad()
def assert_reloaded_scores_the_same(model, batch, folder: Path, atol=1e-4) -> None:
    expected = model(**batch).scores
    assert torch.equal(model(**batch).scores, expected)
    loaded = AutoModel.from_pretrained(folder)
    torch.testing.assert_close(loaded(**batch).scores, expected, atol=atol, rtol=0)


ADAPTERS = {
    "lora": LoraConfig(target_modules=EVERYWHERE, r=8, lora_alpha=8, init_lora_weights=False),
    "rank-stabilised": LoraConfig(target_modules=EVERYWHERE, r=4, use_rslora=True, init_lora_weights=False),
    "dora": LoraConfig(target_modules=EVERYWHERE, r=4, use_dora=True, init_lora_weights=False),
    "rank of its own": LoraConfig(
        target_modules=["q_proj"], rank_pattern={"0.self_attn.q_proj": 2}, init_lora_weights=False
    ),
    "whole modules": LoraConfig(target_modules=["q_proj"], modules_to_save=["score_head"], init_lora_weights=False),
    "embedding": LoraConfig(target_modules=["embed_tokens"], init_lora_weights=False),
    "loha": LoHaConfig(target_modules=EVERYWHERE, init_weights=False),
    "ia3": IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], init_ia3_weights=False
    ),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_of_peft_are_merged_with_what_they_are(name, tiny_model, batch, tmp_path):
    before = tiny_model(**batch).scores
    wrapped = get_peft_model(tiny_model, ADAPTERS[name]).eval()
    if name == "whole modules":
        with torch.no_grad():
            for key, value in wrapped.named_parameters():
                if "modules_to_save" in key:
                    value.add_(0.1)
    assert not torch.equal(wrapped(**batch).scores, before)
    model = wrapped.get_base_model()
    model.save_pretrained(tmp_path)
    assert_reloaded_scores_the_same(model, batch, tmp_path)


def test_an_added_adapter_is_saved_in_every_state(tiny_model, batch, tmp_path):
    torch.manual_seed(0)
    for name in ("first", "second"):
        tiny_model.add_adapter(
            LoraConfig(target_modules=EVERYWHERE, init_lora_weights=False, r=2 if name == "first" else 6), name
        )
    tiny_model.eval()
    steps = {
        "second": lambda: tiny_model.set_adapter("second"),
        "first": lambda: tiny_model.set_adapter("first"),
        "both": lambda: tiny_model.set_adapter(["first", "second"]),
        "none": tiny_model.disable_adapters,
        "again": tiny_model.enable_adapters,
    }
    scores = {}
    for name, step in steps.items():
        step()
        with torch.no_grad():
            scores[name] = tiny_model(**batch).scores
        tiny_model.save_pretrained(tmp_path / "one")
        assert (tmp_path / "one" / "config.json").exists()
        assert not list((tmp_path / "one").glob("adapter_*"))
        assert_reloaded_scores_the_same(tiny_model, batch, tmp_path / "one")
    assert len({tuple(value.flatten().tolist()) for value in scores.values()}) >= 4  # each is another model
    assert tiny_model.active_adapters() == ["first", "second"]


def test_an_adapter_merged_in_place_is_not_merged_again(lora_model, batch, tmp_path):
    layers = [module for module in lora_model.modules() if hasattr(module, "merge")]
    for layer in layers:
        layer.merge()
    lora_model.save_pretrained(tmp_path)
    assert_reloaded_scores_the_same(lora_model, batch, tmp_path)
    assert all(layer.merged for layer in layers)


def test_lora_as_configured_but_with_another_scale_is_saved_with_that_scale(lora_model, batch, tmp_path):
    for module in lora_model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(0.5)
    lora_model.save_pretrained(tmp_path / "full")
    assert_reloaded_scores_the_same(lora_model, batch, tmp_path / "full")
    with pytest.raises(
        ValueError, match=r"form='adapter' holds the LoRA that the configuration describes.*k_proj has"
    ):
        lora_model.save_pretrained(tmp_path / "adapter", form="adapter")
    assert not (tmp_path / "adapter").exists()


def test_one_more_adapter_beside_the_configured_lora(lora_model, batch, tmp_path):
    inject_adapter_in_model(LoraConfig(target_modules=["linear_1"], init_lora_weights=False), lora_model)
    lora_model.eval().save_pretrained(tmp_path / "full")
    assert_reloaded_scores_the_same(lora_model, batch, tmp_path / "full")
    # Outside the language model, an adapter holds the weights themselves.
    lora_model.save_pretrained(tmp_path / "adapter", form="adapter")
    language_model = tmp_path / "language_model"
    loaded = AutoModel.from_pretrained(tmp_path / "adapter", language_model=language_model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).scores, lora_model(**batch).scores, atol=1e-4, rtol=0)


def test_an_adapter_that_cannot_be_merged_is_refused_by_name(tiny_model, tmp_path):
    bias = LoraConfig(target_modules=["q_proj"], lora_bias=True)  # where the layer has none
    tiny_model.add_adapter(bias)
    with pytest.raises(ValueError, match=r"adapter on model.language_model.layers.0.*q_proj.*cannot be merged"):
        tiny_model.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_weights_that_would_not_load_are_refused_by_name(tiny_model, tmp_path):
    nn.utils.parametrizations.weight_norm(tiny_model.cross_modal_path.gate[0])
    with pytest.raises(
        ValueError, match=r"not fit its configuration.*1 missing, first cross_modal_path.gate.0.weight"
    ):
        tiny_model.save_pretrained(tmp_path / "no")


@pytest.mark.parametrize("part", ["language_model", "whole", "layer"])
def test_a_compiled_model_is_saved_as_the_model_it_is(part, lora_model, batch, tmp_path):
    language_model = lora_model.model.language_model
    if part == "language_model":
        lora_model.model.language_model = torch.compile(language_model, backend="eager")
    elif part == "layer":
        language_model.layers[1] = torch.compile(language_model.layers[1], backend="eager")
    saving = torch.compile(lora_model, backend="eager") if part == "whole" else lora_model
    for form in ("full", "adapter"):
        saving.save_pretrained(tmp_path / form, form=form)
    assert not [name for name in load_file(tmp_path / "full" / "model.safetensors") if "_orig_mod" in name]
    assert_reloaded_scores_the_same(lora_model, batch, tmp_path / "full")


def test_saving_changes_neither_weights_nor_adapters(tiny_model, tmp_path):
    tiny_model.add_adapter(LoraConfig(target_modules=EVERYWHERE, init_lora_weights=False))
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    tiny_model.save_pretrained(tmp_path)
    after = tiny_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert tiny_model.active_adapters() == ["default"]


def test_the_part_below_the_heads_saves_its_lora_merged(lora_model, batch, tmp_path):
    lora_model.model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = lora_model.model(**batch).modality_hidden_state
        for loaded in (LimssrModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
            assert type(loaded) is LimssrModel
            found = loaded.eval()(**batch).modality_hidden_state
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_lora_apart_in_a_full_checkpoint_can_be_trained_on(lora_model, batch, tmp_path):
    lora_model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    assert_reloaded_scores_the_same(lora_model, batch, tmp_path)
    kept_apart = AutoModel.from_pretrained(tmp_path, trainable=True)
    with torch.no_grad():
        assert torch.equal(kept_apart(**batch).scores, lora_model(**batch).scores)
    trained = {name for name, value in kept_apart.named_parameters() if value.requires_grad}
    assert trained == {name for name, value in lora_model.named_parameters() if value.requires_grad}


class Scores(TrainerCallback):
    """Scores of the model whenever it is saved."""

    def __init__(self, batch):
        self.batch, self.at_step = batch, {}

    @torch.no_grad()
    def on_save(self, args, state, control, model=None, **kwargs):
        was_training = model.training
        self.at_step[state.global_step] = model.eval()(**self.batch).scores
        model.train(was_training)


@pytest.fixture
def stock_trainer(tiny_processor, tiny_features, batch, tmp_path):
    """`stock_trainer(model, steps)`: transformers' own `Trainer`, which evaluates and saves every second step."""

    def make(model, steps, **options) -> Trainer:
        rows = [{"features": tiny_features, "label": label} for label in (85.0, 90.0, 95.0)] * 2

        def collate(rows):
            features = {name: [row["features"][name][0] for row in rows] for name in SIZES}
            return tiny_processor(features=features, labels=[row["label"] for row in rows])

        arguments = TrainingArguments(
            tmp_path / "run",
            max_steps=steps,
            eval_strategy="steps",
            save_strategy="steps",
            eval_steps=2,
            save_steps=2,
            learning_rate=1e-2,
            remove_unused_columns=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            **options,
        )
        callback = Scores(batch)
        trainer = Trainer(model, arguments, collate, train_dataset=rows, eval_dataset=rows, callbacks=[callback])
        trainer.scores = callback.at_step
        return trainer

    return make


def test_the_stock_trainer_ends_with_its_best_checkpoint_and_saves_it(lora_model, stock_trainer, batch, tmp_path):
    # The worst loss counts as the best, so that the last step is not it.
    trainer = stock_trainer(lora_model, 4, load_best_model_at_end=True, greater_is_better=True)
    trainer.train()
    assert trainer.state.best_global_step == 2
    assert not torch.equal(trainer.scores[2], trainer.scores[4])
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval()(**batch).scores, trainer.scores[2], atol=1e-5, rtol=0)
    trainer.save_model(tmp_path / "final")
    assert_reloaded_scores_the_same(trainer.model, batch, tmp_path / "final")


def test_the_stock_trainer_resumes_where_it_stopped(lora_model, stock_trainer, tiny_language_model, batch, caplog):
    trainer = stock_trainer(lora_model, 4)
    trainer.train()
    checkpoint = os.path.join(trainer.args.output_dir, "checkpoint-2")
    torch.manual_seed(1)
    again = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities=SIZES, score_ranges=[100.0], lora_rank=4, lora_alpha=8
    )
    resumed = stock_trainer(again, 4)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert not [record for record in caplog.records if "keys in the checkpoint" in record.getMessage()]
    torch.testing.assert_close(resumed.scores[4], trainer.scores[4], atol=1e-3, rtol=0)


def test_merged_weights_never_enter_a_model_that_has_its_adapters_apart(lora_model, tiny_model, tmp_path):
    lora_model.save_pretrained(tmp_path / "apart")
    AutoModel.from_pretrained(tmp_path / "apart").save_pretrained(tmp_path / "merged")
    with pytest.raises(ValueError, match=r"have the adapter on model.language_model.* merged"):
        lora_model.load_state_dict(load_file(tmp_path / "merged" / "model.safetensors"), strict=False)
    tiny_model.add_adapter(LoraConfig(target_modules=["linear_1"]))
    tiny_model.save_pretrained(tmp_path / "foreign")
    with pytest.raises(ValueError, match=r"have the adapter on model.projectors.* merged"):
        tiny_model.load_state_dict(load_file(tmp_path / "foreign" / "model.safetensors"), strict=False)


@pytest.mark.parametrize("trained_whole", [None, ["norm_1", "linear_2", "norm_2"]])
def test_a_checkpoint_of_peft_has_all_that_training_changed(trained_whole, tiny_model, batch, tmp_path):
    tiny_model.save_pretrained(tmp_path / "base")
    base = LimssrForScoreRegression.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj"], modules_to_save=trained_whole)).train()
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
    for _ in range(3):
        model(**batch, labels=torch.tensor([[10.0], [50.0], [90.0]])).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path / "adapter")
    assert_reloaded_scores_the_same(model, batch, tmp_path / "adapter")


def test_new_lora_on_merged_lora_is_no_adapter_of_the_language_model(lora_model, tiny_language_model, batch, tmp_path):
    lora_model.save_pretrained(tmp_path / "first", form="adapter")
    model = LimssrForScoreRegression.from_pretrained(tmp_path / "first", language_model=tiny_language_model)
    model.add_adapter(LoraConfig(target_modules=model.config.lora_target_modules, r=4, lora_alpha=8))
    randomise_lora(model)
    with pytest.raises(ValueError, match="are merged into the language model"):
        model.save_pretrained(tmp_path / "second", form="adapter")
    model.save_pretrained(tmp_path / "second")
    assert_reloaded_scores_the_same(model, batch, tmp_path / "second")


def test_a_folder_of_peft_that_names_no_checkpoint_is_refused_by_name(tiny_model, tmp_path):
    get_peft_model(tiny_model, LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no checkpoint"):
        LimssrForScoreRegression.from_pretrained(tmp_path)


def merged_by_peft(model):
    config = LoraConfig(target_modules=["q_proj"], r=4, lora_alpha=64, init_lora_weights=False)
    return get_peft_model(model, config).merge_and_unload()


@torch.no_grad()
def changed_in_place(model):
    model.model.language_model.layers[0].mlp.down_proj.weight.mul_(2)
    return model


@pytest.mark.parametrize("change", [merged_by_peft, changed_in_place])
def test_no_adapter_of_a_language_model_that_has_changed(change, tiny_language_model, batch, tmp_path):
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        tiny_language_model, modalities=SIZES, score_ranges=[100.0], language_model_training="frozen"
    )
    model = change(model).eval()
    with pytest.raises(ValueError, match="of its weights have changed"):
        model.save_pretrained(tmp_path, form="adapter")
    model.save_pretrained(tmp_path)
    assert_reloaded_scores_the_same(model, batch, tmp_path)
    with pytest.raises(ValueError, match="it has changed since it was loaded"):
        AutoModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "adapter", form="adapter")
