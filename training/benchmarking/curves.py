"""What a batch costs as it gets longer, larger, wider, or loses more."""

from pathlib import Path

from .contestants import make_contestant
from .timing import take_turns
from .workload import (
    MODALITIES,
    Settings,
    build_model,
    build_processor,
    draw_features,
    draw_shown,
    forward_flops,
    make_batch,
)

NAMED = ("video", "audio", "flow", "pose", "skeleton")


def measure_curves(folder: Path, settings: Settings) -> dict[str, list[dict]]:
    """Points of inference with the shared prefix, each with its seconds and the operations of its forward pass:
    `clips`, `batch_size`, `modalities` and `missing_rate`."""
    model = build_model(folder, settings.device).eval()
    processor = build_processor(folder, model.config, missing_length=1)
    few, many = 2, settings.batch_size  # samples; what is varied is not their number

    def point(batch: dict, own_model=model) -> dict:
        runner = make_contestant("shared", own_model)
        rounds = take_turns({"infer": lambda: runner.infer(batch)}, settings.repeats, settings.device)
        samples, length = batch["input_ids"].shape
        flops = samples * forward_flops(own_model.model.language_model, length)
        return {"seconds": rounds.time("infer").to_dict(), "tokens": samples * length, "flops": flops}

    def batch(samples: int, clips: int, shown=None) -> dict:
        return make_batch(processor, draw_features(samples, clips, shown=shown), settings.device)

    curves = {
        "clips": [{"clips": clips, **point(batch(few, clips))} for clips in settings.clip_counts],
        "batch_size": [{"batch_size": size, **point(batch(size, settings.clips))} for size in settings.batch_sizes],
        "missing_rate": [
            {"missing_rate": rate, **point(batch(many, settings.clips, draw_shown(rate, many)))}
            for rate in settings.missing_rates
        ],
        "modalities": [],
    }
    for count in (1, 2, 3, 5):
        modalities = {name: MODALITIES.get(name, 256) for name in NAMED[:count]}
        wide = build_model(folder, settings.device, modalities).eval()
        its_processor = build_processor(folder, wide.config)
        its_batch = make_batch(its_processor, draw_features(few, settings.clips, modalities), settings.device)
        curves["modalities"].append({"modalities": count, **point(its_batch, wide)})
    return curves
