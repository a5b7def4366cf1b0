"""The model and the processor that a training run begins with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ...configuration.configuration_limssr import LimssrConfig
from ...configuration.model_names_limssr import resolve_model
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.processing_limssr import LimssrProcessor
from ..arguments import ModelArguments
from ..data import AqaData
from ..utils.loading import loading_options


def build_model(arguments: ModelArguments, data: AqaData) -> tuple[LimssrForScoreRegression, LimssrProcessor]:
    """Build a model for the dataset's modalities and scores around a pretrained or a small random language model.

    Raises:
        ValueError: the attention or quantization is not installed, or does not go with the rest.
    """
    names = ("modalities", "score_names", "score_minimums", "score_ranges")
    settings = {name: getattr(data, name) for name in names} | arguments.config_fields()
    build = _around_random if arguments.language_model_config else _around_pretrained
    model, tokenizer = build(arguments, settings)
    if arguments.attention is not None:
        model.set_attn_implementation(arguments.attention)
    if len(tokenizer) > model.config.language_model_config.vocab_size:  # Gemma 3 has a token without an embedding
        model.config.place_added_tokens(len(tokenizer))
    text_limit = {} if arguments.max_text_tokens is None else {"max_text_tokens": arguments.max_text_tokens}
    processor = LimssrProcessor.from_config(
        model.config,
        tokenizer,
        max_clips=arguments.max_clips or data.max_clips,
        pad_to_max_clips=arguments.pad_to_max_clips,
        missing_length=arguments.missing_length,
        prompt=arguments.prompt,
        recipe=data.recipe,
        **text_limit,
    )
    return model, processor


def _around_random(arguments: ModelArguments, settings: dict):
    text_config, tokenizer = describe_random(arguments.language_model_config)
    config = LimssrConfig(text_config=text_config, **{**settings, "language_model_training": "full"})
    return LimssrForScoreRegression(config), tokenizer


def describe_random(language_model_config: Mapping[str, Any]) -> tuple[dict, PreTrainedTokenizerFast]:
    """Return the whole configuration of a small random language model, and its tokenizer, which reads bytes.

    Weights begin with variance 1 / hidden size unless `initializer_range` is given: the 0.02 of large language models
    leaves a narrow one so close to the identity that it learns too slowly (docs/experiments/why_ridge_won.md).
    """
    tokenizer = make_byte_tokenizer()
    defaults = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    defaults["pad_token_id"] = tokenizer.pad_token_id
    if "hidden_size" in language_model_config:
        defaults["initializer_range"] = language_model_config["hidden_size"] ** -0.5
    return {**defaults, **language_model_config}, tokenizer


def _around_pretrained(arguments: ModelArguments, settings: dict):
    options = loading_options(arguments.dtype, arguments.attention or "sdpa", arguments.quantization)
    model = LimssrForScoreRegression.from_language_model(
        arguments.language_model,
        num_hidden_layers=arguments.num_hidden_layers,
        gguf_file=arguments.gguf_file,
        revision=arguments.revision,
        dtype=arguments.dtype,
        quantization_config=options.get("quantization_config"),
        **settings,
    )
    location, gguf_file = locate_language_model(arguments.language_model, arguments.gguf_file)
    where = {"gguf_file": gguf_file, "revision": arguments.revision}
    where = {name: value for name, value in where.items() if value is not None}
    return model, AutoTokenizer.from_pretrained(location, **where)


def locate_language_model(language_model: str, gguf_file: str | None) -> tuple[str, str | None]:
    """Return the folder or Hub name, and the name of the GGUF file in it if there is one."""
    location = resolve_model(language_model)
    path = Path(location)
    return (str(path.parent), path.name) if path.is_file() else (location, gguf_file)


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Make a tokenizer for any text: one token for each byte, and one that ends a text, 257 in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>")  # noqa: S106


@torch.no_grad()
def start_at_mean(model: LimssrForScoreRegression, targets: np.ndarray) -> None:
    """Set the last bias of both scoring heads so that they begin at the mean of the given targets.

    Args:
        model: an untrained model.
        targets: `(samples, scores)` in judges' units, NaN = not given.
    """
    means = model.normalise_labels(torch.tensor(np.nanmean(targets, axis=0, keepdims=True)))[0]  # (scores,)
    for path in (getattr(model, name, None) for name in ("reasoning_path", "cross_modal_path")):
        if path is not None:
            path.score_head[-1].bias.copy_(means.clamp(0.01, 0.99).logit())
