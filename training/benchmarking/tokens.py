"""How many positions run through the language model."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression


@contextmanager
def positions_read(model: LimssrForScoreRegression) -> Iterator[list[int]]:
    """Collects the positions of each pass, padding included, summed over the samples of the batch."""
    counted: list[int] = []

    def count(module, args, kwargs) -> None:
        counted.append(kwargs["inputs_embeds"].shape[:2].numel())

    hook = model.model.language_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()
