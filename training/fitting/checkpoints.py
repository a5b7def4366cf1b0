"""Optimizer, learning rate schedule and random numbers of a training that is to go on: safetensors and JSON."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from ...modeling_limssr.language_model_limssr import strip_peft_names

OPTIMIZER_FILE = "optimizer.safetensors"
SCHEDULE_FILE = "optimizer.json"
SCALER_FILE = "scaler.json"
RANDOM_FILES = "rng_state*.json"


class TrainingStateMixin:
    """
    Of a `Trainer`: keeps in its checkpoints the same as the stock one does, but as tensors and text, so that a
    checkpoint may be published. What FSDP and DeepSpeed save in their own ways stays theirs.
    """

    @property
    def _has_own_optimizer_files(self) -> bool:
        return not (self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._has_own_optimizer_files:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_optimizer(output_dir, self.optimizer, self.lr_scheduler)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (Path(checkpoint) / OPTIMIZER_FILE).is_file():
            load_optimizer(checkpoint, self.optimizer, self.lr_scheduler)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            _write_json(Path(output_dir) / SCALER_FILE, scaler.state_dict())

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (Path(checkpoint) / SCALER_FILE).is_file():
            self.accelerator.scaler.load_state_dict(_read_json(Path(checkpoint) / SCALER_FILE))
        else:
            super()._load_scaler(checkpoint)

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # another process may not have written there yet
        _write_json(Path(output_dir) / self._random_file, random_state())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (Path(checkpoint) / self._random_file).is_file():
            set_random_state(_read_json(Path(checkpoint) / self._random_file))
        else:
            super()._load_rng_state(checkpoint)

    @property
    def _random_file(self) -> str:
        """Each process has its own."""
        return RANDOM_FILES.replace("*", f"_{self.args.process_index}" if self.args.world_size > 1 else "")


def save_optimizer(folder: str | Path, optimizer: Optimizer, scheduler) -> None:
    """
    Writes `optimizer.safetensors`, the tensors of the optimizer's state as `{parameter index}.{name}` (of an optimizer
    of 8 bits, which nests some, `{parameter index}.{group}.{name}`), and `optimizer.json`: its parameter groups, what
    of its state is no tensor, and the schedule.
    """
    state = optimizer.state_dict()
    tensors, numbers = {}, {}
    for name, value in _flatten(state["state"]):
        (tensors if isinstance(value, torch.Tensor) else numbers)[name] = value
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / OPTIMIZER_FILE)
    about = {"param_groups": state["param_groups"], "state": numbers, "scheduler": scheduler.state_dict()}
    _write_json(Path(folder) / SCHEDULE_FILE, about)


def load_optimizer(folder: str | Path, optimizer: Optimizer, scheduler) -> None:
    """
    Raises:
        ValueError: the optimizer has other parameters than the saved one.
    """
    about, state = _read_json(Path(folder) / SCHEDULE_FILE), {}
    for key, value in {**about["state"], **load_file(Path(folder) / OPTIMIZER_FILE)}.items():
        index, *groups, name = key.split(".")
        values = state.setdefault(int(index), {})
        for group in groups:
            values = values.setdefault(group, {})
        # What was read is a view into the file.
        values[name] = value.clone() if isinstance(value, torch.Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": about["param_groups"]})
    scheduler.load_state_dict(about["scheduler"])


def _flatten(nested: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values with the keys on the way to them, joined by dots."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def random_state() -> dict:
    """Of Python, numpy, torch and every CUDA device, as lists of numbers."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict) -> None:
    """Back to what `random_state` found; CUDA devices that there are not are left out."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    for device, numbers in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(torch.tensor(numbers, dtype=torch.uint8), device)


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def default_form(config) -> str:
    """`adapter` where the language model is not in it and can be found again, else `full`."""
    return "full" if config.language_model_training == "full" or not config.language_model_source else "adapter"


def final_form(args, config) -> str:
    """Of the model at the end: what `save_form` says; else one that loads by its name alone where it is pushed."""
    if args.save_form is None and args.push_to_hub and not is_on_hub(config):
        return "full"
    return args.save_form or default_form(config)


def is_on_hub(config) -> bool:
    """Whether the language model is."""
    return "repository" in (config.language_model_source or {})


def check_form(args, model) -> None:
    """
    Raises:
        ValueError: the final model is to be an adapter, which cannot hold what will be trained, or a full one, which
            cannot hold what is quantised, or checkpoints are to be pushed that nobody could load.
    """
    config = model.config
    if final_form(args, config) == "full" and getattr(model.model.language_model, "is_quantized", False):
        raise ValueError(
            "The language model is quantised, and the final model would be a full checkpoint, which holds it in "
            "floating point: give `save_form` 'adapter'; `publish.py` makes a full one of it."
        )
    if args.save_form == "adapter" and default_form(config) == "full":
        raise ValueError(
            "`save_form` is 'adapter', which leaves the language model out, but it is trained as a whole or is a "
            "random one that nobody could find again: give 'full', or leave `save_form` out."
        )
    if args.push_to_hub and args.hub_strategy != "end" and default_form(config) == "adapter" and not is_on_hub(config):
        raise ValueError(
            "`hub_strategy` is 'every_save', but checkpoints are adapters of a language model that is not on the Hub, "
            "where nobody could load them: name it by its Hub name, or push only the final model ('end')."
        )


@torch.no_grad()
def load_trained_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """
    Loads a checkpoint of the trainer into the model it was made with, LoRA still apart.

    Args:
        model: a `LimssrForScoreRegression` in training.
        checkpoint: the folder.

    Raises:
        FileNotFoundError: no weights in the folder.
        ValueError: a weight is missing, left over or misshapen, or the checkpoint belongs to another language model.
    """
    folder = Path(checkpoint)
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no model*.safetensors; name a checkpoint folder of the trainer.")
    saved = {name: tensor for file in files for name, tensor in load_file(file).items()}
    source = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("language_model_source")
    if source != model.config.language_model_source:
        raise ValueError(
            f"{folder} was trained on the language model {source}, not {model.config.language_model_source}."
        )
    own = strip_peft_names(model.state_dict())
    if model.config.language_model_training != "full":
        own = model.adapter_state_dict(own)
    problems = {
        "missing": own.keys() - saved.keys(),
        "unexpected": saved.keys() - own.keys(),
        "misshapen": {name for name in own.keys() & saved.keys() if own[name].shape != saved[name].shape},
    }
    found = [f"{len(names)} {kind}, first {min(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(f"The weights of {folder} do not fit the model in training: {'; '.join(found)}.")
    for name, tensor in own.items():
        tensor.copy_(saved[name])
