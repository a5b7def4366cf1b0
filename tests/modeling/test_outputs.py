"""Outputs print short and stay dictionaries of tensors."""

import copy
import pickle

import pytest
import torch


@pytest.fixture
def outputs(tiny_model, tiny_processor, tiny_features):
    batch = tiny_processor(features=tiny_features, labels=[10.0, 50.0, 90.0])
    with torch.no_grad():
        return tiny_model(**batch, output_hidden_states=True)


def test_scores_and_losses_print_as_values_and_other_tensors_as_shapes(outputs):
    text = repr(outputs)
    assert text.startswith(f"LimssrScoreOutput(loss={float(f'{outputs.loss.item():.6g}')}, scores=[[")
    assert "fusion_hidden_state=tensor of shape (3, 4, 32)" in text
    assert "hidden_states=3 x tensor of shape (3, " in text
    assert "attentions" not in text
    assert len(text) < 700
    outputs.scores = outputs.scores.expand(-1, 50)
    assert ", scores=tensor of shape (3, 50), " in repr(outputs)
    assert "scores=tensor of shape (3, 50)" in repr(type(outputs)(scores=outputs.scores.to("meta")))


def test_a_notebook_shows_a_table(outputs):
    table = outputs._repr_html_()
    assert table.startswith("<table><caption>LimssrScoreOutput</caption><tr><th>loss</th>")
    assert table.count("<tr>") == len(outputs)


def test_outputs_are_still_dictionaries(outputs):
    assert list(outputs) == list(outputs.keys())
    assert outputs["scores"] is outputs.scores is outputs[1]
    for other in (copy.deepcopy(outputs), pickle.loads(pickle.dumps(outputs))):  # noqa: S301 (our own)
        assert torch.equal(other.scores, outputs.scores)
