"""Projector of a modality: feature clips to the hidden size of the language model (paper, section 3.3)."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn


class ClipBatchNorm(nn.BatchNorm1d):
    """
    Batch norm over a flat list of clips `(clips, hidden)` of any length, zero included.

    The list holds real clips only, so neither padding nor samples without the modality affect the statistics. A single
    clip, whose variance says nothing, is normalised with the running statistics; an empty list changes nothing. Under
    several processes the running statistics combine the clips of all, so every process saves the same.
    """

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        if self.training:
            self._update_running_statistics(clips.detach())
        if self.training and len(clips) > 1:
            return F.batch_norm(clips, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return F.batch_norm(clips, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def _update_running_statistics(self, clips: torch.Tensor) -> None:
        count, mean, deviation = self._gather_statistics(clips)
        if count < 2:
            return
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((deviation / (count - 1)).to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1

    @staticmethod
    def _gather_statistics(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Count `()`, mean `(hidden,)` and sum of squared deviations `(hidden,)` over the clips of all processes."""
        clips = clips.float()
        mean = clips.sum(0) / max(len(clips), 1)
        deviation = (clips - mean).square().sum(0)
        count = clips.new_tensor(len(clips))
        if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
            return count, mean, deviation
        local = torch.cat([count[None], mean, deviation])
        gathered = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, local)
        counts, means, deviations = torch.stack(gathered).split([1, len(mean), len(mean)], dim=1)  # (processes, ...)
        total = counts.sum()
        mean = (counts * means).sum(0) / total.clamp(min=1)
        # Squared deviations around the common mean (Chan, Golub and LeVeque 1979).
        return total, mean, (deviations + counts * (means - mean).square()).sum(0)


class LimssrProjector(nn.Module):
    """Linear, batch norm, ReLU, dropout, linear, batch norm: `(clips, feature_size)` -> `(clips, hidden)`."""

    def __init__(self, feature_size: int, hidden_size: int, dropout: float):
        super().__init__()
        self.linear_1 = nn.Linear(feature_size, hidden_size)
        self.norm_1 = ClipBatchNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)
        self.norm_2 = ClipBatchNorm(hidden_size)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        clips = self.dropout(F.relu(self.norm_1(self.linear_1(clips))))  # (clips, hidden)
        return self.norm_2(self.linear_2(clips))
