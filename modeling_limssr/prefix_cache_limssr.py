"""The words that all samples of a batch begin with: the language model reads them once, for all of them."""

import inspect

import torch
import torch.distributed
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutput

# What a further pass through the language model costs, in tokens: it reads all weights once more.
MINIMUM_SAVED_TOKENS = 64
# What follows a prefix needs a mask, with which attention also computes what a causal kernel skips in long sequences.
MINIMUM_SHARE = 1 / 16
KEPT_PREFIXES = 8


class SharedPrefix:
    """
    Runs a language model over a batch whose samples begin with the same tokens, and over these tokens only once.

    Their keys and values are the same for every sample, because a decoder looks back only. In training they are
    computed anew for each batch and gradients flow through them; without gradients, in eval mode, they are kept for
    the next batch until a weight changes. Copies and pickles of it keep nothing.
    """

    def __init__(self):
        self._kept = {}
        self._weights = None

    def __reduce__(self):
        return SharedPrefix, ()

    def forget(self) -> None:
        """Drops what is kept. Changes of weights are noticed, but for those made in place through `.data`."""
        self._kept.clear()

    def run(
        self,
        language_model: PreTrainedModel,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor | None,
        added_ids: torch.Tensor,
    ) -> BaseModelOutput | None:
        """
        Args:
            language_model (`PreTrainedModel`): the language model.
            input_ids (`(batch, length)` int64): sequences.
            inputs_embeds (`(batch, length, hidden)`): their embeddings.
            attention_mask (`(batch, length)`, *optional*): 0 for padding.
            added_ids (`(tokens,)` int64): of the added tokens, which end what is shared: the same id may stand for
                different clips.

        Returns:
            `last_hidden_state` `(batch, length, hidden)`, as without sharing; `None` where nothing would be gained or
            the language model does not allow it.
        """
        if torch.compiler.is_compiling() or not _looks_back_only(language_model):
            return None
        length = _shared_length(input_ids, attention_mask, added_ids)
        readers = len(input_ids) if self._keeps(language_model) else len(input_ids) - 1
        worth_it = length * readers >= MINIMUM_SAVED_TOKENS and length >= MINIMUM_SHARE * input_ids.shape[1]
        if not worth_it or not _caches(language_model, length):
            return None
        cache, hidden = self._prefix(language_model, input_ids[0, :length], inputs_embeds[:1, :length])
        rest = language_model(
            inputs_embeds=inputs_embeds[:, length:],
            attention_mask=_behind_prefix(language_model, attention_mask, inputs_embeds, length),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        ).last_hidden_state  # (batch, length - prefix, hidden)
        return BaseModelOutput(torch.cat([hidden.expand(len(rest), -1, -1).to(rest.device), rest], dim=1))

    def _prefix(self, language_model, prefix_ids, prefix_embeds) -> tuple[Cache, torch.Tensor]:
        if not self._keeps(language_model):
            return _read_prefix(language_model, prefix_embeds)
        weights = _weight_versions(language_model)
        if weights != self._weights:
            self._kept.clear()
            self._weights = weights
        kind = prefix_embeds.device.type
        precision = (prefix_embeds.dtype, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        key = (*precision, language_model.config._attn_implementation, *prefix_ids.tolist())
        if key not in self._kept:
            while len(self._kept) >= KEPT_PREFIXES:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[key] = _read_prefix(language_model, prefix_embeds)
        return self._kept[key]

    @staticmethod
    def _keeps(language_model) -> bool:
        return not (language_model.training or torch.is_grad_enabled())


class PrefixLayer(DynamicLayer):
    """Puts the keys and values `(1, heads, prefix, head size)` of a prefix before those of every sample."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Unlike its parent it stores nothing: the next batch needs the prefix alone."""
        return _prepend(self.keys, key_states), _prepend(self.values, value_states)


def _shared_length(input_ids: torch.Tensor, attention_mask: torch.Tensor | None, added_ids: torch.Tensor) -> int:
    """How many leading positions hold the same word in every sample."""
    same = (input_ids == input_ids[:1]).all(0) & ~torch.isin(input_ids[0], added_ids)  # (length,)
    if attention_mask is not None:
        same &= attention_mask.bool().all(0)
    return int(same.long().cumprod(0).sum())


def _prepend(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([prefix.expand(len(states), -1, -1, -1), states], dim=-2)  # (batch, heads, length, head size)


def _behind_prefix(
    language_model, attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor, prefix: int
) -> torch.Tensor | None:
    """
    What `sdpa` adds to the scores of attention, `(batch or 1, 1, length - prefix, length)`: one for all layers, and
    for all samples where none is padded. Of the 2-dimensional mask each layer would make its own from truth values,
    which costs some per cent of the pass. That mask stays where attention is another, or where the language model
    reads more off it.
    """
    config = language_model.config
    looks_at_all = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    places_by_rotation = getattr(config, "rope_parameters", None) and not getattr(config, "alibi", False)
    if config._attn_implementation != "sdpa" or not (looks_at_all and places_by_rotation):
        return attention_mask
    length = inputs_embeds.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool, device=inputs_embeds.device).tril()[None, None, prefix:]
    if attention_mask is not None and not attention_mask.all():
        seen = seen & attention_mask[:, None, None, :].bool()
    return inputs_embeds.new_zeros(seen.shape).masked_fill(~seen, float("-inf"))


def _read_prefix(language_model, prefix_embeds: torch.Tensor) -> tuple[Cache, torch.Tensor]:
    """Keys and values of every layer, and the last hidden state `(1, prefix, hidden)`."""
    cache = DynamicCache(config=language_model.config)
    outputs = language_model(inputs_embeds=prefix_embeds, past_key_values=cache, use_cache=True, return_dict=True)
    layers = [PrefixLayer(layer.keys, layer.values) for layer in cache.layers]
    return Cache(layers=layers), outputs.last_hidden_state


def _looks_back_only(language_model) -> bool:
    """Whether every layer is a causal one that takes keys and values of earlier tokens and shows nothing else."""
    if language_model.training and (language_model.is_activation_checkpointing or _is_sharded(language_model)):
        return False  # checkpointed layers drop the cache in silence, sharded ones expect one pass a step
    config = language_model.config
    if getattr(config, "output_hidden_states", False) or getattr(config, "output_attentions", False):
        return False
    if getattr(config, "use_bidirectional_attention", False) or config.is_encoder_decoder:
        return False
    if "past_key_values" not in inspect.signature(language_model.forward).parameters:
        return False
    return all(getattr(module, "is_causal", True) for module in language_model.modules())


def _is_sharded(language_model) -> bool:
    """Whether its weights are spread over processes by FSDP."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in language_model.modules())


def _caches(language_model, length: int) -> bool:
    """Whether the keys and values of a prefix are all that its layers remember of it."""
    rope = getattr(language_model.config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {part.get("rope_type") for part in rope.values() if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        return False  # their rotation depends on how long the whole sequence is
    return all(
        type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and length < layer.sliding_window)
        for layer in DynamicCache(config=language_model.config).layers
    )


def _weight_versions(language_model) -> tuple:
    """Changes when a weight is replaced, moved, written to, frozen or thawed."""
    return tuple(
        (id(weight), weight.data_ptr(), 0 if weight.is_inference() else weight._version, weight.requires_grad)
        for weight in language_model.parameters()
    )
