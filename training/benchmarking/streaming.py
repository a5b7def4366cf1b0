"""Resident memory while a stream of performances is scored: it must not grow with their number."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from transformers import LlamaConfig

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.processing_limssr import LimssrProcessor
from ..fitting.model import make_byte_tokenizer
from ..prediction.files import FileSample
from ..prediction.predictor import predict_stream

SIZES = {"video": 16, "audio": 12}
FILES, POINTS = 50, 20


def measure_streaming(work: Path, samples: int) -> dict:
    """
    Scores a stream with a tiny model; files are read again and again under other ids.

    Args:
        work: an empty folder for the features.
        samples: of the stream.

    Returns:
        `resident_bytes` at `POINTS` places of the stream, and `growth_bytes`, from a tenth of it to its end.
    """
    tokenizer = make_byte_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 16}
    text_config = LlamaConfig(**shape, vocab_size=len(tokenizer), **ids)
    config = LimssrConfig(
        text_config=text_config, modalities=SIZES, use_prompt=False, language_model_training="frozen"
    )
    model = LimssrForScoreRegression(config).eval()
    processor = LimssrProcessor.from_config(config, tokenizer, missing_length=1)
    process, resident = psutil.Process(), []
    every = max(samples // POINTS, 1)
    for number, _ in enumerate(predict_stream([(model, processor)], _samples(work, samples), batch_size=64), start=1):
        if number % every == 0:
            resident.append(process.memory_info().rss)
    return {"samples": samples, "resident_bytes": resident, "growth_bytes": resident[-1] - resident[POINTS // 10]}


def _samples(work: Path, count: int) -> Iterator[FileSample]:
    random = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        clips = int(random.integers(1, 9))
        paths.append({name: work / f"{name}_{number}.npy" for name in SIZES})
        for name, path in paths[-1].items():
            np.save(path, random.normal(size=(clips, SIZES[name])).astype(np.float32))
    for number in range(count):
        yield FileSample(f"performance_{number:06d}", paths[number % FILES])
