"""What is benchmarked: a language model, four ways to run it, and random performances."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional
from transformers import LlamaConfig, PreTrainedModel

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.adapters_limssr import add_lora
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...modeling_limssr.outputs_limssr import LimssrScoreOutput
from ...processing.processing_limssr import LimssrProcessor
from ..data.aqa_data import build_split, feature_column
from ..fitting.model import make_byte_tokenizer

Batch = dict[str, torch.Tensor]
MODALITIES = {"video": 1024, "audio": 768, "flow": 1024}
LEARNING_RATE = 1e-9  # optimizer steps cost time, but every round computes the same
SMOLLM2_135M = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
}
# 85 bytes and as many tokens, like the published prompt: a complete sample of 3 x 95 clips has 380 tokens.
PROMPT = "Judge how well a dance is executed, by technique. Has {available}; lacks {missing}."


@dataclass(frozen=True)
class Settings:
    """Size of the benchmark.

    Attributes:
        language_model: shape of the language model, fields of `LlamaConfig`; its weights are random.
        device: `cpu`, `cuda`, ...
        batch_size: samples in a batch.
        clips: clips of each modality of a sample.
        repeats: rounds of each comparison; every contender runs once a round.
        clip_counts: points of the curve of seconds over clips.
        prepared_samples: performances on disk, as prepared data and as pickled tables.
        trainer_steps: optimizer steps of the trainer.
        subset_samples: samples scored under all masks.
        streamed_samples: samples of the stream whose memory is watched, 20 or more.
        film_heights: lines of the films that extraction is timed on.
        film_seconds: their length.
        programme_seconds: length of the longest film.
        recipe: recipe of the extraction.
    """

    language_model: dict[str, int] = field(default_factory=SMOLLM2_135M.copy)
    device: str = "cpu"
    batch_size: int = 8
    clips: int = 95
    repeats: int = 7
    clip_counts: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    prepared_samples: int = 500
    trainer_steps: int = 6
    subset_samples: int = 16
    streamed_samples: int = 100_000
    film_heights: tuple[int, ...] = (224, 360, 720, 1080)
    film_seconds: int = 10
    programme_seconds: int = 180
    recipe: str = "classic"

    @classmethod
    def quick(cls, **settings) -> "Settings":
        """Less than ten minutes on two cores."""
        few = {"batch_size": 2, "repeats": 3, "trainer_steps": 3, "subset_samples": 2, "streamed_samples": 5_000}
        few |= {"film_heights": (720,), "film_seconds": 4, "programme_seconds": 30}
        return cls(clip_counts=(16, 64, 256), **few, **settings)


def build_model(settings: Settings) -> LimssrForScoreRegression:
    """LIMSSR with LoRA around the language model, with the same random weights at every call, in eval mode."""
    torch.manual_seed(0)
    model = LimssrForScoreRegression(_make_config(settings))
    add_lora(model)
    return model.to(settings.device).eval()


def build_processor(settings: Settings, missing_length: int | str = 1) -> LimssrProcessor:
    """The processor of [`build_model`]'s model; it keeps up to 512 clips."""
    options = {"max_clips": 512, "missing_length": missing_length, "prompt": {"template": PROMPT}}
    return LimssrProcessor.from_config(_make_config(settings), make_byte_tokenizer(), **options)


def _make_config(settings: Settings) -> LimssrConfig:
    language_model = LlamaConfig(**settings.language_model, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    return LimssrConfig(text_config=language_model, modalities=MODALITIES, score_ranges=[100])


def draw_batch(processor: LimssrProcessor, settings: Settings, available: list[set[str]] | None = None) -> Batch:
    """Model inputs with labels, from random clips.

    `available` names the modalities of each sample, by default all.
    """
    generator = torch.Generator().manual_seed(0)
    available = available or [set(MODALITIES)] * settings.batch_size
    features = {
        name: [
            torch.randn(settings.clips, size, generator=generator) if name in names else None for names in available
        ]
        for name, size in MODALITIES.items()
    }
    batch = processor(features=features, labels=[50.0] * settings.batch_size)
    return {name: value.to(settings.device) for name, value in batch.items()}


def draw_available(missing_rate: float, samples: int) -> list[set[str]]:
    """Modalities of each sample, at least one, where each is missing at this rate."""
    random = np.random.default_rng(0)
    available = []
    while len(available) < samples:
        if names := {name for name in MODALITIES if random.random() >= missing_rate}:
            available.append(names)
    return available


def make_dataset(samples: int, clips: int) -> Dataset:
    """One split with random features of every modality."""
    random = np.random.default_rng(0)
    columns = {
        name: feature_column(random.standard_normal((samples * clips, size), dtype=np.float32), [clips] * samples)
        for name, size in MODALITIES.items()
    }
    ids = [f"performance_{number:06d}" for number in range(samples)]
    return build_split(ids, {"score": random.uniform(20, 80, size=samples)}, columns)


class Contender:
    """One way to run the language model over a batch.

    Args:
        name: a key of `CONTENDERS`.
        model: LIMSSR around the language model; `naive` makes its embedding table trainable.
    """

    def __init__(self, name: str, model: LimssrForScoreRegression):
        self.name, self.model = name, model
        if name == "naive":
            model.get_input_embeddings().requires_grad_(True)
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)

    def inference(self, batch: Batch) -> None:
        """Score a batch."""
        with torch.inference_mode():
            CONTENDERS[self.name](self.model, batch)

    def training(self, batch: Batch) -> None:
        """Run forward, backward and, except for the bare language model, an optimizer step."""
        CONTENDERS[self.name](self.model, batch).backward()
        if self.name != "bare":
            self.optimizer.step()
        self.optimizer.zero_grad()


def run_bare(model: LimssrForScoreRegression, batch: Batch) -> torch.Tensor:
    """The language model with its LoRA on the same tokens, without LIMSSR; a mean of squares stands for its loss."""
    language_model = model.model.language_model
    input_ids = batch["input_ids"] % language_model.config.vocab_size  # any token costs as much as an added one
    outputs = language_model(input_ids=input_ids, attention_mask=batch["attention_mask"], use_cache=False)
    return outputs.last_hidden_state.square().mean()


def run_limssr(model: LimssrForScoreRegression, batch: Batch, shares_prefix: bool) -> torch.Tensor:
    """LIMSSR; with `shares_prefix` the tokens that all samples begin with are encoded once."""
    model.model.shares_prefix = shares_prefix
    return model(**batch).loss


def score_naively(model: LimssrForScoreRegression, batch: Batch) -> tuple[LimssrScoreOutput, torch.Tensor]:
    """A first implementation: the same output, all layers' states and the logits (batch, length, vocabulary)."""
    model.model.shares_prefix = False
    outputs = model(**batch, output_hidden_states=True)
    return outputs, functional.linear(outputs.hidden_states[-1], model.get_input_embeddings().weight)


CONTENDERS: dict[str, Callable[[LimssrForScoreRegression, Batch], torch.Tensor]] = {
    "bare": run_bare,
    "limssr": partial(run_limssr, shares_prefix=False),
    "cached": partial(run_limssr, shares_prefix=True),
    "naive": lambda model, batch: score_naively(model, batch)[0].loss,
}


def forward_flops(language_model: PreTrainedModel, length: int) -> float:
    """Floating point operations of a forward pass over one sample: for each token 2 a weight, and 4 * hidden size *
    length in the attention of each layer, where positions behind a causal mask are computed too."""
    config = language_model.config
    table = language_model.get_input_embeddings().weight.numel()
    weights = sum(weight.numel() for name, weight in language_model.named_parameters() if "lora_" not in name) - table
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * length
    return length * (2 * weights + attention)
