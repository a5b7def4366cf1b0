"""Gradient accumulation and compilation compute the same as one plain pass."""

import pytest
import torch

from limssr import LimssrForScoreRegression


@torch.no_grad()
def test_the_language_model_compiles_as_one_graph(tiny_model):
    language_model = tiny_model.model.language_model
    embeds, mask = torch.randn(2, 20, 32), torch.ones(2, 20, dtype=torch.long)
    mask[1, 15:] = 0
    inputs = {"inputs_embeds": embeds, "attention_mask": mask, "use_cache": False, "return_dict": True}
    report = torch._dynamo.explain(language_model)(**inputs)
    assert (report.graph_count, report.graph_break_count) == (1, 0)
    torch._dynamo.reset()
    compiled = torch.compile(language_model, fullgraph=True, backend="aot_eager")  # a graph break is an error
    found, expected = (module(**inputs).last_hidden_state for module in (compiled, language_model))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def gradients(model, batches) -> dict[str, torch.Tensor]:
    """Gradients of the mean loss of batches of equal size, as gradient accumulation makes them."""
    model.zero_grad()
    for batch in batches:
        (model(**batch).loss / len(batches)).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(("separation", "equal"), [(0.0, True), (1.0, False)])
def test_accumulated_gradients_are_those_of_the_large_batch_except_of_the_separation_term(
    tiny_config, tiny_processor, separation, equal
):
    tiny_config.separation_weight, tiny_config.language_model_training = separation, "full"
    torch.manual_seed(0)
    model = LimssrForScoreRegression(tiny_config).eval()  # running statistics: batch norm is the other exception
    video, labels = [torch.randn(3, 16) for _ in range(4)], [10.0, 40.0, 70.0, 90.0]

    def batch(rows: slice) -> dict:
        features = {"video": video[rows], "audio": [None] * len(video[rows]), "flow": [None] * len(video[rows])}
        return tiny_processor(features=features, labels=labels[rows], return_tensors="pt")

    large = gradients(model, [batch(slice(0, 4))])
    small = gradients(model, [batch(slice(0, 2)), batch(slice(2, 4))])
    assert small.keys() == large.keys()
    same = all(torch.allclose(small[name], large[name], rtol=1e-4, atol=1e-6) for name in large)
    assert same == equal
