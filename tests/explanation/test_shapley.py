"""Shapley values: their axioms, and numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limssr.training.explanation.shapley import leave_one_out, shapley_values, subsets

NAMES = ["video", "audio", "flow"]
games = st.lists(st.floats(-1e3, 1e3), min_size=8, max_size=8).map(
    lambda values: {subset: np.array([value]) for subset, value in zip(subsets(NAMES), values, strict=True)}
)


def test_subsets_go_from_none_to_all():
    found = list(subsets(NAMES))
    assert len(found) == len(set(found)) == 8
    assert (found[0], found[-1]) == (frozenset(), frozenset(NAMES))


def test_two_players_by_hand():
    values = {frozenset(): 10.0, frozenset("a"): 14.0, frozenset("b"): 12.0, frozenset("ab"): 20.0}
    found = shapley_values({subset: np.array(value) for subset, value in values.items()}, ["a", "b"])
    assert found == {"a": pytest.approx((4 + 8) / 2), "b": pytest.approx((2 + 6) / 2)}
    assert leave_one_out(values, ["a", "b"]) == {"a": 8.0, "b": 6.0}


@settings(max_examples=25)
@given(games)
def test_contributions_add_up(values):
    total = values[frozenset(NAMES)] - values[frozenset()]
    np.testing.assert_allclose(sum(shapley_values(values, NAMES).values()), total, atol=1e-9)


@settings(max_examples=25)
@given(games)
def test_what_changes_nothing_has_no_part(values):
    without = {subset: values[subset - {"flow"}] for subset in subsets(NAMES)}
    assert shapley_values(without, NAMES)["flow"] == 0


@settings(max_examples=25)
@given(games)
def test_what_changes_all_alike_has_the_same_part(values):
    def swap(subset):
        return frozenset({"video": "audio", "audio": "video"}.get(name, name) for name in subset)

    symmetric = {subset: values[subset] + values[swap(subset)] for subset in subsets(NAMES)}
    found = shapley_values(symmetric, NAMES)
    np.testing.assert_allclose(found["video"], found["audio"], atol=1e-9)


@settings(max_examples=25)
@given(games, games)
def test_parts_of_a_sum_are_sums_of_parts(one, other):
    both = shapley_values({subset: one[subset] + other[subset] for subset in subsets(NAMES)}, NAMES)
    for name in NAMES:
        parts = shapley_values(one, NAMES)[name] + shapley_values(other, NAMES)[name]
        np.testing.assert_allclose(both[name], parts, atol=1e-8)
