"""The converter reads every size off the tensors, whatever the language model, and takes nothing on trust."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.adapters_limssr import add_lora
from limssr.modeling_limssr.convert_limssr_original_to_hf import ConversionArguments, convert, main

SHORT = {"video": "v", "audio": "a", "flow": "f"}
# our name -> published name, the inverse of what the converter does
PUBLISHED = [
    ("reasoning_path.slot_weight", "token_role_weight"),
    ("reasoning_path.norm.", "LN."),
    ("reasoning_path.condition_gate.", "cond_gate.0."),
    ("reasoning_path.condition_head.", "cond_head."),
    ("reasoning_path.score_head.", "regressor."),
    ("cross_modal_path.attention.", "cross_modal_attn."),
    ("cross_modal_path.gate.", "modal_gate."),
    ("cross_modal_path.missing_confidence", "missing_confidence"),
    ("cross_modal_path.score_head.", "auxiliary_regressor."),
    ("reasoning_weight", "w1"),
]
for name, letter in SHORT.items():
    PUBLISHED.append((f"cross_modal_path.norms.{name}.", f"modal_norms.{letter}."))
    for ours, index in (("linear_1", 0), ("norm_1", 1), ("linear_2", 4), ("norm_2", 5)):
        PUBLISHED.append((f"model.projectors.{name}.{ours}.", f"feature_to_llm.{letter}.{index}."))

PROMPT = {"template": "{available} but not {missing}", "modality_names": {"video": "visual"}}


def as_published(model, embedding_scale=1.0) -> dict[str, torch.Tensor]:
    """The published form: one table for all tokens, convolutions of width 1, a vocabulary head."""
    published = {}
    lora = any("lora_A" in name for name, _ in model.named_parameters())
    root = "language_model.base_model.model." if lora else "language_model."
    for name, tensor in model.state_dict().items():
        if name == "model.token_embeddings":
            continue
        if name == "model.language_model.embed_tokens.weight":
            rows = model.model.token_embeddings.detach() / embedding_scale
            table = torch.cat([tensor, rows])
            published[f"{root}model.embed_tokens.weight"] = published[f"{root}lm_head.weight"] = table
            continue
        for ours, theirs in [("model.language_model.", f"{root}model."), *PUBLISHED]:
            if name.startswith(ours):
                convolution = theirs.startswith("feature_to_llm") and name.endswith(("1.weight", "2.weight"))
                widen = convolution and tensor.dim() == 2
                published[theirs + name.removeprefix(ours)] = tensor.unsqueeze(-1) if widen else tensor
                break
        else:
            raise AssertionError(name)
    return published


def make_text_config(family="qwen3", hidden_size=32, vocab_size=264):
    return AutoConfig.for_model(
        family,
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        intermediate_size=48,
        vocab_size=vocab_size,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )


def make_model(text_config, modalities, num_fusion_tokens=4, lora_rank=None):
    """All weights and statistics random, so that no mix-up goes unseen."""
    fields = {"language_model_training": "full"} if lora_rank is None else {"lora_rank": lora_rank, "lora_alpha": 12}
    torch.manual_seed(3)
    config = LimssrConfig(
        text_config=text_config, modalities=modalities, num_fusion_tokens=num_fusion_tokens, score_ranges=[7], **fields
    )
    model = LimssrForScoreRegression(config)
    if lora_rank is not None:
        add_lora(model)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn_like(value))
        for name, value in model.named_buffers():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return model.eval()


def write_and_convert(tmp_path, tokenizer, state_dict, text_config, **options):
    torch.save(state_dict, tmp_path / "published.pkl")
    text_config.save_pretrained(tmp_path / "language_model")
    tokenizer.save_pretrained(tmp_path / "language_model")
    (tmp_path / "prompt.json").write_text(json.dumps(PROMPT))
    arguments = ConversionArguments(
        checkpoint=str(tmp_path / "published.pkl"),
        language_model=str(tmp_path / "language_model"),
        prompt=str(tmp_path / "prompt.json"),
        output_dir=str(tmp_path / "converted"),
        max_clips=5,
        score_range=7,
        **options,
    )
    convert(arguments)
    return tmp_path / "converted"


@torch.no_grad()
def assert_scores_survive(model, tokenizer, folder, **loading):
    sizes = model.config.modalities
    features = {name: [torch.randn(9, size), torch.randn(3, size), None] for name, size in sizes.items()}
    features[next(iter(sizes))][2] = torch.randn(5, next(iter(sizes.values())))
    ours = LimssrProcessor.from_config(model.config, tokenizer, max_clips=5, pad_to_max_clips=True, prompt=PROMPT)
    expected = model(**ours(features=features))
    batch = AutoProcessor.from_pretrained(folder)(features=features)
    found = AutoModel.from_pretrained(folder, **loading)(**batch)
    for name in ("scores", "reasoning_scores", "cross_modal_scores", "fusion_hidden_state"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_converter_is_a_program():
    program = [sys.executable, "-m", "limssr.modeling_limssr.convert_limssr_original_to_hf", "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, timeout=120, check=True).stdout
    assert all(f"--{field.name}" in shown for field in fields(ConversionArguments))


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "gemma2", "gemma3_text", "smollm3"])
def test_any_language_model_family_converts(family, tiny_tokenizer, tmp_path):
    model = make_model(make_text_config(family), {"video": 6, "audio": 5, "flow": 4}, lora_rank=3)
    scale = 32**0.5 if family.startswith("gemma") else 1.0  # what Gemma multiplies looked-up rows with
    published = as_published(model, scale)
    text_config = make_text_config(family, vocab_size=300)  # the language model's own table has more rows
    folder = write_and_convert(tmp_path, tiny_tokenizer, published, text_config, lora_alpha=12)
    assert_scores_survive(model, tiny_tokenizer, folder)


@pytest.mark.parametrize(
    ("modalities", "num_fusion_tokens", "hidden_size", "lora_rank"),
    [
        ({"video": 9, "audio": 5, "flow": 4}, 1, 32, 5),
        ({"video": 9, "audio": 5, "flow": 4}, 7, 48, None),
        ({"video": 9, "audio": 5}, 2, 16, 2),
        ({"video": 3, "flow": 4}, 3, 32, None),
    ],
)
def test_sizes_are_read_off_the_tensors(
    modalities, num_fusion_tokens, hidden_size, lora_rank, tiny_tokenizer, tmp_path
):
    text_config = make_text_config(hidden_size=hidden_size)
    model = make_model(text_config, modalities, num_fusion_tokens, lora_rank)
    folder = write_and_convert(tmp_path, tiny_tokenizer, as_published(model), text_config, lora_alpha=12)
    config = AutoConfig.from_pretrained(folder)
    assert list(config.modalities.items()) == list(modalities.items())
    assert config.num_fusion_tokens == num_fusion_tokens
    assert_scores_survive(model, tiny_tokenizer, folder)


@pytest.mark.parametrize("keep_lora", [False, True])
def test_a_float32_checkpoint_stays_float32_where_the_language_model_is_bfloat16(keep_lora, tiny_tokenizer, tmp_path):
    model = make_model(make_text_config(), {"video": 9, "audio": 5}, lora_rank=2)
    text_config = make_text_config()
    text_config.dtype = "bfloat16"
    folder = write_and_convert(
        tmp_path, tiny_tokenizer, as_published(model), text_config, lora_alpha=12, keep_lora=keep_lora
    )
    assert_scores_survive(model, tiny_tokenizer, folder)


def test_lora_kept_apart_scores_the_same_merged_or_not(tiny_tokenizer, tmp_path):
    model = make_model(make_text_config("llama"), {"video": 9, "audio": 5}, lora_rank=2)
    published = as_published(model)
    folder = write_and_convert(
        tmp_path, tiny_tokenizer, published, make_text_config("llama"), lora_alpha=12, keep_lora=True
    )
    assert_scores_survive(model, tiny_tokenizer, folder)
    assert_scores_survive(model, tiny_tokenizer, folder, trainable=True)


def test_score_name_and_range_are_the_callers(tiny_tokenizer, tmp_path):
    model = make_model(make_text_config(), {"video": 4})
    folder = write_and_convert(tmp_path, tiny_tokenizer, as_published(model), make_text_config(), score_name="tes")
    config = AutoConfig.from_pretrained(folder)
    assert (config.score_names, config.score_ranges, config.score_minimums) == (["tes"], [7.0], [0.0])


def test_an_unknown_key_fails_by_name(tiny_tokenizer, tmp_path):
    published = as_published(make_model(make_text_config(), {"video": 4}))
    published |= {"surprise.weight": torch.ones(1), "regressors.0.weight": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"2 keys of the checkpoint are unknown: regressors.0.weight, surprise.weight"
    ):
        write_and_convert(tmp_path, tiny_tokenizer, published, make_text_config())
    assert not (tmp_path / "converted" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("left_out", "ours"),
    [
        ("w1", "reasoning_weight"),
        ("feature_to_llm.v.5.running_var", "norm_2.running_var"),
        ("language_model.model.norm.weight", "language_model.norm.weight"),
    ],
)
def test_a_missing_key_fails_by_name(left_out, ours, tiny_tokenizer, tmp_path):
    published = as_published(make_model(make_text_config(), {"video": 4}))
    del published[left_out]
    with pytest.raises(ValueError, match=f"1 missing, first .*{ours}"):
        write_and_convert(tmp_path, tiny_tokenizer, published, make_text_config())


def test_a_layer_more_than_the_language_model_has_fails_by_name(tiny_tokenizer, tmp_path):
    published = as_published(make_model(make_text_config(), {"video": 4}))
    published["language_model.model.layers.2.mlp.up_proj.weight"] = torch.ones(48, 32)
    with pytest.raises(ValueError, match=r"1 unexpected, first .*layers.2.mlp.up_proj.weight"):
        write_and_convert(tmp_path, tiny_tokenizer, published, make_text_config())


def test_the_vocabulary_head_is_dropped(tiny_tokenizer, tmp_path):
    published = as_published(make_model(make_text_config(), {"video": 4}))
    published["language_model.lm_head.weight"] = torch.full((3, 3), torch.nan)  # of no use, so of any shape
    folder = write_and_convert(tmp_path, tiny_tokenizer, published, make_text_config())
    assert not any("lm_head" in name for name in AutoModel.from_pretrained(folder).state_dict())


class Hostile:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (self.witness,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a state dict"),
        (b"\x80\x04N.", "not a state dict"),
        ([torch.ones(1)], "holds list, expected a dictionary of tensors"),
        ({"w1": 3}, "holds dict, expected a dictionary of tensors"),
        ({"w1": torch.tensor([torch.nan])}, "the tensor reasoning_weight is not finite"),
        ({"w1": torch.ones(1)}, r"there is no tensor model\.language_model"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(content, message, tiny_tokenizer, tmp_path):
    if not isinstance(content, bytes):
        with pytest.raises(ValueError, match=message):
            write_and_convert(tmp_path, tiny_tokenizer, content, make_text_config())
        return
    (tmp_path / "published.pkl").write_bytes(content)
    (tmp_path / "prompt.json").write_text("{}")
    flags = {"checkpoint": "published.pkl", "language_model": "none", "prompt": "prompt.json", "output_dir": "out"}
    with pytest.raises(SystemExit, match=f"cannot convert .*published.pkl: {message}") as caught:
        main([word for name, value in flags.items() for word in (f"--{name}", str(tmp_path / value))])
    assert "\n" not in str(caught.value)


def test_a_hostile_pickle_executes_nothing(tiny_tokenizer, tmp_path):
    witness = tmp_path / "executed"
    with pytest.raises(ValueError, match=r"published\.pkl: not a state dict that can be read without executing code"):
        write_and_convert(tmp_path, tiny_tokenizer, {"w1": Hostile(str(witness))}, make_text_config())
    assert not witness.exists()
    (tmp_path / "published.pkl").write_bytes(pickle.dumps(Hostile(str(witness))))
    with pytest.raises(ValueError, match=r"published\.pkl: not a state dict that can be read without executing code"):
        convert(
            ConversionArguments(
                checkpoint=str(tmp_path / "published.pkl"),
                language_model=str(tmp_path / "language_model"),
                prompt=str(tmp_path / "prompt.json"),
                output_dir=str(tmp_path / "converted"),
            )
        )
    assert not witness.exists()
