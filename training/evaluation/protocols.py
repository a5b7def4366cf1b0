"""What an evaluation shows of each sample: the protocols of the field, each a list of views of the test split."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.masks import Mask, Rates, all_subsets, draw_static_masks, subset_name, validate_rates

PROTOCOLS = ("subsets", "rates", "available", "curve")
CURVE_RATES = tuple(round(0.1 * step, 1) for step in range(10))
MASK_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class MaskSet:
    """What may be seen of each sample in one pass over the split; what a sample lacks is not seen either.

    Attributes:
        name: such as `video+audio`, `available` or `video 0.3, audio 0.5, flow 0.7`.
        masks: one a sample.
        rates: modality -> rate at which it was hidden; None where nothing was drawn.
        seed: of the draw; None where nothing was drawn.
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

    `subsets` shows every sample under each of the 2^M - 1 masks, as published. `available` shows all that the data has.
    `rates` hides each modality with a rate of its own: with rates of .3, .5 and .7 and `permutations` the imbalanced
    missing rates of BMC-AQA. `curve` hides every modality at 0, 0.1 ... 0.9.

    Drawn masks follow from the seed and the sample's id alone (`draw_static_masks`), and a draw that would leave a
    sample nothing is repeated: at high rates less is hidden than the rate says, with three modalities at most 2 in 3.
    Each draw is repeated with every seed.

    Args:
        name: one of `PROTOCOLS`.
        rates: for `rates` only: one for all modalities, or one by name; a modality not named is never hidden.
        permutations: for `rates` only: the rates in every order over the modalities.
        seeds: of the masks, for `rates` and `curve`.

    Raises:
        ValueError: these do not go together.
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
        if self.draws and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError(f"mask seeds must be one or more different numbers, got {list(self.seeds)}")

    @property
    def draws(self) -> bool:
        """Masks are drawn, so there is a result for each seed."""
        return self.name in ("rates", "curve")

    def mask_sets(
        self, sample_ids: Sequence[str], available: Sequence[Mask], modalities: Sequence[str]
    ) -> list[MaskSet]:
        """
        Args:
            sample_ids: of the split.
            available: what the data has of each sample.
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
    """`draw_static_masks`, with nothing to see of a sample that has nothing."""
    masks = [(0,) * len(modalities)] * len(sample_ids)
    usable = [row for row, mask in enumerate(available) if any(mask)]
    ids, given = [sample_ids[row] for row in usable], [available[row] for row in usable]
    for row, mask in zip(usable, draw_static_masks(ids, modalities, rates, seed, given), strict=True):
        masks[row] = mask
    return masks
