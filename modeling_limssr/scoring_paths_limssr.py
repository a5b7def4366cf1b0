"""The two mask-aware scoring paths of LIMSSR, reasoning and cross-modal (paper, section 3.5)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration.configuration_limssr import CROSS_MODAL_ATTENTION_HEADS


def make_score_head(hidden_size: int, num_scores: int, dropout: float) -> nn.Sequential:
    """Head from `(batch, hidden)` to score logits `(batch, scores)`."""
    return nn.Sequential(
        nn.Linear(hidden_size, hidden_size // 2),
        nn.LayerNorm(hidden_size // 2),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_size // 2, num_scores),
    )


class LimssrReasoningPath(nn.Module):
    """
    Reads the fusion states h_k, conditioned on the availability mask m:

        z = LayerNorm(sum_k softmax(w)_k h_k);   c = [z ; m]
        z' = z + sigmoid(Linear(c)) * MLP(c);    s_main = sigmoid(head(z'))
    """

    def __init__(self, config):
        super().__init__()
        hidden_size, num_modalities = config.hidden_size, len(config.modalities)
        if config.uses_fusion_tokens:
            self.slot_weight = nn.Parameter(torch.zeros(config.num_fusion_tokens))
        self.norm = nn.LayerNorm(hidden_size)
        self.condition_gate = nn.Linear(hidden_size + num_modalities, hidden_size)
        self.condition_head = nn.Sequential(
            nn.Linear(hidden_size + num_modalities, hidden_size),
            nn.GELU(),
            nn.Dropout(config.head_dropout),
            nn.Linear(hidden_size, hidden_size),
        )
        self.score_head = make_score_head(hidden_size, config.num_scores, config.head_dropout)

    def forward(
        self, states: torch.Tensor, modality_mask: torch.Tensor, shortcut: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """
        Args:
            states (`(batch, fusion tokens, hidden)`): h_k; with `fusion="mean"` the modality states, to be averaged.
            modality_mask (`(batch, modalities)`): m, 1 where the modality is available.
            shortcut (`(batch, scores)`): logits of the linear shortcut, which join those of the head.

        Returns:
            s_main `(batch, scores)`, normalised to 0..1.
        """
        if hasattr(self, "slot_weight"):
            pooled = torch.einsum("k,bkh->bh", self.slot_weight.softmax(0), states)  # (batch, hidden)
        else:
            pooled = states.mean(1)  # (batch, hidden)
        pooled = self.norm(pooled)
        condition = torch.cat([pooled, modality_mask], dim=-1)  # (batch, hidden + modalities)
        gate = self.condition_gate(condition).sigmoid()
        return (self.score_head(pooled + gate * self.condition_head(condition)) + shortcut).sigmoid()


class CrossModalAttention(nn.MultiheadAttention):
    """
    Multi-head attention of `(batch, modalities, hidden)` to itself.

    Its parent reads the weights of its output layer itself; offloaded ones exist only inside that layer's forward.
    """

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, CROSS_MODAL_ATTENTION_HEADS, batch_first=True)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        projected = F.linear(states, self.in_proj_weight, self.in_proj_bias)
        projected = projected.unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = projected.permute(2, 0, 3, 1, 4)  # (batch, heads, modalities, head size)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # (batch, modalities, hidden)


class LimssrCrossModalPath(nn.Module):
    """
    Reads the modality states h_m, each trusted by its availability:

        u_m = LayerNorm_m(h_m);   A = MultiheadAttention(u, u, u);   g = softmax(MLP([u_1; ...; u_M]))
        a_m = m + (1 - m) sigmoid(lambda_m);   z_aux = sum_m a_m g_m A_m;   s_aux = sigmoid(head(z_aux))
    """

    def __init__(self, config):
        super().__init__()
        hidden_size, num_modalities = config.hidden_size, len(config.modalities)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(hidden_size) for name in config.modalities})
        self.attention = CrossModalAttention(hidden_size)
        self.gate = nn.Sequential(
            nn.Linear(num_modalities * hidden_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, num_modalities)
        )
        self.missing_confidence = nn.Parameter(torch.full((num_modalities,), 0.6))
        self.score_head = make_score_head(hidden_size, config.num_scores, config.head_dropout)

    def forward(
        self, modality_states: torch.Tensor, modality_mask: torch.Tensor, shortcut: torch.Tensor | float = 0.0
    ) -> torch.Tensor:
        """
        Args:
            modality_states (`(batch, modalities, hidden)`): h_m.
            modality_mask (`(batch, modalities)`): m, 1 where the modality is available.
            shortcut (`(batch, scores)`): logits of the linear shortcut, which join those of the head.

        Returns:
            s_aux `(batch, scores)`, normalised to 0..1.
        """
        return (self.score_head(self.pool(modality_states, modality_mask)) + shortcut).sigmoid()

    def pool(self, modality_states: torch.Tensor, modality_mask: torch.Tensor) -> torch.Tensor:
        """z_aux `(batch, hidden)`."""
        normed = [norm(state) for norm, state in zip(self.norms.values(), modality_states.unbind(1), strict=True)]
        states = torch.stack(normed, dim=1)  # (batch, modalities, hidden)
        attended = self.attention(states)
        gate = self.gate(states.flatten(1)).softmax(-1)  # (batch, modalities)
        confidence = modality_mask + (1 - modality_mask) * self.missing_confidence.sigmoid()
        return torch.einsum("bm,bmh->bh", confidence * gate, attended)
