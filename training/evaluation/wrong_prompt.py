"""An intervention on the prompt alone, which shows whether a trained model reads it."""

import inspect

from ...processing.processing_limssr import LimssrProcessor
from ..data.masks import all_subsets


class WrongPromptProcessor(LimssrProcessor):
    """Writes the prompt of another mask; clips, placeholders and fusion tokens are those of the sample.

    A sample that lacks a modality is announced as complete, a complete one as having its first modality alone. Each of
    these prompts is the right one of other samples, so that the model knows its words.
    """

    def encode_prompt(self, mask: tuple[bool, ...]) -> list[int]:
        first_alone = (True, *[False] * (len(mask) - 1))
        return super().encode_prompt(first_alone if all(mask) else (True,) * len(mask))


def with_wrong_prompt(processor: LimssrProcessor) -> WrongPromptProcessor:
    """
    Copy a processor as one that writes wrong prompts.

    Raises:
        ValueError: its prompts say nothing about what is available, so that none can be wrong.
    """
    masks = all_subsets(len(processor.modality_sizes))
    if len({tuple(processor.encode_prompt(mask)) for mask in masks}) == 1:
        raise ValueError("the prompt of this model is the same for every mask, so that none is wrong")
    return WrongPromptProcessor(*(getattr(processor, name) for name in inspect.signature(LimssrProcessor).parameters))
