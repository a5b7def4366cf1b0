"""A model is only evaluated on features that were made as those it was trained on."""

from dataclasses import replace

import pytest

from limssr.processing.recipes_limssr import Recipe
from limssr.training.data import load
from limssr.training.evaluation.run import require_recipe

CLASSIC = Recipe.load("classic")


def test_another_recipe_is_refused_and_an_unknown_one_a_warning(caplog):
    unknown = load("synthetic", samples_train=8, samples_test=4)
    known = replace(unknown, recipe=CLASSIC.to_dict())
    require_recipe(CLASSIC.digest, known, "dives")
    require_recipe(None, known, "dives")  # a model that takes features as they come
    assert not caplog.text
    require_recipe(CLASSIC.digest, unknown, "dives")
    assert "dives does not say which recipe made its features" in caplog.text
    with pytest.raises(
        SystemExit, match=r"dives: the recipe 'classic' \(\w{12}\) made its features, another \(0{12}\)"
    ):
        require_recipe("0" * 64, known, "dives")
