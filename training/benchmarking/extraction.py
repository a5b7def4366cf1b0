"""From recordings to clips and to scores: pictures a second, memory over length, seconds to a score."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import partial
from itertools import repeat
from pathlib import Path
from time import thread_time

import numpy as np
import torch
from transformers import LlamaConfig

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ...processing.pipeline_limssr import ActionQualityAssessmentPipeline
from ...processing.processing_limssr import LimssrProcessor
from ...processing.recipes_limssr import ClipExtractor, Recipe
from ...processing.recordings_limssr import import_media
from ..fitting.model import make_byte_tokenizer
from ..utils.markdown import markdown_table
from .measure import device_name, ratio, read_peak, reset_peak, spread, take_turns
from .report import at_least, at_most
from .workload import Settings

RATE, SOUND_RATE = 25, 48_000
BITS = 0.1  # of a film, a pixel
DIVE_SECONDS = 3
BOUNDED = "classic"  # recipe of which speed is required; the others take as long as their encoders


def measure_extraction(settings: Settings, work: Path) -> dict:
    """Measure a recipe on films made for the purpose, in CPU time of one thread, whatever else the machine does.

    Time of the whole process would count the threads of linear algebra too, which wait for work by spinning.

    Returns:
        JSON values: `speed`, by height of the picture the pictures a second of bare decoding, `decode`, and of the
        recipe, `extract`, on one core, and the recipe's share; `peak_bytes`, by seconds of a film; `to_score`, seconds
        from file to score by seconds of a film.

    Raises:
        ValueError: there is no such recipe.
        ModuleNotFoundError: what the recipe needs is not installed.
    """
    torch.set_num_threads(1)
    results = {**vars(settings), "device_name": device_name(settings.device), "speed": {}}
    extractor = ClipExtractor(settings.recipe)
    seen = [name for name, modality in extractor.recipe.modalities.items() if modality.stream == "video"]
    for height in settings.film_heights if seen else ():
        film = write_film(work / f"{height}.mp4", settings.film_seconds, height)
        calls: dict[str, Callable] = {
            "decode": partial(decode, film),
            "extract": partial(extractor.extract, film, seen),
        }
        seconds = take_turns(calls, settings, thread_time)
        rates = {name: spread([RATE * settings.film_seconds / each for each in seconds[name]]) for name in calls}
        results["speed"][height] = {**rates, "share": ratio(seconds, "decode", "extract")}
    films = [write_film(work / f"{each}.mp4", each, 360) for each in (DIVE_SECONDS, settings.programme_seconds)]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peaks = pool.map(measure_peak, repeat(settings.recipe), repeat(films[0]), films)
        results["peak_bytes"] = {film.stem: peak for film, peak in zip(films, peaks, strict=True)}
    scorer = build_scorer(settings)
    seconds = take_turns({film.stem: partial(scorer, film) for film in films}, settings, thread_time)
    results["to_score"] = {name: spread(values) for name, values in seconds.items()}
    return results


def write_film(path: Path, seconds: int, height: int) -> Path:
    """A film, 16:9, H.264 and AAC: a camera that pans, its noise, and a moving square.

    H.264 takes 0.1 bits a pixel, as films of phones and of the web do; one that hardly changes decodes faster.
    """
    av, random = import_media("av"), np.random.default_rng(0)
    width = height * 16 // 9 // 2 * 2
    pan = 2 * seconds * RATE  # pixels
    sizes = (16, 4)  # of the squares of the ground
    grounds = (random.integers(0, 100, (height // each + 1, (width + pan) // each + 1)) for each in sizes)
    squares = (np.kron(ground, np.ones((size, size))) for ground, size in zip(grounds, sizes, strict=True))
    ground = sum(square[:height, : width + pan] for square in squares)
    noise = random.normal(0, 3, (8, height, width))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        video.bit_rate = round(BITS * width * height * RATE)
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="mono")
        for number in range(seconds * RATE):
            picture = ground[:, 2 * number : 2 * number + width] + noise[number % 8]
            left = number * 4 % (width - height // 4)
            picture[height // 3 : height // 2, left : left + height // 4] = 250
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="gray")
            container.mux(video.encode(frame))
            sound = random.normal(scale=0.1, size=(1, SOUND_RATE // RATE)).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = SOUND_RATE, number * SOUND_RATE // RATE
            heard.time_base = Fraction(1, SOUND_RATE)
            container.mux(audio.encode(heard))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return path


def decode(film: Path) -> int:
    """Decode every picture with one thread and do nothing with it; returns their number."""
    with import_media("av").open(str(film)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def measure_peak(recipe: str, warm_up: Path, film: Path) -> int:
    """Peak memory in bytes of extracting a film, beyond what the process has after another one."""
    extractor = ClipExtractor(recipe)
    extractor.extract(warm_up)
    reset_peak("cpu")
    extractor.extract(film)
    return read_peak("cpu")


def build_scorer(settings: Settings) -> ActionQualityAssessmentPipeline:
    """A pipeline around the benchmark's language model, which keeps 128 clips."""
    language_model = LlamaConfig(**settings.language_model, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    sizes = Recipe.load(settings.recipe).feature_sizes
    config = LimssrConfig(text_config=language_model, modalities=sizes, score_ranges=[100])
    processor = LimssrProcessor.from_config(config, make_byte_tokenizer(), max_clips=128, recipe=settings.recipe)
    model = LimssrForScoreRegression(config).eval()
    return ActionQualityAssessmentPipeline(model=model, processor=processor, device=settings.device)


def extraction_table(results: dict) -> str:
    """Markdown: what was measured and, of `classic`, the bound and whether it is met."""
    recipe, rows = results["recipe"], []
    for height, speed in results["speed"].items():
        rates = [f"{speed[name]['median']:.0f}" for name in ("extract", "decode")]
        title = f"{recipe} over bare decoding, {height} lines ({' / '.join(rates)} a second)"
        rows.append(at_least(title, speed["share"]["median"], 0.5, "{:.2f}"))
        if height <= 224:
            rows.append(at_least(f"pictures a second, {height} lines", speed["extract"]["median"], 100, "{:.0f}"))
    (short, of_short), (long, of_long) = results["peak_bytes"].items()
    rows.append(at_most(f"memory, {long} s over {short} s, MiB", (of_long - of_short) / 2**20, 16, "{:.1f}"))
    to_score = {length: spread["median"] for length, spread in results["to_score"].items()}
    rows.append(at_most(f"seconds from {short} s of film to its score", to_score[short], 2))
    rows.append([f"seconds from {long} s of film to its score", f"{to_score[long]:.3f}", "", ""])
    if recipe != BOUNDED:
        return markdown_table([["", "measured"], *(row[:2] for row in rows)])
    return markdown_table([["", "measured", "required", "met"], *rows])
