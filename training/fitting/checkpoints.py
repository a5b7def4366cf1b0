"""Checkpoints without pickle: their form, the state of a training that is to go on, and exact loading."""

import json
import logging
import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import TrainerCallback, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from ...modeling_limssr.adapters_limssr import strip_peft_names
from ..utils.checkpoints import (
    checkpoint_folder,
    checkpoints_in,
    find_damage,
    finish_folder,
    newest_whole,
    read_manifest,
    read_trainer_state,
    remove_old_checkpoints,
    unfinished_folder,
)
from ..utils.errors import brief
from ..utils.files import AVERAGE_FILE, OPTIMIZER_FILE, RANDOM_FILES, SCALER_FILE, SCHEDULE_FILE, read_json

logger = logging.getLogger(__name__)


class SaveError(OSError):
    """A checkpoint or the model could not be written, as on a full disk; earlier checkpoints are whole."""


class TrainingStateMixin:
    """Part of a `Trainer`: saves the state of the training as tensors and text, and goes on only from all of it.

    The trainer has no public hook for its private methods below. The stock ones write pickles, which must neither be
    published nor loaded, write a checkpoint file by file under its final name, and go on without what is missing. FSDP
    and DeepSpeed keep their own formats.
    """

    _resumed_from: Path | None = None
    _knows_earlier_losses = False

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """Train, see `transformers.Trainer.train`; `True` resumes from the newest whole checkpoint.

        `train_loss` is the mean over the whole run, resumed or not; times and speeds are those of this call.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_last(self.args.output_dir, not self.args.resume_without_optimizer)
            if resume_from_checkpoint is None:
                raise FileNotFoundError(f"there is no checkpoint in {self.args.output_dir} to go on from.")
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        output = super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        return output._replace(training_loss=output.metrics["train_loss"])

    def _run_epoch(self, *arguments, resume_from_checkpoint=None, **kwargs):
        """Run an epoch, unless a resumed training had ended within it: the stock loop takes one more step."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*arguments, resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _finalize_training(self, trial, *arguments, **kwargs):
        """Keep the last checkpoint: with `save_total_limit=1` the stock method removes all but the best. No hook.

        What a run that was killed after its last checkpoint had not removed yet goes here.
        """
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super()._finalize_training(trial, *arguments, **kwargs)
        finally:
            self.args.save_total_limit = limit
        run = self._get_output_dir(trial)
        if self.args.should_save:
            remove_old_checkpoints(run, limit, {*checkpoints_in(run)[:1], self._best_checkpoint(run)})
        return output

    def check_training_state(self, checkpoint: str | Path) -> None:
        """
        Raises:
            FileNotFoundError: the folder is no checkpoint of a training.
            ValueError: part of the checkpoint is missing, damaged, or of another step, optimizer, model or number of
                processes; `resume_without_optimizer` goes on without the state of the optimizer.
        """
        folder = Path(checkpoint)
        step = read_trainer_state(folder)["global_step"]
        if damage := find_damage(folder, with_optimizer=False):
            raise ValueError(f"the run cannot go on from {folder}: {damage}. Name a whole checkpoint.")
        best = read_manifest(folder)[1]
        if best is not None and self.args.load_best_model_at_end and (damage := find_damage(best, False)):
            raise ValueError(
                f"the run cannot go on from {folder}: {best.name}, its best checkpoint, is not whole: {damage}. "
                "Restore it, or give `--load_best_model_at_end false` to keep the model of the last step."
            )
        if self.args.resume_without_optimizer:
            return
        problems = [problem for problem in self._state_problems(folder, step) if problem]
        if problems := problems or [damage for damage in [find_damage(folder)] if damage]:
            raise ValueError(
                f"the run cannot go on from {folder} as if it had never stopped: {'; '.join(problems)}. Name a whole "
                "checkpoint, or give `--resume_without_optimizer` to go on from the weights with a new optimizer."
            )

    def _state_problems(self, folder: Path, step: int) -> Iterator[str | None]:
        """Yield what is wrong with each part of the training state, None for a part that fits."""
        if not self._is_sharded:
            optimizer_class = self.get_optimizer_cls_and_kwargs(self.args, self.model)[0]
            about = {"optimizer": _name(optimizer_class), "parameters": _extent(self.parameter_groups(self.model))}
            yield _problem(folder / OPTIMIZER_FILE, step=step)
            yield _problem(folder / SCHEDULE_FILE, step=step, **about)
            if self.args.average_decay is not None:
                yield _problem(folder / AVERAGE_FILE, step=step)
            elif (folder / AVERAGE_FILE).is_file():
                yield f"{AVERAGE_FILE} is of a training with `average_decay`, which is not given"
        elif self.is_fsdp_enabled and not (folder / SCHEDULER_NAME).is_file():
            yield f"{SCHEDULER_NAME} is missing"
        yield _problem(folder / self._random_file, step=step, processes=self.args.world_size)
        if getattr(self.accelerator, "scaler", None) is not None:
            yield _problem(folder / SCALER_FILE, step=step)

    def _save_checkpoint(self, model, trial) -> None:
        """Save what the stock method saves, aside, and name the folder when it is whole and on the disk."""
        if self.hp_search_backend is None and trial is None:
            self.store_flos()
        run = self._get_output_dir(trial)
        folder, best = checkpoint_folder(run, self.state.global_step), self._best_checkpoint(run)
        unfinished = unfinished_folder(folder)
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with save_errors(folder, unfinished):
            self.save_model(str(unfinished), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(unfinished))
                self._save_scaler(str(unfinished))
                self._save_rng_state(str(unfinished))
            self.accelerator.wait_for_everyone()  # each process writes its random state
            if self.args.should_save:
                self._save_trainer_state(unfinished)
                finish_folder(unfinished, folder, best)
        self.accelerator.wait_for_everyone()
        self.state.best_model_checkpoint = None if best is None else str(best)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        if self.args.should_save:
            remove_old_checkpoints(run, self.args.save_total_limit, {folder, best})

    def _best_checkpoint(self, run: str) -> Path | None:
        """Return the best checkpoint so far, which may be the one that is being saved."""
        if step := self.state.best_global_step:
            folder = checkpoint_folder(run, step)
            if step == self.state.global_step or folder.is_dir():
                return folder
        return Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None

    def _save_trainer_state(self, folder: Path) -> None:
        """Save the state and that of callbacks; the manifest names the best checkpoint, wherever the run is moved."""
        callbacks = [*self.callback_handler.callbacks, self.control]
        exportable = TrainerState(stateful_callbacks=[each for each in callbacks if isinstance(each, ExportableState)])
        self.state.stateful_callbacks = exportable.stateful_callbacks
        replace(self.state, best_model_checkpoint=None).save_to_json(str(folder / TRAINER_STATE_NAME))

    def _load_best_model(self) -> None:
        """Load either form. No public hook: the stock one knows no adapters, and only warns of misfitting weights."""
        best = Path(self.state.best_model_checkpoint)
        if damage := find_damage(best, with_optimizer=False):
            logger.warning("%s was the best checkpoint, but %s: the model of the last step is kept.", best, damage)
            self.state.best_model_checkpoint = self.state.best_metric = self.state.best_global_step = None
        else:
            load_trained_weights(self.model, best)

    @property
    def _is_sharded(self) -> bool:
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_optimizer(output_dir, self.optimizer, self.lr_scheduler, self.state.global_step)
            if self.weight_average is not None:
                self.weight_average.save(Path(output_dir) / AVERAGE_FILE, self.state.global_step)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.args.resume_without_optimizer:
            forward_schedule(self.lr_scheduler, self.state.global_step)
        elif self._is_sharded:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            load_optimizer(checkpoint, self.optimizer, self.lr_scheduler)
            if self.weight_average is not None:
                with _taking_up(Path(checkpoint) / AVERAGE_FILE):
                    self.weight_average.load(Path(checkpoint) / AVERAGE_FILE)

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            _write(Path(output_dir) / SCALER_FILE, {"step": self.state.global_step, **scaler.state_dict()})

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if checkpoint is not None and scaler is not None and not self.args.resume_without_optimizer:
            with _taking_up(Path(checkpoint) / SCALER_FILE):
                scaler.load_state_dict(read_json(Path(checkpoint) / SCALER_FILE))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # the first process may not have written there yet
        about = {"step": self.state.global_step, "processes": self.args.world_size, "losses": self._losses_so_far()}
        _write(Path(output_dir) / self._random_file, about | random_state())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not self.args.resume_without_optimizer:
            load_random_state(Path(checkpoint) / self._random_file)

    def _losses_so_far(self) -> dict:
        """What the means of `train_loss` and of the next entry in the history are made of."""
        terms = {name: [value.item() for value in values] for name, values in self._loss_terms.items()}
        counted = {"total": self._total_loss_scalar, "since_log": self._tr_loss.item(), "terms": terms}
        return counted | {"logged_at": self._globalstep_last_logged}

    def take_up(self) -> None:
        """Take up what the stock trainer forgets of the checkpoint it goes on from: best checkpoint and losses."""
        best = read_manifest(self._resumed_from)[1]
        self.state.best_model_checkpoint = None if best is None or not best.is_dir() else str(best)
        path = self._resumed_from / self._random_file
        self._knows_earlier_losses = path.is_file() and not self.args.resume_without_optimizer
        if self._knows_earlier_losses:
            with _taking_up(path):
                losses = read_json(path)["losses"]
                self._total_loss_scalar, self._globalstep_last_logged = losses["total"], losses["logged_at"]
                self._tr_loss += losses["since_log"]
                for name, values in losses["terms"].items():
                    self._loss_terms[name] = list(torch.tensor(values, device=self.args.device))

    @property
    def _random_file(self) -> str:
        return RANDOM_FILES.replace("*", f"_{self.args.process_index}" if self.args.world_size > 1 else "")


class TakeUp(TrainerCallback):
    """Tells the trainer to take up the rest of a checkpoint, once the stock trainer has done its part."""

    def __init__(self, trainer: TrainingStateMixin):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if self.trainer._resumed_from is not None:
            self.trainer.take_up()


@contextmanager
def save_errors(path: Path, unfinished: Path | None = None) -> Iterator[None]:
    """
    Args:
        path: what is to be saved.
        unfinished: folder to remove after an error.

    Raises:
        SaveError: in place of an error of the file system or of safetensors, which wraps one.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise SaveError(
            f"{path} could not be saved: {error}. Earlier checkpoints are whole: make room, or do what the error asks "
            "for, and go on with `--resume_from_checkpoint last`."
        ) from error


def find_last(output_dir: str | Path, with_optimizer: bool = True) -> str | None:
    """Return the newest whole checkpoint of a run, and warn of each newer one; None where there is no checkpoint.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    folder, damaged = newest_whole(output_dir, with_optimizer)
    said = "; ".join(f"{path}: {damage}" for path, damage in damaged.items())
    if folder is None and damaged:
        raise ValueError(f"no checkpoint is whole, so the run cannot go on: {said}.")
    if damaged:
        logger.warning("Skipped: %s. The run goes on from %s.", said, folder)
    return None if folder is None else str(folder)


def _problem(path: Path, **expected) -> str | None:
    """Say what is wrong with a file of the training state; None if it is there and about what is expected."""
    if not path.is_file():
        others = [other.name for other in sorted(path.parent.glob(RANDOM_FILES))] if "processes" in expected else []
        return f"{path.name} is missing" + (f", there is {others[0]} of other processes" if others else "")
    try:
        about = _metadata(path) if path.suffix == ".safetensors" else read_json(path)
    except (SafetensorError, ValueError) as error:
        return f"{path.name} is damaged ({error})"
    wrong = [
        f"{name} {about.get(name)}, expected {value}" for name, value in expected.items() if about.get(name) != value
    ]
    return f"{path.name} is of {wrong[0]}" if wrong else None


def _metadata(path: Path) -> dict[str, int]:
    with safe_open(path, framework="pt") as file:
        return {name: int(value) for name, value in (file.metadata() or {}).items() if name == "step"}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _extent(groups: list[dict]) -> str:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return f"{len(parameters)} tensors with {sum(parameter.numel() for parameter in parameters)} numbers"


def forward_schedule(scheduler, steps: int) -> None:
    """Move a new schedule to where it would be after so many steps; one that follows a metric stays at its start."""
    if isinstance(scheduler, ReduceLROnPlateau):
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(steps):
            scheduler.step()


def save_optimizer(folder: str | Path, optimizer, scheduler, step: int) -> None:
    """Save tensors as `{parameter index}.{name}`, or `{parameter index}.{group}.{name}` if nested (8-bit optimizers).

    What is no tensor goes into a second file, with the learning rate schedule. Both say at which step they were made.
    """
    state, tensors, numbers = optimizer.state_dict(), {}, {}
    for name, value in _flatten(state["state"]):
        (tensors if isinstance(value, torch.Tensor) else numbers)[name] = value
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, Path(folder) / OPTIMIZER_FILE, metadata={"step": str(step)})
    kind = type(getattr(optimizer, "optimizer", optimizer))  # accelerate wraps it
    rest = {"step": step, "optimizer": _name(kind), "parameters": _extent(optimizer.param_groups)}
    rest |= {"param_groups": state["param_groups"], "state": numbers, "scheduler": scheduler.state_dict()}
    _write(Path(folder) / SCHEDULE_FILE, rest)


def load_optimizer(folder: str | Path, optimizer, scheduler) -> None:
    """Load what `save_optimizer` saved of an optimizer of the same kind and parameters.

    Raises:
        ValueError: the files do not hold that.
    """
    state = {}
    with _taking_up(Path(folder) / SCHEDULE_FILE, Path(folder) / OPTIMIZER_FILE):
        rest = read_json(Path(folder) / SCHEDULE_FILE)
        for key, value in {**rest["state"], **load_file(Path(folder) / OPTIMIZER_FILE)}.items():
            index, *groups, name = key.split(".")
            values = state.setdefault(int(index), {})
            for group in groups:
                values = values.setdefault(group, {})
            values[name] = value.clone() if isinstance(value, torch.Tensor) else value  # not a view into the file
        optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})
        scheduler.load_state_dict(rest["scheduler"])


@contextmanager
def _taking_up(*paths: Path) -> Iterator[None]:
    """
    Raises:
        ValueError: in place of whatever torch and we raise at a training state that nobody wrote.
    """
    try:
        yield
    except Exception as error:
        names = " or ".join(map(str, paths))
        raise ValueError(f"{names} holds no state of this training: {brief(error)}") from error


def _flatten(nested: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with the keys that lead to it, joined by dots."""
    for key, value in nested.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def random_state() -> dict:
    """Return the state of the generators of Python, numpy, torch and every CUDA device, as lists of numbers."""
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
        "cuda": [state.tolist() for state in cuda],
    }


def load_random_state(path: Path) -> None:
    """Restore what `random_state` returned, of a JSON file; CUDA devices that are not here are left out.

    Raises:
        ValueError: the file does not hold that.
    """
    with _taking_up(path):
        state = read_json(path)
        version, keys, gauss = state["python"]
        random.setstate((version, tuple(keys), gauss))
        np.random.set_state(tuple(state["numpy"]))
        torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
        for device, numbers in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(torch.tensor(numbers, dtype=torch.uint8), device)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def checkpoint_form(config) -> str:
    """Return `adapter`, or `full` if the language model is trained as a whole or could not be found again."""
    return "full" if config.language_model_training == "full" or not config.language_model_source else "adapter"


def final_form(args, config) -> str:
    """Return the form of the final model: `save_form`, or by default one that loads by its name if it is pushed."""
    if args.save_form is None and args.push_to_hub and not _is_on_hub(config):
        return "full"
    return args.save_form or checkpoint_form(config)


def _is_on_hub(config) -> bool:
    return "repository" in (config.language_model_source or {})


def check_form(args, model) -> None:
    """
    Raises:
        ValueError: the final model would leave out what is trained or could not hold what is quantised, or checkpoints
            are to be pushed that nobody could load.
    """
    default, is_quantised = checkpoint_form(model.config), getattr(model.model.language_model, "is_quantized", False)
    if final_form(args, model.config) == "full" and is_quantised:
        raise ValueError(
            "The language model is quantised, and the final model would be a full checkpoint, which holds it in "
            "floating point: give `save_form` 'adapter'; `publish.py` makes a full one of it."
        )
    if args.save_form == "adapter" and default == "full":
        raise ValueError(
            "`save_form` is 'adapter', which leaves the language model out, but it is trained as a whole or is a "
            "random one that nobody could find again: give 'full', or leave `save_form` out."
        )
    pushes_checkpoints = args.push_to_hub and args.hub_strategy != "end"
    if pushes_checkpoints and default == "adapter" and not _is_on_hub(model.config):
        raise ValueError(
            "`hub_strategy` is 'every_save', but checkpoints are adapters of a language model that is not on the Hub, "
            "where nobody could load them: name it by its Hub name, or push only the final model ('end')."
        )


@torch.no_grad()
def load_trained_weights(model: nn.Module, checkpoint: str | Path) -> None:
    """Load a checkpoint of the trainer into a model that was made like the saved one, its LoRA apart.

    Raises:
        FileNotFoundError: no weights in the folder.
        ValueError: a weight is missing, left over or misshapen, or the checkpoint belongs to another language model.
    """
    folder = Path(checkpoint)
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no model*.safetensors; name a checkpoint folder of the trainer.")
    saved = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = model.config.language_model_source
    source = read_json(folder / "config.json").get("language_model_source")
    if source != expected:
        raise ValueError(f"{folder} was trained on the language model {source}, not {expected}.")
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
