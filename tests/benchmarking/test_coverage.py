"""Coverage over random halves is what split conformal prediction promises, and a wrong interval would be seen."""

import numpy as np
import pytest

from limssr.training.benchmarking.coverage import measure_draws, summarise


def test_half_of_exchangeable_samples_calibrates_the_other_half():
    generator = np.random.default_rng(0)
    judged = generator.uniform(0, 100, 2000)
    scores = judged + generator.standard_cauchy(2000)
    found = measure_draws(scores, judged, np.array([0.0, 100.0]), draws=20)
    for level, (share, width) in found.items():
        assert share.mean() == pytest.approx(level, abs=0.01)
        assert 0 < share.std() < 0.03
        assert 0 < width.mean() <= 100
    assert found[0.5][1].mean() == pytest.approx(2, abs=0.3)  # half of Cauchy's errors are below 1


def test_masks_with_too_few_samples_are_left_out():
    judged = np.arange(100.0)
    scores = {"video": judged + 1, "audio": np.where(judged < 30, judged, np.nan)}
    header, row = summarise(scores, judged, np.array([0.0, 100.0]), 2)
    assert header[2:] == ["50%", "80%", "90%", "95%"]
    assert row[:2] == ["video", 100]
    assert row[2].startswith("100.0 (0.0)")
