"""The index of judged performances that an explanation compares a new one with."""

import numpy as np
import torch
from tqdm.auto import tqdm

from ...modeling_limssr.neighbours_limssr import NeighbourIndex, digest_of_tokens, fusion_states
from ...processing.processing_limssr import LimssrProcessor
from ..data.masked_dataset import MaskedDataset
from ..data.masks import all_subsets, subset_name
from ..prediction.predictor import evaluating, input_device


def index_neighbours(
    model,
    processor: LimssrProcessor,
    rows: MaskedDataset,
    targets: np.ndarray,
    batch_size: int = 16,
    progress: bool = True,
) -> NeighbourIndex:
    """
    Index performances under every subset of the modalities that they have.

    Args:
        model: the loaded model.
        processor: its processor.
        rows: performances, with the modalities that may be used.
        targets: (samples, scores), judged scores in judges' units; a sample that lacks one is left out.
        batch_size: samples per batch.
        progress: whether to show a progress bar.

    Raises:
        ValueError: no sample has all scores.
    """
    judged = np.flatnonzero(np.isfinite(targets).all(axis=1))
    if not len(judged):
        raise ValueError("no training sample has a judged score for every score; there is nothing to compare with.")
    available = np.array(rows.masks, dtype=bool)[judged]  # (samples, modalities)
    of_mask, states = {}, {}
    for mask in tqdm(all_subsets(len(rows.modalities)), "indexing", unit="mask", disable=not progress):
        chosen = np.flatnonzero(available[:, np.array(mask, dtype=bool)].all(axis=1))
        if len(chosen):
            names = subset_name(mask, rows.modalities).split("+")
            ordered = "+".join(name for name in model.config.modalities if name in names)
            of_mask[ordered] = torch.from_numpy(chosen)
            states[ordered] = _find_states(model, processor, rows, judged[chosen], names, batch_size)
    return NeighbourIndex(
        [str(rows[row]["sample_id"]) for row in judged],
        torch.tensor(targets[judged], dtype=torch.float64),
        of_mask,
        states,
        digest_of_tokens(model),
    )


def _find_states(
    model, processor: LimssrProcessor, rows: MaskedDataset, chosen: np.ndarray, names: list[str], batch_size: int
) -> torch.Tensor:
    """Fusion states of the chosen rows from some of their modalities, (chosen, hidden)."""
    device, states = input_device(model), []
    with evaluating(model), model.model.prefix_cache.keep():
        for start in range(0, len(chosen), batch_size):
            batch = [rows[row] for row in chosen[start : start + batch_size]]
            features = {name: [row[name] for row in batch] for name in names}
            inputs = processor(features=features, sample_ids=[str(row["sample_id"]) for row in batch])
            output = model(**{name: values.to(device) for name, values in inputs.items()})
            states.append(fusion_states(output).cpu())
    return torch.cat(states)
