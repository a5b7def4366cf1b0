"""The three loss terms, and one switch for each ablation of the paper."""

import pytest
import torch
import torch.nn.functional as F

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.losses_limssr import token_separation_loss
from tests.helpers.feature_rows import SIZES

ABLATIONS = [
    {},
    {"imputation": "zeros"},
    {"use_prompt": False},
    {"fusion": "mean"},
    {"fusion": "mean", "aggregation": "reasoning"},
    {"aggregation": "reasoning"},
    {"aggregation": "cross_modal"},
    {"regression_weight": 0},
    {"consistency_weight": 0},
    {"separation_weight": 0},
    {"linear_shortcut": True},
    {"num_fusion_tokens": 1},
    {"modalities": {"video": 16}},
    {"modalities": {"flow": 8, "audio": 12}},
]


def make(text_config, tokenizer, **fields):
    torch.manual_seed(0)
    fields = {"modalities": SIZES, "score_ranges": [100], "language_model_training": "full", **fields}
    config = LimssrConfig(text_config=text_config, **fields)
    return LimssrForScoreRegression(config), LimssrProcessor.from_config(config, tokenizer, max_clips=12)


def batch_of(model, processor, features, labels):
    """Only what the model knows, with something of it in every sample."""
    features = {name: features[name] for name in model.config.modalities}
    first = next(iter(features))
    features[first] = [torch.ones(4, SIZES[first]) if clips is None else clips for clips in features[first]]
    return processor(features=features, labels=labels)


@pytest.mark.parametrize("fields", ABLATIONS, ids=str)
def test_every_ablation_builds_trains_and_round_trips(
    fields, tiny_text_config, tiny_tokenizer, tiny_features, tmp_path
):
    model, processor = make(tiny_text_config, tiny_tokenizer, **fields)
    batch = batch_of(model, processor, tiny_features, [10, 50, 90])
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-3)
    outputs = model.train()(**batch)
    outputs.loss.backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)
    optimizer.step()
    assert model(**batch).loss.isfinite()
    model.eval().save_pretrained(tmp_path)
    loaded = LimssrForScoreRegression.from_pretrained(tmp_path)
    for name, value in fields.items():
        assert getattr(loaded.config, name) == value
    with torch.no_grad():
        assert torch.equal(loaded(**batch).scores, model(**batch).scores)


@pytest.mark.parametrize(
    ("fields", "absent"),
    [
        ({"aggregation": "reasoning"}, ["cross_modal_path", "reasoning_weight"]),
        ({"aggregation": "cross_modal"}, ["reasoning_path", "reasoning_weight", "slot_weight"]),
        ({"fusion": "mean"}, ["slot_weight"]),
        ({}, []),
    ],
    ids=str,
)
def test_what_an_ablation_does_not_use_is_not_there(fields, absent, tiny_text_config, tiny_tokenizer, tiny_features):
    model, processor = make(tiny_text_config, tiny_tokenizer, **fields)
    names = list(model.state_dict())
    for part in ("cross_modal_path", "reasoning_path", "reasoning_weight", "slot_weight"):
        assert any(part in name for name in names) == (part not in absent)
    outputs = model(**processor(features=tiny_features, labels=[1, 2, 3]))
    assert (outputs.path_disagreement is None) == ("aggregation" in fields)
    assert (outputs.cross_modal_scores is None) == ("cross_modal_path" in absent)
    assert (outputs.reasoning_scores is None) == ("reasoning_path" in absent)
    assert (outputs.fusion_hidden_state is None) == (fields.get("fusion") == "mean")


@torch.no_grad()
def test_with_zeros_the_missing_embeddings_do_not_matter(tiny_text_config, tiny_tokenizer, tiny_features):
    for imputation, matters in (("zeros", False), ("tokens", True)):
        model, processor = make(tiny_text_config, tiny_tokenizer, imputation=imputation)
        batch = processor(features=tiny_features)
        before = model.eval()(**batch).scores
        model.model.token_embeddings[6:9] += 1  # the placeholders of video, audio and flow
        difference = (model(**batch).scores - before).abs().flatten()
        assert difference[0] == 0  # this sample has everything
        assert (difference[1:] > 0).all() == matters


def test_the_loss_is_the_weighted_sum_of_its_terms(tiny_text_config, tiny_tokenizer, tiny_features):
    model, processor = make(
        tiny_text_config, tiny_tokenizer, regression_weight=3, consistency_weight=5, separation_weight=7
    )
    labels = torch.tensor([[10.0], [50.0], [90.0]])
    outputs = model.eval()(**processor(features=tiny_features, labels=labels))
    regression = F.mse_loss(outputs.scores / 100, labels / 100)
    torch.testing.assert_close(outputs.regression_loss, regression)
    consistency = F.mse_loss(outputs.reasoning_scores / 100, outputs.cross_modal_scores / 100)
    torch.testing.assert_close(outputs.consistency_loss, consistency, atol=1e-8, rtol=1e-4)
    torch.testing.assert_close(outputs.separation_loss, token_separation_loss(outputs.fusion_hidden_state, 1.0))
    expected = 3 * regression + 5 * outputs.consistency_loss + 7 * outputs.separation_loss
    torch.testing.assert_close(outputs.loss, expected)
    predicted = (outputs.scores, outputs.reasoning_scores, outputs.cross_modal_scores)
    of_scores = model.loss_of_scores(labels, *predicted)  # for validation, which has no batches
    torch.testing.assert_close(of_scores, outputs.loss - 7 * outputs.separation_loss)


def test_a_label_that_is_not_given_is_left_out_of_the_loss(tiny_text_config, tiny_tokenizer, tiny_features):
    model, processor = make(
        tiny_text_config, tiny_tokenizer, score_names=["tes", "pcs"], score_minimums=[0, 0], score_ranges=[100, 50]
    )
    batch = processor(features=tiny_features, labels=[[10, None], [None, None], [90, 25]])
    outputs = model.eval()(**batch)
    scores = outputs.scores / torch.tensor([100, 50])
    given = torch.stack([scores[0, 0] - 0.1, scores[2, 0] - 0.9, scores[2, 1] - 0.5])
    torch.testing.assert_close(outputs.regression_loss, given.square().mean())
    outputs.loss.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
    nothing = model(**processor(features=tiny_features, labels=[[None, None]] * 3))
    assert nothing.regression_loss == 0
    assert nothing.loss.isfinite()


def separation_by_loops(states, margin) -> torch.Tensor:
    anchors = [(sample, slot) for sample in range(states.shape[0]) for slot in range(states.shape[1])]
    terms = []
    for anchor in anchors:
        distance = {other: 1 - F.cosine_similarity(states[anchor], states[other], dim=0) for other in anchors}
        positives = [distance[other] for other in anchors if other[1] == anchor[1] and other != anchor]
        negatives = [distance[other] for other in anchors if other[1] != anchor[1]]
        hardest = max(positives) if positives else torch.tensor(0.0)
        terms.append(torch.relu(hardest - min(negatives) + margin))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("shape", [(3, 4, 8), (1, 4, 8), (5, 2, 3)])
@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0])
def test_token_separation_is_the_triplet_loss_of_the_hardest_pairs(shape, margin):
    states = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(token_separation_loss(states, margin), separation_by_loops(states, margin))


def test_a_single_fusion_token_has_nothing_to_be_kept_apart_from():
    states = torch.randn(3, 1, 8, requires_grad=True)
    loss = token_separation_loss(states, 1.0)
    loss.backward()
    assert loss == 0
    assert not states.grad.any()
