"""What a score may depend on: the sample's own available clips, and nothing else."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from tests.helpers.feature_rows import SIZES
from tests.helpers.models import score_one_by_one

TOLERANCE = 1e-3  # judges' units, of 100


@torch.no_grad()
def test_batch_mates_and_padding_never_change_a_score(tiny_model, tiny_processor, tiny_features):
    together = tiny_model(**tiny_processor(features=tiny_features)).scores
    alone = score_one_by_one(tiny_model, tiny_processor, tiny_features)
    torch.testing.assert_close(alone, together, atol=TOLERANCE, rtol=0)
    longer = {name: [*entries, torch.randn(12, SIZES[name])] for name, entries in tiny_features.items()}
    with_longer = tiny_model(**tiny_processor(features=longer)).scores[:3]
    torch.testing.assert_close(with_longer, together, atol=TOLERANCE, rtol=0)


samples = st.lists(
    st.tuples(*[st.integers(0, 14)] * 3).filter(any),  # clips of each modality, 0 = missing
    min_size=1,
    max_size=5,
)


@given(samples, st.integers(0, 2**31))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_masks_and_lengths_mix_in_one_batch(tiny_model, tiny_processor, counts, seed):
    generator = torch.Generator().manual_seed(seed)
    features = {
        name: [torch.randn(row[index], size, generator=generator) if row[index] else None for row in counts]
        for index, (name, size) in enumerate(SIZES.items())
    }
    with torch.no_grad():
        together = tiny_model(**tiny_processor(features=features)).scores
        alone = score_one_by_one(tiny_model, tiny_processor, features)
    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)
    assert together.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_hidden_and_padded_values_never_change_a_score(tiny_model, tiny_processor, tiny_features, value):
    batch = tiny_processor(features=tiny_features)
    expected = tiny_model(**batch)
    for name in SIZES:
        batch[f"{name}_features"][~batch[f"{name}_clip_mask"]] = value
    found = tiny_model(**batch)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.fusion_hidden_state, expected.fusion_hidden_state)


@torch.no_grad()
def test_padding_tokens_never_change_a_score(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features)
    expected = tiny_model(**batch).scores
    batch["input_ids"] = batch.input_ids.masked_fill(batch.attention_mask == 0, 7)
    assert torch.equal(tiny_model(**batch).scores, expected)


@torch.no_grad()
def test_an_available_clip_and_the_mask_do_change_the_score(tiny_model, tiny_processor, tiny_features):
    expected = tiny_model(**tiny_processor(features=tiny_features)).scores
    changed = {name: list(entries) for name, entries in tiny_features.items()}
    changed["video"][0] = changed["video"][0] + 1
    changed["audio"][1], changed["flow"][1] = None, torch.randn(7, 8)
    difference = (tiny_model(**tiny_processor(features=changed)).scores - expected).abs().flatten()
    assert (difference[:2] > 1e-5).all()
    assert difference[2] < TOLERANCE


@torch.no_grad()
def test_scores_are_the_blend_in_judges_units(tiny_text_config, tiny_tokenizer, tiny_features):
    config = LimssrConfig(
        text_config=tiny_text_config,
        modalities=SIZES,
        score_names=["tes", "pcs"],
        score_minimums=[10, -5],
        score_ranges=[50, 20],
    )
    model = LimssrForScoreRegression(config).eval()
    batch = LimssrProcessor.from_config(config, tiny_tokenizer)(features=tiny_features)
    outputs = model(**batch)
    assert outputs.scores.shape == outputs.reasoning_scores.shape == outputs.path_disagreement.shape == (3, 2)
    assert outputs.loss is None
    torch.testing.assert_close(outputs.scores, 0.7 * outputs.reasoning_scores + 0.3 * outputs.cross_modal_scores)
    normalised = model.score(model.model(**batch))
    lowest, width = torch.tensor([10.0, -5]), torch.tensor([50.0, 20])
    for name, values in zip(("scores", "reasoning_scores", "cross_modal_scores"), normalised, strict=True):
        assert ((values > 0) & (values < 1)).all()
        torch.testing.assert_close(outputs[name], values * width + lowest)
    torch.testing.assert_close(
        outputs.path_disagreement, (outputs.reasoning_scores - outputs.cross_modal_scores).abs()
    )


def test_a_placeholder_mismatch_names_sample_modality_and_both_numbers(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features)
    batch["video_clip_mask"][2, 5:] = False
    with pytest.raises(ValueError, match=r"sample 2, modality 'video': .* 9 clip placeholders, but 5 clips"):
        tiny_model(**batch)
    batch = tiny_processor(features=tiny_features)
    del batch["audio_features"], batch["audio_clip_mask"]
    with pytest.raises(ValueError, match=r"sample 0, modality 'audio': .* 5 clip placeholders, but 0 clips"):
        tiny_model(**batch)


def test_features_of_the_wrong_shape_or_of_no_modality_are_refused(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features)
    with pytest.raises(ValueError, match=r"video_features has shape \(3, 9, 15\), expected \(3, clips, 16\)"):
        tiny_model(**batch | {"video_features": batch.video_features[..., 1:]})
    with pytest.raises(ValueError, match="sound_features is no argument of this model; its modalities are"):
        tiny_model(**batch, sound_features=batch.video_features)


@pytest.mark.parametrize("token", ["<|fusion_2|>", "<|audio_start|>", "<|flow_end|>"])
def test_a_sequence_that_lacks_or_repeats_a_token_is_refused(tiny_model, tiny_processor, tiny_features, token):
    token_id = tiny_model.config.added_token_ids[token]
    batch = tiny_processor(features=tiny_features)
    row = batch.input_ids[1].clone()
    row[row == token_id] = 5
    batch["input_ids"][1] = row
    with pytest.raises(ValueError, match=rf"input_ids of sample 1: {token} found 0 times".replace("|", r"\|")):
        tiny_model(**batch)


def test_labels_outside_the_score_range_or_of_another_width_are_refused(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features, labels=[1, 2, 101])
    with pytest.raises(ValueError, match=r"label of sample 2, score 'score', is 101; .* allows 0 to 100"):
        tiny_model(**batch)
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2\), expected \(batch, 1\)"):
        tiny_model(**batch | {"labels": torch.ones(3, 2)})


@given(
    st.floats(-1000, 1000),
    st.floats(0.01, 1000),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bounds_count_as_inside_in_the_precision_of_the_labels(tiny_model, lowest, width, dtype):
    tiny_model.config.score_minimums, tiny_model.config.score_ranges = [lowest], [width]
    labels = torch.tensor([[lowest], [lowest + width]], dtype=torch.float64).to(dtype)
    for given_labels in (labels, labels.float() if dtype == torch.float64 else labels):
        assert tiny_model.normalise_labels(given_labels).isfinite().all()
    step = 8 * max(abs(lowest), abs(lowest + width)) * max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    for outside in (lowest - step, lowest + width + step):
        with pytest.raises(ValueError, match="the configuration allows"):
            tiny_model.normalise_labels(torch.tensor([[outside]], dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("labels", [[80.5, 83.3, 82], torch.tensor([80.5, 83.3, 82]).half()])
def test_the_highest_score_of_a_narrow_range_is_inside(tiny_model, tiny_processor, tiny_features, labels):
    tiny_model.config.score_minimums, tiny_model.config.score_ranges = [80.5], [83.3 - 80.5]
    assert tiny_model(**tiny_processor(features=tiny_features, labels=labels)).loss.isfinite()


def test_the_part_outside_the_language_model_has_the_published_size():
    with torch.device("meta"):
        config = LimssrConfig(
            text_config={"model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 1, "vocab_size": 100},
            modalities={"video": 768, "audio": 768, "flow": 1024},
        )
        model = LimssrForScoreRegression(config)
    counted = {
        name: value.numel()
        for name, value in model.named_parameters()
        if "language_model" not in name and "token" not in name
    }
    # The slot weights of the fusion tokens are part of the reasoning path, not of the token table.
    assert sum(counted.values()) == 17_349_645
    assert model.model.token_embeddings.shape == (3 * 3 + 4, 1024)


def test_vocabulary_logits_are_never_computed(tiny_model):
    rows = tiny_model.config.text_config.vocab_size
    assert not any("lm_head" in name for name, _ in tiny_model.named_modules())
    tables = [name for name, value in tiny_model.named_parameters() if rows in value.shape]
    assert tables == ["model.language_model.embed_tokens.weight"]


def test_a_misspelt_argument_is_refused(tiny_model, tiny_processor, tiny_features):
    batch = dict(tiny_processor(features=tiny_features))
    batch["atention_mask"] = batch.pop("attention_mask")
    with pytest.raises(ValueError, match="atention_mask is no argument of this model"):
        tiny_model(**batch)


def test_a_model_that_is_cast_as_a_whole_still_scores(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features)
    with torch.no_grad():
        expected = tiny_model(**batch).scores
        actual = tiny_model.to(torch.bfloat16)(**batch).scores
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, atol=2.0, rtol=0)  # of 100; bfloat16 is that coarse
