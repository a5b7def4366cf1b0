"""Linear shortcut from the features to the score logits, past the language model (an ablation)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .projector_limssr import ClipBatchNorm


class RunningStandardisation(nn.Module):
    """
    Standardises `(samples, size)` with the mean and variance of all samples of the training so far.

    Unlike batch norm it does so in training too: with the statistics of each batch of a few samples, a linear map
    would read mostly their noise. Several processes count the samples of all.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (values - self.mean) * (self.variance + 1e-5).rsqrt()

    @torch.no_grad()
    def count_in(self, values: torch.Tensor, is_real: torch.Tensor) -> None:
        """
        Take in more samples.

        Args:
            values (`(samples, size)` float): samples.
            is_real (`(samples,)` bool): which of them count.
        """
        weights = is_real[:, None].float()
        count = weights.sum()
        mean = (weights * values).sum(0) / count.clamp(min=1)
        deviation = (weights * (values - mean).square()).sum(0)
        count, mean, deviation = ClipBatchNorm.gather_statistics(count, mean, deviation)
        total = (self.count + count).clamp(min=1)
        share, difference = count / total, mean - self.mean
        # Squared deviations around the common mean (Chan, Golub and LeVeque 1979).
        variance = (1 - share) * self.variance + deviation / total + share * (1 - share) * difference.square()
        self.variance.copy_(torch.where(self.count + count > 0, variance, self.variance))
        self.mean += share * difference
        self.count += count


class LimssrLinearShortcut(nn.Module):
    """
    Linear map of what a linear baseline reads, to be added to the logits of both scoring paths:

        W [x_1; ...; x_M; m],   x_m = standardised [mean ; maximum] of the real clips of modality m

    x_m is 0 for a missing modality; a text has none. W begins at 0, so that the model begins as one without it.
    """

    def __init__(self, config):
        super().__init__()
        sizes = {name: 2 * size for name, size in config.feature_sizes.items()}
        self.norms = nn.ModuleDict({name: RunningStandardisation(size) for name, size in sizes.items()})
        self.weight = nn.Parameter(torch.zeros(config.num_scores, sum(sizes.values()) + len(config.modalities)))

    def forward(self, inputs: Mapping[str, torch.Tensor], modality_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            inputs: `{modality}_features` and `{modality}_clip_mask` of [`LimssrModel.forward`].
            modality_mask (`(batch, modalities)` bool): m, whether the sample has the modality.

        Returns:
            Logits `(batch, scores)`.

        Raises:
            ValueError: there is `{modality}_projected` without the features.
        """
        mask = modality_mask.to(self.weight)
        parts = []
        for name, norm in self.norms.items():
            clips, is_real = inputs.get(f"{name}_features"), inputs.get(f"{name}_clip_mask")
            if clips is None:
                if inputs.get(f"{name}_projected") is not None:
                    raise ValueError(f"`linear_shortcut` reads {name}_features: give them beside {name}_projected.")
                parts.append(mask.new_zeros(len(mask), len(norm.mean)))
                continue
            pooled, is_available = pool_clips(clips.to(self.weight), is_real)
            if self.training and self.weight.requires_grad:
                norm.count_in(pooled.float(), is_available)
            parts.append(norm(pooled) * is_available[:, None])
        return F.linear(torch.cat([*parts, mask], dim=-1), self.weight)


def pool_clips(clips: torch.Tensor, is_real: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and maximum over the real clips.

    Args:
        clips (`(batch, clips, size)`): features.
        is_real (`(batch, clips)` bool, *optional*): which of them are real; all by default.

    Returns:
        `(batch, 2 * size)`, 0 where there is no real clip, and whether there is one, `(batch,)` bool.
    """
    is_real = torch.ones(clips.shape[:2], dtype=torch.bool) if is_real is None else is_real.bool()
    # One more that is not real: the maximum of no clips at all is not defined.
    clips, is_real = F.pad(clips, (0, 0, 0, 1)), F.pad(is_real.to(clips.device), (0, 1))
    is_hidden, is_available = ~is_real[..., None], is_real.any(1)
    mean = clips.masked_fill(is_hidden, 0).sum(1) / is_real.sum(1, keepdim=True).clamp(min=1)
    maximum = clips.masked_fill(is_hidden, -torch.inf).amax(1).masked_fill(~is_available[:, None], 0)
    return torch.cat([mean, maximum], dim=-1), is_available
