"""What a configuration promises: published defaults, a faithful round trip, no impossible value."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, Gemma3Config

from limssr import LimssrConfig
from limssr.configuration.configuration_limssr import added_tokens, trainable_tokens

FAMILIES = ["qwen3", "qwen2", "llama", "gemma2", "gemma3_text", "smollm3", "mistral"]


def test_defaults_are_the_published_ones():
    config = LimssrConfig()
    assert config.modalities == {"video": 1024, "audio": 768, "flow": 1024}
    assert config.num_fusion_tokens == 4
    assert (config.projector_dropout, config.head_dropout) == (0.15, 0.15)
    assert (config.regression_weight, config.consistency_weight, config.separation_weight) == (10, 1, 1)
    assert config.separation_margin == 1
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (16, 32, 0.1)
    assert config.lora_target_modules == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (config.imputation, config.use_prompt, config.fusion, config.aggregation) == (
        "tokens",
        True,
        "tokens",
        "dual",
    )
    assert config.language_model_training == "lora"
    assert config.score_names == ["score"]
    language_model = config.text_config  # that of Qwen3-0.6B, and no monster of 4096 x 32
    assert (language_model.model_type, language_model.hidden_size, language_model.num_hidden_layers) == (
        "qwen3",
        1024,
        28,
    )
    assert LimssrConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize("modalities", [{"video": 3, "audio": 2}, {"skeleton": 7, "commentary": 5, "imu": 6, "a": 1}])
def test_the_order_of_modalities_survives_the_sorted_keys_of_config_json(tmp_path, tiny_text_config, modalities):
    config = LimssrConfig(text_config=tiny_text_config, modalities=modalities)
    config.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is LimssrConfig
    assert list(loaded.modalities.items()) == list(modalities.items())
    assert loaded.trainable_token_ids == config.trainable_token_ids


def test_every_field_survives_the_json_round_trip(tmp_path, tiny_text_config):
    fields = {
        "modalities": {"video": 5, "audio": 4},
        "num_fusion_tokens": 2,
        "projector_dropout": 0.35,
        "head_dropout": 0.0,
        "regression_weight": 1.0,
        "consistency_weight": 10.0,
        "separation_weight": 0.5,
        "separation_margin": 0.2,
        "imputation": "zeros",
        "use_prompt": False,
        "aggregation": "reasoning",
        "fusion": "mean",
        "language_model_training": "frozen",
        "lora_rank": 8,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj"],
        "score_names": ["tes", "pcs"],
        "score_minimums": [0.0, 1.0],
        "score_ranges": [45.0, 40.0],
    }
    LimssrConfig(text_config=tiny_text_config, **fields).save_pretrained(tmp_path)
    loaded = LimssrConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in fields} == fields
    assert loaded.text_config.to_dict() == tiny_text_config.to_dict()
    assert LimssrConfig.from_dict(loaded.to_dict()).to_dict() == loaded.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_model_may_be_any_decoder_family(tmp_path, family):
    text_config = AutoConfig.for_model(family, hidden_size=32, vocab_size=100)
    LimssrConfig(text_config=text_config).save_pretrained(tmp_path)
    loaded = LimssrConfig.from_pretrained(tmp_path)
    assert type(loaded.text_config) is type(text_config)
    assert loaded.text_config.to_dict() == text_config.to_dict()
    assert (loaded.hidden_size, loaded.added_token_ids["<|video_start|>"]) == (32, 100)


def test_the_language_model_may_be_given_as_a_dictionary():
    config = LimssrConfig(text_config={"model_type": "llama", "hidden_size": 64, "vocab_size": 50})
    assert config.text_config.model_type == "llama"
    assert config.hidden_size == 64


def test_a_composite_language_model_counts_with_its_own_decoder():
    text_config = Gemma3Config(text_config={"hidden_size": 48, "vocab_size": 70})
    config = LimssrConfig(text_config=text_config)
    assert (config.hidden_size, min(config.added_token_ids.values())) == (48, 70)


def test_added_tokens_follow_the_vocabulary_in_the_published_order(tiny_config):
    first = tiny_config.text_config.vocab_size
    assert list(tiny_config.added_token_ids.values()) == list(range(first, first + 16))
    assert tiny_config.trainable_token_ids == list(range(first, first + 13))
    assert trainable_tokens(["video", "audio"], 2) == [
        "<|video_start|>",
        "<|video_end|>",
        "<|audio_start|>",
        "<|audio_end|>",
        "<|missing_video|>",
        "<|missing_audio|>",
        "<|fusion_1|>",
        "<|fusion_2|>",
    ]
    assert added_tokens({"video": 8}, 1)[-1] == "<|video|>"


def test_ids_of_added_tokens_may_be_chosen(tmp_path, tiny_text_config):
    names = added_tokens({"video": 8}, 2)
    ids = {name: 5 + 7 * index for index, name in enumerate(reversed(names))}
    config = LimssrConfig(
        text_config=tiny_text_config, modalities={"video": 4}, num_fusion_tokens=2, added_token_ids=ids
    )
    config.save_pretrained(tmp_path)
    loaded = LimssrConfig.from_pretrained(tmp_path)
    assert loaded.added_token_ids == ids
    assert loaded.fusion_token_ids == [ids["<|fusion_1|>"], ids["<|fusion_2|>"]]


def test_minimum_and_range_have_a_default_for_every_score():
    config = LimssrConfig(score_names=["execution", "difficulty"])
    assert (config.score_minimums, config.score_ranges) == ([0, 0], [1, 1])


# field, impossible value, what the message must hold: the value found, and what is allowed
IMPOSSIBLE = [
    ("modalities", {}, "empty"),
    ("modalities", {"Video": 4}, "'Video'.*lower-case"),
    ("modalities", {"my video": 4}, "'my video'.*lower-case"),
    ("modalities", {"": 4}, "''.*lower-case"),
    ("modalities", {"video": 0}, "is 0.*1 and more"),
    ("modalities", {"video": -3}, "is -3.*1 and more"),
    ("modalities", {"video": "words"}, "'words'.*1 and more.*'text'"),
    ("modalities", {"video": 1, "video_start": 1}, r"make the token <\|video_start\|> twice"),
    ("modalities", {"fusion_1": 1}, r"make the token <\|fusion_1\|> twice"),
    ("modalities", {"pop": 1}, "'pop'.*choose another"),
    ("modalities", {"training": 1}, "'training'.*choose another"),
    ("modalities", {"video": 1.5}, "1.5"),
    ("num_fusion_tokens", 0, "is 0.*1 and more"),
    ("num_fusion_tokens", 2.5, "2.5"),
    ("projector_dropout", 1.0, "is 1.0.*from 0 to below 1"),
    ("projector_dropout", -0.1, "is -0.1.*from 0 to below 1"),
    ("head_dropout", 1.5, "is 1.5.*from 0 to below 1"),
    ("head_dropout", float("nan"), "is nan.*from 0 to below 1"),
    ("regression_weight", -1.0, "is -1.0.*0 and more"),
    ("consistency_weight", float("inf"), "is inf.*0 and more"),
    ("separation_weight", float("nan"), "is nan.*0 and more"),
    ("separation_margin", -0.5, "is -0.5.*0 and more"),
    ("imputation", "mean", "mean"),
    ("fusion", "attention", "attention"),
    ("aggregation", "both", "both"),
    ("language_model_training", "qlora", "qlora"),
    ("lora_rank", 0, "is 0.*1 and more"),
    ("lora_alpha", 0, "is 0.*above 0"),
    ("lora_dropout", 1.0, "is 1.0.*from 0 to below 1"),
    ("lora_target_modules", [], "empty.*q_proj"),
    ("score_names", [], r"is \[\].*one or more"),
    ("score_names", ["tes", "tes"], "tes.*distinct"),
    ("score_minimums", [0.0, 1.0], "2 values.*1"),
    ("score_minimums", [float("nan")], "nan.*finite"),
    ("score_ranges", [1.0, 2.0, 3.0], "3 values.*1"),
    ("score_ranges", [0.0], r"\[0.0\].*above 0"),
    ("score_ranges", [-1.0], r"\[-1.0\].*above 0"),
    ("score_ranges", [float("inf")], "inf.*finite"),
    ("added_token_ids", {"<|video_start|>": 1}, "exactly"),
    ("checkpoint_form", "lora", "lora"),
]


@pytest.mark.parametrize(("field", "value", "message"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_field_value_and_what_is_allowed(field, value, message):
    with pytest.raises(StrictDataclassError, match=f"(?s){message}") as caught:
        LimssrConfig(**{field: value})
    assert field in str(caught.value)


def test_a_hidden_size_that_four_heads_cannot_share_is_refused():
    with pytest.raises(StrictDataclassError, match=r"hidden_size.*30.*multiple of 4"):
        LimssrConfig(text_config={"model_type": "qwen3", "hidden_size": 30})


def test_ids_of_added_tokens_are_distinct_and_not_negative(tiny_config):
    for wrong in (tiny_config.added_token_ids["<|audio|>"], -1):
        ids = tiny_config.added_token_ids | {"<|video|>": wrong}
        with pytest.raises(StrictDataclassError, match="distinct ids of 0 and more"):
            LimssrConfig(text_config=tiny_config.text_config, modalities=tiny_config.modalities, added_token_ids=ids)


def test_switches_that_contradict_each_other_are_refused():
    with pytest.raises(StrictDataclassError, match=r"fusion.*mean.*cross_modal"):
        LimssrConfig(fusion="mean", aggregation="cross_modal")


@pytest.mark.parametrize("typo", ["num_fusion_token", "projector_droput", "score_range", "regresion_weight"])
def test_a_misspelt_field_is_refused_and_corrected(typo):
    with pytest.raises(TypeError, match=f"`{typo}`; did you mean `"):
        LimssrConfig(**{typo: 1})


def test_an_impossible_value_in_config_json_is_refused_on_loading(tmp_path, tiny_config):
    tiny_config.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text()) | {"separation_margin": -2}
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(StrictDataclassError, match=r"separation_margin.*-2"):
        LimssrConfig.from_pretrained(tmp_path)
