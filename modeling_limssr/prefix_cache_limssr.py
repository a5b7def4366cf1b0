"""Prompt prefix cache: the tokens shared by every sample of a batch are encoded once."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

# A second pass reads all weights once more; it pays from about this many saved tokens.
MINIMUM_SAVED_TOKENS = 64
# What follows a prefix needs a mask, with which attention also computes what a causal kernel skips in long sequences.
MINIMUM_SHARE = 1 / 16
MAXIMUM_KEPT = 8


class PrefixCache:
    """
    Calls the language model; the leading tokens that all samples of a batch share are encoded once for all of them.

    A decoder attends backwards only, so these tokens have the same keys and values in every sample. Each call computes
    them anew, with gradients in training. Only inside [`PrefixCache.keep`] do they stay from call to call.
    """

    def __init__(self):
        self._kept: dict[tuple, tuple[Cache, torch.Tensor]] = {}
        self._keepers = 0

    def __reduce__(self):
        return PrefixCache, ()  # copies and pickles keep nothing

    @contextmanager
    def keep(self) -> Iterator[None]:
        """
        Keep prefixes from call to call, in eval mode and without gradients; drop them at the end.

        Whoever enters owns the model until the end: weights, adapters, hooks and precision must not change meanwhile.
        """
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            if self._keepers == 0:
                self._kept.clear()

    def __call__(
        self,
        language_model: PreTrainedModel,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        word_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> ModelOutput:
        """
        Args:
            language_model (`PreTrainedModel`): language model, without its vocabulary head.
            inputs_embeds (`(batch, length, hidden)`): embeddings of the sequences.
            attention_mask (`(batch, length)`, *optional*): 0 for padding.
            word_ids (`(batch, length)` int64, *optional*): vocabulary ids, -1 where an added token stands, which ends
                the prefix: the same id may stand for different clips. Without them nothing is shared.
            **kwargs: further arguments of the language model. With any of them nothing is shared.

        Returns:
            Output of the language model; with a shared prefix `last_hidden_state` `(batch, length, hidden)` alone.
        """
        length = 0
        if word_ids is not None and not kwargs and not torch.compiler.is_compiling():
            length = self._prefix_length(language_model, word_ids, attention_mask)
        if length == 0:
            kwargs |= {"use_cache": False, "return_dict": True}  # nothing is generated
            return language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        cache, prefix = self._encode_prefix(language_model, word_ids[0, :length], inputs_embeds[:1, :length])
        rest = language_model(
            inputs_embeds=inputs_embeds[:, length:],
            attention_mask=_mask_after_prefix(language_model, attention_mask, inputs_embeds, length),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        ).last_hidden_state  # (batch, length - prefix, hidden)
        return BaseModelOutput(torch.cat([prefix.expand(len(rest), -1, -1).to(rest.device), rest], dim=1))

    def _prefix_length(self, language_model, word_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> int:
        """Number of leading tokens to encode once; 0 where that gains nothing or is not possible."""
        same = (word_ids == word_ids[:1]).all(0) & (word_ids[0] >= 0)  # (length,)
        if attention_mask is not None:
            same &= attention_mask.bool().all(0)
        length = int(same.long().cumprod(0).sum())
        readers = len(word_ids) if self._keeps(language_model) else len(word_ids) - 1
        pays = length * readers >= MINIMUM_SAVED_TOKENS and length >= MINIMUM_SHARE * word_ids.shape[1]
        return length if pays and _can_share(language_model, length) else 0

    def _encode_prefix(self, language_model, ids: torch.Tensor, embeds: torch.Tensor) -> tuple[Cache, torch.Tensor]:
        """Keys and values of every layer, and the last hidden state `(1, prefix, hidden)`."""
        if not self._keeps(language_model):
            return _encode(language_model, embeds)
        key = (embeds.device, *ids.tolist())
        if key not in self._kept:
            if len(self._kept) == MAXIMUM_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[key] = _encode(language_model, embeds)
        return self._kept[key]

    def _keeps(self, language_model) -> bool:
        return self._keepers > 0 and not language_model.training and not torch.is_grad_enabled()


class PrefixLayer(DynamicLayer):
    """Puts the keys and values `(1, heads, prefix, head size)` of a prefix before those of every sample."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Unlike its parent it stores nothing: the next batch needs the prefix alone."""
        return _prepend(self.keys, key_states), _prepend(self.values, value_states)


def _prepend(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([prefix.expand(len(states), -1, -1, -1), states], dim=-2)  # (batch, heads, length, head size)


def _encode(language_model, embeds: torch.Tensor) -> tuple[Cache, torch.Tensor]:
    cache = DynamicCache(config=language_model.config)
    outputs = language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, return_dict=True)
    layers = [PrefixLayer(layer.keys, layer.values) for layer in cache.layers]
    return Cache(layers=layers), outputs.last_hidden_state


def _can_share(language_model, length: int) -> bool:
    """Whether keys and values are all that the layers need of a prefix of this length."""
    config = language_model.config
    if getattr(config, "output_hidden_states", False) or getattr(config, "output_attentions", False):
        return False  # they would lack the prefix
    if language_model.training and language_model.is_activation_checkpointing:
        return False  # checkpointed layers drop the cache in silence
    if _is_sharded(language_model):
        return False  # every process must make the same passes
    if config.is_encoder_decoder or getattr(config, "use_bidirectional_attention", False):
        return False
    if not all(getattr(module, "is_causal", True) for module in language_model.modules()):
        return False
    if "past_key_values" not in inspect.signature(language_model.forward).parameters:
        return False  # state-space models
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return False  # their rotation depends on the length of the whole sequence
    return all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and length < layer.sliding_window)
        for layer in DynamicCache(config=config).layers
    )


def _is_sharded(language_model) -> bool:
    """Whether FSDP spreads its weights over processes."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in language_model.modules())


def _mask_after_prefix(
    language_model, attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor, prefix: int
) -> torch.Tensor | None:
    """
    Additive mask of `sdpa` attention, `(batch or 1, 1, length - prefix, length)`, made once for all layers.

    From a two-dimensional mask each layer would make its own, which costs some per cent of the pass. That one stays
    with other kinds of attention, and where the language model reads windows or positions off it.
    """
    config = language_model.config
    reads_all = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    rotates = getattr(config, "rope_parameters", None) and not getattr(config, "alibi", False)
    if config._attn_implementation != "sdpa" or not (reads_all and rotates):
        return attention_mask
    length = inputs_embeds.shape[1]
    allowed = torch.ones(length, length, dtype=torch.bool, device=inputs_embeds.device).tril()[None, None, prefix:]
    if attention_mask is not None and not attention_mask.all():
        allowed = allowed & attention_mask[:, None, None, :].bool()
    return inputs_embeds.new_zeros(allowed.shape).masked_fill(~allowed, float("-inf"))
