"""Makes, saves and loads checkpoints: *full* (everything) or *adapter* (only what was trained)."""

import copy
import json
import re
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from huggingface_hub import create_branch, create_repo, upload_folder
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedConfig
from transformers.integrations.peft import maybe_load_adapters
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
)
from transformers.utils.hub import extract_commit_hash

from ..configuration.bundle_limssr import write_code_bundle
from ..configuration.configuration_limssr import PIPELINES, require_location
from .adapters_limssr import (
    LANGUAGE_MODEL_PREFIX,
    LORA_FACTORS,
    adapted_modules,
    add_lora,
    is_lora_factor,
    live_state_dict,
    merge_lora,
    own_lora_layers,
    plain_name,
    plain_state_dict,
)
from .language_model_limssr import (
    CHECKPOINT_SUBFOLDER,
    HUB_ARGUMENTS,
    changed_weights,
    confine_quantization,
    find_language_model,
    find_weight_files,
    know_language_model,
    load_language_model,
    quiet_loading,
    read_weight_names,
    require_finite,
    require_floating_point,
    weight_sums,
)
from .neighbours_limssr import NEIGHBOURS_FILE, load_neighbours, save_neighbours

CODE_FILES = {"AutoConfig": "configuration_limssr", "AutoModel": "modeling_limssr"}
WEIGHT_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
PEFT_FILES = (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
WRITTEN_FILES = (CONFIG_NAME, "model*.safetensors", SAFE_WEIGHTS_INDEX_NAME, NEIGHBOURS_FILE)
UPLOAD_ARGUMENTS = ("repo_id", "private", "token", "commit_message", "revision")


class LimssrSavingMixin:
    """`save_pretrained` of [`LimssrForScoreRegression`] and [`LimssrModel`]."""

    has_merged_lora = False  # whether loading merged LoRA into the language model
    language_model_sums: dict = {}  # noqa: RUF012 (replaced, never changed); `weight_sums` of the one it came with
    neighbours = None  # `NeighbourIndex` of a checkpoint that has one
    revision: str | None = None  # commit on the Hub that the weights came from

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        form: Literal["full", "adapter"] = "full",
        **kwargs,
    ) -> None:
        """
        Write weights (safetensors), configuration and the model's part of the code bundle.

        The folder then holds this checkpoint alone: weights of an earlier one are removed, other files stay. LoRA that
        the configuration describes is saved apart from the weights, so that training can go on; loading merges it. Any
        other adapter of PEFT is merged as it is now.

        Args:
            save_directory (`str` or `Path`): checkpoint folder, created where needed.
            is_main_process (`bool`): whether this process writes; one of them does.
            state_dict (`dict`, *optional*): weights to save instead of the model's own.
            push_to_hub (`bool`): also upload these files, and no other of the folder, to `repo_id`; takes `private`,
                `token`, `revision` (a branch) and `commit_message` as well.
            form (`"full"` or `"adapter"`): all weights, or only what was trained (LoRA factors, added tokens,
                projectors, heads, statistics), which loads onto the same language model.
            **kwargs: arguments of `PreTrainedModel.save_pretrained`, for example `max_shard_size`.

        Raises:
            ValueError: an adapter is asked for, but the language model was trained as a whole, its LoRA is merged
                already, or it has adapters that the configuration does not describe; or the full form, but the
                language model is quantised, or has adapters that cannot be merged or weights that would not load; or
                a weight is not finite.
        """
        if form not in ("full", "adapter"):
            raise ValueError(f"form is {form!r}; allowed are 'full' and 'adapter'.")
        if not is_main_process:  # takes part in what transformers gathers from all processes, and writes nothing
            super().save_pretrained(save_directory, is_main_process=False, state_dict=state_dict, **kwargs)
            return
        if form == "full":
            require_floating_point(self.base_model.language_model)
        is_base_model = self.base_model is self
        state_dict = plain_state_dict(self, state_dict, frozenset() if is_base_model else own_lora_layers(self))
        changed = changed_weights(state_dict, self.language_model_sums)
        if form == "adapter":
            state_dict = self.adapter_state_dict(state_dict)
            if changed:
                raise ValueError(
                    "form='adapter' leaves the language model out, but it is not the one that would be found again: "
                    f"{len(changed)} of its weights have changed, first {changed[0]}. Save form='full'."
                )
            kwargs["max_shard_size"] = "100GB"  # always one file, which is how it is read
        self._require_loadable(state_dict, form)
        upload_arguments = {name: kwargs.pop(name) for name in UPLOAD_ARGUMENTS if name in kwargs}
        folder = Path(save_directory)
        constants = {name for name, _ in self.named_buffers() if LANGUAGE_MODEL_PREFIX in name}  # may be infinite
        require_finite({name: tensor for name, tensor in state_dict.items() if name not in constants}, folder)
        folder.mkdir(parents=True, exist_ok=True)
        own = self.config, getattr(self, "_hf_peft_config_loaded", False)
        self.config, self._hf_peft_config_loaded = self._config_to_save(form, folder, bool(changed)), False
        try:
            outdated = _outdated_files(folder, self.config.language_model_source)
            with TemporaryDirectory(dir=folder, prefix=".saving-") as staged:
                super().save_pretrained(staged, state_dict=state_dict, **kwargs)
                code = write_code_bundle(staged, self.code_module)
                save_neighbours(self, staged)
                for file in outdated:
                    file.unlink(missing_ok=True)
                for file in Path(staged).iterdir():
                    file.replace(folder / file.name)
        finally:
            self.config, self._hf_peft_config_loaded = own
        if push_to_hub:
            _upload(folder, [*WRITTEN_FILES, *code], **upload_arguments)

    def _config_to_save(self, form: str, folder: Path, is_changed: bool):
        """A copy of the configuration with what only a checkpoint has.

        The source of a language model that has changed is where it comes from, and no longer where to find it.
        """
        config = copy.deepcopy(self.config)
        config.checkpoint_form = form
        names = {"AutoConfig": type(config).__name__, "AutoModel": type(self).__name__}
        config.auto_map = {auto: f"{CODE_FILES[auto]}.{name}" for auto, name in names.items()}
        config.custom_pipelines = PIPELINES
        source = config.language_model_source or {}
        if "subfolder" in source and (form == "full" or not (folder / source["subfolder"]).is_dir()):
            config.language_model_source = {name: value for name, value in source.items() if name != "subfolder"}
        if is_changed:
            config.language_model_source = {**config.language_model_source, "changed": True}
        return config

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel") -> None:
        """Do nothing: every checkpoint carries the code, of which transformers would copy a part once more."""

    def _require_loadable(self, state_dict: dict[str, torch.Tensor], form: str) -> None:
        """
        Raises:
            ValueError: the weights, with those of LoRA left out, are not those of a model of this configuration.
        """
        with torch.device("meta"):
            expected = type(self)(copy.deepcopy(self.config)).state_dict()
        if form == "adapter":
            expected = {name: value for name, value in expected.items() if not name.startswith(LANGUAGE_MODEL_PREFIX)}
        found = {name: value for name, value in state_dict.items() if not is_lora_factor(name)}
        problems = {
            "missing": expected.keys() - found.keys(),
            "unexpected": found.keys() - expected.keys(),
            "mismatched": {
                name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape
            },
        }
        _refuse(problems, "The weights of this model do not fit its configuration, with which they would be loaded")

    def adapter_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Part of a state dict (by the names of [`plain_state_dict`]) that an adapter holds."""
        if self.base_model is self:
            raise ValueError("form='adapter' is for LimssrForScoreRegression; save LimssrModel with form='full'.")
        if self.config.language_model_training == "full":
            raise ValueError(
                "form='adapter' leaves the language model out, but it was trained as a whole: save form='full'."
            )
        source = self.config.language_model_source or {}
        if not source or "changed" in source:
            reason = (
                "it has changed since it was loaded" if source else "the model was not made by from_language_model"
            )
            raise ValueError(
                "form='adapter' leaves the language model out, but nothing says where to find it again "
                f"({reason}): save form='full'."
            )
        foreign = sorted(
            name
            for name in adapted_modules(self)
            if name.startswith(LANGUAGE_MODEL_PREFIX) and f"{name}{LORA_FACTORS[0]}" not in state_dict
        )
        if foreign:
            raise ValueError(
                "form='adapter' holds the LoRA that the configuration describes (rank, alpha, targets, active), and "
                f"{foreign[0]} has another adapter: save form='full', which merges it."
            )
        if self.has_merged_lora or (
            self.config.language_model_training == "lora" and not any(map(is_lora_factor, state_dict))
        ):
            raise ValueError(
                "form='adapter' needs the LoRA factors, and those of this model are merged into the language model, "
                "or were never added: save form='full', or load the checkpoint with trainable=True."
            )
        return {
            name: tensor
            for name, tensor in state_dict.items()
            if is_lora_factor(name) or not name.startswith(LANGUAGE_MODEL_PREFIX)
        }


class LimssrCheckpointMixin:
    """`from_language_model`, `from_pretrained` and `load_state_dict` of [`LimssrForScoreRegression`]."""

    @classmethod
    def from_language_model(
        cls,
        name_or_folder: str | Path,
        num_hidden_layers: int | None = None,
        gguf_file: str | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        quantization_config=None,
        trust_remote_code: bool = False,
        **config_fields,
    ):
        """
        Make a new model around a pretrained language model.

        With `language_model_training="lora"` the language model gets LoRA (needs peft).

        Args:
            name_or_folder (`str` or `Path`): Hub repository, model folder, or a GGUF file, which is dequantised.
            num_hidden_layers (`int`, *optional*): keep only the first N layers of the language model.
            gguf_file (`str`, *optional*): name of the GGUF file in the folder or repository.
            revision (`str`, *optional*): branch, tag or commit of a Hub repository.
            dtype (`torch.dtype`, *optional*): precision of the language model; the checkpoint's own by default.
            quantization_config (`BitsAndBytesConfig`, *optional*): quantises the linear layers of the language model
                (needs bitsandbytes), beside which LoRA or the heads alone are trained (QLoRA).
            trust_remote_code (`bool`): run the code that comes with a language model of a type unknown to
                transformers. Loading what is saved takes it again, with `language_model` as the place of that code.
            **config_fields: fields of [`LimssrConfig`] (`modalities`, `score_names`, `language_model_training`, ...),
                and `cache_dir`, `token`, `local_files_only` for the download.

        Raises:
            TypeError: an argument that is neither.
            ValueError: more layers asked for than there are, or no such layers to cut; or a quantised language model
                is to be trained as a whole.
        """
        hub_arguments = {name: config_fields.pop(name) for name in HUB_ARGUMENTS if name in config_fields}
        if unknown := sorted(config_fields.keys() - {field.name for field in fields(cls.config_class)}):
            raise TypeError(f"from_language_model has no argument `{unknown[0]}`, and LimssrConfig no such field.")
        if quantization_config is not None and config_fields.get("language_model_training") == "full":
            raise ValueError(
                "language_model_training='full' trains every weight of the language model, which quantised ones do "
                "not allow: give 'lora' or 'frozen', or leave quantization_config out."
            )
        language_model, source = load_language_model(
            name_or_folder, num_hidden_layers, gguf_file, revision, trust_remote_code, dtype=dtype, **hub_arguments
        )
        config = cls.config_class(text_config=language_model.config, language_model_source=source, **config_fields)
        with quiet_loading():  # projectors, heads and added tokens are new
            model = super().from_pretrained(
                None,
                config=config,
                state_dict=_with_prefix(language_model),
                dtype=torch.float32,
                quantization_config=quantization_config,
            )
        for weight, own in zip(model.model.language_model.parameters(), language_model.parameters(), strict=True):
            if type(weight) is nn.Parameter:  # not what is quantised, which has a class of its own
                weight.data = weight.data.to(own.dtype)
        model.model.freeze_language_model()  # loading makes every weight trainable
        confine_quantization(model, model.model.language_model)
        model.model.draw_token_embeddings()
        model._note_language_model()
        if config.language_model_training == "lora":
            add_lora(model)
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None,
        *model_args,
        config=None,
        language_model: str | Path | None = None,
        trainable: bool = False,
        quantization_config=None,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """
        Load either form of checkpoint, from safetensors only. A missing or unexpected weight is an error.

        A folder of PEFT is loaded as `AutoModel` does: the checkpoint it names, and its adapter on top, apart. What
        [`LimssrModel`] saved is loaded too, with new scoring heads, named in a warning.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): checkpoint folder or Hub repository.
            *model_args: passed on to `PreTrainedModel.from_pretrained`.
            config (`LimssrConfig`, `str` or `Path`, *optional*): configuration, or the folder or repository that has
                it; the checkpoint's own by default.
            language_model (`str` or `Path`, *optional*): folder, GGUF file, installed package or Hub repository of the
                language model of an adapter; needed where the checkpoint does not say it. A language model that brings
                its own code needs it in either form, with `trust_remote_code=True`.
            trainable (`bool`): keep LoRA apart, ready for training (needs peft), instead of merging it.
            quantization_config (`BitsAndBytesConfig`, *optional*): quantises the linear layers of the language model
                (needs bitsandbytes). LoRA stays apart then (needs peft): rounded with them it would be lost in part.
            ignore_mismatched_sizes (`bool`): make layers anew that have another shape in `config`, for example with
                other scores or another feature size; a warning names them.
            output_loading_info (`bool`): also return what transformers reports about the loading.
            **kwargs: fields of the configuration to change, and arguments of `PreTrainedModel.from_pretrained`:
                `dtype`, `device_map`, `attn_implementation`, `revision`, ...

        Raises:
            OSError: no such checkpoint, or a weight file that is cut off; the message names it.
            ValueError: a missing, unexpected or misshapen weight, or another language model than the adapter's.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("use_safetensors=False asks for pickled weights, which are never loaded: leave it out.")
        dtypes = [kwargs.pop(name, None) for name in ("dtype", "torch_dtype")]
        dtype = next((found for found in dtypes if found is not None), "auto")
        hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        adapter_name = kwargs.pop("adapter_name", "default")
        if kwargs.pop("trust_remote_code", False) and language_model is not None:
            know_language_model(language_model)
        if pretrained_model_name_or_path is not None:
            require_location(pretrained_model_name_or_path)
        peft_folder, location, peft_arguments = maybe_load_adapters(
            pretrained_model_name_or_path, hub_arguments, **(kwargs.pop("adapter_kwargs", None) or {})
        )
        if peft_folder is not None and not location:
            raise ValueError(
                f"{peft_folder} is a folder of PEFT whose {ADAPTER_CONFIG_NAME} names no checkpoint "
                "(`base_model_name_or_path`): load the checkpoint it was trained on, then call "
                "`model.load_adapter(folder)`."
            )
        if not isinstance(config, PreTrainedConfig):
            config, kwargs = cls.config_class.from_pretrained(
                location if config is None else config, return_unused_kwargs=True, **hub_arguments, **kwargs
            )
        config.validate()  # whatever was changed since it was made
        checkpoint, own_hub_arguments = location, hub_arguments
        files = [] if location is None else find_weight_files(location, kwargs.get("variant"), **hub_arguments)
        names = read_weight_names(files)
        is_adapter = bool(files) and config.checkpoint_form == "adapter"
        is_apart = is_adapter or any(map(is_lora_factor, names))
        has_lora = config.language_model_training == "lora"
        keeps_lora = has_lora and is_apart and (trainable or quantization_config is not None)
        if trainable and has_lora and not is_apart:
            raise ValueError(
                "trainable=True needs the LoRA factors, and this checkpoint has them merged: load one that was saved "
                "before they were merged."
            )
        if is_apart:
            weights = {name: tensor for file in files for name, tensor in load_file(file).items()}
            if is_adapter:
                found = find_language_model(
                    location,
                    config.language_model_source,
                    language_model,
                    config.language_model_config.num_hidden_layers,
                    dtype=config.dtype if dtype == "auto" else dtype,  # in which LoRA is merged into it
                    **hub_arguments,
                )
                weights |= _with_prefix(found)
            kwargs["state_dict"] = _join_lora(weights, config, merge=not keeps_lora)
            location, hub_arguments = None, {}
        model, info = super().from_pretrained(
            location,
            *model_args,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            quantization_config=quantization_config,
            ignore_mismatched_sizes=True,  # refused below, by name
            **hub_arguments,
            **kwargs,
        )
        if is_apart:  # as transformers does for weights that it reads itself; PEFT records it
            model.name_or_path = model.config.name_or_path = str(checkpoint)
        _require_all_weights(info, pretrained_model_name_or_path, config, ignore_mismatched_sizes)
        model.revision = extract_commit_hash(files[0], None) if files else None
        model.model.freeze_language_model()  # loading makes every weight trainable
        confine_quantization(model, model.model.language_model)
        model.has_merged_lora = has_lora and pretrained_model_name_or_path is not None and not keeps_lora
        model._note_language_model()
        if keeps_lora:
            add_lora(model)
            model.load_lora({name: tensor for name, tensor in weights.items() if is_lora_factor(name)})
        if peft_folder is not None:
            model.load_adapter(peft_folder, adapter_name=adapter_name, adapter_kwargs=peft_arguments)
        elif checkpoint is not None and not ignore_mismatched_sizes:
            model.neighbours = load_neighbours(model, checkpoint, **own_hub_arguments)
        return (model, info) if output_loading_info else model

    def _note_language_model(self) -> None:
        """Take the sums by which `save_pretrained` knows a changed language model, where an adapter is possible."""
        language_model, config = self.model.language_model, self.config
        is_kept = (
            config.language_model_source and config.language_model_training != "full" and not self.has_merged_lora
        )
        if is_kept and not getattr(language_model, "is_quantized", False):
            self.language_model_sums = weight_sums(_with_prefix(language_model))

    def load_state_dict(self, state_dict: dict[str, torch.Tensor], *args, **kwargs):
        """
        Load weights by the names they have in this model or in a checkpoint, which `Trainer` reads.

        Raises:
            ValueError: they have LoRA merged, and the model has it apart.
        """
        return super().load_state_dict(live_state_dict(self, state_dict), *args, **kwargs)

    def load_lora(self, factors: dict[str, torch.Tensor]) -> None:
        """Load LoRA factors `{layer}.lora_A.weight`, `{layer}.lora_B.weight`; none may be missing or left over."""
        own = {plain_name(name): value for name, value in self.named_parameters()}
        own = {name: value for name, value in own.items() if is_lora_factor(name)}
        if differing := sorted(set(own) ^ set(factors)):
            raise ValueError(f"LoRA factors do not fit the model: {differing[:4]} are in only one of the two.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(factors[name])


def _with_prefix(language_model) -> dict[str, torch.Tensor]:
    """Weights of the language model by their names in the scoring model."""
    return {LANGUAGE_MODEL_PREFIX + name: tensor for name, tensor in language_model.state_dict().items()}


def _join_lora(weights: dict[str, torch.Tensor], config, merge: bool) -> dict[str, torch.Tensor]:
    """Weights of a whole model, with the LoRA factors among them merged or left out."""
    targets = config.lora_target_modules if config.language_model_training == "lora" else []
    layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    expected = {layer + factor for layer in layers if layer.split(".")[-1] in targets for factor in LORA_FACTORS}
    if differing := sorted(expected ^ set(filter(is_lora_factor, weights))):
        raise ValueError(
            f"The LoRA factors of the adapter do not fit its configuration: {len(differing)} are missing or "
            f"unexpected, first {differing[0]}."
        )
    if merge:
        return merge_lora(weights, config.lora_alpha / config.lora_rank)
    return {name: tensor for name, tensor in weights.items() if not is_lora_factor(name)}


def _upload(folder, patterns, repo_id=None, private=None, token=None, revision=None, commit_message=None) -> None:
    """Make one commit of the files that match."""
    repo_id = create_repo(repo_id or Path(folder).name, private=private, token=token, exist_ok=True).repo_id
    if revision is not None:
        create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        allow_patterns=patterns,
        token=token,
        revision=revision,
        commit_message=commit_message,
    )


def _require_all_weights(info: dict, name_or_path, config, ignore_mismatched_sizes: bool) -> None:
    problems = {kind: set(map(str, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if config.architectures == ["LimssrModel"]:  # saved without heads
        problems["missing"] = {name for name in problems["missing"] if name.startswith("model.")}
    if ignore_mismatched_sizes:
        del problems["mismatched"]
    _refuse(problems, f"The weights of {name_or_path} do not fit its configuration")


def _refuse(problems: dict[str, set[str]], message: str) -> None:
    if any(problems.values()):
        found = "; ".join(f"{len(names)} {kind}, first {min(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{message}: {found}.")


def _outdated_files(folder: Path, language_model_source: dict | None) -> list[Path]:
    """Weights of an earlier checkpoint, but not the language model that the new one is an adapter of."""
    known = (*PEFT_FILES, NEIGHBOURS_FILE)
    outdated = [file for file in folder.iterdir() if WEIGHT_FILES.fullmatch(file.name) or file.name in known]
    carried, config = folder / CHECKPOINT_SUBFOLDER, folder / CONFIG_NAME
    if carried.is_dir() and config.is_file() and "subfolder" not in (language_model_source or {}):
        earlier = json.loads(config.read_text(encoding="utf-8")).get("language_model_source") or {}
        if earlier.get("subfolder") == CHECKPOINT_SUBFOLDER:
            outdated += [file for file in carried.iterdir() if WEIGHT_FILES.fullmatch(file.name)]
            outdated.append(carried / CONFIG_NAME)
    return outdated
