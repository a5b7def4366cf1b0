"""What tests of the model share."""

import pytest


@pytest.fixture
def batch(tiny_processor, tiny_features):
    """Three samples of different masks and lengths, as the model takes them."""
    return tiny_processor(features=tiny_features)
