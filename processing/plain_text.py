"""Texts of one sample: checked at the door, turned into the words' own tokens, cut at a limit that is spoken of."""

import json

from transformers.utils import logging

logger = logging.get_logger(__name__)


class PlainTextTokenizer:
    """
    Words -> ids of the tokenizer's ordinary vocabulary.

    A text is data: a string in it that looks like a special or added token (`<|im_end|>`, `<|video_end|>`, ...) is
    spelt out in ordinary tokens and means nothing.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the backbone, with the added tokens.
        max_tokens (`int`): longer texts keep their first tokens.

    Raises:
        ValueError: the tokenizer is none of the `tokenizers` library.
    """

    def __init__(self, tokenizer, max_tokens: int):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ValueError(
                f"a modality of text needs a tokenizer of the library `tokenizers`, got {type(tokenizer).__name__}."
            )
        without_added = json.loads(backend.to_str()) | {"added_tokens": [], "truncation": None, "padding": None}
        self.encoder = type(backend).from_str(json.dumps(without_added))
        self.max_tokens = max_tokens
        self.texts = self.cut_texts = self.cut_tokens = 0

    def encode(self, text: str, where: str) -> list[int]:
        """
        Args:
            text (`str`): the words of one modality of one sample.
            where (`str`): sample and modality, for the error message.

        Raises:
            TypeError: not a string.
            ValueError: a text without words.
        """
        if not isinstance(text, str):
            raise TypeError(f"{where}: expected a text, got {type(text).__name__} {str(text)[:60]!r}.")
        if not text.strip():
            raise ValueError(f"{where}: the text is empty. Pass None for a modality that is missing.")
        ids = self.tokenize(text)
        self._count(len(ids))
        return ids[: self.max_tokens]

    def tokenize(self, text: str) -> list[int]:
        """All its ids, neither checked nor cut."""
        return self.encoder.encode(text, add_special_tokens=False).ids

    def _count(self, length: int) -> None:
        """Warns at the first text that is cut, then each time their number has doubled: not once for each."""
        self.texts += 1
        if length <= self.max_tokens:
            return
        self.cut_texts += 1
        self.cut_tokens += length - self.max_tokens
        if self.cut_texts & (self.cut_texts - 1) == 0:
            logger.warning(
                "%d of %d texts so far had more than max_text_tokens=%d tokens and were cut, by %d tokens in all.",
                self.cut_texts,
                self.texts,
                self.max_tokens,
                self.cut_tokens,
            )
