"""Makes, saves and loads checkpoints: *full* (everything, LoRA merged) or *adapter* (only what was trained)."""

from dataclasses import fields
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import create_branch, create_repo, upload_folder
from safetensors.torch import load_file
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from ..configuration.bundle_limssr import write_code_bundle
from .language_model_limssr import (
    HUB_ARGUMENTS,
    LORA_FACTORS,
    add_lora,
    confine_quantization,
    find_language_model,
    is_lora_factor,
    load_language_model,
    merge_lora,
    quiet_loading,
    require_floating_point,
    strip_peft_names,
)

AUTO_MAP = {"AutoConfig": "configuration_limssr.LimssrConfig", "AutoModel": "modeling_limssr.LimssrForScoreRegression"}
LANGUAGE_MODEL_PREFIX = "model.language_model."
WRITTEN_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")
UPLOAD_ARGUMENTS = ("repo_id", "private", "token", "commit_message", "revision")


class LimssrCheckpointMixin:
    """`from_language_model`, `from_pretrained` and `save_pretrained` of [`LimssrForScoreRegression`]."""

    @classmethod
    def from_language_model(
        cls,
        name_or_folder: str | Path,
        num_hidden_layers: int | None = None,
        gguf_file: str | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        quantization_config=None,
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
            name_or_folder, num_hidden_layers, gguf_file, revision, dtype=dtype, **hub_arguments
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
        output_loading_info: bool = False,
        **kwargs,
    ):
        """
        Load either form of checkpoint, from safetensors only. A missing or unexpected weight is an error.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): checkpoint folder or Hub repository.
            *model_args: passed on to `PreTrainedModel.from_pretrained`.
            config (`LimssrConfig`, *optional*): configuration; the checkpoint's own by default.
            language_model (`str` or `Path`, *optional*): folder, GGUF file or Hub repository of the language model of
                an adapter; needed unless it is on the Hub.
            trainable (`bool`): keep LoRA apart, ready for training (needs peft), instead of merging it.
            quantization_config (`BitsAndBytesConfig`, *optional*): quantises the linear layers of the language model
                (needs bitsandbytes). LoRA stays apart then (needs peft): rounded with them it would be lost in part.
            output_loading_info (`bool`): also return what transformers reports about the loading.
            **kwargs: arguments of `PreTrainedModel.from_pretrained`: `dtype`, `device_map`, `attn_implementation`,
                `revision`, ...

        Raises:
            ValueError: a missing, unexpected or misshapen weight, or another language model than the adapter's.
        """
        location = pretrained_model_name_or_path
        hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        if config is None:
            config, kwargs = cls.config_class.from_pretrained(
                location, return_unused_kwargs=True, **hub_arguments, **kwargs
            )
        has_lora = config.language_model_training == "lora"
        if trainable and has_lora and config.checkpoint_form == "full":
            raise ValueError(
                "trainable=True needs the LoRA factors, and this full checkpoint has them merged: load one that was "
                "saved with form='adapter'."
            )
        keeps_lora = trainable or quantization_config is not None
        adapter = {}
        if location is not None and config.checkpoint_form == "adapter":
            adapter = load_file(cached_file(location, SAFE_WEIGHTS_NAME, **hub_arguments))
            found = find_language_model(
                location,
                config.language_model_source,
                language_model,
                config.language_model_config.num_hidden_layers,
                dtype=config.dtype,  # LoRA was trained on it, and is merged into it, in this precision
                **hub_arguments,
            )
            kwargs["state_dict"] = _join_adapter(_with_prefix(found), adapter, config, merge=not keeps_lora)
            location, hub_arguments = None, {}
        kwargs["ignore_mismatched_sizes"] = True  # refused below, by name
        model, info = super().from_pretrained(
            location,
            *model_args,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            quantization_config=quantization_config,
            **hub_arguments,
            **kwargs,
        )
        _require_all_weights(info, pretrained_model_name_or_path)
        model.model.freeze_language_model()  # loading makes every weight trainable
        confine_quantization(model, model.model.language_model)
        if adapter and keeps_lora and has_lora:
            add_lora(model)
            model.load_lora({name: tensor for name, tensor in adapter.items() if is_lora_factor(name)})
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | Path,
        form: Literal["full", "adapter"] = "full",
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        is_main_process: bool = True,
        **kwargs,
    ) -> None:
        """
        Write weights (safetensors), configuration and the model's part of the code bundle.

        Args:
            save_directory (`str` or `Path`): checkpoint folder, created where needed.
            form (`"full"` or `"adapter"`): all weights with LoRA merged, or only what was trained (LoRA factors, added
                tokens, projectors, heads, statistics), which loads onto the same language model.
            state_dict (`dict`, *optional*): weights to save instead of the model's own.
            push_to_hub (`bool`): also upload these files, and no other of the folder, to `repo_id`; takes `private`,
                `token`, `revision` (a branch) and `commit_message` as well.
            is_main_process (`bool`): whether this process writes; one of them does.
            **kwargs: arguments of `PreTrainedModel.save_pretrained`, for example `max_shard_size`.

        Raises:
            ValueError: an adapter is asked for, but the language model was trained as a whole or its LoRA is merged
                already; or the full form, but the language model is quantised.
        """
        state_dict = strip_peft_names(self.state_dict() if state_dict is None else state_dict)
        if form == "adapter":
            state_dict = self.adapter_state_dict(state_dict)
            kwargs["max_shard_size"] = "100GB"  # always one file, which is how it is read
        elif form == "full":
            require_floating_point(self.model.language_model)
            state_dict = merge_lora(state_dict, self.config.lora_alpha / self.config.lora_rank)
        else:
            raise ValueError(f"form is {form!r}; allowed are 'full' and 'adapter'.")
        upload_arguments = {name: kwargs.pop(name) for name in UPLOAD_ARGUMENTS if name in kwargs}
        saved = {name: getattr(self.config, name, None) for name in ("checkpoint_form", "auto_map")}
        self.config.checkpoint_form, self.config.auto_map = form, dict(AUTO_MAP)
        try:
            super().save_pretrained(save_directory, state_dict=state_dict, is_main_process=is_main_process, **kwargs)
        finally:
            self.config.checkpoint_form, self.config.auto_map = saved.values()
        if not is_main_process:
            return
        code = write_code_bundle(save_directory, self.code_module)
        if push_to_hub:
            _upload(save_directory, [*WRITTEN_FILES, *code], **upload_arguments)

    def adapter_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Part of a state dict (by the names of [`strip_peft_names`]) that an adapter holds."""
        if self.config.language_model_training == "full":
            raise ValueError(
                "form='adapter' leaves the language model out, but it was trained as a whole: save form='full'."
            )
        if not self.config.language_model_source:
            raise ValueError(
                "form='adapter' leaves the language model out, but nothing says where to find it again (the model was "
                "not made by from_language_model): save form='full'."
            )
        if self.config.language_model_training == "lora" and not any(map(is_lora_factor, state_dict)):
            raise ValueError(
                "form='adapter' needs the LoRA factors, and this model has none (they are merged, or were never "
                "added): save form='full', or load the adapter with trainable=True."
            )
        return {
            name: tensor
            for name, tensor in state_dict.items()
            if is_lora_factor(name) or not name.startswith(LANGUAGE_MODEL_PREFIX)
        }

    def load_lora(self, factors: dict[str, torch.Tensor]) -> None:
        """Load LoRA factors `{layer}.lora_A.weight`, `{layer}.lora_B.weight`; none may be missing or left over."""
        own = {strip_peft_names({name: None}).popitem()[0]: value for name, value in self.named_parameters()}
        own = {name: value for name, value in own.items() if is_lora_factor(name)}
        if differing := sorted(set(own) ^ set(factors)):
            raise ValueError(f"LoRA factors do not fit the model: {differing[:4]} are in only one of the two.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(factors[name])


def _with_prefix(language_model) -> dict[str, torch.Tensor]:
    """Weights of the language model by their names in the scoring model."""
    return {LANGUAGE_MODEL_PREFIX + name: tensor for name, tensor in language_model.state_dict().items()}


def _join_adapter(state_dict, adapter, config, merge: bool) -> dict[str, torch.Tensor]:
    """Weights of the language model and of its adapter in one, with LoRA merged or left out."""
    targets = config.lora_target_modules if config.language_model_training == "lora" else []
    layers = [name.removesuffix(".weight") for name in state_dict if name.endswith(".weight")]
    expected = {layer + factor for layer in layers if layer.split(".")[-1] in targets for factor in LORA_FACTORS}
    if differing := sorted(expected ^ set(filter(is_lora_factor, adapter))):
        raise ValueError(
            f"The LoRA factors of the adapter do not fit its configuration: {len(differing)} are missing or "
            f"unexpected, first {differing[0]}."
        )
    if merge:
        return merge_lora(state_dict | adapter, config.lora_alpha / config.lora_rank)
    return state_dict | {name: tensor for name, tensor in adapter.items() if not is_lora_factor(name)}


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


def _require_all_weights(info: dict, name_or_path) -> None:
    problems = {kind: sorted(map(str, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(problems.values()):
        found = "; ".join(f"{len(names)} {kind}, first {names[0]}" for kind, names in problems.items() if names)
        raise ValueError(f"The weights of {name_or_path} do not fit its configuration: {found}.")
