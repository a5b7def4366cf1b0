"""What an untrained model begins with."""

import numpy as np
import pytest
import torch

from limssr import LimssrConfig, LimssrForScoreRegression
from limssr.training.model_building import start_at_mean


@pytest.mark.parametrize("aggregation", ["dual", "reasoning", "cross_modal"])
def test_heads_begin_at_the_mean_of_the_given_targets(tiny_text_config, aggregation):
    config = LimssrConfig(
        text_config=tiny_text_config,
        modalities={"video": 4},
        aggregation=aggregation,
        score_names=["tes", "pcs"],
        score_minimums=[0, 10],
        score_ranges=[100, 40],
    )
    model = LimssrForScoreRegression(config).eval()
    start_at_mean(model, np.array([[60.0, np.nan], [80.0, 20.0]]))
    paths = [getattr(model, name) for name in ("reasoning_path", "cross_modal_path") if hasattr(model, name)]
    assert len(paths) == (2 if aggregation == "dual" else 1)
    for path in paths:
        expected = torch.tensor([0.7, 0.25]).logit()  # (70 - 0) / 100 and (20 - 10) / 40
        torch.testing.assert_close(path.score_head[-1].bias, expected)
