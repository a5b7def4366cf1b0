"""Exponential moving average of the weights in training."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of the trained weights w_t and of the running statistics of batch norm, in float32:

        average_0 = w_0;   average_t = d_t average_(t-1) + (1 - d_t) w_t,   d_t = min(decay, (1 + t) / (10 + t))

    d_t rises from 2/11, so that a short training forgets its first steps too. The statistics are averaged like the
    weights because they must fit them: a running mean is linear in the weights of the layer before, so the average of
    the means is the mean under the averaged weights.

    To a `Trainer` an optimizer with an average looks like a schedule-free one: `optimizer.eval()` puts the average
    into the model, to be validated and saved, and `optimizer.train()` the weights of the steps back.

    Args:
        model: the model in training, on its device.
        decay: share of the average that a step keeps, above 0 and below 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.weights = dict(_averaged_tensors(model))
        self.average = {name: weight.float().clone() for name, weight in self.weights.items()}
        self.put_aside: dict[str, torch.Tensor] | None = None  # the weights, while the model has the average

    def follow(self, optimizer: Optimizer) -> None:
        """Take in the weights after each step of the optimizer, and switch between the two with it."""
        optimizer.register_step_post_hook(lambda *_: self.update())
        optimizer.train, optimizer.eval = self.train, self.eval

    def update(self) -> None:
        """Take in the weights of one more step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        weights = [weight.float() for weight in self.weights.values()]
        get_ema_multi_avg_fn(decay)(list(self.average.values()), weights, self.steps)
        self.steps += 1

    def eval(self) -> None:
        """Put the average into the model, unless it is there."""
        if self.put_aside is None:
            self.put_aside = {name: weight.clone() for name, weight in self.weights.items()}
            self._write(self.average)

    def train(self) -> None:
        """Put the weights of the steps back, unless they are there."""
        if self.put_aside is not None:
            self._write(self.put_aside)
            self.put_aside = None

    def _write(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(tensors[name])

    def save(self, path: Path, step: int) -> None:
        """Save the average and the weights of the steps, as `average.{name}` and `weights.{name}`."""
        weights = self.weights if self.put_aside is None else self.put_aside
        tensors = {f"average.{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"weights.{name}": tensor for name, tensor in weights.items()}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(tensors, path, metadata={"step": str(step), "steps": str(self.steps)})

    def load(self, path: Path) -> None:
        """Go on from what `save` saved; the model has the average, as its checkpoint does."""
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            self.steps = int(file.metadata()["steps"])
        for name, average in self.average.items():
            average.copy_(tensors[f"average.{name}"])
        self.put_aside = {name: tensors[f"weights.{name}"].to(weight) for name, weight in self.weights.items()}
        self._write(self.average)


def _averaged_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the trained weights and the running statistics of batch norm, detached, with their names."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter.detach()
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm1d):
            yield f"{name}.running_mean", module.running_mean
            yield f"{name}.running_var", module.running_var


def settle_weights(optimizer) -> None:
    """Move from the weights at which an optimizer takes its steps to the average it ends with, if it has one.

    A schedule-free optimizer has an average, and any other with `WeightAverage`.
    """
    if hasattr(optimizer, "eval"):
        optimizer.eval()
