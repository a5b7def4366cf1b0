"""Outputs of the models: dictionaries of tensors, which print short."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

PRINTED_VALUES = 12  # of a tensor of scores; a larger one is printed by its shape


class ShortOutput(ModelOutput):
    """An output that prints scores and losses by value and all other tensors by shape, in notebooks as a table."""

    def __repr__(self) -> str:
        described = ", ".join(f"{name}={_describe(name, value)}" for name, value in self.items())
        return f"{type(self).__name__}({described})"

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{name}</th><td>{_describe(name, value)}</td></tr>" for name, value in self.items())
        return f"<table><caption>{type(self).__name__}</caption>{''.join(rows)}</table>"


def _describe(name: str, value) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} x {_describe(name, value[0])}" if value else "()"
    has_values = type(value) is torch.Tensor and value.device.type != "meta"  # not a tensor of a graph being traced
    is_number = name.endswith(("scores", "loss", "disagreement", "modality_mask", "interval", "evidence"))
    if not (has_values and is_number and value.numel() <= PRINTED_VALUES):
        return f"tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else str(value)
    return str(_round(value.tolist()))


def _round(value):
    """Numbers of nested lists to six digits."""
    if isinstance(value, list):
        return [_round(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


@dataclass(repr=False)
class LimssrModelOutput(ShortOutput):
    """
    Args:
        last_hidden_state (`(batch, length, hidden)`): output of the language model's final norm.
        fusion_hidden_state (`(batch, fusion tokens, hidden)`, *optional*): h_k, float32; not with `fusion="mean"`.
        modality_hidden_state (`(batch, modalities, hidden)`): h_m, the mean over each modality's span, float32.
        modality_mask (`(batch, modalities)` bool): m, whether the sample has the modality.
        hidden_states (`tuple` of `(batch, length, hidden)`, *optional*): given `output_hidden_states=True`.
        attentions (`tuple` of `(batch, heads, length, length)`, *optional*): given `output_attentions=True`.
    """

    last_hidden_state: torch.FloatTensor | None = None
    fusion_hidden_state: torch.FloatTensor | None = None
    modality_hidden_state: torch.FloatTensor | None = None
    modality_mask: torch.BoolTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass(repr=False)
class LimssrScoreOutput(ShortOutput):
    """
    Args:
        loss (`()`, *optional*): weighted sum of the terms; returned when `labels` are given.
        scores (`(batch, scores)`): predicted scores, in judges' units.
        reasoning_scores, cross_modal_scores (`(batch, scores)`, *optional*): scores of the two paths, in judges'
            units; `None` for a path that `aggregation` leaves out.
        path_disagreement (`(batch, scores)`, *optional*): |reasoning_scores - cross_modal_scores|, with both paths.
        interval (`(batch, scores, 2)`, *optional*): ends of an interval that holds the judged score with probability
            `level`, in judges' units; `None` without a calibration.
        sufficient_evidence (`(batch, scores)` bool, *optional*): whether the interval is narrower than that of the
            training scores themselves.
        regression_loss, consistency_loss, separation_loss (`()`, *optional*): the unweighted terms of the loss.
        pairwise_loss (`()`, *optional*): unweighted ranking term, with a `pairwise_weight`.
        fusion_hidden_state (`(batch, fusion tokens, hidden)`, *optional*): h_k.
        modality_hidden_state (`(batch, modalities, hidden)`): h_m.
        hidden_states (`tuple` of `(batch, length, hidden)`, *optional*): given `output_hidden_states=True`.
        attentions (`tuple` of `(batch, heads, length, length)`, *optional*): given `output_attentions=True`.
    """

    loss: torch.FloatTensor | None = None
    scores: torch.FloatTensor | None = None
    reasoning_scores: torch.FloatTensor | None = None
    cross_modal_scores: torch.FloatTensor | None = None
    path_disagreement: torch.FloatTensor | None = None
    interval: torch.FloatTensor | None = None
    sufficient_evidence: torch.BoolTensor | None = None
    regression_loss: torch.FloatTensor | None = None
    consistency_loss: torch.FloatTensor | None = None
    separation_loss: torch.FloatTensor | None = None
    pairwise_loss: torch.FloatTensor | None = None
    fusion_hidden_state: torch.FloatTensor | None = None
    modality_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None

    def __getitem__(self, key):
        if key == "logits":  # which the label smoothing of `Trainer` asks for
            raise KeyError(
                "the model predicts `scores` and has no class `logits`: label_smoothing_factor must stay 0, because "
                "labels are smoothed for classes only"
            )
        return super().__getitem__(key)
