"""LoRA and other adapters of PEFT: how they are added, named, kept apart and merged."""

import copy
import sys

import torch
from torch import nn
from transformers.utils import is_peft_available

LANGUAGE_MODEL_PREFIX = "model.language_model."  # of the scoring model
LORA_FACTORS = (".lora_A.weight", ".lora_B.weight")


def add_lora(model: nn.Module) -> None:
    """
    Add trainable LoRA factors to the language model of a LIMSSR model, and freeze its own weights.

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
    """Whether it is a linear layer; the `Conv1D` of GPT-2 is not, whose weight is transposed only where quantised."""
    return isinstance(module, nn.Linear) and getattr(module, "source_cls", nn.Linear) is nn.Linear


def plain_name(name: str) -> str:
    """
    Name of a weight in a checkpoint, without what PEFT and `torch.compile` put into it.

    `q_proj.base_layer.weight` -> `q_proj.weight` and `q_proj.lora_A.default.weight` -> `q_proj.lora_A.weight`.
    """
    return name.replace("_orig_mod.", "").replace(".base_layer.", ".").replace(".default.weight", ".weight")


def strip_peft_names(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights by their [`plain_name`]."""
    return {plain_name(name): tensor for name, tensor in state_dict.items()}


def is_lora_factor(name: str) -> bool:
    return name.endswith(LORA_FACTORS)


def merge_lora(state_dict: dict[str, torch.Tensor], scaling: float) -> dict[str, torch.Tensor]:
    """
    Replace each weight W that has factors A and B by W + scaling * B A, and drop the factors.

    Args:
        state_dict (`dict`): tensors by the names of [`strip_peft_names`].
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


def adapted_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Name, without what `torch.compile` puts into it, -> module, of all that PEFT has put around another module."""
    if "peft.tuners.tuners_utils" not in sys.modules:  # then nothing is adapted; importing it would take seconds
        return {}
    wrappers = (
        sys.modules["peft.tuners.tuners_utils"].BaseTunerLayer,
        sys.modules["peft.utils.other"].AuxiliaryTrainingWrapper,
    )
    found = {}
    for name, module in model.named_modules():
        name = name.replace("_orig_mod.", "")
        if isinstance(module, wrappers) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def own_lora_layers(model: nn.Module) -> set[str]:
    """
    Names of the LoRA layers of a scoring model that its configuration describes, so that they can be saved apart.

    All or none: every target of the language model has the rank and the scale of the configuration, is active, not
    merged, and nothing but plain LoRA.
    """
    config, adapted = model.config, adapted_modules(model)
    if config.language_model_training != "lora" or not adapted:
        return set()
    names = (name.replace("_orig_mod.", "") for name, _ in model.named_modules())
    targets = {
        name
        for name in names
        if name.startswith(LANGUAGE_MODEL_PREFIX) and name.split(".")[-1] in config.lora_target_modules
    }
    return targets if all(name in adapted and _is_own(adapted[name], config) for name in targets) else set()


def _is_own(layer: nn.Module, config) -> bool:
    return (
        type(layer).__module__.startswith("peft.tuners.lora.")
        and list(layer.lora_A) == layer.active_adapters == ["default"]
        and not layer.disable_adapters
        and not layer.merged
        and layer.r["default"] == config.lora_rank
        and layer.scaling["default"] == config.lora_alpha / config.lora_rank
        and not layer.lora_variant
        and not layer.lora_bias["default"]
    )


def plain_state_dict(
    model: nn.Module, state_dict: dict[str, torch.Tensor] | None = None, apart: set[str] = frozenset()
) -> dict[str, torch.Tensor]:
    """
    Weights by the names of a model without PEFT that give the scores the model gives now.

    Args:
        model (`nn.Module`): model, possibly with adapters of PEFT in any state.
        state_dict (`dict`, *optional*): weights by the model's own names, for example gathered from several devices;
            the model's by default.
        apart (`set`): LoRA layers whose factors stay beside their weight, see [`own_lora_layers`]. Every other adapter
            is merged into its weight where it is active, and left out where it is not.

    Raises:
        ValueError: an adapter that PEFT cannot merge.
    """
    state_dict = model.state_dict() if state_dict is None else state_dict
    state_dict = {name.replace("_orig_mod.", ""): tensor for name, tensor in state_dict.items()}
    for name, module in adapted_modules(model).items():
        own = {key: state_dict.pop(key) for key in list(state_dict) if key.startswith(f"{name}.")}
        if name not in apart:
            tensors = {key.removeprefix(f"{name}."): tensor for key, tensor in own.items()}
            own = {f"{name}.{key}": tensor for key, tensor in _without_adapters(name, module, tensors).items()}
        state_dict |= strip_peft_names(own)
    return state_dict


@torch.no_grad()
def _without_adapters(name: str, module: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights that replace an adapted module's own `tensors`, computed by PEFT on a copy."""
    if hasattr(module, "modules_to_save"):  # a whole module trained in place of the original one
        adapter = module.active_adapters[0]
        is_used = not module.disable_adapters and adapter in module.modules_to_save
        prefix = f"modules_to_save.{adapter}." if is_used else "original_module."
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    live = (*module.parameters(), *module.buffers())
    module = copy.deepcopy(module, {id(tensor): tensor for tensor in live})  # all but the tensors
    try:
        module.load_state_dict({key: tensor.clone() for key, tensor in tensors.items()}, assign=True)
        if module.disable_adapters and module.merged:
            module.unmerge()
        elif not module.disable_adapters and not module.merged:
            module.merge()
        return module.get_base_layer().state_dict()
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"The adapter on {name} ({type(module).__name__}) cannot be merged into its weights, which a checkpoint "
            f"holds: {error} Save it with PEFT: `PeftModel.save_pretrained`."
        ) from error


def live_state_dict(model: nn.Module, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Weights of a checkpoint by the names they have in a model with adapters; other names stay.

    Raises:
        ValueError: the weights have merged what the model keeps apart, so that adapters would count twice.
    """
    adapted = adapted_modules(model)
    factors = {name.rpartition(".lora_")[0] for name in map(plain_name, state_dict) if ".lora_" in name}
    # A shard may end between a weight and its factors: of the own layers one with factors is enough.
    apart = own_lora_layers(model) if factors else set()
    for name in adapted.keys() - apart - factors:
        if f"{name}.weight" in state_dict:
            raise ValueError(
                f"These weights have the adapter on {name} merged, or never had one; the model in training has it "
                "apart, and would count it twice. Load such a checkpoint with from_pretrained, and train adapters of "
                "your own inside `peft.get_peft_model`, whose checkpoints keep them apart."
            )
    live_names = {plain_name(name): name for name in nn.Module.state_dict(model)}
    return {live_names.get(name, name): tensor for name, tensor in state_dict.items()}
