"""Loads a pretrained language model as the language model, and remembers which one it was without naming a path."""

import hashlib
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import cached_file, is_peft_available, logging
from transformers.utils.hub import extract_commit_hash

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
CHECKPOINT_SUBFOLDER = "backbone"  # where a checkpoint may carry its own language model


def load_language_model(
    name_or_folder: str | Path,
    num_hidden_layers: int | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    **kwargs,
) -> tuple[PreTrainedModel, dict]:
    """
    Args:
        name_or_folder (`str` or `Path`): Hub repository, model folder, or a GGUF file, which is dequantised.
        num_hidden_layers (`int`, *optional*): keep only the first N layers.
        gguf_file (`str`, *optional*): name of the GGUF file in the folder or repository.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        **kwargs: for `AutoModel.from_pretrained`: `dtype`, `cache_dir`, `token`, ...

    Returns:
        The language model without its vocabulary head, and its source for [`find_language_model`].

    Raises:
        ValueError: not a language model that loads whole and in floating point, or fewer layers than asked for.
    """
    path = Path(name_or_folder).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(
                f"language model {path.name!r} is a file but no .gguf; give a model folder, a GGUF file or a Hub name."
            )
        path, gguf_file = path.parent, path.name
    location = str(path) if path.is_dir() else str(name_or_folder)
    if gguf_file is not None:
        kwargs["gguf_file"] = gguf_file
    if revision is not None:
        kwargs["revision"] = revision
    with quiet_loading():
        language_model, info = AutoModel.from_pretrained(
            location, use_safetensors=True, output_loading_info=True, **kwargs
        )
    if gguf_file is None and getattr(language_model, "is_quantized", False):  # a GGUF file is dequantised by now
        raise ValueError(
            f"language model {name_or_folder} is stored quantised; give the one in floating point, which "
            "quantization_config=BitsAndBytesConfig(...) quantises as it loads."
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"language model {name_or_folder} lacks {len(missing)} of its weights, first {missing[0]}.")
    hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    source = describe_source(location, gguf_file, **hub_arguments)
    _forget_origin(language_model)
    if num_hidden_layers is not None:
        _keep_first_layers(language_model, num_hidden_layers)
    return language_model, source


@contextmanager
def quiet_loading():
    """Keeps transformers from reporting weights that are meant to be new, or to be left out."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def describe_source(location: str, gguf_file: str | None = None, **hub_arguments) -> dict:
    """Repository and commit, or for a folder only file names, with the SHA-256 of the weights in both cases."""
    source = {}
    folder = Path(location)
    if not folder.is_dir():
        file = cached_file(location, gguf_file or "config.json", **hub_arguments)
        source = {"repository": location, "revision": extract_commit_hash(file, None)}
        folder = Path(file).parent
    if gguf_file is not None:
        source["gguf_file"] = gguf_file
    weights = [folder / gguf_file] if gguf_file is not None else sorted(folder.glob("model*.safetensors"))
    return {**source, "sha256": {file.name: _sha256(file) for file in weights}}


def find_language_model(
    checkpoint: str | Path,
    source: dict | None,
    language_model: str | Path | None,
    num_hidden_layers: int,
    dtype: torch.dtype | str | None = None,
    **hub_arguments,
) -> PreTrainedModel:
    """
    The language model that an adapter was trained on.

    Args:
        checkpoint (`str` or `Path`): the adapter, which may carry its language model in a subfolder.
        source (`dict`): as returned by [`load_language_model`].
        language_model (`str` or `Path`, *optional*): where it lies here. Not needed for a Hub repository or a subfolder.
        num_hidden_layers (`int`): the layers the adapter was trained with.
        dtype (`torch.dtype`, *optional*): in which it was trained; its own by default.
        **hub_arguments: of the checkpoint's own download (`revision`, `token`, ...).

    Raises:
        ValueError: the language model is local and `language_model` is not given, or its weights are others.
    """
    source = source or {}
    # What says which checkpoint it is says nothing of its language model; what says how to download does.
    how = {name: value for name, value in hub_arguments.items() if name not in ("revision", "subfolder")}
    if language_model is None:
        language_model, where = _own_place(checkpoint, source, hub_arguments)
        how |= where
    is_file = Path(language_model).expanduser().is_file()
    gguf_file = None if is_file else source.get("gguf_file")
    language_model, found = load_language_model(
        language_model, num_hidden_layers, gguf_file, dtype=dtype or "auto", **how
    )
    for file, digest in source.get("sha256", {}).items():
        if found["sha256"].get(file) != digest:
            raise ValueError(
                f"language_model is not the language model this adapter was trained on: {file} has SHA-256 "
                f"{found['sha256'].get(file, '(no such file)')}, expected {digest}."
            )
    return language_model


def _own_place(checkpoint: str | Path, source: dict, hub_arguments: dict) -> tuple[str | Path, dict]:
    """Where the language model lies by the checkpoint's own word: a place, and revision and subfolder there."""
    if "subfolder" in source:
        subfolder = Path(hub_arguments.get("subfolder", "")) / source["subfolder"]
        if (Path(checkpoint) / subfolder).is_dir():
            return Path(checkpoint) / subfolder, {}
        revision = {"revision": hub_arguments["revision"]} if "revision" in hub_arguments else {}
        return checkpoint, revision | {"subfolder": subfolder.as_posix()}
    if "repository" in source:
        return source["repository"], {"revision": source["revision"]}
    files = ", ".join(source.get("sha256", {})) or "the language model it was trained on"
    raise ValueError(
        "This checkpoint is an adapter of a language model that is not on the Hub: pass language_model=FOLDER_OR_FILE, "
        f"the place of {files}."
    )


def confine_quantization(model: PreTrainedModel, language_model: PreTrainedModel) -> None:
    """
    Says of the language model alone what transformers says of the whole model that it quantised.

    PEFT asks the language model; of the whole model, `Trainer` would refuse to train it, and `config.json` would ask for
    quantised weights. A language model that is trained as a whole cannot be so any more: that refusal stays.

    On a CPU with AVX512-BF16, bitsandbytes would repack 4-bit weights at the first score. That is kept from happening:
    what is repacked passes no gradients on, multiplies in bfloat16 only, and needs 64 inputs to every layer.
    """
    if not getattr(model, "is_quantized", False):
        return
    for module in language_model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    marks = ("is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit")
    for mark in marks:
        setattr(language_model, mark, getattr(model, mark, False))
    if model.config.language_model_training != "full":
        model.hf_quantizer.remove_quantization_config(model)
        for mark in marks:
            setattr(model, mark, False)


def require_floating_point(language_model: PreTrainedModel) -> None:
    """
    Raises:
        ValueError: the language model is quantised, and its weights are to be saved.
    """
    if getattr(language_model, "is_quantized", False):
        raise ValueError(
            "The language model is quantised, and a full checkpoint holds it in floating point: save form='adapter', "
            "only what was trained. Loaded without quantization_config, it can be saved in full."
        )


def lookup_scale(embedding: nn.Module) -> float:
    """What an embedding multiplies a looked-up row with: 1, but for families like Gemma."""
    return getattr(embedding, "scalar_embed_scale", 1.0)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _forget_origin(language_model: PreTrainedModel) -> None:
    """Removes what would tie a saved checkpoint to a GGUF file or a path: its weights are plain tensors by now."""
    for name in ("quantization_config", "_model_name_or_path"):
        if hasattr(language_model.config, name):
            delattr(language_model.config, name)
    language_model.config.name_or_path = ""


def _keep_first_layers(language_model: PreTrainedModel, count: int) -> None:
    if count == language_model.config.num_hidden_layers:
        return
    layers = getattr(language_model, "layers", None)
    if layers is None or not 1 <= count <= len(layers):
        available = "no list `layers`" if layers is None else f"{len(layers)} layers"
        raise ValueError(f"num_hidden_layers is {count}, but the language model has {available}.")
    language_model.layers = layers[:count]
    config = language_model.config
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[:count]


LORA_FACTORS = (".lora_A.weight", ".lora_B.weight")


def add_lora(model: nn.Module) -> None:
    """
    Gives the language model of a LIMSSR model trainable LoRA factors, as its configuration says, and freezes its own
    weights.

    Raises:
        ImportError: peft is not installed.
        ValueError: a target is no linear layer of the language model.
    """
    if not is_peft_available():
        raise ImportError(
            "LoRA factors beside the language model, to train or on a quantised one, need peft: pip install peft. "
            "Scoring with them merged does not."
        )
    if is_peft_available():  # in this form the loader of remote code does not demand peft
        from peft import LoraConfig, inject_adapter_in_model
    config, language_model = model.config, model.model.language_model
    for target in config.lora_target_modules:
        modules = [module for name, module in language_model.named_modules() if name.split(".")[-1] == target]
        if not modules or not all(map(_is_linear, modules)):
            linear = {name.split(".")[-1] for name, module in language_model.named_modules() if _is_linear(module)}
            raise ValueError(
                f"`lora_target_modules` names {target!r}; the language model's linear layers are {sorted(linear)}."
            )
    lora_config = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    inject_adapter_in_model(lora_config, language_model)
    for name, factor in language_model.named_parameters():
        if any(map(is_lora_factor, strip_peft_names({name: None}))):
            factor.data = factor.data.float()  # steps of a small learning rate vanish in half precision
    model.train(model.training)  # the new dropout layers follow the model's mode


def _is_linear(module: nn.Module) -> bool:
    """Not the `Conv1D` of GPT-2, the weight of which is transposed where it is quantised and nowhere else."""
    return isinstance(module, nn.Linear) and getattr(module, "source_cls", nn.Linear) is nn.Linear


def strip_peft_names(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`q_proj.base_layer.weight` -> `q_proj.weight` and `q_proj.lora_A.default.weight` -> `q_proj.lora_A.weight`."""
    return {
        name.replace(".base_layer.", ".").replace(".default.weight", ".weight"): tensor
        for name, tensor in state_dict.items()
    }


def is_lora_factor(name: str) -> bool:
    return name.endswith(LORA_FACTORS)


def merge_lora(state_dict: dict[str, torch.Tensor], scaling: float) -> dict[str, torch.Tensor]:
    """
    Replaces each weight W that has factors A and B by W + scaling * B A, and drops the factors.

    Args:
        state_dict: with the names of [`strip_peft_names`].
        scaling (`float`): alpha / rank.

    Raises:
        KeyError: factors without their weight, or without each other.
    """
    merged = {name: tensor for name, tensor in state_dict.items() if not is_lora_factor(name)}
    for layer in {name.rpartition(".lora_")[0] for name in state_dict if is_lora_factor(name)}:
        factor_a, factor_b = (state_dict[layer + factor] for factor in LORA_FACTORS)
        weight = merged[f"{layer}.weight"]
        update = scaling * factor_b.float() @ factor_a.float()  # (out, in)
        merged[f"{layer}.weight"] = (weight.float() + update.to(weight.device)).to(weight.dtype)
    return merged
