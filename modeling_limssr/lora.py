"""Low-rank adapters of the language model: PEFT trains them, a plain matrix product merges them."""

import torch
from torch import nn
from transformers.utils import is_peft_available

LORA_FACTORS = (".lora_A.weight", ".lora_B.weight")


def add_lora(model: nn.Module) -> None:
    """
    Gives the backbone of a LIMSSR model trainable LoRA factors, as its configuration says, and freezes its own
    weights.

    Raises:
        ImportError: peft is not installed.
        ValueError: a target is no linear layer of the backbone.
    """
    if not is_peft_available():
        raise ImportError(
            "LoRA factors beside the language model, to train or on a quantised one, need peft: pip install peft. "
            "Scoring with them merged does not."
        )
    if is_peft_available():  # in this form the loader of remote code does not demand peft
        from peft import LoraConfig, inject_adapter_in_model
    config, backbone = model.config, model.model.language_model
    for target in config.lora_target_modules:
        modules = [module for name, module in backbone.named_modules() if name.split(".")[-1] == target]
        if not modules or not all(map(_is_linear, modules)):
            linear = {name.split(".")[-1] for name, module in backbone.named_modules() if _is_linear(module)}
            raise ValueError(
                f"`lora_target_modules` names {target!r}; the backbone's linear layers are {sorted(linear)}."
            )
    lora_config = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_target_modules,
    )
    inject_adapter_in_model(lora_config, backbone)
    for name, factor in backbone.named_parameters():
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
