"""What an untrained model begins with."""

import numpy as np
import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from limssr import LimssrConfig, LimssrForScoreRegression
from limssr.training.arguments import ModelArguments
from limssr.training.data import load
from limssr.training.fitting.model import build_model, start_at_mean


@pytest.mark.parametrize("aggregation", ["dual", "reasoning", "cross_modal"])
def test_heads_begin_at_the_mean_of_the_given_targets(tiny_text_config, aggregation):
    config = LimssrConfig(
        text_config=tiny_text_config,
        modalities={"video": 4},
        aggregation=aggregation,
        score_names=["tes", "pcs"],
        score_minimums=[0, 10],
        score_ranges=[100, 40],
    )
    model = LimssrForScoreRegression(config).eval()
    start_at_mean(model, np.array([[60.0, np.nan], [80.0, 20.0]]))
    paths = [getattr(model, name) for name in ("reasoning_path", "cross_modal_path") if hasattr(model, name)]
    assert len(paths) == (2 if aggregation == "dual" else 1)
    for path in paths:
        expected = torch.tensor([0.7, 0.25]).logit()  # (70 - 0) / 100 and (20 - 10) / 40
        torch.testing.assert_close(path.score_head[-1].bias, expected)


def test_the_language_model_attends_as_asked_for_and_scores_the_same(tiny_language_model):
    data = load("synthetic", samples_train=20, samples_test=10)
    scores = []
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        model, processor = build_model(
            ModelArguments(language_model=str(tiny_language_model), attention=attention), data
        )
        assert model.model.language_model.config._attn_implementation == attention
        inputs = processor(features={"video": [torch.ones(3, 16)], "audio": [None], "flow": [None]})
        scores.append(model.eval()(**inputs).scores)
    torch.testing.assert_close(*scores, rtol=0, atol=1e-4)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_attention_that_is_not_installed_is_refused_before_anything_is_loaded():
    data = load("synthetic", samples_train=20, samples_test=10)
    arguments = ModelArguments(language_model="nowhere", attention="flash_attention_2")
    with pytest.raises(ValueError, match="flash_attention_2 needs"):
        build_model(arguments, data)


@pytest.mark.parametrize(("given", "deviation"), [({}, 1 / 8), ({"initializer_range": 0.02}, 0.02)])
def test_a_narrow_random_language_model_begins_with_variance_1_over_hidden_size(given, deviation):
    sizes = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 128}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, **given}
    options = [f"{name}={value}" for name, value in sizes.items()]
    data = load("synthetic", samples_train=20, samples_test=10)
    model, _ = build_model(ModelArguments(language_model_config=options), data)
    layer = model.model.language_model.layers[0]
    for weight in (layer.self_attn.q_proj.weight, layer.mlp.up_proj.weight):
        assert weight.std().item() == pytest.approx(deviation, rel=0.05)
