"""All masks of the modalities: their time against the tokens that must be computed for them."""

from pathlib import Path

import numpy as np

from ..data.masks import all_subsets
from ..prediction.predictor import predict, predict_masks
from .prepared_data import make_dataset
from .timing import take_turns
from .tokens import positions_read
from .workload import MODALITIES, Settings, build_model, build_processor


def measure_subsets(folder: Path, settings: Settings) -> dict:
    """Seconds and tokens of scoring all masks of each sample, and of the complete samples alone; short placeholders,
    the prefix shared in both."""
    model = build_model(folder, settings.device)
    processor = build_processor(folder, model.config, missing_length=1)
    dataset = make_dataset(settings.subset_samples, settings.clips)
    everybody = np.ones(len(dataset), dtype=bool)
    members = [(model, processor)]
    wanted = dict.fromkeys(all_subsets(len(MODALITIES)), everybody)
    calls = {
        "complete": lambda: predict(model, processor, dataset, settings.batch_size),
        "subsets": lambda: predict_masks(members, dataset, wanted, list(MODALITIES), settings.batch_size),
    }
    tokens = {}
    for name, call in calls.items():
        with positions_read(model) as counted:
            call()
        tokens[name] = sum(counted)
    rounds = take_turns(calls, settings.repeats, settings.device)
    time_ratio, token_ratio = rounds.ratio("subsets", "complete"), tokens["subsets"] / tokens["complete"]
    return {
        "ratio_over_tokens": time_ratio.median / token_ratio,
        "time_ratio": time_ratio.to_dict(),
        "token_ratio": token_ratio,
        "seconds": rounds.times(),
        "tokens": tokens,
    }
