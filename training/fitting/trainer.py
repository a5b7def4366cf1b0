"""`transformers.Trainer`, where LIMSSR differs from it."""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from tqdm.auto import tqdm
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import speed_metrics
from transformers.utils import logging

from ...modeling_limssr.checkpoint_limssr import LANGUAGE_MODEL_PREFIX
from ...modeling_limssr.losses_limssr import LOSS_TERMS
from ..data.aqa_data import read_targets
from ..data.masked_dataset import sequence_lengths
from ..evaluation.metrics.aqa_metrics import METRIC_NAMES, average_metrics, score_metrics
from ..hub.trainer_mixin import HubMixin
from ..prediction.predictor import Predictions, predict
from ..utils.records import without_paths, write_json
from .checkpoints import TrainingStateMixin, check_form, default_form, final_form, load_trained_weights
from .collator import LimssrCollator
from .sampler import EpochRows, EpochSampler

logger = logging.get_logger(__name__)


class LimssrTrainer(TrainingStateMixin, HubMixin, Trainer):
    """
    Trains a `LimssrForScoreRegression`. It differs from its parent in that

    - training rows are shuffled, cropped and masked by seed and epoch alone, so that runs repeat for any number of
      workers and a resumed run equals one that was never stopped;
    - validation scores each sample once, also over several processes, and logs AQA metrics;
    - checkpoints hold only what was trained, with the processor and the code bundle, and no pickle
      (`TrainingStateMixin`); loading one fails on any weight that is missing or left over;
    - what goes to the Hub are whole revisions that anyone can load (`PushingMixin`);
    - the three terms of the loss are logged, and the language model can have a learning rate of its own;
    - whatever is validated, saved or kept are the weights that a schedule-free optimizer ends with, not those that it
      takes its steps at.

    Args:
        train_dataset: rows of a dataset, `datasets.Dataset` or `MaskedDataset`.
        eval_dataset: the same, or several by name: what is logged without a name is their mean.
        processing_class: the model's `LimssrProcessor`.
        data_collator: by default a `LimssrCollator` with random crops and no dynamic mask.
        **kwargs: of `transformers.Trainer`.

    Attributes:
        describe: gives the record of the run so far, for `run.json` in its checkpoints; None for no record.
    """

    def __init__(self, model, args, train_dataset=None, processing_class=None, data_collator=None, **kwargs):
        config = model.config
        check_form(args, model)
        self.describe: Callable[[], dict] | None = None
        self.train_sampler = None
        if train_dataset is not None:
            data_seed = args.seed if args.data_seed is None else args.data_seed
            grouping = {}
            if args.train_sampling_strategy == "group_by_length":
                batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
                grouping = {"lengths": sequence_lengths(train_dataset, processing_class), "batch_size": batch_size}
            self.train_sampler = EpochSampler(len(train_dataset), data_seed, **grouping)
            train_dataset = EpochRows(train_dataset)
        if data_collator is None:
            data_collator = LimssrCollator(
                processing_class, list(config.modalities), config.score_names, seed=args.seed
            )
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self._loss_terms: dict[str, list[torch.Tensor]] = defaultdict(list)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = os.path.join(args.output_dir, "logs")

    # Order of the training rows.

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        return self.train_sampler

    def _get_eval_sampler(self, eval_dataset) -> Sampler | None:
        """In their own order, whatever the training rows are grouped by."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _run_epoch(self, *args, epoch: int, **kwargs) -> None:
        self.train_sampler.set_epoch(epoch)
        super()._run_epoch(*args, epoch=epoch, **kwargs)

    # Optimizer.

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """One group for each learning rate and weight decay, see `LimssrTrainingArguments`."""
        model = self.model if model is None else model
        if self.optimizer is None:
            optimizer_class, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.parameter_groups(model), **settings)
        return self.optimizer

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """The trained parameters, each in exactly one group."""
        args, groups = self.args, defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                is_vector = parameter.dim() < 2 or name.endswith("token_embeddings")
                groups[LANGUAGE_MODEL_PREFIX in name, args.decay_all or not is_vector].append(parameter)
        head_rate = args.learning_rate if args.head_learning_rate is None else args.head_learning_rate
        return [
            {
                "params": parameters,
                "lr": args.learning_rate if of_language_model else head_rate,
                "weight_decay": args.weight_decay if decays else 0.0,
            }
            for (of_language_model, decays), parameters in groups.items()
        ]

    def _settle_weights(self) -> None:
        """Of an optimizer that takes its steps at other weights than it ends with; the next step goes back to them."""
        if self.optimizer is not None and hasattr(self.optimizer, "eval"):
            self.optimizer.eval()

    # The terms of the loss.

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            for name in LOSS_TERMS:
                self._loss_terms[name].append(outputs[name].detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._loss_terms:
            means = torch.stack([torch.stack(self._loss_terms[name]).mean() for name in LOSS_TERMS])
            means = self.accelerator.reduce(means, "mean").tolist()
            logs |= dict(zip(LOSS_TERMS, means, strict=True))
            self._loss_terms.clear()
        super().log(logs, start_time)

    # Validation.

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """
        Scores the validation rows, each from what it shows.

        Returns:
            With the prefix: every metric of `METRIC_NAMES` in judges' units, averaged over datasets and scores
            (correlations in Fisher's z), `loss` (regression and consistency term; the separation term belongs to
            batches, not to samples) and, of several datasets, the Spearman of each. NaN where undefined.
        """
        views = self.eval_dataset if eval_dataset is None else eval_dataset
        views = views if isinstance(views, Mapping) else {"": views}
        start = time.time()
        self._settle_weights()
        metrics, cells, losses = {}, [], []
        silent = self.args.disable_tqdm or not self.is_world_process_zero()
        count = sum(map(len, views.values()))
        with tqdm(total=count, desc="validation", unit="sample", disable=silent, leave=False) as bar:
            for name, rows in views.items():
                scored, loss = self._score_view(rows, bar)
                cells += scored
                losses.append(loss)
                if len(views) > 1:
                    metrics[f"{name}_spearman"] = average_metrics(scored)["spearman"]
        averages = average_metrics(cells)
        metrics |= {name: averages[name] for name in METRIC_NAMES} | {"loss": float(np.mean(losses))}
        metrics = {f"{metric_key_prefix}_{name}": math.nan if x is None else x for name, x in metrics.items()}
        metrics |= speed_metrics(metric_key_prefix, start, num_samples=count)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _score_view(self, rows: Sequence[dict], bar: tqdm) -> tuple[list[dict], float]:
        """The metrics of each score, and the loss."""
        config = self.model.config
        size = self.args.per_device_eval_batch_size
        predictions = predict(self.model, self.processing_class, rows, size, self.accelerator, bar)
        targets = read_targets(rows, config.score_names)  # (rows, scores)
        columns = range(len(config.score_names))
        scored = [score_metrics(predictions.scores[:, column], targets[:, column]) for column in columns]
        return scored, validation_loss(predictions, targets, config)

    def get_test_dataloader(self, test_dataset: Sequence[dict]) -> DataLoader:
        """For `predict`: the rows as they are, cropped in the middle; nothing is drawn as in training."""
        config, of_training = self.model.config, self.data_collator
        self.data_collator = LimssrCollator(
            self.processing_class, list(config.modalities), config.score_names, crop="center"
        )
        try:
            return super().get_test_dataloader(test_dataset)
        finally:
            self.data_collator = of_training

    # Checkpoints.

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Model, processor, code and, as JSON, the arguments. The final model may have another form."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        is_final = folder == Path(self.args.output_dir)
        form = final_form(self.args, self.model.config) if is_final else default_form(self.model.config)
        with _no_progress_bar():
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, form=form, state_dict=state_dict)
        self.processing_class.save_pretrained(folder)
        arguments = json.dumps(without_paths(self.args.to_dict()), indent=2, sort_keys=True)
        (folder / "training_args.json").write_text(arguments + "\n", encoding="utf-8")
        if self.describe is not None and not is_final:
            write_json(folder / "run.json", self.describe())

    def _save_checkpoint(self, *args, **kwargs) -> None:
        self._settle_weights()  # on every process, before the first one saves
        super()._save_checkpoint(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        self._settle_weights()
        return super()._finalize_training(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained_weights(self.model if model is None else model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        logger.info(f"Loading the best model, {self.state.best_model_checkpoint} ({self.state.best_metric}).")
        load_trained_weights(self.model, self.state.best_model_checkpoint)


@contextmanager
def _no_progress_bar():
    """Writing a checkpoint is no work to watch."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def validation_loss(predictions: Predictions, targets: np.ndarray, config) -> float:
    """The terms of the loss that belong to samples: weighted regression and consistency of normalised scores."""
    ranges = np.array(config.score_ranges, dtype=np.float64)
    given = ~np.isnan(targets)
    errors = ((predictions.scores - targets) / ranges)[given]
    loss = config.regression_weight * float(np.mean(errors**2)) if len(errors) else 0.0
    if config.aggregation == "dual":
        loss += config.consistency_weight * float(np.mean((predictions.path_disagreement / ranges) ** 2))
    return loss
