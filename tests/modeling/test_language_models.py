"""Language models of all kinds: state spaces, tables of positions, PEFT methods that do not fit."""

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import FalconH1Config, GPT2Config, Mamba2Config, MambaConfig, OPTConfig, Qwen3NextConfig
from transformers.utils import logging

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from tests.helpers.feature_rows import SIZES
from tests.helpers.models import score_one_by_one

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 264}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
STATE_SPACES = {
    "mamba": MambaConfig(**SHAPE, state_size=4),
    "mamba2": Mamba2Config(**SHAPE, state_size=4, num_heads=8, head_dim=8, n_groups=1, chunk_size=16),
    "falcon h1": FalconH1Config(
        **SHAPE,
        **ATTENTION,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=4,
        mamba_n_groups=1,
        mamba_chunk_size=16,
    ),
    "qwen3 next": Qwen3NextConfig(
        **SHAPE,
        **ATTENTION,
        head_dim=8,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        num_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        layer_types=["linear_attention", "full_attention"],
    ),
}
SPECIAL_IDS = {"bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256}
TABLES = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=264, n_positions=64, **SPECIAL_IDS),
    "opt": OPTConfig(
        **SHAPE,
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
        max_position_embeddings=64,
        **SPECIAL_IDS,
    ),
}


@pytest.fixture
def build(tiny_tokenizer):
    """`build(text_config)` makes a model and its processor."""

    def build(text_config):
        torch.manual_seed(0)
        config = LimssrConfig(text_config=text_config, modalities=SIZES, language_model_training="frozen")
        model = LimssrForScoreRegression(config).eval()
        return model, LimssrProcessor.from_config(config, tiny_tokenizer, max_clips=12)

    return build


@torch.no_grad()
@pytest.mark.parametrize("family", STATE_SPACES)
def test_state_space_and_hybrid_models_score_and_give_their_states(family, build, tiny_features):
    model, processor = build(STATE_SPACES[family])
    together = model(**processor(features=tiny_features), output_hidden_states=True, output_attentions=True)
    assert len(together.hidden_states) == 3
    assert not together.attentions
    alone = score_one_by_one(model, processor, tiny_features)
    torch.testing.assert_close(alone, together.scores, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("family", TABLES)
def test_a_table_of_positions_that_is_too_short_is_refused_with_both_numbers(family, build, tiny_features):
    model, processor = build(TABLES[family])
    batch = processor(features=tiny_features)
    length = batch.input_ids.shape[1]
    with pytest.raises(
        ValueError, match=rf"have {length} tokens, .* table of positions has 64 rows. Lower .*max_clips"
    ):
        model(**batch)
    processor.use_prompt = False
    assert model(**processor(features=tiny_features)).scores.isfinite().all()


@torch.no_grad()
def test_rotary_positions_beyond_the_trained_length_are_said_once(
    tiny_model, tiny_processor, tiny_features, caplog, monkeypatch
):
    monkeypatch.setattr(logging.get_logger("transformers"), "propagate", True)
    batch = tiny_processor(features=tiny_features)
    length = batch.input_ids.shape[1]
    tiny_model.config.text_config.max_position_embeddings = length
    tiny_model(**batch)
    assert not caplog.records
    tiny_model.config.text_config.max_position_embeddings = length - 1
    tiny_model(**batch), tiny_model(**batch)
    assert [record.message for record in caplog.records] == [caplog.records[0].message]
    assert f"have {length} tokens; the language model was made for at most {length - 1}" in caplog.text


def test_prompt_tuning_is_refused_by_name(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features)
    settings = PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)
    tiny_model.model.language_model = get_peft_model(tiny_model.model.language_model, settings)
    with pytest.raises(ValueError, match=r"returned \d+ states for \d+ tokens; .* prompt tuning .* use LoRA"):
        tiny_model(**batch)
    tiny_model.model.language_model = tiny_model.model.language_model.get_base_model()
    with pytest.raises(ValueError, match=r"id 264 has no row in the vocabulary of 264: .* prompt tuning, .* use LoRA"):
        get_peft_model(tiny_model, settings)(**batch)


def test_prefix_tuning_trains(tiny_model, tiny_processor, tiny_features):
    settings = PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4)
    model = get_peft_model(tiny_model, settings)
    model(**tiny_processor(features=tiny_features, labels=[1, 2, 3])).loss.backward()
    assert model.prompt_encoder["default"].embedding.weight.grad.any()
