"""The whole model as one graph: compiled without a break, exported, and equal to the eager model."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.feature_rows import SIZES
from tests.helpers.models import gradients


class Scores(nn.Module):
    """Takes the inputs as one argument: `torch.export` knows no dynamic shapes of keyword arguments."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model(**inputs).scores


@pytest.fixture
def model(tiny_model):
    """With one layer, which is traced in half the time."""
    language_model = tiny_model.model.language_model
    language_model.layers = language_model.layers[:1]
    language_model.config.num_hidden_layers = 1
    return tiny_model


@torch.no_grad()
@pytest.mark.slow
def test_an_exported_program_scores_other_contents_masks_and_lengths(model, tiny_processor, tmp_path):
    language_model = model.model.language_model
    language_model.config.num_hidden_layers = 1  # traced in half the time
    example = dict(tiny_processor(features={name: [torch.randn(4, size)] * 2 for name, size in SIZES.items()}))
    shapes = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example}
    program = torch.export.export(Scores(model), (example,), dynamic_shapes=(shapes,))
    torch.export.save(program, tmp_path / "scores.pt2")
    exported = torch.export.load(tmp_path / "scores.pt2").module()
    torch.manual_seed(3)
    for counts in ((2, 4, 0, 0), (9, 0, 5, 3, 1), (6,)):
        features = {name: [torch.randn(n, size) if n else None for n in counts] for name, size in SIZES.items()}
        features["video"] = [torch.randn(n + 3, 16) for n in counts]
        inputs = dict(tiny_processor(features=features))
        for name in SIZES:
            inputs[f"{name}_features"][~inputs[f"{name}_clip_mask"]] = float("nan")  # padding is never read
        torch.testing.assert_close(exported(inputs), model(**inputs).scores, atol=1e-4, rtol=0)
    inputs["video_clip_mask"][0, 0] = False
    with pytest.raises(RuntimeError, match="the inputs do not fit"):
        exported(inputs)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_whole_model_compiles_as_one_graph(mode, model, tiny_processor, tiny_features):
    for module in model.train(mode == "train").modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    batch = tiny_processor(features=tiny_features, labels=[10.0, 50.0, 90.0])
    eager = copy.deepcopy(model)
    model.compile(fullgraph=True, backend="eager")  # a graph break is an error
    if mode == "eval":
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).scores, eager(**batch).scores, atol=1e-4, rtol=0)
        return
    torch.testing.assert_close(gradients(model, batch), gradients(eager, batch), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dict(model.named_buffers()), dict(eager.named_buffers()))
