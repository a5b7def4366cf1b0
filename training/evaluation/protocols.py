"""Evaluation protocols: which modalities each sample may use, as mask sets over the test split."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.masks import Mask, Rates, all_subsets, draw_static_masks, subset_name, validate_rates

PROTOCOLS = ("subsets", "rates", "available", "curve")
CURVE_RATES = tuple(round(0.1 * step, 1) for step in range(10))
MASK_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class MaskSet:
    """The allowed modalities of each sample in one pass over the split.

    Attributes:
        name: such as `video+audio`, `available` or `video 0.3, audio 0.5, flow 0.7`.
        masks: one for each sample.
        rates: missing rate of each modality; None where no masks are drawn.
        seed: mask seed; None where no masks are drawn.
    """

    name: str
    masks: list[Mask]
    rates: dict[str, float] | None = None
    seed: int | None = None

    @property
    def mask(self) -> Mask | None:
        """The mask that all samples share; None where each has its own."""
        return self.masks[0] if self.seed is None else None


@dataclass(frozen=True)
class Protocol:
    """How an evaluation hides modalities.

    - `subsets`: every sample under each of the 2^M - 1 masks, as published.
    - `available`: everything that the data has.
    - `rates`: each modality is hidden with its own rate; with rates of .3, .5 and .7 and `permutations` these are the
      imbalanced missing rates of BMC-AQA.
    - `curve`: every modality is hidden with rates of 0, 0.1 ... 0.9.

    Drawn masks depend on the seed and the sample id alone. A draw that would hide everything is repeated, so at high
    rates less is hidden than the rate says: with three modalities at most two thirds.

    Args:
        name: one of `PROTOCOLS`.
        rates: for `rates` only: one rate for all modalities, or rates by name; a modality without one is never hidden.
        permutations: for `rates` only: the rates in every order over the modalities.
        seeds: mask seeds of `rates` and `curve`; there is a result for each.

    Raises:
        ValueError: the arguments do not fit together.
    """

    name: str = "subsets"
    rates: Rates | None = None
    permutations: bool = False
    seeds: tuple[int, ...] = MASK_SEEDS

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.name!r}; there are {', '.join(PROTOCOLS)}")
        if (self.rates is None) == (self.name == "rates"):
            needed = "needs `rates`, such as 0.3" if self.name == "rates" else "takes no `rates`"
            raise ValueError(f"the protocol {self.name!r} {needed}")
        if self.permutations and not isinstance(self.rates, dict):
            raise ValueError(
                "`permutations` needs the protocol 'rates' and a rate for each modality, such as video=0.3"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"mask seeds must be one or more different numbers, got {list(self.seeds)}")

    def mask_sets(
        self, sample_ids: Sequence[str], available: Sequence[Mask], modalities: Sequence[str]
    ) -> list[MaskSet]:
        """Build the mask sets of a split.

        Args:
            sample_ids: ids of the samples.
            available: modalities that each sample has.
            modalities: names in mask order.

        Raises:
            ValueError: a rate is impossible or names no modality.
        """
        if self.name == "subsets":
            subsets = all_subsets(len(modalities))
            return [MaskSet(subset_name(mask, modalities), [mask] * len(sample_ids)) for mask in subsets]
        if self.name == "available":
            return [MaskSet("available", [(1,) * len(modalities)] * len(sample_ids))]
        return [
            MaskSet(name, _draw(sample_ids, modalities, rates, seed, available), rates, seed)
            for name, rates in self._settings(modalities)
            for seed in self.seeds
        ]

    def _settings(self, modalities: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
        """Name and rates of each row of the result."""
        if self.name == "curve":
            return [(f"{rate:.1f}", dict.fromkeys(modalities, rate)) for rate in CURVE_RATES]
        rates = validate_rates(self.rates, modalities)
        orders = [tuple(rates.values())]
        if self.permutations:
            orders = list(dict.fromkeys(itertools.permutations(rates.values())))
        settings = [dict(zip(modalities, order, strict=True)) for order in orders]
        return [(rates_name(rates), rates) for rates in settings]


def rates_name(rates: Mapping[str, float]) -> str:
    """`video 0.3, audio 0.5`."""
    return ", ".join(f"{name} {rate:g}" for name, rate in rates.items())


def _draw(
    sample_ids: Sequence[str], modalities: Sequence[str], rates: Rates, seed: int, available: Sequence[Mask]
) -> list[Mask]:
    """`draw_static_masks`; a sample without any modality gets an empty mask."""
    usable = [row for row, mask in enumerate(available) if any(mask)]
    ids, given = [sample_ids[row] for row in usable], [available[row] for row in usable]
    drawn = dict(zip(usable, draw_static_masks(ids, modalities, rates, seed, given), strict=True))
    return [drawn.get(row, (0,) * len(modalities)) for row in range(len(available))]
