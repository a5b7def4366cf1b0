"""Parsers of checkpoints, their calibration, recipes and training state, and of published checkpoints."""

import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ...configuration.calibration_limssr import (
    RESIDUAL_LEVELS,
    SCORE_QUANTILES,
    check_calibration,
    find_residual,
    training_width,
)
from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr import LimssrForScoreRegression
from ...modeling_limssr.convert_limssr_original_to_hf import read_prompt, read_state_dict, rename_keys
from ...modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE, NeighbourIndex
from ...processing.processing_limssr import LimssrProcessor
from ...processing.recipes_limssr import RECIPES, Recipe
from ..fitting.checkpoints import load_optimizer, load_random_state, random_state, save_optimizer
from ..fitting.model import make_byte_tokenizer
from ..utils.checkpoints import MANIFEST_FILE, read_manifest, read_trainer_state
from ..utils.errors import reading
from ..utils.files import OPTIMIZER_FILE, RANDOM_FILES, SCHEDULE_FILE, read_json
from .checking import Target, require_finite

MODALITIES = {"video": 3, "audio": 2}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PROCESSOR, TOKENIZER = "processor_config.json", "tokenizer.json"
RESIDUALS = [0.5 + level / 10 for level in range(RESIDUAL_LEVELS - 9)] + [None] * 9
CALIBRATION = {
    "split": "validation",
    "masks": {mask: {"score": {"samples": 90, "residuals": RESIDUALS}} for mask in ("video+audio", "video")},
    "training_scores": {"score": {"mean": 50.0, "quantiles": [float(value) for value in range(SCORE_QUANTILES)]}},
}


@cache
def _checkpoint() -> dict[str, bytes]:
    """Name -> content of the files of a tiny checkpoint, without the code beside it."""
    text_config = {"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    text_config |= {"num_key_value_heads": 1, "head_dim": 2, "intermediate_size": 4, "vocab_size": 257}
    config = LimssrConfig(
        text_config=text_config, modalities=MODALITIES, language_model_training="full", calibration=CALIBRATION
    )
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        LimssrForScoreRegression(config).save_pretrained(folder)
        LimssrProcessor.from_config(config, make_byte_tokenizer()).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix != ".py"}


def write_checkpoint(folder: Path) -> None:
    """Write a tiny checkpoint of random weights."""
    for name, content in _checkpoint().items():
        (folder / name).write_bytes(content)


def _in_checkpoint(file: str, read) -> Target:
    return Target(file, lambda: [_checkpoint()[file]], read, surround=write_checkpoint)


def _load_config(path: Path) -> dict[str, Any]:
    with reading(path.parent):
        return LimssrConfig.from_pretrained(path.parent).to_dict()


def _load_model(path: Path) -> list[str]:
    with reading(path.parent):
        return list(LimssrForScoreRegression.from_pretrained(path.parent).state_dict())


def _load_processor(path: Path) -> dict[str, Any]:
    with reading(path.parent):
        return LimssrProcessor.from_pretrained(path.parent).to_dict()


def _read_calibration(path: Path) -> list[float]:
    """What the table says of levels; numbers that are too few samples for a level are left out."""
    table = read_json(path)
    with reading(path):
        check_calibration(table, list(MODALITIES), ["score"])
    scores = [scores["score"]["residuals"] for scores in table["masks"].values()]
    found = [find_residual([0 if each is None else each for each in residuals], 0.9) for residuals in scores]
    found += [training_width(table["training_scores"]["score"]["quantiles"], level) for level in (0.5, 0.99)]
    return require_finite(found)


def _neighbours_seeds() -> list[bytes]:
    rows = {"video+audio": torch.tensor([0, 1, 2]), "video": torch.tensor([2, 0])}
    states = {mask: torch.arange(2.0 * len(found)).reshape(-1, 2) for mask, found in rows.items()}
    index = NeighbourIndex(["a", "b", "c"], torch.ones(3, 1, dtype=torch.float64), rows, states, "0" * 64)
    with TemporaryDirectory() as folder:
        index.save(folder)
        return [Path(folder, NEIGHBOURS_FILE).read_bytes()]


def _compare_neighbours(path: Path) -> list[list[float]]:
    index = NeighbourIndex.load(path)
    found = [index.nearest(torch.ones(states.shape[1]), mask) for mask, states in index.states.items()]
    return require_finite([[cosine, *scores] for nearest in found for _, scores, cosine in nearest])


def _state_seeds() -> list[bytes]:
    state = TrainerState(global_step=10, max_steps=20, num_train_epochs=2, epoch=1.0, best_global_step=5)
    state.log_history, state.total_flos = [{"step": 10, "loss": 0.5, "epoch": 1.0}], 3.0
    return [json.dumps(vars(state)).encode()]


def _manifest_seeds() -> list[bytes]:
    file = {"size": 3, "sha256": "0" * 64}
    return [json.dumps({"files": {"a/b.json": file, "c": file}, "best": "checkpoint-5"}).encode()]


def _load_manifest(path: Path) -> tuple[dict[Path, tuple[int, str]], Path | None]:
    manifest = json.loads(path.read_bytes())
    files = {path.parent / name: (about["size"], about["sha256"]) for name, about in manifest["files"].items()}
    return files, manifest["best"] and path.parent.parent / manifest["best"]


def _make_optimizer():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    optimizer.step()
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 0.5])


def _optimizer_files(folder: Path) -> None:
    save_optimizer(folder, *_make_optimizer(), step=1)


def _of_optimizer(file: str) -> Target:
    def seeds() -> list[bytes]:
        with TemporaryDirectory() as folder:
            _optimizer_files(Path(folder))
            return [Path(folder, file).read_bytes()]

    def load(path: Path) -> None:
        load_optimizer(path.parent, *_make_optimizer())

    return Target(file, seeds, load, surround=_optimizer_files)


def _published_seeds() -> list[bytes]:
    names = ("language_model.model.embed_tokens.weight", "feature_to_llm.v.0.weight", "cond_gate.0.bias", "w1")
    tensors = {name: torch.ones(2, 3) for name in names}
    found = []
    for is_zip in (True, False):
        stream = io.BytesIO()
        torch.save(tensors, stream, _use_new_zipfile_serialization=is_zip)
        found.append(stream.getvalue())
    return found


def _read_published(path: Path) -> dict[str, torch.Tensor]:
    tensors = read_state_dict(str(path))
    with reading(path):
        return rename_keys(tensors)


PROMPT = {
    "template": "Rate it. Given: {available}. Missing: {missing}.",
    "modality_names": {"video": "the video"},
    "separator": ", ",
    "none": "-",
}
RECIPE_SEEDS = [json.dumps(RECIPES[name]).encode() for name in ("classic", "fs1000")]


# Name -> file, seeds, parser and, where there is one, an independent reader.
CHECKPOINT_TARGETS = {
    "config": _in_checkpoint(CONFIG, _load_config),
    "weights": _in_checkpoint(WEIGHTS, _load_model),
    "processor": _in_checkpoint(PROCESSOR, _load_processor),
    "tokenizer": _in_checkpoint(TOKENIZER, _load_processor),
    "calibration": Target("table.json", lambda: [json.dumps(CALIBRATION).encode()], _read_calibration),
    "neighbours": Target(NEIGHBOURS_FILE, _neighbours_seeds, _compare_neighbours),
    "recipe": Target(
        "recipe.json",
        lambda: RECIPE_SEEDS,
        lambda path: Recipe.load(path).to_dict(),
        lambda path: Recipe.load(Recipe.load(path).to_dict()).to_dict(),
    ),
    "trainer_state": Target(
        TRAINER_STATE_NAME,
        _state_seeds,
        lambda path: read_trainer_state(path.parent),
        lambda path: json.loads(path.read_bytes()),
    ),
    "manifest": Target(MANIFEST_FILE, _manifest_seeds, lambda path: read_manifest(path.parent), _load_manifest),
    "schedule": _of_optimizer(SCHEDULE_FILE),
    "optimizer": _of_optimizer(OPTIMIZER_FILE),
    "random_state": Target(
        RANDOM_FILES.replace("*", ""),
        lambda: [json.dumps(random_state()).encode()],
        load_random_state,
    ),
    "published": Target("input.pkl", _published_seeds, _read_published),
    "prompt": Target("prompt.json", lambda: [json.dumps(PROMPT).encode()], lambda path: read_prompt(str(path))),
}
