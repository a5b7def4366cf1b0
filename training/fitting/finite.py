"""Numbers that must be finite: those of a training step, and those that are saved."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from ...modeling_limssr.adapters_limssr import LANGUAGE_MODEL_PREFIX

NAMED = 16


class NotFiniteError(ValueError):
    """A training step whose numbers overflow or are undefined; nothing of it is saved."""

    def __init__(self, what: str, step: int, sample_ids: Sequence[str]):
        more = f" and {len(sample_ids) - NAMED} more" if len(sample_ids) > NAMED else ""
        super().__init__(
            f"{what} not finite after step {step}, at the samples {', '.join(map(repr, sample_ids[:NAMED]))}{more}. "
            "Look at their features and labels; else lower the learning rate, or train in float32. Checkpoints of "
            "earlier steps are whole."
        )


def wrong_tensors(named: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Return the names of the tensors with a number that is not finite."""
    named = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    if not named:
        return []
    # One answer for all, because each costs a GPU its pace. The sum is not finite if a number is not.
    sums = [tensor.detach().float().sum().to(named[0][1].device) for _, tensor in named]
    if torch.stack(sums).isfinite().all():
        return []
    return [name for name, tensor in named if not tensor.isfinite().all()]


def own_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the statistics that training gathers; a language model has constants that may be infinite."""
    return ((name, buffer) for name, buffer in model.named_buffers() if LANGUAGE_MODEL_PREFIX not in name)


def require_finite(tensors: nn.Module | Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Refuse to save numbers that are not finite.

    Args:
        tensors: a model, whose trained parameters and buffers are checked, or tensors with their names.
        folder: where they were to be saved.

    Raises:
        ValueError: the message names the first tensor.
    """
    if isinstance(tensors, nn.Module):
        trained = ((name, parameter) for name, parameter in tensors.named_parameters() if parameter.requires_grad)
        tensors = [*trained, *own_buffers(tensors)]
    if wrong := wrong_tensors(tensors):
        raise ValueError(
            f"{folder} is not written: {len(wrong)} tensors of the model, such as {wrong[0]}, are not finite; go on "
            "from an earlier checkpoint with a lower learning rate."
        )
