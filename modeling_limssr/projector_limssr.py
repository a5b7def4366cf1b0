"""Projector of a modality: feature clips to the hidden size of the language model (paper, section 3.3)."""

import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn


class ClipBatchNorm(nn.BatchNorm1d):
    """
    Batch norm over the real ones of a flat list of clips `(clips, hidden)` of any length, zero included.

    Neither padding nor samples without the modality affect the statistics. A single real clip, whose variance says
    nothing, is normalised with the running statistics, which it leaves as they are. Under several processes the
    running statistics combine the clips of all, so every process saves the same.

    Frozen (`requires_grad_(False)`), it normalises with the running statistics in training too and leaves them as they
    are: PEFT freezes what it does not train, and its checkpoints hold no statistics.
    """

    def forward(self, clips: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            clips (`(clips, hidden)`): list of clips.
            is_real (`(clips,)` bool, *optional*): which of them count in training; all by default.
        """
        if not self.training or not self.weight.requires_grad:
            return F.batch_norm(clips, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        values = clips.float()
        weights = values.new_ones(len(values), 1) if is_real is None else is_real[:, None].float()
        count = weights.sum()
        mean = (weights * values).sum(0) / count.clamp(min=1)
        deviation = (weights * (values - mean).square()).sum(0)  # sum of squares
        self._update_running_statistics(count, mean.detach(), deviation.detach())
        mean = torch.where(count > 1, mean, self.running_mean)
        variance = torch.where(count > 1, deviation / count.clamp(min=1), self.running_var)
        normed = (values - mean) * (variance + self.eps).rsqrt()
        return (normed * self.weight + self.bias).to(clips.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, count, mean, deviation) -> None:
        count, mean, deviation = self.gather_statistics(count, mean, deviation)
        is_enough = count > 1
        for running, value in ((self.running_mean, mean), (self.running_var, deviation / (count - 1).clamp(min=1))):
            running.copy_(torch.where(is_enough, running.lerp(value.to(running.dtype), self.momentum), running))
        self.num_batches_tracked += is_enough

    @staticmethod
    def gather_statistics(count, mean, deviation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Count `()`, mean `(hidden,)` and sum of squared deviations `(hidden,)` over the clips of all processes."""
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

    def forward(self, clips: torch.Tensor, is_real: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            clips (`(clips, feature_size)`): list of clips, cast to the precision of the weights.
            is_real (`(clips,)` bool, *optional*): which of them count in the batch norms; all by default.
        """
        clips = self.linear_1(clips.to(self.linear_1.weight.dtype))  # (clips, hidden)
        clips = self.dropout(F.relu(self.norm_1(clips, is_real)))
        return self.norm_2(self.linear_2(clips), is_real)
