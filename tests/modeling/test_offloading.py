"""Weights are read inside their module's forward alone: any part of the model may lie on the CPU or on disk."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from limssr import LimssrForScoreRegression
from limssr.training.prediction.predictor import predict

PARAMETERS = ("model.token_embeddings", "reasoning_weight")
MODULES = ("model.language_model", "model.projectors", "reasoning_path", "cross_modal_path")
CPU = torch.device("cpu")


@torch.no_grad()
@pytest.mark.parametrize("offloaded", MODULES)
def test_one_module_on_disk_changes_no_score(offloaded, checkpoint, tiny_model, batch, tmp_path):
    devices = {name: "disk" if name == offloaded else "cpu" for name in (*MODULES, *PARAMETERS)}
    model = LimssrForScoreRegression.from_pretrained(checkpoint, device_map=devices, offload_folder=tmp_path / "off")
    parameters = model.get_submodule(offloaded).parameters()
    assert all(parameter.device.type == "meta" for parameter in parameters)
    assert torch.equal(model(**batch).scores, tiny_model(**batch).scores)


@torch.no_grad()
@pytest.mark.parametrize("offloaded", ["model", *MODULES])
def test_one_module_offloaded_to_the_cpu_changes_no_score(offloaded, tiny_model, batch):
    expected = tiny_model(**batch).scores
    cpu_offload(tiny_model.get_submodule(offloaded), execution_device=CPU)
    assert torch.equal(tiny_model(**batch).scores, expected)


@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
def test_a_model_that_is_offloaded_as_a_whole_scores_and_predicts(
    offload, tiny_model, tiny_processor, tiny_features, batch, tmp_path
):
    rows = [{name: entries[row] for name, entries in tiny_features.items()} | {"sample_id": row} for row in range(3)]
    expected = predict(tiny_model, tiny_processor, rows).scores
    arguments = [tmp_path / "off"] if offload is disk_offload else []
    offload(tiny_model, *arguments, execution_device=CPU)
    assert all(parameter.device.type == "meta" for parameter in tiny_model.parameters())
    with torch.no_grad():
        scores = tiny_model(**batch).scores
    torch.testing.assert_close(scores, torch.from_numpy(expected).float())
    torch.testing.assert_close(predict(tiny_model, tiny_processor, rows).scores, expected)
