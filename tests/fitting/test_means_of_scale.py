"""Compilation, accumulation, and what is said where a library or a device is absent."""

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

from limssr import LimssrForScoreRegression, LimssrTrainingArguments
from limssr.training.utils.loading import loading_options


@torch.no_grad()
def test_the_backbone_compiles_as_one_graph(tiny_model):
    language_model = tiny_model.model.language_model
    embeds, mask = torch.randn(2, 20, 32), torch.ones(2, 20, dtype=torch.long)
    mask[1, 15:] = 0
    inputs = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": False, "return_dict": True}
    report = torch._dynamo.explain(language_model)(**inputs)
    assert (report.graph_count, report.graph_break_count) == (1, 0)
    torch._dynamo.reset()
    compiled = torch.compile(language_model, fullgraph=True, backend="aot_eager")  # a graph break is an error
    found, expected = (module(**inputs).last_hidden_state for module in (compiled, language_model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def gradients(model, batches) -> dict[str, torch.Tensor]:
    """Of the mean loss of batches of equal size, as gradient accumulation makes them."""
    model.zero_grad()
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("separation", "equal"), [(0.0, True), (1.0, False)])
def test_accumulated_gradients_are_those_of_the_large_batch_but_for_what_belongs_to_batches(
    tiny_config, tiny_processor, separation, equal
):
    tiny_config.separation_weight, tiny_config.language_model_training = separation, "full"
    torch.manual_seed(0)
    model = LimssrForScoreRegression(tiny_config).eval()  # running statistics: batch norm is the other exception
    video, labels = [torch.randn(3, 16) for _ in range(4)], [10.0, 40.0, 70.0, 90.0]

    def batch(rows: slice) -> dict:
        features = {"video": video[rows], "audio": [None] * len(video[rows]), "flow": [None] * len(video[rows])}
        return tiny_processor(features=features, labels=labels[rows], return_tensors="pt")

    large = gradients(model, [batch(slice(0, 4))])
    small = gradients(model, [batch(slice(0, 2)), batch(slice(2, 4))])
    assert small.keys() == large.keys()
    same = all(torch.allclose(small[name], large[name], rtol=1e-4, atol=1e-6) for name in large)
    assert same == equal


@pytest.mark.usefixtures("without_bitsandbytes")
@pytest.mark.parametrize("optim", ["adamw_bnb_8bit", "paged_adamw_8bit", "adamw_8bit"])
def test_an_optimizer_of_eight_bits_says_what_it_needs_before_training(tmp_path, optim):
    with pytest.raises(ValueError, match=r"`optim` '\w+' needs the package bitsandbytes: pip install bitsandbytes"):
        LimssrTrainingArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True)


@pytest.mark.usefixtures("without_schedulefree")
def test_a_schedule_free_optimizer_says_what_it_needs_before_training(tmp_path):
    with pytest.raises(ValueError, match="needs the package schedulefree: pip install schedulefree"):
        LimssrTrainingArguments(output_dir=str(tmp_path), optim="schedule_free_adamw", use_cpu=True)


def test_a_schedule_free_optimizer_refuses_a_falling_learning_rate(tmp_path):
    with pytest.raises(ValueError, match=r"'cosine_with_min_lr', but .*: give constant or constant_with_warmup"):
        LimssrTrainingArguments(output_dir=str(tmp_path), optim="schedule_free_adamw", use_cpu=True)


@pytest.mark.usefixtures("without_bitsandbytes")
def test_quantised_loading_says_what_it_needs():
    with pytest.raises(ValueError, match="'4bit' needs the package bitsandbytes"):
        loading_options(quantization="4bit")


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_says_what_it_needs_and_what_does_instead():
    with pytest.raises(ValueError, match=r"needs an NVIDIA or AMD GPU and the package flash-attn.*use sdpa"):
        loading_options("bfloat16", "flash_attention_2")


def test_sharding_a_model_on_the_cpu_is_refused_rather_than_left_undone(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"accelerators only.*ddp_cpu\.yaml"):
        LimssrTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
