"""Tiny real parts that the tests share: a random language model, its tokenizer, a model and a processor."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor

# Several threads may share a sum differently from call to call, and some tests compare bit by bit.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start

FEATURE_SIZES = {"video": 16, "audio": 12, "flow": 8}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository: real label files and golden numbers."""
    folder = Path(os.environ.get("LIMSSR_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"the reference data is not at {folder}; set LIMSSR_SHARED to its place")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with 257 tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|endoftext|>")


@pytest.fixture
def tiny_text_config() -> Qwen3Config:
    """A small random language model; like real ones its table has more rows than there are tokens."""
    return Qwen3Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        vocab_size=264,
        max_position_embeddings=2048,
    )


@pytest.fixture
def tiny_config(tiny_text_config) -> LimssrConfig:
    return LimssrConfig(text_config=tiny_text_config, modalities=dict(FEATURE_SIZES), score_ranges=[100.0])


@pytest.fixture
def tiny_model(tiny_config) -> LimssrForScoreRegression:
    """In eval mode, with trained-looking batch norm statistics."""
    torch.manual_seed(0)
    model = LimssrForScoreRegression(tiny_config).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def tiny_processor(tiny_config, tiny_tokenizer) -> LimssrProcessor:
    return LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_clips=12)


@pytest.fixture
def tiny_features():
    """Three samples of different masks and lengths, as the processor takes them."""
    generator = torch.Generator().manual_seed(1)

    def clips(count: int, name: str) -> torch.Tensor:
        return torch.randn(count, FEATURE_SIZES[name], generator=generator)

    return {
        "video": [clips(5, "video"), None, clips(9, "video")],
        "audio": [clips(5, "audio"), clips(7, "audio"), None],
        "flow": [clips(3, "flow"), None, None],
    }


@pytest.fixture
def tiny_text_model(tiny_text_config, tiny_tokenizer, tmp_path) -> Path:
    """The language model alone, saved with its tokenizer as a model folder."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(tiny_text_config).save_pretrained(tmp_path / "text_model")
    tiny_tokenizer.save_pretrained(tmp_path / "text_model")
    return tmp_path / "text_model"
