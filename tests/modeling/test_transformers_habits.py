"""What users of transformers expect of any model: precision, attention, outputs, placement, the stock Trainer."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from tests.helpers.models import gradients


@pytest.fixture
def batch(tiny_processor, tiny_features):
    return tiny_processor(features=tiny_features, labels=[10.0, 50.0, 90.0])


@pytest.fixture
def folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@torch.no_grad()
def test_eager_and_sdpa_attention_agree(folder, batch):
    scores = []
    for attention in ("eager", "sdpa"):
        model = LimssrForScoreRegression.from_pretrained(folder, attn_implementation=attention)
        assert model.model.language_model.config._attn_implementation == attention
        scores.append(model(**batch).scores)
    torch.testing.assert_close(*scores, atol=1e-4, rtol=0)


@torch.no_grad()
def test_hidden_states_and_attentions_come_on_request(folder, batch):
    model = LimssrForScoreRegression.from_pretrained(folder, attn_implementation="eager")
    outputs = model(**batch, output_hidden_states=True, output_attentions=True)
    length = batch.input_ids.shape[1]
    assert [state.shape for state in outputs.hidden_states] == [(3, length, 32)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(3, 4, length, length)] * 2
    assert outputs.fusion_hidden_state.shape == (3, 4, 32)
    assert outputs.modality_hidden_state.shape == (3, 3, 32)
    fusion_id = model.config.added_token_ids["<|fusion_1|>"]
    position = (batch.input_ids[0] == fusion_id).nonzero().item()
    assert torch.equal(outputs.hidden_states[-1][0, position], outputs.fusion_hidden_state[0, 0])
    assert model(**batch).hidden_states is None


@torch.no_grad()
def test_return_dict_false_gives_a_tuple_with_the_loss_first(tiny_model, batch):
    outputs = tiny_model(**batch, return_dict=False)
    assert type(outputs) is tuple
    assert torch.equal(outputs[0], tiny_model(**batch).loss)
    assert torch.equal(outputs[1], tiny_model(**batch).scores)


@torch.no_grad()
def test_inputs_embeds_replace_the_words_only(tiny_model, batch):
    table = tiny_model.get_input_embeddings()
    embeds = table(batch.input_ids.clamp(max=table.num_embeddings - 1))
    expected = tiny_model(**batch).scores
    torch.testing.assert_close(tiny_model(**batch, inputs_embeds=embeds).scores, expected)
    prompt_length = int((batch.input_ids[0] == tiny_model.config.added_token_ids["<|video_start|>"]).nonzero()[0])
    embeds[0, :prompt_length] += 1
    assert (tiny_model(**batch, inputs_embeds=embeds).scores[0] - expected[0]).abs() > 1e-5


def test_input_embeddings_can_be_read_and_replaced(tiny_model):
    table = nn.Embedding(264, 32)
    tiny_model.set_input_embeddings(table)
    assert tiny_model.get_input_embeddings() is tiny_model.model.language_model.embed_tokens is table


@torch.no_grad()
def test_bfloat16_is_the_language_model_alone_and_survives_saving(folder, batch, tmp_path):
    expected = LimssrForScoreRegression.from_pretrained(folder)(**batch).scores
    half = LimssrForScoreRegression.from_pretrained(folder, dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    for model in (half, LimssrForScoreRegression.from_pretrained(tmp_path / "half")):
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                assert value.dtype == (torch.bfloat16 if "language_model" in name else torch.float32), name
        outputs = model(**batch)
        assert outputs.scores.dtype == outputs.loss.dtype == torch.float32
        torch.testing.assert_close(outputs.scores, expected, atol=0.5, rtol=0)


def test_dtype_can_be_named_on_loading(folder):
    assert LimssrForScoreRegression.from_pretrained(folder, dtype="float32").dtype == torch.float32
    assert LimssrForScoreRegression.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_autocast_trains_with_scores_in_float32(tiny_model, batch):
    expected = tiny_model(**batch).scores
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = tiny_model(**batch)
        tiny_model.train()(**batch).loss.backward()
    assert outputs.scores.dtype == outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.scores, expected, atol=0.5, rtol=0)
    assert all(value.grad.isfinite().all() for value in tiny_model.parameters() if value.grad is not None)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(tiny_config, batch, use_reentrant):
    tiny_config.language_model_training = "full"
    tiny_config.projector_dropout = tiny_config.head_dropout = 0.0
    torch.manual_seed(0)
    model = LimssrForScoreRegression(tiny_config).train()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    expected = gradients(model, batch)
    after = {name: value.clone() for name, value in model.named_buffers()}
    model.load_state_dict(statistics, strict=False)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    found = gradients(model, batch)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], msg=name)
    for name, value in model.named_buffers():  # not counted twice
        assert torch.equal(value, after[name]), name


@torch.no_grad()
@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_a_device_map_places_the_model(folder, tiny_model, batch, device_map):
    model = LimssrForScoreRegression.from_pretrained(folder, device_map=device_map)
    torch.testing.assert_close(model(**batch).scores, tiny_model(**batch).scores)


@torch.no_grad()
def test_sharded_saving_loads_again(tiny_model, batch, tmp_path):
    tiny_model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(LimssrForScoreRegression.from_pretrained(tmp_path)(**batch).scores, tiny_model(**batch).scores)


def test_only_safetensors_are_written(folder):
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json", ".py"}


def test_what_is_trained_follows_the_configuration(tiny_config, tmp_path):
    for training in ("frozen", "full"):
        tiny_config.language_model_training = training
        built = LimssrForScoreRegression(tiny_config)
        built.save_pretrained(tmp_path / training)
        for model in (built, LimssrForScoreRegression.from_pretrained(tmp_path / training)):
            assert not model.get_input_embeddings().weight.requires_grad
            for name, value in model.named_parameters():
                own = "language_model" in name
                expected = not own or (training == "full" and "embed_tokens" not in name)
                assert value.requires_grad == expected, (training, name)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma2", "gemma3_text", "smollm3", "mistral"])
def test_any_decoder_family_scores_and_round_trips(family, tiny_tokenizer, tiny_features, tmp_path):
    text_config = AutoConfig.for_model(
        family,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=264,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    config = LimssrConfig(text_config=text_config, modalities={"video": 16, "audio": 12, "flow": 8})
    model = LimssrForScoreRegression(config).eval()
    batch = LimssrProcessor.from_config(config, tiny_tokenizer)(features=tiny_features)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(
        AutoModel.from_pretrained(tmp_path)(**batch).scores, model(**batch).scores, atol=1e-6, rtol=0
    )


def test_the_stock_trainer_trains_and_predicts(tiny_config, tiny_processor, tmp_path):
    torch.manual_seed(0)
    tiny_config.language_model_training = "full"
    quality = torch.linspace(0, 1, 16)
    rows = [{"video": value + 0.05 * torch.randn(4, 16), "label": 100 * value} for value in quality]

    def collate(rows):
        return tiny_processor(
            features={"video": [row["video"] for row in rows]}, labels=[row["label"] for row in rows]
        )

    trainer = Trainer(
        LimssrForScoreRegression(tiny_config),
        TrainingArguments(
            tmp_path,
            max_steps=40,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            logging_steps=10,
            report_to=[],
            save_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            disable_tqdm=True,
            seed=1,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.5
    predicted = trainer.predict(rows).predictions
    assert predicted.shape == (16, 1)
    assert np.corrcoef(predicted[:, 0], quality)[0, 1] > 0.9
    trainer.save_model(tmp_path / "trained")
    reloaded = AutoModel.from_pretrained(tmp_path / "trained")
    with torch.no_grad():
        np.testing.assert_allclose(reloaded(**collate(rows)).scores, predicted, atol=1e-3)
