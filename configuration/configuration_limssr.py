"""Configuration of LIMSSR, a language model that scores performances from whatever modalities are available."""

import difflib
import math
import re
from dataclasses import field, fields
from pathlib import Path
from typing import Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .calibration_limssr import check_calibration

CROSS_MODAL_ATTENTION_HEADS = 4  # fixed by the paper
# Shape of Qwen3-0.6B, the language model of the paper.
QWEN3_600M = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "tie_word_embeddings": True,
}
IS_INSTALLED = __name__.partition(".")[0] != "transformers_modules"  # else it is the code of a checkpoint
# For `pipeline(..., trust_remote_code=True)`: task -> class in the code bundle.
PIPELINES = {
    "action-quality-assessment": {
        "impl": "pipeline_limssr.ActionQualityAssessmentPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}
TEXT = "text"  # in place of a feature size: the language model reads the words itself


def clip_token(modality: str) -> str:
    """Token that holds the place of one projected clip."""
    return f"<|{modality}|>"


def start_token(modality: str) -> str:
    return f"<|{modality}_start|>"


def end_token(modality: str) -> str:
    return f"<|{modality}_end|>"


def missing_token(modality: str) -> str:
    """Trainable placeholder for a clip of a missing modality."""
    return f"<|missing_{modality}|>"


def fusion_token(slot: int) -> str:
    """Fusion token of a slot, counted from 1 as in the paper."""
    return f"<|fusion_{slot}|>"


def trainable_tokens(modalities, num_fusion_tokens: int) -> list[str]:
    """The 3M + K added tokens with trainable embeddings: boundaries, placeholders of missing clips, fusion tokens."""
    boundaries = [token(name) for name in modalities for token in (start_token, end_token)]
    missing = [missing_token(name) for name in modalities]
    return boundaries + missing + [fusion_token(slot + 1) for slot in range(num_fusion_tokens)]


def feature_modalities(modalities: dict[str, int | str]) -> dict[str, int]:
    """Modality name -> feature size, without the modalities of text."""
    return {name: size for name, size in modalities.items() if size != TEXT}


def added_tokens(modalities: dict[str, int | str], num_fusion_tokens: int) -> list[str]:
    """Added tokens in the order of their default ids: the 3M + K trainable ones, then the clip tokens."""
    return trainable_tokens(modalities, num_fusion_tokens) + [
        clip_token(name) for name in feature_modalities(modalities)
    ]


def is_repository_name(name: str) -> bool:
    """Whether it may be the name of a Hub repository, which a path mostly is not."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def require_location(name_or_path) -> None:
    """
    Raises:
        FileNotFoundError: neither an existing folder nor the name of a Hub repository.
    """
    if not Path(name_or_path).exists() and not is_repository_name(str(name_or_path)):
        raise FileNotFoundError(
            f"There is no checkpoint at {name_or_path}: give an existing folder, or the name of a Hub repository."
        )


def described(default, description: str):
    """A field with its description, where `HfArgumentParser` finds the help of a flag."""
    return field(default=default, metadata={"help": description})


@strict
class LimssrConfig(PreTrainedConfig):
    """
    Configuration of [`LimssrForScoreRegression`]: everything that shapes the network.

    What shapes the token sequence (prompt wording, clip counts, cropping) belongs to [`LimssrProcessor`]. Each field
    carries its description, which `training/arguments.py` shows as the help of a flag. Defaults are those of the
    LIMSSR paper (arXiv 2605.00434).

    Raises:
        StrictDataclassFieldValidationError, StrictDataclassClassValidationError: an impossible value, at construction;
            the message names field, value and what is allowed.

    Example:

    ```python
    >>> from limssr import LimssrConfig
    >>> config = LimssrConfig(modalities={"video": 768, "audio": 768}, score_names=["tes", "pcs"], score_ranges=[9, 9])
    >>> config.num_scores
    2
    ```
    """

    model_type = "limssr"
    # `Trainer.predict` then returns the scores alone.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "reasoning_scores",
        "cross_modal_scores",
        "path_disagreement",
        "regression_loss",
        "consistency_loss",
        "separation_loss",
        "pairwise_loss",
        "interval",
        "sufficient_evidence",
        "fusion_hidden_state",
        "modality_hidden_state",
        "hidden_states",
        "attentions",
    ]
    sub_configs_defaults = {  # noqa: RUF012
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3", init_kwargs=QWEN3_600M)
    }

    text_config: dict | PreTrainedConfig | None = described(
        None, "configuration of the language model, any decoder that `AutoModel` knows; that of Qwen3-0.6B by default"
    )
    modalities: dict[str, int | str] | list | None = described(
        None,
        "ordered modality name -> feature size, or 'text' where the language model reads the words itself; "
        "{'video': 1024, 'audio': 768, 'flow': 1024} by default",
    )
    num_fusion_tokens: int = described(4, "K, number of fusion tokens at the end of the sequence, at least 1")
    projector_dropout: float | int = described(0.15, "dropout rate of the projectors, in [0, 1)")
    head_dropout: float | int = described(0.15, "dropout rate of the scoring heads, in [0, 1)")
    regression_weight: float | int = described(10.0, "weight of the regression loss, at least 0")
    consistency_weight: float | int = described(1.0, "weight of the consistency loss of the two paths, at least 0")
    separation_weight: float | int = described(1.0, "weight of the token separation loss, at least 0")
    separation_margin: float | int = described(1.0, "margin of the token separation loss, at least 0")
    pairwise_weight: float | int = described(
        0.0, "weight of a ranking loss over the pairs of samples in a batch, at least 0"
    )
    imputation: Literal["tokens", "zeros"] = described(
        "tokens", "what replaces a missing clip: a trained placeholder token or the zero vector"
    )
    use_prompt: bool = described(True, "start every sequence with a prompt")
    fusion: Literal["tokens", "mean"] = described(
        "tokens", "what the reasoning path reads: fusion tokens, or the mean of the modality spans"
    )
    aggregation: Literal["dual", "reasoning", "cross_modal"] = described(
        "dual", "scoring paths: both, or one of them alone"
    )
    linear_shortcut: bool = described(
        False, "add a linear map of the mean and maximum of the features to the score logits of both paths"
    )
    language_model_training: Literal["lora", "full", "frozen"] = described(
        "lora", "how the language model is trained; its vocabulary is always frozen"
    )
    lora_rank: int = described(16, "rank of LoRA, at least 1")
    lora_alpha: float | int = described(32, "scale numerator of LoRA, whose update is scaled by alpha / rank")
    lora_dropout: float | int = described(0.1, "dropout rate before the LoRA factors, in [0, 1)")
    lora_target_modules: list[str] | None = described(
        None, "linear layers of the language model that get LoRA; q_proj, k_proj, v_proj and o_proj by default"
    )
    score_names: list[str] | None = described(None, "one name for each score; `score` alone by default")
    score_minimums: list[float | int] | None = described(
        None, "lowest attainable value of each score, in judges' units; 0 by default"
    )
    score_ranges: list[float | int] | None = described(
        None, "highest minus lowest attainable value of each score, in judges' units; 1 by default"
    )
    added_token_ids: dict[str, int] | None = described(
        None, "id of each added token; by default consecutive from the vocabulary size, in the order of `added_tokens`"
    )
    checkpoint_form: Literal["full", "adapter"] = described(
        "full", "whether the checkpoint holds the language model's own weights; written by `save_pretrained`"
    )
    language_model_source: dict | None = described(
        None,
        "origin of the language model: repository and revision, or SHA-256 of local files, never a path; written by "
        "`from_language_model`",
    )
    calibration: dict | None = described(
        None, "quantiles of the errors for each mask, see `check_calibration`; written by `limssr calibrate`"
    )

    def __post_init__(self, **kwargs):
        for name in kwargs:
            if close := difflib.get_close_matches(name, [field.name for field in fields(self)], n=1, cutoff=0.8):
                raise TypeError(f"LimssrConfig has no field `{name}`; did you mean `{close[0]}`?")
        if isinstance(self.modalities, list):
            names = [name for name, _ in self.modalities]
            if len(set(names)) < len(names):
                raise ValueError(f"`modalities` names one twice: {names}.")
            self.modalities = dict(self.modalities)
        defaults = {
            "modalities": {"video": 1024, "audio": 768, "flow": 1024},
            "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "score_names": ["score"],
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.score_minimums is None:
            self.score_minimums = [0.0] * self.num_scores
        if self.score_ranges is None:
            self.score_ranges = [1.0] * self.num_scores
        super().__post_init__(**kwargs)
        if self.architectures is None:  # which `AutoModel` chooses the class by
            self.architectures = ["LimssrForScoreRegression"]
        if self.added_token_ids is None:
            self.place_added_tokens(self.language_model_config.vocab_size)

    def place_added_tokens(self, first_id: int) -> None:
        """Give the added tokens consecutive ids, for a tokenizer with more tokens than the table has rows."""
        names = added_tokens(self.modalities, self.num_fusion_tokens)
        self.added_token_ids = {name: first_id + index for index, name in enumerate(names)}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        Raises:
            OSError: there is no configuration.
            ValueError, StrictDataclassError: it has unknown or impossible entries.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, ValueError, StrictDataclassError):
            raise
        except Exception as error:  # transformers raises whatever the entries lead to
            raise ValueError(
                f"{pretrained_model_name_or_path}: config.json is no configuration of LIMSSR: {error}"
            ) from error

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        """
        Raises:
            OSError: there is no checkpoint, or it has no configuration, from which transformers would make a default
                one.
        """
        require_location(pretrained_model_name_or_path)
        found, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if not found:
            raise OSError(
                f"{pretrained_model_name_or_path} holds no config.json: give the folder of a checkpoint. (A folder of "
                "PEFT is loaded by the model classes, with peft installed.)"
            )
        return found, unused

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """
        Make a configuration of a dictionary, with changes: together they are checked as a new one is.

        Raises:
            ValueError: the dictionary is of another kind of model.
        """
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(
                f"This is a model of type {config_dict['model_type']!r}, no LIMSSR checkpoint; "
                "LimssrForScoreRegression.from_language_model makes a new model around a language model."
            )
        if IS_INSTALLED:  # the pipeline is registered, and nobody needs to trust that of the checkpoint
            config_dict = {name: value for name, value in config_dict.items() if name != "custom_pipelines"}
        language_model = config_dict.get("text_config")
        if isinstance(language_model, dict) and language_model.get("model_type", "qwen3") not in CONFIG_MAPPING:
            raise ValueError(
                f"The language model is of type {language_model['model_type']!r}, which transformers does not know: "
                "pass its place and trust its code, LimssrForScoreRegression.from_pretrained(..., "
                "language_model=FOLDER, trust_remote_code=True), or update transformers."
            )
        own = {field.name for field in fields(cls)} - {field.name for field in fields(PreTrainedConfig)}
        changes = {name: value for name, value in kwargs.items() if name in own and not isinstance(value, dict)}
        rest = {name: value for name, value in kwargs.items() if name not in changes}
        return super().from_dict({**config_dict, **changes}, **rest)

    def to_dict(self) -> dict:
        # `config.json` is written with sorted keys; pairs keep the order of the modalities, which the model needs.
        return {**super().to_dict(), "modalities": [list(pair) for pair in self.modalities.items()]}

    @property
    def language_model_config(self) -> PreTrainedConfig:
        """Configuration of the decoder itself, where `text_config` is a composite (Gemma 3 and others)."""
        return self.text_config.get_text_config(decoder=True)

    @property
    def hidden_size(self) -> int:
        return self.language_model_config.hidden_size

    @property
    def num_scores(self) -> int:
        return len(self.score_names)

    @property
    def uses_fusion_tokens(self) -> bool:
        """Whether sequences end in fusion tokens; with `fusion="mean"` they do not."""
        return self.fusion == "tokens"

    @property
    def feature_sizes(self) -> dict[str, int]:
        """Modality name -> feature size, without the modalities of text."""
        return feature_modalities(self.modalities)

    def token_ids(self, token, names=None) -> list[int]:
        """
        Ids of one kind of token, for example `token_ids(start_token)`, in the order of the modalities.

        The clip token of a modality of text, which does not exist, has -1.
        """
        return [self.added_token_ids.get(token(name), -1) for name in (names or self.modalities)]

    @property
    def fusion_token_ids(self) -> list[int]:
        return self.token_ids(fusion_token, range(1, self.num_fusion_tokens + 1))

    @property
    def trainable_token_ids(self) -> list[int]:
        """Ids of the trainable tokens, in the order of the rows of their table."""
        return [self.added_token_ids[name] for name in trainable_tokens(self.modalities, self.num_fusion_tokens)]

    def validate_modalities(self):
        """Called by `@strict`: names are identifiers no other token can be confused with, sizes are positive."""
        if not self.modalities:
            raise ValueError("`modalities` is empty; give at least one, for example {'video': 1024}.")
        for name, size in self.modalities.items():
            if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
                raise ValueError(
                    f"`modalities` has the name {name!r}; allowed are lower-case identifiers, like 'video'."
                )
            if name in (*self.score_names, "sample_id"):
                raise ValueError(
                    f"`modalities` has the name {name!r}, which is that of another column; choose another."
                )
            if hasattr(nn.ModuleDict(), name):
                raise ValueError(f"`modalities` has the name {name!r}, which PyTorch modules use; choose another.")
            if size != TEXT and (isinstance(size, str | bool) or size < 1):
                raise ValueError(
                    f"`modalities[{name!r}]` is {size!r}; allowed are feature sizes of 1 and more, and {TEXT!r}."
                )
        # With the clip tokens of all modalities: a name must be possible for features and for text.
        names = trainable_tokens(self.modalities, max(self.num_fusion_tokens, 1)) + list(
            map(clip_token, self.modalities)
        )
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"`modalities` {list(self.modalities)} make the token {repeated[0]} twice; rename one of them."
            )

    def validate_numbers(self):
        """Called by `@strict`: sizes at least 1, rates in [0, 1), weights finite and not negative."""
        for name in ("num_fusion_tokens", "lora_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; allowed are whole numbers of 1 and more.")
        for name in ("projector_dropout", "head_dropout", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; allowed are rates from 0 to below 1.")
        weights = ("regression_weight", "consistency_weight", "separation_weight", "pairwise_weight")
        for name in (*weights, "separation_margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}; allowed are finite numbers of 0 and more.")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"`lora_alpha` is {self.lora_alpha}; allowed are finite numbers above 0.")
        if not self.lora_target_modules or not all(self.lora_target_modules):
            raise ValueError("`lora_target_modules` has no or an empty name; name modules, for example 'q_proj'.")
        if self.text_config.is_encoder_decoder:
            raise ValueError(f"`text_config` is of {self.text_config.model_type!r}, which is no decoder; give one.")
        if self.hidden_size % CROSS_MODAL_ATTENTION_HEADS:
            raise ValueError(
                f"`text_config.hidden_size` is {self.hidden_size}; the cross-modal attention needs a multiple of "
                f"{CROSS_MODAL_ATTENTION_HEADS}."
            )

    def validate_scores(self):
        """Called by `@strict`: distinct names, one finite minimum and one positive finite range for each."""
        if not self.score_names or len(set(self.score_names)) < self.num_scores:
            raise ValueError(f"`score_names` is {self.score_names}; allowed is a list of one or more distinct names.")
        if unprintable := [name for name in self.score_names if not name.isprintable()]:
            raise ValueError(f"`score_names` has {unprintable[0]!r}; control characters are not allowed.")
        for name in ("score_minimums", "score_ranges"):
            values = getattr(self, name)
            if len(values) != self.num_scores:
                raise ValueError(
                    f"`{name}` has {len(values)} values; `score_names` has {self.num_scores}: give one each."
                )
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"`{name}` is {values}; allowed are finite numbers.")
        if min(self.score_ranges) <= 0:
            raise ValueError(f"`score_ranges` is {self.score_ranges}; allowed are numbers above 0 (highest - lowest).")

    def validate_calibration(self):
        """Called by `@strict`: a table of these modalities and scores."""
        if self.calibration is not None:
            check_calibration(self.calibration, list(self.modalities), self.score_names)

    def validate_language_model_source(self):
        """Called by `@strict`: names, none of which leads out of the folder or repository it belongs to."""
        source = self.language_model_source or {}
        names = {"repository", "revision", "package", "subfolder", "gguf_file", "sha256", "changed"}
        if unknown := source.keys() - names:
            raise ValueError(f"`language_model_source` has {min(unknown)!r}; allowed are {sorted(names)}.")
        if "repository" in source and not is_repository_name(str(source["repository"])):
            raise ValueError(
                f"`language_model_source` has the repository {source['repository']!r}, which is no Hub name."
            )
        files = source.get("sha256", {})
        files = [*files] if isinstance(files, dict) else [None]
        files += [source[name] for name in ("package", "subfolder", "gguf_file") if name in source]
        for name in files:
            parts = re.split(r"[/\\]", name) if isinstance(name, str) else [".."]
            if not name or not parts[0] or ".." in parts or ":" in parts[0]:
                raise ValueError(f"`language_model_source` has {name!r}, which is no name below its folder.")

    def validate_fusion(self):
        """Called by `@strict`: the ablation switches fit together."""
        if self.fusion == "mean" and self.aggregation == "cross_modal":
            raise ValueError(
                "`fusion` is 'mean', which only the reasoning path reads, but `aggregation` is 'cross_modal'."
            )

    def validate_added_token_ids(self):
        """Called by `@strict`: exactly the added tokens, each with an id of its own."""
        expected = added_tokens(self.modalities, self.num_fusion_tokens)
        if set(self.added_token_ids) != set(expected):
            differing = sorted(set(self.added_token_ids) ^ set(expected))
            raise ValueError(f"`added_token_ids` must name exactly {expected}; it differs in {differing}.")
        ids = list(self.added_token_ids.values())
        if min(ids) < 0 or len(set(ids)) < len(ids):
            raise ValueError(f"`added_token_ids` is {self.added_token_ids}; allowed are distinct ids of 0 and more.")


__all__ = ["LimssrConfig"]
