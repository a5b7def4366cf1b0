"""The linear shortcut: what a linear baseline reads joins the logits of both paths, from a start at zero."""

import pytest
import torch

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.linear_shortcut_limssr import RunningStandardisation, pool_clips
from limssr.training.prediction.predictor import predict
from tests.helpers.feature_rows import SIZES, make_dataset
from tests.helpers.models import score_one_by_one

NUMBERS = {"score_names": ["tes", "pcs"], "score_minimums": [10, -5], "score_ranges": [50, 20]}


@pytest.fixture
def make(tiny_text_config, tiny_tokenizer):
    """`make(**fields)`: model in eval mode and processor, the weights of the shortcut drawn."""

    def make(**fields):
        torch.manual_seed(0)
        fields = {"modalities": SIZES, "linear_shortcut": True, **NUMBERS, **fields}
        config = LimssrConfig(text_config=tiny_text_config, **fields)
        model = LimssrForScoreRegression(config).eval()
        if config.linear_shortcut:
            draw(model.linear_shortcut)
        return model, LimssrProcessor.from_config(config, tiny_tokenizer, max_clips=12)

    return make


@torch.no_grad()
def draw(shortcut) -> None:
    shortcut.weight.normal_(std=0.1)
    for norm in shortcut.norms.values():
        norm.count.fill_(50)
        norm.mean.normal_()
        norm.variance.uniform_(0.5, 2)


def test_statistics_are_those_of_all_samples_so_far():
    torch.manual_seed(0)
    norm, samples = RunningStandardisation(3), torch.randn(30, 3) * 4 + 7
    is_real = torch.rand(30) < 0.7
    for part, real in zip(samples.split([1, 0, 9, 20]), is_real.split([1, 0, 9, 20]), strict=True):
        norm.count_in(part.masked_fill(~real[:, None], 99.0), real)
    assert norm.count == is_real.sum()
    torch.testing.assert_close(norm.mean, samples[is_real].mean(0))
    torch.testing.assert_close(norm.variance, samples[is_real].var(0, correction=0))
    standardised = norm(samples[is_real])
    torch.testing.assert_close(standardised.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standardised.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_samples_without_the_modality_leave_the_statistics_alone():
    norm = RunningStandardisation(2)
    norm.count_in(torch.full((4, 2), 5.0), torch.zeros(4, dtype=torch.bool))
    assert (norm.count, norm.mean.tolist(), norm.variance.tolist()) == (0, [0, 0], [1, 1])


def test_clips_are_pooled_to_mean_and_maximum_of_the_real_ones():
    clips = torch.tensor([[[1.0, -3], [2, -7], [99, 99]], [[99.0, 99]] * 3, [[-1.0, 4], [-2, 6], [-6, 2]]])
    is_real = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()
    pooled, is_available = pool_clips(clips, is_real)
    assert pooled.tolist() == [[1.5, -5, 2, -3], [0, 0, 0, 0], [-3, 4, -1, 6]]
    assert is_available.tolist() == [True, False, True]
    assert pool_clips(torch.zeros(2, 0, 3), None)[0].tolist() == [[0.0] * 6] * 2


@torch.no_grad()
def test_a_new_shortcut_leaves_every_score_as_it_is(make, tiny_features):
    plain, processor = make(linear_shortcut=False)
    assert not [name for name in plain.state_dict() if "shortcut" in name]
    config = LimssrConfig.from_dict({**plain.config.to_dict(), "linear_shortcut": True})
    model = LimssrForScoreRegression(config).eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"linear_shortcut"}
    batch = processor(features=tiny_features)
    assert torch.equal(model(**batch).scores, plain(**batch).scores)


@torch.no_grad()
@pytest.mark.parametrize("aggregation", ["dual", "reasoning", "cross_modal"])
def test_it_joins_the_logits_of_both_paths(make, tiny_features, aggregation):
    model, processor = make(aggregation=aggregation)
    batch = processor(features=tiny_features)
    plain, plain_processor = make(aggregation=aggregation, linear_shortcut=False)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "shortcut" not in name})
    without, found = plain(**plain_processor(features=tiny_features)), model(**batch)
    inputs = []
    for sample in range(3):
        parts, mask = [], []
        for name, norm in model.linear_shortcut.norms.items():
            clips = tiny_features[name][sample]
            mask.append(float(clips is not None))
            pooled = torch.zeros(2 * SIZES[name])
            if clips is not None:
                pooled = (torch.cat([clips.mean(0), clips.amax(0)]) - norm.mean) / (norm.variance + 1e-5).sqrt()
            parts.append(pooled)
        inputs.append(torch.cat([*parts, torch.tensor(mask)]))
    expected = torch.stack(inputs) @ model.linear_shortcut.weight.T  # (batch, scores)
    for path in ("reasoning_scores", "cross_modal_scores"):
        if path in found:
            logits = [model.normalise(outputs[path]).logit() for outputs in (found, without)]
            torch.testing.assert_close(logits[0] - logits[1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_hidden_and_padded_values_and_batch_mates_never_change_a_score(make, tiny_features, value):
    model, processor = make()
    batch = processor(features=tiny_features)
    expected = model(**batch).scores
    for name in SIZES:
        batch[f"{name}_features"][~batch[f"{name}_clip_mask"]] = value
    assert torch.equal(model(**batch).scores, expected)
    torch.testing.assert_close(score_one_by_one(model, processor, tiny_features), expected, atol=1e-3, rtol=0)


def test_hidden_values_change_no_gradient_and_no_statistics_in_training(make, tiny_features):
    results = []
    for value in (0.0, float("nan")):
        model, processor = make(projector_dropout=0, head_dropout=0)
        batch = processor(features=tiny_features, labels=[[20, 0], [30, 5], [40, 10]])
        for name in SIZES:
            batch[f"{name}_features"][~batch[f"{name}_clip_mask"]] = value
        model.train()(**batch).loss.backward()
        shortcut = model.linear_shortcut
        results.append([shortcut.weight.grad, *shortcut.buffers()])
        assert [int(norm.count) for norm in shortcut.norms.values()] == [52, 52, 51]
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()


def test_only_training_changes_the_statistics(make, tiny_features):
    model, processor = make()
    batch = processor(features=tiny_features)
    before = {name: value.clone() for name, value in model.linear_shortcut.named_buffers()}
    model(**batch)
    model.linear_shortcut.requires_grad_(False)
    model.train()(**batch)  # frozen
    assert all(torch.equal(value, before[name]) for name, value in model.linear_shortcut.named_buffers())


@torch.no_grad()
def test_a_text_has_no_part_in_it_but_its_availability(make):
    model, processor = make(modalities={"comment": "text", "flow": 8})
    assert list(model.linear_shortcut.norms) == ["flow"]
    assert model.linear_shortcut.weight.shape == (2, 2 * 8 + 2)
    clips = torch.randn(4, 8)
    outputs = model(**processor(features={"comment": ["clean", None, "late"], "flow": [clips, clips, None]}))
    assert outputs.scores.isfinite().all()


@torch.no_grad()
def test_a_saved_model_scores_as_it_did(make, tiny_features, tmp_path):
    model, processor = make()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "linear_shortcut_limssr.py").is_file()
    loaded = LimssrForScoreRegression.from_pretrained(tmp_path)
    batch = processor(features=tiny_features)
    assert torch.equal(loaded(**batch).scores, model(**batch).scores)


@torch.no_grad()
def test_projected_clips_need_their_features_beside_them_and_the_scoring_loop_gives_them(make):
    model, processor = make()
    dataset = make_dataset(5)
    predictions = predict(model, processor, dataset, batch_size=2)
    rows = dataset.with_format("numpy")
    for number in range(5):
        batch = processor(features={name: [rows[number][name]] for name in SIZES})
        torch.testing.assert_close(
            torch.from_numpy(predictions.scores[number]).float(), model(**batch).scores[0], atol=1e-3, rtol=0
        )
    name = next(name for name in SIZES if batch[f"{name}_clip_mask"].any())
    clips = batch.pop(f"{name}_features")
    batch[f"{name}_projected"] = torch.zeros(1, clips.shape[1], model.config.hidden_size)
    with pytest.raises(ValueError, match=f"`linear_shortcut` reads {name}_features"):
        model(**batch)
