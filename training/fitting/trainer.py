"""`transformers.Trainer`, where LIMSSR differs from it."""

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import IntervalStrategy, speed_metrics
from transformers.utils import logging

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.adapters_limssr import LANGUAGE_MODEL_PREFIX
from ...modeling_limssr.language_model_limssr import wrong_tensors
from ...modeling_limssr.losses_limssr import LOSS_TERMS
from ...modeling_limssr.outputs_limssr import LimssrScoreOutput
from ..arguments import LimssrTrainingArguments
from ..data.aqa_data import read_targets, target_columns
from ..data.masked_dataset import sequence_lengths
from ..evaluation.metrics.aqa_metrics import METRIC_NAMES, average_metrics, clip_correlations, score_metrics
from ..hub.trainer_mixin import HubMixin
from ..prediction.predictions import PATHS, Predictions, round_scores
from ..prediction.predictor import predict
from ..utils.files import RECORD_FILE, write_json
from .averaging import WeightAverage, settle_weights
from .checkpoints import (
    TakeUp,
    TrainingStateMixin,
    check_form,
    checkpoint_form,
    final_form,
    load_trained_weights,
    save_errors,
)
from .collator import SAMPLE_IDS, EpochRows, EpochSampler, LimssrCollator, NamedBatches
from .finite import NotFiniteError, own_buffers

logger = logging.get_logger(__name__)
LOADER_ARGUMENTS = ("num_workers", "persistent_workers", "prefetch_factor", "multiprocessing_context", "pin_memory")


class LimssrTrainer(TrainingStateMixin, HubMixin, Trainer):
    """Train a `LimssrForScoreRegression`. Unlike its parent:

    - training rows are shuffled, cropped and masked by seed and epoch alone, so that runs repeat for any kind and
      number of workers, and a resumed run equals one that was never stopped;
    - validation scores each sample once, also over several processes, and logs AQA metrics in judges' units;
    - checkpoints hold only what was trained, with processor and code, and no pickle (`TrainingStateMixin`); loading
      one fails on any weight that is missing or left over; whole revisions go to the Hub (`HubMixin`);
    - a loss, gradient or buffer that is not finite stops the training and names the samples of the step;
    - the terms of the loss are logged, and the language model can have a learning rate of its own;
    - a schedule-free optimizer, or any with `average_decay`, is validated, saved and kept with its average of the
      weights, not with those of its steps.

    Args:
        args: `LimssrTrainingArguments`; those of a stock trainer keep their own defaults.
        data_collator: by default a `LimssrCollator` with random crops.
        train_dataset: rows, `datasets.Dataset` or `MaskedDataset`.
        eval_dataset: the same, or several by name, over which metrics without a name are the mean; without one,
            nothing is validated and the last checkpoint is kept.
        processing_class: the model's `LimssrProcessor`.
        *arguments, **kwargs: as for `transformers.Trainer`.
            `compute_metrics` gets scores and labels of one evaluation set at a time, `(samples, scores)` in judges'
            units, and so does `compute_loss_func` in validation, without hidden states.

    Attributes:
        describe: returns the record of the run so far, for `run.json` in its checkpoints; None for no record.
        share: share of the optimizer steps after which to stop, in (0, 1]; the schedule stays that of the whole run.
    """

    def __init__(
        self,
        model=None,
        args=None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *arguments,
        **kwargs,
    ):
        args = as_limssr_arguments(args)
        if processing_class is None:
            raise ValueError("`processing_class` is not given: LimssrTrainer needs the model's LimssrProcessor.")
        if model is not None:
            check_model(args, model)
            model.config.calibration = None  # that of other weights than those to come
        if eval_dataset is None and args.eval_strategy != IntervalStrategy.NO:
            logger.warning("There is no `eval_dataset`: nothing is validated, and the last checkpoint is kept.")
            do_not_validate(args)
        self.describe: Callable[[], dict] | None = None
        self.weight_average: WeightAverage | None = None
        self.share, self._schedule_steps = 1.0, None
        self._loss_terms: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._sample_ids: list[str] = []  # of the batches since the last step of the optimizer
        data = (data_collator, train_dataset, eval_dataset, processing_class)
        super().__init__(model, args, *data, *arguments, **kwargs)
        if args.average_decay is not None and self._is_sharded:
            raise ValueError("`average_decay` is given, but the model is sharded (FSDP, DeepSpeed): leave one out.")
        if data_collator is None:
            self.data_collator = self._collator("random")
        self.add_callback(EndSettled())
        self.add_callback(TakeUp(self))
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = os.path.join(args.output_dir, "logs")

    def call_model_init(self, trial=None) -> nn.Module:
        """Check a model of `model_init` as one that is given."""
        model = super().call_model_init(trial)
        check_model(self.args, model)
        return model

    # Rows.

    def get_train_dataloader(self) -> DataLoader:
        """Return batches in the order of an `EpochSampler`, to which accelerate hands on the epoch."""
        args, rows, size = self.args, self.train_dataset, self._train_batch_size
        check_rows(rows, self.model.config, "train_dataset")
        lengths = None
        if args.train_sampling_strategy == "group_by_length":
            lengths = sequence_lengths(rows, self.processing_class)
        seed = args.seed if args.data_seed is None else args.data_seed
        sampler = EpochSampler(len(rows), seed, lengths, size * args.gradient_accumulation_steps * args.world_size)
        options = {"sampler": sampler, "drop_last": args.dataloader_drop_last}
        options["generator"] = torch.Generator().manual_seed(args.seed + args.process_index)  # seeds the workers
        loader = self._loader(EpochRows(rows), size, NamedBatches(self.data_collator), **options)
        loader.set_sampler(sampler)  # else no epoch would reach it through the batches of a process that skips some
        return loader

    def get_test_dataloader(self, test_dataset: Sequence[dict]) -> DataLoader:
        """Return batches for `predict`: all available modalities, cropped in the middle; nothing is drawn."""
        return self._loader(test_dataset, self.args.eval_batch_size, self._collator("center"))

    def _loader(self, rows: Sequence[dict], batch_size: int, collator, **options) -> DataLoader:
        options |= {name: getattr(self.args, f"dataloader_{name}") for name in LOADER_ARGUMENTS}
        return self.accelerator.prepare(DataLoader(rows, batch_size=batch_size, collate_fn=collator, **options))

    def _collator(self, crop: str) -> LimssrCollator:
        config = self.model.config
        modalities, seed = list(config.modalities), self.args.seed
        return LimssrCollator(self.processing_class, modalities, config.score_names, crop=crop, seed=seed)

    # Optimizer.

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make one parameter group for each learning rate and weight decay, see `LimssrTrainingArguments`."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.parameter_groups(model), **settings)
        if self.args.average_decay is not None and not hasattr(self.optimizer, "eval"):  # else it has an average
            self.weight_average = WeightAverage(model, self.args.average_decay)
            self.weight_average.follow(self.optimizer)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Return the trained parameters, each in exactly one group."""
        args, groups = self.args, defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_vector = parameter.dim() < 2 or name.endswith("token_embeddings")
                groups[LANGUAGE_MODEL_PREFIX in name, args.decay_all or not is_vector].append(parameter)
        head_rate = args.learning_rate if args.head_learning_rate is None else args.head_learning_rate
        rates = {True: args.learning_rate, False: head_rate}
        return [
            {"params": parameters, "lr": rates[in_language_model], "weight_decay": args.weight_decay * decays}
            for (in_language_model, decays), parameters in groups.items()
        ]

    def set_initial_training_values(self, args, dataloader):
        """Stop after a `share` of the steps, at the end of a training as short as any other: it resumes alike."""
        epochs, steps_per_epoch, *others, steps = super().set_initial_training_values(args, dataloader)
        if self.share < 1:
            self._schedule_steps, steps = steps, max(1, round(self.share * steps))
            epochs = math.ceil(steps / steps_per_epoch)
        return (epochs, steps_per_epoch, *others, steps)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Make the schedule of the whole run, also for a `share` of it."""
        whole = num_training_steps if self._schedule_steps is None else self._schedule_steps
        return super().create_scheduler(whole, optimizer)

    # Loss.

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and outputs.get("loss") is not None:  # a `compute_loss_func` takes the labels away
            for name in LOSS_TERMS:
                if name in outputs:
                    self._loss_terms[name].append(outputs[name].detach())
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """
        Raises:
            NotFiniteError: the loss or a buffer is not finite.
        """
        self._sample_ids += inputs.pop(SAMPLE_IDS, [])
        loss = super().training_step(model, inputs, num_items_in_batch)
        buffers = ((f"the buffer {name}", buffer) for name, buffer in own_buffers(model))
        if wrong := wrong_tensors([("the loss", loss), *buffers]):
            raise NotFiniteError(f"{wrong[0]} is", self.state.global_step, self._sample_ids)
        return loss

    def _get_grad_norm(self, model, grad_norm=None) -> float | None:
        """Check the norm that is logged. No public hook; a scaler of float16 itself leaves such a step out."""
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None and not math.isfinite(norm) and getattr(self.accelerator, "scaler", None) is None:
            raise NotFiniteError("a gradient is", self.state.global_step, self._sample_ids)
        self._sample_ids.clear()
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._loss_terms:
            means = torch.stack([torch.stack(values).mean() for values in self._loss_terms.values()])
            logs |= dict(zip(self._loss_terms, self.accelerator.reduce(means, "mean").tolist(), strict=True))
            self._loss_terms.clear()
        if "train_loss" in logs and self._initial_global_step:
            if self._knows_earlier_losses:  # the stock mean is over the steps of this call
                steps = max(self.state.global_step - self._initial_global_step, 0.001)
                logs["train_loss"] *= steps / self.state.global_step
            else:
                logs["train_loss_from_step"] = self._initial_global_step
        super().log(logs, start_time)

    # Validation.

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Score the validation rows with the modalities they have.

        Returns:
            With the prefix: every metric of `METRIC_NAMES` in judges' units, averaged over evaluation sets and scores
            (correlations clipped by `clip_correlations`, in Fisher's z); `loss`, without the separation term, which
            belongs to batches; the results of `compute_metrics`; and Spearman and those results for each of several
            sets. NaN where undefined.
        """
        rows_by_name = self.eval_dataset if eval_dataset is None else eval_dataset
        rows_by_name = rows_by_name if isinstance(rows_by_name, Mapping) else {"": rows_by_name}
        for rows in rows_by_name.values():
            check_rows(rows, self.model.config, "eval_dataset")
        start, count = time.time(), sum(map(len, rows_by_name.values()))
        settle_weights(self.optimizer)
        metrics, all_scores, all_others = {}, [], []
        silent = self.args.disable_tqdm or not self.is_world_process_zero()
        with tqdm(total=count, desc="validation", unit="sample", disable=silent, leave=False) as bar:
            for name, rows in rows_by_name.items():
                per_score, others = self._measure(rows, bar)
                all_scores += per_score
                all_others.append(others)
                if len(rows_by_name) > 1:
                    own = {**others, "spearman": average_metrics(per_score)["spearman"]}
                    metrics |= {f"{name}_{metric}": value for metric, value in own.items() if metric != "loss"}
        averages = average_metrics(all_scores)
        metrics |= {name: averages[name] for name in METRIC_NAMES}
        metrics |= {name: float(np.mean([others[name] for others in all_others])) for name in all_others[0]}
        metrics = {f"{metric_key_prefix}_{name}": math.nan if x is None else x for name, x in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=count)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _measure(self, rows: Sequence[dict], bar: tqdm) -> tuple[list[dict], dict]:
        """Return the metrics of each score, and those of all scores: the loss and what the user computes."""
        names, size = self.model.config.score_names, self.args.per_device_eval_batch_size
        predictions = predict(self.model, self.processing_class, rows, size, self.accelerator, bar)
        targets = read_targets(rows, names)  # (rows, scores)
        columns = zip(round_scores(predictions.scores, self.model.config).T, targets.T, strict=True)
        per_score = [clip_correlations(score_metrics(*column)) for column in columns]
        others = {"loss": self._validation_loss(predictions, targets)}
        if self.compute_metrics is not None:
            others |= self.compute_metrics(EvalPrediction(predictions=predictions.scores, label_ids=targets))
        return per_score, others

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """Of two checkpoints that validate alike, keep the one with the lower squared error. No public hook."""
        best, step, mse = self.state.best_metric, self.state.best_global_step, metrics.get("eval_mse", math.nan)
        if super()._determine_best_metric(metrics, trial):
            return True
        name = f"eval_{(self.args.metric_for_best_model or '').removeprefix('eval_')}"
        earlier = [
            entry["eval_mse"] for entry in self.state.log_history if entry["step"] == step and "eval_mse" in entry
        ]
        if best is None or not earlier or not math.isclose(metrics[name], best) or not mse < earlier[-1]:
            return False
        self.state.best_global_step = self.state.global_step
        return True

    def _validation_loss(self, predictions: Predictions, targets: np.ndarray) -> float:
        labels = torch.from_numpy(targets)
        paths = {name: torch.from_numpy(getattr(predictions, name)) for name in PATHS}
        if self.compute_loss_func is not None:
            count = torch.tensor(labels.numel())
            return float(self.compute_loss_func(LimssrScoreOutput(**paths), labels, num_items_in_batch=count))
        return float(self.accelerator.unwrap_model(self.model).loss_of_scores(labels, **paths))

    # Checkpoints.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        settle_weights(self.optimizer)  # on every process, before the first one saves
        super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save model, processor, code and arguments; the final model may have another form than checkpoints.

        `save_model`, the public hook, first gathers the weights of a sharded model; the stock `_save` then writes full
        names and pickled arguments.
        """
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        is_final = folder == Path(self.args.output_dir)
        form = final_form(self.args, self.model.config) if is_final else checkpoint_form(self.model.config)
        had_bar = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        model = self.accelerator.unwrap_model(self.model)
        with save_errors(folder) if is_final else nullcontext():  # a checkpoint's are of `_save_checkpoint`
            model.save_pretrained(folder, form=form, state_dict=state_dict)
            self.processing_class.save_pretrained(folder)
            write_json(folder / "training_args.json", self.args.to_dict())
        if had_bar:
            logging.enable_progress_bar()
        if self.describe is not None and not is_final:
            write_json(folder / RECORD_FILE, self.describe())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load either form. No public hook: the stock one knows no adapters, and only warns of misfitting weights."""
        self.check_training_state(resume_from_checkpoint)
        load_trained_weights(self.model if model is None else model, resume_from_checkpoint)


def as_limssr_arguments(args: TrainingArguments | None) -> LimssrTrainingArguments:
    """
    Raises:
        TypeError: no training arguments.
    """
    if isinstance(args, LimssrTrainingArguments):
        return args
    if isinstance(args, TrainingArguments):
        return LimssrTrainingArguments.from_plain(args)
    raise TypeError(f"`args` is {type(args).__name__}, expected LimssrTrainingArguments(output_dir=...).")


def do_not_validate(args: LimssrTrainingArguments) -> None:
    args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False


def check_model(args: LimssrTrainingArguments, model: nn.Module) -> None:
    """
    Raises:
        TypeError: no model of this package.
        ValueError: see `check_form`.
    """
    if not isinstance(getattr(model, "config", None), LimssrConfig):
        raise TypeError(f"`model` is {type(model).__name__}, expected LimssrForScoreRegression.")
    check_form(args, model)


def check_rows(rows: Sequence[dict] | None, config: LimssrConfig, name: str) -> None:
    """
    Args:
        rows: a dataset.
        config: configuration of the model that reads it.
        name: what the dataset is; begins the message.

    Raises:
        TypeError: rows that cannot be read by their number.
        ValueError: no row, or no column for the ids, the scores or any modality.
    """
    if not hasattr(rows, "__getitem__"):
        raise TypeError(f"`{name}` is {type(rows).__name__}, expected a `datasets.Dataset`, `MaskedDataset` or list.")
    if not len(rows):
        raise ValueError(f"`{name}` has no rows.")
    columns = rows.column_names if hasattr(rows, "column_names") else list(rows[0])
    if "sample_id" not in columns:
        raise ValueError(f"`{name}` has no column `sample_id`, by which batches are drawn; its columns: {columns}")
    target_columns(columns, config.score_names)
    if not set(columns) & set(config.modalities):
        raise ValueError(f"`{name}` has none of the modalities {list(config.modalities)}; its columns: {columns}")


class EndSettled(TrainerCallback):
    """Settles the weights at the end of training, before the best checkpoint may replace them."""

    def on_epoch_end(self, args, state, control, optimizer=None, **kwargs):
        if control.should_epoch_stop or control.should_training_stop:
            settle_weights(optimizer)
