"""Exact Shapley values: what each modality adds to the score, averaged over all orders in which they could come."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np

Subset = frozenset[str]  # names of modalities


def subsets(names: Sequence[str]) -> Iterator[Subset]:
    """All subsets of the names, the empty one first and the full one last."""
    return (frozenset(chosen) for size in range(len(names) + 1) for chosen in combinations(names, size))


def shapley_values(values: Mapping[Subset, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """
    Shapley value of each name (Shapley 1953):

        phi_m = sum over S without m of (v(S + m) - v(S)) / (n C(n - 1, |S|))

    They add up to v(all) - v(none). A name that changes no value gets 0, and names that change all values alike get
    the same.

    Args:
        values: value of each subset, arrays of one shape.
        names: the n names.

    Returns:
        Name -> its Shapley value, of the same shape.
    """
    contributions = {}
    for name in names:
        others = [other for other in names if other != name]
        gains = (
            (values[subset | {name}] - values[subset]) / comb(len(others), len(subset)) for subset in subsets(others)
        )
        contributions[name] = sum(gains) / len(names)
    return contributions


def leave_one_out(values: Mapping[Subset, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Name -> v(all) - v(all but this one). Unlike Shapley values these need not add up to anything."""
    everything = frozenset(names)
    return {name: values[everything] - values[everything - {name}] for name in names}
