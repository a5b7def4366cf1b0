"""Saves and loads the two checkpoint forms: *full* (everything, LoRA merged) and *adapter* (only what was trained)."""

from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import create_branch, create_repo, upload_folder
from safetensors.torch import load_file
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from ..configuration.bundle_limssr import AUTO_MAP, write_code_bundle
from .language_model_limssr import (
    HUB_ARGUMENTS,
    LORA_FACTORS,
    add_lora,
    confine_quantization,
    find_language_model,
    is_lora_factor,
    merge_lora,
    require_floating_point,
    strip_peft_names,
)

LANGUAGE_MODEL_PREFIX = "model.language_model."
# What training needs besides the model to go on.
TRAINING_STATE_FILES = (
    "trainer_state.json",
    "optimizer.safetensors",
    "optimizer.json",
    "scaler.json",
    "rng_state*.json",
)
# All that ever leaves for the Hub; whatever else lies in the folder, a pickle above all, stays here.
PUBLISHED_FILES = (
    "*.safetensors",
    "*.json",
    "*.py",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "README.md",
    "*.png",
)


class LimssrCheckpointMixin:
    """`save_pretrained` and `from_pretrained` of [`LimssrForScoreRegression`]."""

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
        Writes weights (safetensors), configuration and the code bundle.

        Args:
            save_directory (`str` or `Path`): created where needed.
            form (`"full"` or `"adapter"`): all weights with LoRA merged, or only what was trained (LoRA factors, added
                tokens, projectors, heads, statistics), to be put on the same language model when it is loaded.
            state_dict (`dict`, *optional*): the weights to save instead of the model's own.
            push_to_hub (`bool`): also upload what of the folder is for the Hub (`PUBLISHED_FILES`, never a pickle), to
                `repo_id`, with `private`, `token`, `revision` (a branch) and `commit_message`.
            is_main_process (`bool`): only this process writes configuration and code.
            **kwargs: of `PreTrainedModel.save_pretrained`, for example `max_shard_size`.

        Raises:
            ValueError: an adapter is asked for, but the language model was trained as a whole or its LoRA is merged already;
                or the full form, but the language model is quantised.
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
        saved = {name: getattr(self.config, name, None) for name in ("checkpoint_form", "auto_map")}
        self.config.checkpoint_form, self.config.auto_map = form, dict(AUTO_MAP)
        hub_arguments = {
            name: kwargs.pop(name)
            for name in ("repo_id", "private", "token", "commit_message", "revision")
            if name in kwargs
        }
        try:
            super().save_pretrained(save_directory, state_dict=state_dict, is_main_process=is_main_process, **kwargs)
        finally:
            self.config.checkpoint_form, self.config.auto_map = saved.values()
        if is_main_process:
            write_code_bundle(save_directory, self.code_module)
        if push_to_hub and is_main_process:
            _upload(save_directory, **hub_arguments)

    def adapter_state_dict(self, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of a state dict (with the names of [`strip_peft_names`]) an adapter holds."""
        if self.config.language_model_training == "full":
            raise ValueError(
                "form='adapter' leaves the language model out, but it was trained as a whole: save form='full'."
            )
        if not self.config.language_model_source:
            raise ValueError(
                "form='adapter' leaves the language model out, but nothing says where to find it again (the model was not "
                "made by from_language_model): save form='full'."
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
        Loads either checkpoint form; safetensors only. Any missing or unexpected weight is an error.

        Args:
            pretrained_model_name_or_path (`str` or `Path`): checkpoint folder or Hub repository.
            *model_args: passed on to `PreTrainedModel.from_pretrained`.
            config (`LimssrConfig`, *optional*): read from the checkpoint by default.
            language_model (`str` or `Path`, *optional*): where the language model of an adapter lies; needed unless it is on the
                Hub.
            trainable (`bool`): keep LoRA apart, ready for training (needs peft), instead of merging it.
            quantization_config (`BitsAndBytesConfig`, *optional*): quantises the linear layers of the language model (needs
                bitsandbytes). LoRA stays apart then (needs peft): rounded with them it would be lost in part.
            output_loading_info (`bool`): also return what was loaded how.
            **kwargs: of `PreTrainedModel.from_pretrained`: `dtype`, `device_map`, `attn_implementation`, `revision`,
                ...

        Raises:
            ValueError: a missing, unexpected or misshapen weight, or another language model than the adapter's.
        """
        hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        if config is None:
            config, kwargs = cls.config_class.from_pretrained(
                pretrained_model_name_or_path, return_unused_kwargs=True, **hub_arguments, **kwargs
            )
        adapter, kwargs["config"] = {}, config
        if trainable and config.language_model_training == "lora" and config.checkpoint_form == "full":
            raise ValueError(
                "trainable=True needs the LoRA factors, and this full checkpoint has them merged: load one that was "
                "saved with form='adapter'."
            )
        keeps_lora = trainable or quantization_config is not None
        location = pretrained_model_name_or_path
        if location is not None and config.checkpoint_form == "adapter":
            adapter = load_file(cached_file(location, SAFE_WEIGHTS_NAME, **hub_arguments))
            language_model = find_language_model(
                location,
                config.language_model_source,
                language_model,
                config.language_model_config.num_hidden_layers,
                dtype=config.dtype,  # LoRA was trained on it, and is merged into it, in this precision
                **hub_arguments,
            )
            kwargs["state_dict"] = cls._join_language_model(language_model, adapter, config, merge=not keeps_lora)
            location, hub_arguments = None, {}
        kwargs["ignore_mismatched_sizes"] = True  # refused below, by name
        model, info = super().from_pretrained(
            location,
            *model_args,
            use_safetensors=True,
            output_loading_info=True,
            quantization_config=quantization_config,
            **hub_arguments,
            **kwargs,
        )
        _require_all_weights(info, pretrained_model_name_or_path)
        model.model.freeze_language_model()  # loading makes every weight trainable
        confine_quantization(model, model.model.language_model)
        if keeps_lora and config.language_model_training == "lora" and config.checkpoint_form == "adapter":
            add_lora(model)
            model.load_lora({name: tensor for name, tensor in adapter.items() if is_lora_factor(name)})
        return (model, info) if output_loading_info else model

    @staticmethod
    def _join_language_model(language_model, adapter, config, merge: bool) -> dict[str, torch.Tensor]:
        state_dict = {LANGUAGE_MODEL_PREFIX + name: tensor for name, tensor in language_model.state_dict().items()}
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

    def load_lora(self, factors: dict[str, torch.Tensor]) -> None:
        """Loads LoRA factors `{layer}.lora_A.weight`, `{layer}.lora_B.weight`; none may be missing or left over."""
        own = {strip_peft_names({name: None}).popitem()[0]: value for name, value in self.named_parameters()}
        own = {name: value for name, value in own.items() if is_lora_factor(name)}
        if differing := sorted(set(own) ^ set(factors)):
            raise ValueError(f"LoRA factors do not fit the model: {differing[:4]} are in only one of the two.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(factors[name])


def _upload(folder: str | Path, repo_id: str | None = None, private=None, token=None, revision=None, **commit) -> None:
    repo_id = create_repo(repo_id or Path(folder).name, private=private, token=token, exist_ok=True).repo_id
    if revision is not None:
        create_branch(repo_id, branch=revision, token=token, exist_ok=True)
    upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        token=token,
        revision=revision,
        allow_patterns=list(PUBLISHED_FILES),
        ignore_patterns=["checkpoint-*", "logs/*", *TRAINING_STATE_FILES],
        **commit,
    )


def _require_all_weights(info: dict, name_or_path) -> None:
    problems = {kind: sorted(map(str, info[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
    if any(problems.values()):
        found = "; ".join(f"{len(names)} {kind}, first {names[0]}" for kind, names in problems.items() if names)
        raise ValueError(f"The weights of {name_or_path} do not fit its configuration: {found}.")
