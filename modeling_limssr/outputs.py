"""What the models return."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class LimssrModelOutput(ModelOutput):
    """
    Args:
        last_hidden_state (`(batch, length, hidden)`): of the language model, after its final norm.
        fusion_hidden_state (`(batch, fusion tokens, hidden)`, *optional*): h_k, float32; not with `fusion="mean"`.
        modality_hidden_state (`(batch, modalities, hidden)`): h_m, the mean over each modality's span, float32.
        modality_mask (`(batch, modalities)` bool): m, whether the sample has the modality.
        hidden_states (`tuple` of `(batch, length, hidden)`, *optional*): with `output_hidden_states=True`.
        attentions (`tuple` of `(batch, heads, length, length)`, *optional*): with `output_attentions=True`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    fusion_hidden_state: torch.FloatTensor | None = None
    modality_hidden_state: torch.FloatTensor | None = None
    modality_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class LimssrScoreOutput(ModelOutput):
    """
    Args:
        loss (`()`, *optional*): weighted sum of the three terms; returned when `labels` are given.
        judged_scores (`(batch, scores)`): predicted scores in the judges' units.
        score (`(batch, scores)`): the same, normalised: score * range + minimum = judged score.
        score_main, score_aux (`(batch, scores)`, *optional*): normalised scores of the reasoning and the cross-modal
            path; `None` for a path that `aggregation` leaves out.
        path_disagreement (`(batch, scores)`, *optional*): |score_main - score_aux|, with both paths.
        regression_loss, consistency_loss, separation_loss (`()`, *optional*): the unweighted terms of the loss.
        fusion_hidden_state (`(batch, fusion tokens, hidden)`, *optional*): h_k.
        modality_hidden_state (`(batch, modalities, hidden)`): h_m.
        hidden_states (`tuple` of `(batch, length, hidden)`, *optional*): with `output_hidden_states=True`.
        attentions (`tuple` of `(batch, heads, length, length)`, *optional*): with `output_attentions=True`.
    """

    loss: torch.FloatTensor | None = None
    judged_scores: torch.FloatTensor | None = None
    score: torch.FloatTensor | None = None
    score_main: torch.FloatTensor | None = None
    score_aux: torch.FloatTensor | None = None
    path_disagreement: torch.FloatTensor | None = None
    regression_loss: torch.FloatTensor | None = None
    consistency_loss: torch.FloatTensor | None = None
    separation_loss: torch.FloatTensor | None = None
    fusion_hidden_state: torch.FloatTensor | None = None
    modality_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
