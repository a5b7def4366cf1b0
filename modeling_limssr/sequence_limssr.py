"""Layout of a sequence, read off its token ids: which position holds what."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..configuration.configuration_limssr import clip_token, end_token, missing_token, start_token


@dataclass
class SequenceLayout:
    """
    What stands where in a batch of sequences.

    Args:
        spans (`(batch, modalities, length)` bool): positions between the boundary tokens of each modality.
        clips (`(batch, modalities, length)` bool): positions that hold a projected clip.
        missing (`(batch, modalities, length)` bool): positions that hold the placeholder of a missing clip.
        fusion_positions (`(batch, fusion tokens)` int64 or `None`): index of each fusion token.
    """

    spans: torch.Tensor
    clips: torch.Tensor
    missing: torch.Tensor
    fusion_positions: torch.Tensor | None

    @property
    def modality_mask(self) -> torch.Tensor:
        """m `(batch, modalities)` bool: whether the modality is available."""
        return ~self.missing.any(-1)

    @classmethod
    def from_input_ids(cls, input_ids: torch.Tensor, config) -> "SequenceLayout":
        """
        Find clips, spans and fusion tokens.

        Args:
            input_ids (`(batch, length)` int64): sequences written by `LimssrProcessor`.
            config (`LimssrConfig`): configuration with the ids of the added tokens.

        Raises:
            ValueError: a sample without exactly one non-empty block of every modality, or without every fusion token.
        """

        def find(token) -> torch.Tensor:
            ids = torch.tensor(config.token_ids(token), device=input_ids.device)
            return input_ids[:, None, :] == ids[None, :, None]  # (batch, modalities, length)

        starts, ends = find(start_token), find(end_token)
        spans = (starts.int().cumsum(-1) - ends.int().cumsum(-1)).bool() & ~starts
        fusion_positions = None
        if config.uses_fusion_tokens:
            fusion_ids = torch.tensor(config.fusion_token_ids, device=input_ids.device)
            fusion = input_ids[:, None, :] == fusion_ids[None, :, None]  # (batch, fusion tokens, length)
            _check_once(fusion, [f"<|fusion_{slot + 1}|>" for slot in range(config.num_fusion_tokens)])
            fusion_positions = fusion.int().argmax(-1)  # (batch, fusion tokens)
        _check_once(starts, [start_token(name) for name in config.modalities])
        _check_once(ends & spans.roll(1, dims=-1), [end_token(name) for name in config.modalities])
        return cls(spans, find(clip_token), find(missing_token), fusion_positions)


def gather_positions(hidden: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor | None:
    """`(batch, length, hidden)` at `(batch, tokens)` -> `(batch, tokens, hidden)`, in float32."""
    if positions is None:
        return None
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]).to(hidden.device)).float()


def average_spans(hidden: torch.Tensor, spans: torch.Tensor) -> torch.Tensor:
    """Mean of `(batch, length, hidden)` over each of the spans `(batch, modalities, length)`, in float32."""
    weights = spans.to(hidden.device).float()
    with torch.autocast(hidden.device.type, enabled=False):
        return (weights / weights.sum(-1, keepdim=True)) @ hidden.float()  # (batch, modalities, hidden)


def _check_once(found: torch.Tensor, tokens: list[str]) -> None:
    """Refuse a sample without exactly one of each token; an end counts where it closes a block that is not empty."""
    counts = found.sum(-1)  # (batch, tokens)
    refuse(
        counts != 1,
        lambda sample, token: (
            f"input_ids of sample {sample}: {tokens[token]} found {counts[sample, token].item()} times in its place, "
            "expected once. Write the sequences with the LimssrProcessor saved beside this model."
        ),
    )


def refuse(wrong: torch.Tensor, explain: Callable[..., str]) -> None:
    """
    Refuse inputs that depend on their values, if any of `wrong` is true.

    A compiled or exported graph has no branches. There the check is an assertion of the graph, without numbers.

    Args:
        wrong (bool, any shape): where something is wrong.
        explain: takes the indices of the first such place and returns the message.

    Raises:
        ValueError: something is wrong; RuntimeError in a compiled or exported graph.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(~wrong.any(), "the inputs do not fit; score them with the eager model for the reason")
    elif wrong.any():
        raise ValueError(explain(*wrong.nonzero()[0].tolist()))
