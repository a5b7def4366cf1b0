"""When in the performance: what each clip adds to the score.

Both methods compare a clip with the mean clip of the training performances. Occlusion is the reference: it puts the
mean clip in the place of one clip and scores again. Integrated gradients (Sundararajan et al. 2017) walk from a
performance of mean clips to this one, and cost the same for any number of clips.
"""

from collections.abc import Mapping

import numpy as np
import torch

from ...modeling_limssr.modeling_limssr import LimssrForScoreRegression
from ..prediction.predictor import evaluating, input_device

STEPS = 32  # of the path of integrated gradients, by Gauss and Legendre
Inputs = dict[str, torch.Tensor]  # of one sample, as the processor writes them


@torch.no_grad()
def mean_clip(model: LimssrForScoreRegression, name: str) -> torch.Tensor:
    """
    Mean clip of a modality over the training performances, `(feature size,)`.

    A linear shortcut keeps it. Without one, the first layer of the projector does: its batch norm keeps the mean of
    what it makes of a clip, and the smallest clip of which it makes that is, for the model, the same.
    """
    if model.config.linear_shortcut:
        return model.linear_shortcut.norms[name].mean[: model.config.feature_sizes[name]].clone()
    projector = model.model.projectors[name]
    outputs = projector.norm_1.running_mean - projector.linear_1.bias
    return torch.linalg.lstsq(projector.linear_1.weight.cpu(), outputs.cpu()[:, None], driver="gelsd").solution[:, 0]


def occlude(
    model: LimssrForScoreRegression, inputs: Inputs, name: str, clips: int, batch_size: int = 16
) -> np.ndarray:
    """
    Score minus the score with the mean clip in the place of one clip, for each.

    Args:
        model: the model.
        inputs: inputs of one sample.
        name: a modality that the sample has.
        clips: number of its clips, without padding.
        batch_size: sequences scored at a time.

    Returns:
        (clips, scores) float64 in judges' units; negative where the clip lowers the score.
    """
    key, reference, scores = f"{name}_features", mean_clip(model, name), []
    device = input_device(model)
    with evaluating(model), model.model.prefix_cache.keep():
        whole = model(**{field: values.to(device) for field, values in inputs.items()}).scores  # (1, scores)
        for places in torch.arange(clips).split(batch_size):
            batch = _repeat(inputs, len(places))
            batch[key] = batch[key].clone()
            batch[key][torch.arange(len(places)), places] = reference.to(batch[key])
            scores.append(model(**{field: values.to(device) for field, values in batch.items()}).scores)
    return (whole - torch.cat(scores)).double().cpu().numpy()


def integrate_gradients(
    model: LimssrForScoreRegression, inputs: Inputs, clips: Mapping[str, int], batch_size: int = 16
) -> dict[str, np.ndarray]:
    """
    Integrated gradients of the score from a performance of mean clips to this one.

    Over all clips of all modalities they add up to the difference of the two scores.

    Args:
        model: the model.
        inputs: inputs of one sample.
        clips: modality -> number of its clips, without padding.
        batch_size: sequences scored at a time.

    Returns:
        Modality -> (clips, scores) float64 in judges' units.

    Raises:
        ModuleNotFoundError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Integrated gradients need the package captum: pip install captum, or 'limssr[explain]'. Occlusion needs "
            "nothing."
        ) from error
    device, names = input_device(model), list(clips)
    rest = {field: values.to(device) for field, values in inputs.items()}
    features = tuple(rest.pop(f"{name}_features") for name in names)  # (1, clips, feature size) each
    references = tuple(_all_mean(model, *pair, clips[pair[0]]) for pair in zip(names, features, strict=True))

    def score(*batch: torch.Tensor) -> torch.Tensor:
        given = {f"{name}_features": values for name, values in zip(names, batch, strict=True)}
        return model(**given, **_repeat(rest, len(batch[0]))).scores

    method, found = IntegratedGradients(score), []
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        for number in range(model.config.num_scores):
            found.append(
                method.attribute(features, references, target=number, n_steps=STEPS, internal_batch_size=batch_size)
            )
    summed = [
        torch.stack([each.sum(-1)[0] for each in of_modality], dim=-1) for of_modality in zip(*found, strict=True)
    ]
    return {name: values[: clips[name]].double().cpu().numpy() for name, values in zip(names, summed, strict=True)}


def _all_mean(model, name: str, features: torch.Tensor, clips: int) -> torch.Tensor:
    """Features with the mean clip in every place that is no padding."""
    reference = features.clone()
    reference[:, :clips] = mean_clip(model, name).to(features)
    return reference


def _repeat(inputs: Inputs, count: int) -> Inputs:
    """A batch of the same sample, without copying it."""
    return {field: values.expand(count, *values.shape[1:]) for field, values in inputs.items()}
