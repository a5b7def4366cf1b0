"""The loss terms, and one switch for each ablation of the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.modeling_limssr.losses_limssr import pairwise_loss, token_separation_loss
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
    {"pairwise_weight": 0.5},
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


def pairs_by_loops(score, target) -> float:
    losses, weights = [], []
    for column in range(score.shape[1]):
        for first in range(len(score)):
            for second in range(len(score)):
                gap = float(target[first, column] - target[second, column])
                if gap > 0:
                    difference = float(score[first, column] - score[second, column])
                    losses.append(gap * math.log1p(math.exp(-10 * difference)))
                    weights.append(gap)
    return sum(losses) / sum(weights)


def test_pairs_have_the_logistic_loss_of_their_difference_weighted_by_the_judged_one():
    generator = torch.Generator().manual_seed(0)
    score, target = torch.rand(7, 2, generator=generator), torch.rand(7, 2, generator=generator)
    target[3, 0] = target[4, 0]  # equal: no pair
    target[5, 1] = float("nan")
    torch.testing.assert_close(pairwise_loss(score, target), torch.tensor(pairs_by_loops(score, target)))
    pair = pairwise_loss(torch.tensor([[0.3], [0.5]]), torch.tensor([[0.9], [0.1]]))
    torch.testing.assert_close(pair, torch.tensor(math.log1p(math.exp(2))))  # whatever its size, it is the only one


def test_the_ranking_of_pairs_moves_them_apart_and_leaves_out_what_is_not_given():
    score = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]], requires_grad=True)
    pairwise_loss(score, torch.tensor([[0.2, 0.3], [0.8, float("nan")], [float("nan"), 0.3]])).backward()
    gradient = score.grad
    assert gradient[1, 0] < 0 < gradient[0, 0]
    assert gradient[0, 0] == -gradient[1, 0]
    assert not gradient[2].any()
    assert not gradient[:, 1].any()  # equal scores


@pytest.mark.parametrize("target", [[[0.4]], [[0.4], [0.4]], [[0.4], [float("nan")]]], ids=str)
def test_without_a_pair_there_is_no_ranking_loss(target):
    score = torch.rand(len(target), 1, requires_grad=True)
    loss = pairwise_loss(score, torch.tensor(target))
    loss.backward()
    assert loss == 0
    assert not score.grad.any()


@pytest.mark.parametrize("fields", [{}, {"fusion": "mean"}], ids=str)
def test_the_ranking_of_pairs_is_a_term_of_batches(fields, tiny_text_config, tiny_tokenizer, tiny_features):
    fields = {"score_names": ["tes", "pcs"], "score_ranges": [100, 50], **fields}
    labels = [[10, 50], [None, 20], [90, None]]
    plain, processor = make(tiny_text_config, tiny_tokenizer, **fields)
    batch = processor(features=tiny_features, labels=labels)
    model, _ = make(tiny_text_config, tiny_tokenizer, pairwise_weight=3, **fields)
    without, outputs = plain.eval()(**batch), model.eval()(**batch)
    assert "pairwise_loss" not in without
    expected = pairs_by_loops(
        outputs.scores.detach() / torch.tensor([100, 50]), batch.labels / torch.tensor([100, 50])
    )
    torch.testing.assert_close(outputs.pairwise_loss, torch.tensor(expected))
    torch.testing.assert_close(outputs.loss, without.loss + 3 * outputs.pairwise_loss)
    predicted = (batch.labels, outputs.scores, outputs.reasoning_scores, outputs.cross_modal_scores)
    assert torch.equal(model.loss_of_scores(*predicted), plain.loss_of_scores(*predicted))


def test_weights_of_labels_are_factors_of_the_squared_errors(tiny_text_config, tiny_tokenizer, tiny_features):
    model, processor = make(
        tiny_text_config, tiny_tokenizer, score_names=["tes", "pcs"], score_minimums=[0, 0], score_ranges=[100, 50]
    )
    batch = processor(features=tiny_features, labels=[[10, None], [None, None], [90, 25]])
    without = model.eval()(**batch)
    alike = model(**batch, loss_weights=torch.ones(3, 2))
    assert torch.equal(alike.loss, without.loss)
    outputs = model(**batch, loss_weights=torch.tensor([[0.5, 9], [9, 9], [2, 3]]))
    scores = outputs.scores / torch.tensor([100, 50])
    given = torch.stack([scores[0, 0] - 0.1, scores[2, 0] - 0.9, scores[2, 1] - 0.5])
    torch.testing.assert_close(outputs.regression_loss, (torch.tensor([0.5, 2, 3]) * given.square()).mean())
    assert torch.equal(outputs.consistency_loss, without.consistency_loss)
    for wrong, message in (
        (torch.ones(3, 1), r"loss_weights have shape \(3, 1\), expected \(3, 2\)"),
        (torch.tensor([[1, 1], [1, -2.0], [1, 1]]), "label weight of sample 1, score 'pcs', is -2"),
        (torch.full((3, 2), float("nan")), "label weight of sample 0, score 'tes', is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**batch, loss_weights=wrong)
