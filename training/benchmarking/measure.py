"""Measurements: seconds in turns, peak memory in new processes, padding, data path, trainer and streaming."""

import multiprocessing
import os
import pickle
import platform
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
from datasets import Dataset, load_from_disk
from transformers import PrinterCallback

from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ..arguments import LimssrTrainingArguments
from ..data.masked_dataset import MaskedDataset, longest_first
from ..data.masks import all_subsets
from ..data.sources.pickles import load_restricted
from ..fitting.collator import length_groups
from ..fitting.trainer import LimssrTrainer
from ..prediction.files import FileSample
from ..prediction.predictor import predict, predict_masks, predict_stream
from .workload import (
    CONTENDERS,
    MODALITIES,
    Contender,
    Settings,
    build_model,
    build_processor,
    draw_available,
    draw_batch,
    forward_flops,
    make_dataset,
)

MISSING_RATE = 0.3
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 257}
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_all(settings: Settings) -> dict:
    """Run the whole benchmark and print the title of each part when it begins.

    Returns:
        JSON values: the settings, `device_name`, and the result of each function below by its name.
    """
    start = time.perf_counter()

    def begin(title: str) -> None:
        print(f"[{time.perf_counter() - start:4.0f} s] {title}", flush=True)

    results = {**asdict(settings), "device_name": device_name(settings.device)}
    for action in ("inference", "training"):
        begin(f"{action}: seconds, then peak memory")
        results[action] = measure_cost(action, settings) | {"peak_bytes": measure_peaks(action, settings)}
    begin("missing modalities")
    results["missing"] = measure_missing(settings)
    results["all_subsets"] = measure_subsets(settings)
    results["padding"] = measure_padding(settings)
    begin("data path, trainer and streaming")
    with tempfile.TemporaryDirectory() as work:
        results["data_path"] = measure_data_path(settings, Path(work))
        results["memory_growth"] = measure_memory_growth(settings, Path(work))
    begin("longer samples")
    results["curve"] = measure_curve(settings)
    begin("done")
    return results


def device_name(device: str) -> str:
    """Name of the accelerator, or threads and architecture of the processor."""
    processor = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}"
    return torch.cuda.get_device_name() if torch.device(device).type == "cuda" else processor


def take_turns(
    calls: Mapping[str, Callable[[], object]], settings: Settings, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call in each of `settings.repeats` rounds; the round before them is not timed.

    Every call takes one turn a round, so that what slows the machine slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(settings.repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            synchronize(settings.device)
            if turn > 0:
                seconds[name].append(clock() - start)
    return seconds


def synchronize(device: str | torch.device) -> None:
    """Wait for the accelerator, if the device is one."""
    if torch.device(device).type != "cpu":
        torch.accelerator.synchronize()


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest value."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(seconds: Mapping[str, list[float]], name: str, other: str) -> dict[str, float]:
    """Spread of the quotient of two contenders, round by round."""
    return spread([own / its for own, its in zip(seconds[name], seconds[other], strict=True)])


def count_tokens(model: LimssrForScoreRegression, call: Callable[[], object]) -> int:
    """Positions that run through the language model during a call, padding included."""
    counts: list[int] = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    call()
    hook.remove()
    return sum(counts)


def measure_cost(action: str, settings: Settings) -> dict:
    """Time all contenders on complete samples; `action` is `inference` or `training`.

    Returns:
        Spreads of `seconds` and `over_bare` by contender, `speedup_over_naive`, and `tokens` of `limssr` and `cached`.
    """
    model, naive = (build_model(settings).train(action == "training") for _ in range(2))
    batch = draw_batch(build_processor(settings), settings)
    # The naive contender trains more weights, so it gets a model of its own.
    contenders = {name: Contender(name, naive if name == "naive" else model) for name in CONTENDERS}
    calls = {name: partial(getattr(contender, action), batch) for name, contender in contenders.items()}
    with model.model.prefix_cache.keep():
        seconds = take_turns(calls, settings)
        tokens = {name: count_tokens(model, calls[name]) for name in ("limssr", "cached")}
    return {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "over_bare": {name: ratio(seconds, name, "bare") for name in CONTENDERS},
        "speedup_over_naive": ratio(seconds, "naive", "cached"),
        "tokens": tokens,
    }


def measure_peaks(action: str, settings: Settings) -> dict[str, int]:
    """Peak memory of each contender in bytes, each in a new process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imports once for all processes
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return {name: pool.submit(_measure_peak, name, action, settings).result() for name in CONTENDERS}


def _measure_peak(name: str, action: str, settings: Settings) -> int:
    model = build_model(settings).train(action == "training")
    contender, batch = Contender(name, model), draw_batch(build_processor(settings), settings)
    reset_peak(settings.device)
    with model.model.prefix_cache.keep():
        for _ in range(2):
            getattr(contender, action)(batch)
    return read_peak(settings.device)


def reset_peak(device: str) -> None:
    """Forget earlier peaks, such as the one while the model was built.

    Raises:
        OSError: the device is the CPU of a system other than Linux.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    if not RESET.exists():
        raise OSError(f"the peak memory of a process is read from {RESET.parent}, which only Linux has")
    RESET.write_text("5", encoding="ascii")  # resets the high water mark, see `man 5 proc`


def read_peak(device: str) -> int:
    """Most bytes held since [`reset_peak`]: accelerator memory, or all memory of this process, weights included."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    (line,) = (line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure_missing(settings: Settings) -> dict[str, float]:
    """Speed-ups by missing modalities.

    Returns:
        `one_placeholder` and `match`: inference without two of three modalities over complete samples, with one
        placeholder for each or as many as clips. `training_over_naive`: training with 30 % missing over the naive way,
        which has one mask a batch and a placeholder for each clip; LIMSSR has a mask for each sample, one placeholder
        for each missing modality, and two batches of about equal length.
    """
    model = build_model(settings)
    video_alone = [{"video"}] * settings.batch_size
    drawn = sorted(draw_available(MISSING_RATE, 2 * settings.batch_size), key=len)
    own_masks = [drawn[: settings.batch_size], drawn[settings.batch_size :]]
    one_mask = [[masks[-1]] * settings.batch_size for masks in own_masks]

    def calls(name: str, action: str, own_model, missing_length: int | str, masks: list) -> Callable[[], None]:
        processor, contender = build_processor(settings, missing_length), Contender(name, own_model)
        batches = [draw_batch(processor, settings, available) for available in masks]
        return lambda: deque(map(getattr(contender, action), batches), maxlen=0)

    inference = {
        "complete": calls("cached", "inference", model, 1, [None]),
        "one_placeholder": calls("cached", "inference", model, 1, [video_alone]),
        "match": calls("cached", "inference", model, "match", [video_alone]),
    }
    training = {
        "cached": calls("cached", "training", build_model(settings).train(), 1, own_masks),
        "naive": calls("naive", "training", build_model(settings).train(), "match", one_mask),
    }
    with model.model.prefix_cache.keep():
        seconds = take_turns(inference, settings)
    results = {name: ratio(seconds, "complete", name)["median"] for name in ("one_placeholder", "match")}
    return results | {"training_over_naive": ratio(take_turns(training, settings), "naive", "cached")["median"]}


def measure_subsets(settings: Settings) -> dict:
    """`time_ratio` and `token_ratio` of scoring all masks of each sample over the complete samples alone."""
    model, processor = build_model(settings), build_processor(settings)
    dataset = make_dataset(settings.subset_samples, settings.clips)
    wanted = dict.fromkeys(all_subsets(len(MODALITIES)), np.ones(len(dataset), dtype=bool))
    calls = {
        "complete": lambda: predict(model, processor, dataset, settings.batch_size),
        "subsets": lambda: predict_masks([(model, processor)], dataset, wanted, list(MODALITIES), settings.batch_size),
    }
    tokens = {name: count_tokens(model, call) for name, call in calls.items()}
    seconds = take_turns(calls, settings)
    return {
        "time_ratio": ratio(seconds, "subsets", "complete"),
        "token_ratio": tokens["subsets"] / tokens["complete"],
    }


def measure_padding(settings: Settings) -> dict[str, float]:
    """Share of padding in batches of 8: in `random` order, `grouped` as in training, and `sorted` as in scoring.

    1000 performances have 10 to 95 clips and lack each modality at a rate of 0.3.
    """
    processor, clips = build_processor(settings), np.random.default_rng(1).integers(10, 96, size=1000).tolist()
    available = draw_available(MISSING_RATE, len(clips))
    extents = [dict.fromkeys(names, count) for names, count in zip(available, clips, strict=True)]
    lengths = [processor.sequence_length(extent) for extent in extents]
    generator = torch.Generator().manual_seed(0)
    orders = {
        "random": torch.randperm(len(lengths), generator=generator),
        "grouped": list(length_groups(lengths, 8, generator)),
        "sorted": longest_first(lengths),
    }
    batches = {name: np.array(lengths)[np.array(order)].reshape(-1, 8) for name, order in orders.items()}
    return {name: float(1 - ordered.sum() / (8 * ordered.max(axis=1).sum())) for name, ordered in batches.items()}


def measure_data_path(settings: Settings, work: Path) -> dict[str, float]:
    """Train from data prepared in the folder `work`, and read the same samples from pickled tables.

    Returns:
        Samples a second: `consumed` by forward and backward, `loaded` in batches by the trainer's two workers, `read`
        from prepared data, `from_tables` when each sample reads a pickled table for every modality. `trainer_share`:
        time outside forward and backward (data, clipping, optimizer, schedule, logging) over the trainer's time.
    """
    dataset = make_dataset(settings.prepared_samples, settings.clips)
    dataset.save_to_disk(work / "prepared")
    rows = MaskedDataset(load_from_disk(work / "prepared"), list(MODALITIES), [(1,) * len(MODALITIES)] * len(dataset))
    trainer = make_trainer(settings, work, rows)
    trainer.train()
    steps = trainer.steps[1:]  # the first one waits for the workers to start
    inside = sum(end - begin for begin, end in steps[:-1])
    batches = iter(trainer.get_train_dataloader())
    next(batches)  # the workers have started
    order = np.random.default_rng(0).integers(len(rows), size=len(rows)).tolist()
    ids, tables = dataset["sample_id"][:3], write_tables(dataset, work)
    return {
        "trainer_share": 1 - inside / (steps[-1][0] - steps[0][0]),
        "consumed": settings.batch_size * (len(steps) - 1) / inside,
        "loaded": _per_second(batches, len(rows) - settings.batch_size),
        "read": _per_second((rows[number] for number in order), len(order)),
        "from_tables": _per_second((load_restricted(path)[key] for key in ids for path in tables), len(ids)),
    }


def _per_second(work: Iterable, samples: int) -> float:
    start = time.perf_counter()
    deque(work, maxlen=0)
    return samples / (time.perf_counter() - start)


def write_tables(dataset: Dataset, folder: Path) -> list[Path]:
    """Write one pickled dictionary id -> features for each modality."""
    paths = [folder / f"{name}.pkl" for name in MODALITIES]
    for name, path in zip(MODALITIES, paths, strict=True):
        rows = dataset.select_columns(["sample_id", name]).with_format("numpy")
        with path.open("wb") as stream:
            pickle.dump({row["sample_id"]: row[name] for row in rows}, stream, protocol=pickle.HIGHEST_PROTOCOL)
    return paths


class TimedTrainer(LimssrTrainer):
    """A trainer that notes when forward and backward of each step begin and end."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.steps: list[tuple[float, float]] = []

    def training_step(self, *args, **kwargs):
        begin = time.perf_counter()
        loss = super().training_step(*args, **kwargs)
        synchronize(self.args.device)
        self.steps.append((begin, time.perf_counter()))
        return loss


def make_trainer(settings: Settings, work: Path, rows: MaskedDataset) -> TimedTrainer:
    """A trainer with two data workers that saves and validates nothing."""
    arguments = LimssrTrainingArguments(
        output_dir=str(work / "trainer"),
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.trainer_steps + 2,
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=2,
        use_cpu=settings.device == "cpu",
    )
    model, processor = build_model(settings), build_processor(settings)
    trainer = TimedTrainer(model, arguments, train_dataset=rows, processing_class=processor)
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure_memory_growth(settings: Settings, work: Path) -> int:
    """Bytes by which resident memory grows from a tenth of a stream of files to its end, scored by a tiny model."""
    tiny = replace(settings, language_model=TINY, device="cpu")
    process, early = psutil.Process(), 0
    predictions = predict_stream([(build_model(tiny), build_processor(tiny))], _stream_files(settings, work), 64)
    for number, _ in enumerate(predictions, start=1):
        if number == settings.streamed_samples // 10:
            early = process.memory_info().rss
    return process.memory_info().rss - early


def _stream_files(settings: Settings, work: Path) -> Iterator[FileSample]:
    """Samples from 50 short performances, which come again and again under other ids."""
    random = np.random.default_rng(0)
    files = [{name: work / f"{name}_{number}.npy" for name in MODALITIES} for number in range(50)]
    for paths in files:
        clips = random.integers(1, 9)
        for name, path in paths.items():
            np.save(path, random.normal(size=(clips, MODALITIES[name])).astype(np.float32))
    for number in range(settings.streamed_samples):
        yield FileSample(f"performance_{number:06d}", files[number % len(files)])


def measure_curve(settings: Settings) -> list[dict]:
    """Seconds and floating point operations of inference on two samples, for each of `settings.clip_counts`."""
    model, processor, points = build_model(settings), build_processor(settings), []
    contender = Contender("cached", model)
    for clips in settings.clip_counts:
        batch = draw_batch(processor, replace(settings, batch_size=2, clips=clips))
        with model.model.prefix_cache.keep():
            seconds = take_turns({"cached": partial(contender.inference, batch)}, settings)["cached"]
        flops = 2 * forward_flops(model.model.language_model, batch["input_ids"].shape[1])
        points.append({"clips": clips, "seconds": spread(seconds), "flops": flops})
    return points
