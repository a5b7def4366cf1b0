"""The terms of the LIMSSR loss: three of the paper (section 3.6), one optional. All scores are normalised to 0..1."""

import torch
import torch.nn.functional as F

from .sequence_limssr import refuse

# As the model returns them; the weight of each is the field of the configuration named alike.
LOSS_TERMS = ("regression_loss", "consistency_loss", "separation_loss", "pairwise_loss")
PAIR_STEEPNESS = 10.0  # logits of a difference as large as the score range


def is_outside(values: torch.Tensor, lowest, highest) -> torch.Tensor:
    """
    Whether values lie outside their bounds, by more than the rounding of their type and of float32. NaN does not.

    Args:
        values (`(..., scores)`): scores in judges' units.
        lowest (`(scores,)`, or a number): lower bounds, in judges' units.
        highest (`(scores,)`, or a number): upper bounds, in judges' units.
    """
    lowest, highest = (torch.as_tensor(bound, dtype=torch.float32).to(values.device) for bound in (lowest, highest))
    precision = torch.finfo(torch.float32).eps  # labels are stored in float32, whatever they were written in
    if values.is_floating_point():
        precision = max(precision, torch.finfo(values.dtype).eps)
    tolerance = 2 * precision * torch.maximum(lowest.abs(), highest.abs())  # value and bound are both rounded
    values = values.float()
    return (values < lowest - tolerance) | (values > highest + tolerance)


def check_loss_weights(weights: torch.Tensor, labels: torch.Tensor, score_names: list[str]) -> None:
    """
    Args:
        weights (`(batch, scores)`): factor of each label's squared error.
        labels (`(batch, scores)`): the labels.
        score_names: name of each score.

    Raises:
        ValueError: another shape than that of the labels, or a weight that is negative or not finite.
    """
    if weights.shape != labels.shape:
        raise ValueError(
            f"loss_weights have shape {tuple(weights.shape)}, expected {tuple(labels.shape)}, that of the labels."
        )

    def explain(sample: int, column: int) -> str:
        return (
            f"label weight of sample {sample}, score {score_names[column]!r}, is {weights[sample, column].item():g}; "
            "allowed are finite numbers of 0 and more."
        )

    refuse(~((weights >= 0) & (weights < torch.inf)), explain)


def regression_loss(score: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """
    Mean squared error over the given targets.

    Args:
        score (`(batch, scores)`): predictions.
        target (`(batch, scores)`): judges' scores; NaN targets are left out.
        weights (`(batch, scores)`, *optional*): factor of each squared error, 1 on average over the training rows.

    Returns:
        Loss `()`; 0 if all targets are NaN.
    """
    given = ~target.isnan()
    squared_error = (score - target.nan_to_num()).square() * given
    if weights is not None:
        squared_error = squared_error * weights
    return squared_error.sum() / given.sum().clamp(min=1)


def consistency_loss(reasoning_scores: torch.Tensor, cross_modal_scores: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the two paths, both `(batch, scores)`."""
    return F.mse_loss(reasoning_scores, cross_modal_scores)


def token_separation_loss(fusion_states: torch.Tensor, margin: float) -> torch.Tensor:
    """
    Triplet loss that keeps the fusion tokens apart, over all batch * K states with their slot as label.

    For each anchor the hardest positive is the farthest state of the same slot (distance 0 when the batch has one
    sample), the hardest negative the nearest state of another slot, by cosine distance: mean of
    relu(d_positive - d_negative + margin).

    Args:
        fusion_states (`(batch, K, hidden)`): h_k of every sample.
        margin (`float`): how much nearer the positive must be, 0 or more.

    Returns:
        Loss `()`; 0 with a single slot.
    """
    batch_size, num_slots, _ = fusion_states.shape
    if num_slots == 1:
        return fusion_states.sum() * 0
    states = F.normalize(fusion_states.flatten(0, 1), dim=-1)  # (batch * K, hidden)
    distance = 1 - states @ states.T  # (batch * K, batch * K)
    slots = torch.arange(num_slots, device=states.device).repeat(batch_size)
    same_slot = slots[:, None] == slots[None, :]
    other_sample = ~torch.eye(len(slots), dtype=torch.bool, device=states.device)
    positive = distance.masked_fill(~(same_slot & other_sample), 0).amax(1)
    negative = distance.masked_fill(same_slot, torch.inf).amin(1)
    return F.relu(positive - negative + margin).mean()


def pairwise_loss(score: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """
    Ranking loss of all pairs of samples in the batch whose targets differ, in each score by itself:

        sum w_ij log(1 + exp(-10 (s_i - s_j))) / sum w_ij   over y_i > y_j,   w_ij = y_i - y_j

    The logistic loss of a difference is RankNet's (Burges et al., "Learning to rank using gradient descent", 2005). A
    pair weighs as much as its targets differ because Spearman's rho, which selects checkpoints, counts a pair in the
    wrong order by the difference of its ranks (Durbin and Stuart, "Inversions and rank correlation coefficients",
    1951); pairs that the judges themselves can hardly tell apart then weigh little.

    Args:
        score (`(batch, scores)`): predictions s.
        target (`(batch, scores)`): judges' scores y; NaN targets are in no pair.

    Returns:
        Loss `()`; 0 without a pair.
    """
    weights = (target[:, None] - target[None]).nan_to_num().clamp(min=0)  # (batch, batch, scores)
    losses = F.softplus(-PAIR_STEEPNESS * (score[:, None] - score[None]))  # (batch, batch, scores)
    total = weights.sum()
    return (weights * losses).sum() / torch.where(total > 0, total, 1)
