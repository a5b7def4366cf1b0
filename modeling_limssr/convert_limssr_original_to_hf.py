"""
Convert a published LIMSSR checkpoint (a pickled state dict) to safetensors, with its processor.

    python -m limssr.modeling_limssr.convert_limssr_original_to_hf --checkpoint FILE.pkl \
        --language_model FOLDER_OR_NAME --prompt FILE.json --output_dir DIR
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, HfArgumentParser, PreTrainedModel

from ..configuration.configuration_limssr import LimssrConfig
from ..processing.inputs_limssr import Prompt
from ..processing.processing_limssr import LimssrProcessor
from .adapters_limssr import LORA_FACTORS, add_lora, is_lora_factor, merge_lora, strip_peft_names
from .checkpoint_limssr import LANGUAGE_MODEL_PREFIX
from .language_model_limssr import CHECKPOINT_SUBFOLDER, describe_source, lookup_scale
from .modeling_limssr import LimssrForScoreRegression

MODALITY_NAMES = {"v": "video", "a": "audio", "f": "flow"}
ROWS_KEY = "model.token_embeddings"
KEY_PATTERNS = (
    (r"^language_model\.(?:base_model\.model\.)?(?!lm_head\.)\w+\.(.+)$", LANGUAGE_MODEL_PREFIX + r"\1"),
    (r"^feature_to_llm\.(\w+)\.0\.(.+)$", r"model.projectors.\1.linear_1.\2"),
    (r"^feature_to_llm\.(\w+)\.1\.(.+)$", r"model.projectors.\1.norm_1.\2"),
    (r"^feature_to_llm\.(\w+)\.4\.(.+)$", r"model.projectors.\1.linear_2.\2"),
    (r"^feature_to_llm\.(\w+)\.5\.(.+)$", r"model.projectors.\1.norm_2.\2"),
    (r"^token_role_weight$", r"reasoning_path.slot_weight"),
    (r"^LN\.(.+)$", r"reasoning_path.norm.\1"),
    (r"^cond_gate\.0\.(.+)$", r"reasoning_path.condition_gate.\1"),
    (r"^cond_head\.(.+)$", r"reasoning_path.condition_head.\1"),
    (r"^regressor\.(.+)$", r"reasoning_path.score_head.\1"),
    (r"^modal_norms\.(\w+)\.(.+)$", r"cross_modal_path.norms.\1.\2"),
    (r"^cross_modal_attn\.(.+)$", r"cross_modal_path.attention.\1"),
    (r"^modal_gate\.(.+)$", r"cross_modal_path.gate.\1"),
    (r"^missing_confidence$", r"cross_modal_path.missing_confidence"),
    (r"^auxiliary_regressor\.(.+)$", r"cross_modal_path.score_head.\1"),
    (r"^w1$", r"reasoning_weight"),
)


@dataclass
class ConversionArguments:
    checkpoint: str = field(metadata={"help": "published checkpoint, a state dict in a .pkl file"})
    language_model: str = field(
        metadata={"help": "language model it was trained from, whose configuration and tokenizer are read"}
    )
    prompt: str = field(metadata={"help": "JSON file with the wording: template, modality_names, separator, none"})
    output_dir: str = field(metadata={"help": "folder for the converted checkpoint"})
    max_clips: int = field(default=95, metadata={"help": "number of clips each modality is padded or cropped to"})
    lora_alpha: float = field(default=32, metadata={"help": "scale numerator of LoRA"})
    score_name: str = field(default="score", metadata={"help": "name of the score"})
    score_range: float = field(default=1.0, metadata={"help": "highest minus lowest score, in judges' units"})
    keep_lora: bool = field(
        default=False, metadata={"help": "keep LoRA apart from the language model, for further training"}
    )


def convert(arguments: ConversionArguments) -> None:
    """
    Write the converted model and processor to `output_dir`.

    Raises:
        ValueError: no state dict, unknown or missing keys in it, or tensors that do not fit the language model; the
            message names the file and them.
    """
    prompt = read_prompt(arguments.prompt)
    tensors = rename_keys(read_state_dict(arguments.checkpoint))
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{arguments.checkpoint}: the tensor {wrong[0]} is not finite.")
    text_config = AutoConfig.from_pretrained(arguments.language_model)
    embedding_key, embedding_scale = describe_embedding(text_config)
    if lacking := [name for name in (embedding_key, "reasoning_path.slot_weight") if name not in tensors]:
        raise ValueError(f"{arguments.checkpoint}: there is no tensor {lacking[0]}.")
    text_config.dtype = tensors[embedding_key].dtype  # which may be finer than the language model's own
    config = read_config(tensors, text_config, len(tensors[embedding_key]), arguments)
    # The last 3M + K rows of the published table are the added tokens, the others the language model's vocabulary.
    vocabulary, rows = tensors[embedding_key].split(
        [config.language_model_config.vocab_size, len(config.trainable_token_ids)]
    )
    tensors[embedding_key], tensors[ROWS_KEY] = vocabulary.clone(), rows * embedding_scale
    base = {name: tensor for name, tensor in tensors.items() if not is_lora_factor(name)}
    factors = {name: tensor for name, tensor in tensors.items() if is_lora_factor(name)}
    if arguments.keep_lora and factors:
        language_model_folder = Path(arguments.output_dir) / CHECKPOINT_SUBFOLDER
        save_language_model(base, config, language_model_folder)
        config.language_model_source = describe_source(str(language_model_folder)) | {
            "subfolder": CHECKPOINT_SUBFOLDER
        }
        model = load_strictly(base, config)
        add_lora(model)
        model.load_lora(factors)
        model.save_pretrained(arguments.output_dir, form="adapter")
    else:
        model = load_strictly(merge_lora(tensors, config.lora_alpha / config.lora_rank), config)
        model.save_pretrained(arguments.output_dir)
    processor = LimssrProcessor.from_config(
        config,
        AutoTokenizer.from_pretrained(arguments.language_model),
        max_clips=arguments.max_clips,
        pad_to_max_clips=True,
        prompt=prompt,
    )
    processor.save_pretrained(arguments.output_dir)


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """
    Read the published checkpoint, of which nothing is executed.

    Raises:
        ValueError: not a dictionary of tensors.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # the reader raises whatever the bytes lead to
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not a state dict that can be read without executing code: {reason}") from error
    is_state = isinstance(state_dict, dict) and all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state_dict.items()
    )
    if not is_state:
        raise ValueError(f"{path}: holds {type(state_dict).__name__}, expected a dictionary of tensors.")
    return state_dict


def read_prompt(path: str) -> dict:
    """
    Read the wording of the prompt.

    Raises:
        ValueError: no JSON, or other entries than the fields of `Prompt`.
    """
    try:
        wording = json.loads(Path(path).read_text(encoding="utf-8"))
        Prompt(**wording)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: not the wording of a prompt: {' '.join(str(error).split())[:300]}") from error
    return wording


def rename_keys(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published names -> ours, without the vocabulary head, which nothing reads."""
    renamed, unknown = {}, []
    for name, tensor in state_dict.items():
        if ".lm_head." in name:
            continue
        for pattern, replacement in KEY_PATTERNS:
            if match := re.match(pattern, name):
                renamed[_spell_out(match.expand(replacement))] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{len(unknown)} keys of the checkpoint are unknown: {', '.join(sorted(unknown))}.")
    for name, tensor in renamed.items():
        if name.startswith("model.projectors.") and tensor.dim() == 3:
            renamed[name] = tensor.squeeze(-1)  # a convolution of width 1: (hidden, feature size, 1)
    return strip_peft_names(renamed)


def _spell_out(name: str) -> str:
    """`projectors.v.` -> `projectors.video.`, likewise for norms; other modalities keep their published name."""
    return re.sub(r"\b(projectors|norms)\.([vaf])\.", lambda found: f"{found[1]}.{MODALITY_NAMES[found[2]]}.", name)


def describe_embedding(text_config) -> tuple[str, float]:
    """
    Name of the embedding table in our state dict, and the factor the language model multiplies its rows with (Gemma).

    Our trainable rows are used as they are, so they are stored multiplied.
    """
    with torch.device("meta"):
        language_model = AutoModel.from_config(text_config)
    embedding = language_model.get_input_embeddings()
    name = next(name for name, module in language_model.named_modules() if module is embedding)
    return f"{LANGUAGE_MODEL_PREFIX}{name}.weight", lookup_scale(embedding)


def read_config(tensors, text_config, table_rows: int, arguments: ConversionArguments) -> LimssrConfig:
    """Read all sizes off the tensors."""
    projectors = {re.match(r"model\.projectors\.(\w+)\.linear_1\.weight", name): name for name in tensors}
    modalities = {match[1]: tensors[name].shape[1] for match, name in projectors.items() if match}
    num_fusion_tokens = len(tensors["reasoning_path.slot_weight"])
    text_config.get_text_config(decoder=True).vocab_size = table_rows - 3 * len(modalities) - num_fusion_tokens
    training = {"language_model_training": "full"}
    if factors := [name for name in tensors if name.endswith(LORA_FACTORS[0])]:
        training = {
            "language_model_training": "lora",
            "lora_rank": len(tensors[factors[0]]),
            "lora_alpha": arguments.lora_alpha,
            "lora_target_modules": sorted({name.split(".")[-3] for name in factors}),
        }
    return LimssrConfig(
        text_config=text_config,
        modalities=modalities,
        num_fusion_tokens=num_fusion_tokens,
        score_names=[arguments.score_name],
        score_ranges=[arguments.score_range],
        **training,
    )


def load_strictly(state_dict: dict[str, torch.Tensor], config: LimssrConfig) -> LimssrForScoreRegression:
    return LimssrForScoreRegression.from_pretrained(None, config=config, state_dict=state_dict)


def save_language_model(tensors: dict[str, torch.Tensor], config: LimssrConfig, folder: Path) -> None:
    """Save the language model, as published training left it, in a model folder of its own."""
    weights = {
        name.removeprefix(LANGUAGE_MODEL_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(LANGUAGE_MODEL_PREFIX)
    }
    with torch.device("meta"):
        language_model_class = type(AutoModel.from_config(config.text_config))
    language_model: PreTrainedModel = language_model_class.from_pretrained(
        None, config=config.text_config, state_dict=weights
    )
    language_model.save_pretrained(folder)


def main(words: list[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(ConversionArguments).parse_args_into_dataclasses(words)
    try:
        convert(arguments)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot convert {arguments.checkpoint}: {' '.join(str(error).split())}") from error
    print(f"Converted checkpoint: {arguments.output_dir}")


if __name__ == "__main__":
    main()
