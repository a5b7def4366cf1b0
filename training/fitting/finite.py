"""Numbers that must be finite: those of a training step. Saving a model refuses all others, see `save_pretrained`."""

from collections.abc import Iterator, Sequence

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


def own_buffers(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the statistics that training gathers; a language model has constants that may be infinite."""
    return ((name, buffer) for name, buffer in model.named_buffers() if LANGUAGE_MODEL_PREFIX not in name)
