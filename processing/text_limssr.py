"""Encoder of texts: clips of what a pretrained text encoder or language model makes of their tokens."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from ..configuration.model_names_limssr import resolve_model
from .encoder_limssr import Encoder, batched

DEFAULT_TOKEN_LIMIT = 512  # of a model without a limit of its own


class HubText(Encoder):
    """
    Token states of a pretrained text encoder or language model; a clip is the mean of consecutive tokens.

    Special tokens are left out. A text beyond the model's limit is encoded in consecutive pieces. The last clip of a
    text may be of fewer tokens.

    Args:
        feature_size (`int`, *optional*): hidden size of the model times the number of layers; by default what it is.
        clip (`int`): tokens of a clip.
        repository (`str`): what `resolve_model` takes; a GGUF file is dequantised. Code that a repository brings is
            never run.
        revision (`str`, defaults to `"main"`): branch, tag or commit of a Hub repository.
        layers (`list[int]`, defaults to `[-1]`): layers whose outputs are joined: 0 is the input, words without
            context, -1 the last layer.
        batch_size (`int`, defaults to 32): pieces encoded at a time.

    Raises:
        FileNotFoundError, ModuleNotFoundError: there is no such model.
        ValueError: a clip is shorter than a token, a layer does not exist, or the model gives another feature size.
    """

    source = "text"
    consecutive = True

    def __init__(
        self,
        feature_size: int | None,
        clip: int,
        repository: str,
        revision: str = "main",
        layers: Sequence[int] = (-1,),
        batch_size: int = 32,
    ):
        if clip < 1:
            raise ValueError(f"a clip must have at least 1 token, got {clip}.")
        folder = resolve_model(repository)
        where = {"revision": revision, "trust_remote_code": False}
        if (path := Path(folder)).is_file():
            folder, where["gguf_file"] = path.parent, path.name
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **where).eval()
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.layers = list(layers)
        _check_layers(self.layers, model.config.num_hidden_layers)
        super().__init__(len(self.layers) * model.config.hidden_size)
        if feature_size not in (None, self.feature_size):
            raise ValueError(f"the encoder gives {self.feature_size} numbers a clip, the recipe says {feature_size}.")
        self.clip, self.batch_size = clip, batch_size
        if torch.accelerator.is_available():
            self.model.to(torch.accelerator.current_accelerator())

    def encode(self, windows: Iterable[str]) -> np.ndarray:
        clips = np.concatenate(self.encode_texts(list(windows)))
        if not len(clips):
            raise ValueError("the text has no words. Pass None for a modality that is missing.")
        return clips

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """
        Encode several texts, of about the same length best.

        Returns:
            Clips of each text, float32 `(clips, feature size)`; a blank text has none.
        """
        states = [[np.zeros((0, self.feature_size), np.float32)] for _ in texts]
        written = [number for number, text in enumerate(texts) if text.strip()]
        if written:
            pieces = self.tokenizer(
                [texts[number] for number in written],
                truncation=True,
                max_length=_token_limit(self.tokenizer, self.model.config),
                return_overflowing_tokens=True,
                return_special_tokens_mask=True,
            )
            owners = [written[number] for number in pieces.pop("overflow_to_sample_mapping")]
            for batch in batched(range(len(owners)), self.batch_size):
                some = {name: [values[number] for number in batch] for name, values in pieces.items()}
                for number, tokens in zip(batch, self._encode_pieces(some), strict=True):
                    states[owners[number]].append(tokens)
        return [_average_windows(np.concatenate(parts), self.clip) for parts in states]

    def _encode_pieces(self, pieces: dict[str, list[list[int]]]) -> list[np.ndarray]:
        """States of the ordinary tokens of each piece, float32 `(tokens, feature size)`."""
        padded = self.tokenizer.pad(pieces, return_tensors="pt")  # each (pieces, length)
        inputs = {name: padded[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        states = self.model(**inputs, output_hidden_states=True).hidden_states  # each (pieces, length, hidden size)
        joined = torch.cat([states[layer] for layer in self.layers], dim=-1).cpu()  # (pieces, length, feature size)
        ordinary = padded["attention_mask"].bool() & ~padded["special_tokens_mask"].bool()  # (pieces, length)
        return [tokens[kept].numpy() for tokens, kept in zip(joined, ordinary, strict=True)]


def _average_windows(tokens: np.ndarray, window: int) -> np.ndarray:
    """Average consecutive tokens, `(tokens, size)` -> `(clips, size)`."""
    starts = np.arange(0, len(tokens), window)
    if not len(starts):
        return tokens
    sizes = np.diff(np.append(starts, len(tokens)))
    return (np.add.reduceat(tokens, starts) / sizes[:, None]).astype(np.float32)  # (clips, size)


def _token_limit(tokenizer, config) -> int:
    """Number of tokens that fit in one pass, special tokens included."""
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)]
    given = [int(limit) for limit in limits if limit is not None and 0 < limit < VERY_LARGE_INTEGER]  # huge: no limit
    return min(given, default=DEFAULT_TOKEN_LIMIT)


def _check_layers(layers: list[int], count: int) -> None:
    if not layers or not all(isinstance(layer, int) and -count - 1 <= layer <= count for layer in layers):
        raise ValueError(
            f"layers of the text encoder are {layers}, expected one or more of 0, its input, to {count}, its last; "
            "negative ones count from the end"
        )
