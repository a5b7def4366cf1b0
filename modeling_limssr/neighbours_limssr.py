"""Judged performances that a checkpoint remembers, so that a new one can be compared with those most like it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import cached_file, logging

logger = logging.get_logger(__name__)
NEIGHBOURS_FILE = "neighbours.safetensors"


@dataclass(frozen=True)
class NeighbourIndex:
    """
    Judged performances and what the model made of each from every subset of its modalities.

    It holds training data, so that a checkpoint has one only where someone asked for it.

    Args:
        sample_ids (`list`): ids of the performances.
        scores (`(samples, scores)` float64): judged scores, in judges' units.
        rows (`dict`): mask such as `video+audio` -> `(its samples,)` int64, which samples have these modalities.
        states (`dict`): mask -> `(its samples, hidden)` float32, their fusion states, see [`fusion_states`].
        weights (`str`): digest of the model that made the states, see [`digest_of_tokens`].
    """

    sample_ids: list[str]
    scores: torch.Tensor
    rows: dict[str, torch.Tensor]
    states: dict[str, torch.Tensor]
    weights: str

    def nearest(self, state: torch.Tensor, mask: str, count: int = 3) -> list[tuple[str, list[float], float]]:
        """
        The performances most like another one, the most similar first; those that are equally similar by their order.

        Only states of the same mask are compared: those that the model makes of the index from the modalities that the
        other performance has, and of nothing else. Their mean, which all of them share, is taken off on both sides.

        Args:
            state (`(hidden,)`): fusion state of the other performance.
            mask (`str`): the modalities it was made from, in the order of the model.
            count (`int`): how many are wanted.

        Returns:
            Id, judged scores, and cosine of the two states from -1 to 1, of each; empty where none has the modalities.
        """
        if mask not in self.states:
            return []
        states = self.states[mask].double()  # (samples, hidden)
        mean = states.mean(0)
        similarity = torch.cosine_similarity(states - mean, state.to(states) - mean, dim=-1)  # (samples,)
        places = similarity.argsort(descending=True, stable=True)[:count]
        rows = self.rows[mask][places].tolist()
        found = zip(rows, similarity[places].tolist(), strict=True)
        return [(self.sample_ids[row], self.scores[row].tolist(), cosine) for row, cosine in found]

    def save(self, folder: str | Path) -> None:
        """Write the index beside a checkpoint."""
        tensors = {"scores": self.scores}
        tensors |= {f"rows.{mask}": rows for mask, rows in self.rows.items()}
        tensors |= {f"states.{mask}": states for mask, states in self.states.items()}
        metadata = {"format": "pt", "sample_ids": json.dumps(self.sample_ids), "weights": self.weights}
        save_file(tensors, Path(folder, NEIGHBOURS_FILE), metadata)

    @classmethod
    def load(cls, file: str | Path) -> "NeighbourIndex":
        """
        Read an index.

        Raises:
            ValueError: the file is no index, or damaged.
        """
        try:
            with safe_open(file, framework="pt") as stored:
                metadata = stored.metadata()
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no dict)
            parts: dict[str, dict[str, torch.Tensor]] = {"rows": {}, "states": {}}
            scores = tensors.pop("scores")
            for name, tensor in tensors.items():
                kind, _, mask = name.partition(".")
                parts[kind][mask] = tensor
            index = cls(json.loads(metadata["sample_ids"]), scores, **parts, weights=metadata["weights"])
            index._check()
        except (KeyError, OSError, RecursionError, SafetensorError, TypeError, ValueError) as error:
            raise ValueError(_refusal(file, f"is damaged, or no index of judged performances ({error!r})")) from error
        return index

    def _check(self) -> None:
        """Raise ValueError or TypeError unless the parts agree with each other."""
        count = len(self.sample_ids)
        if not isinstance(self.sample_ids, list) or not all(isinstance(each, str) for each in self.sample_ids):
            raise TypeError("sample_ids are no list of strings")
        _require(self.scores, torch.float64, 2)
        if len(self.scores) != count or self.rows.keys() != self.states.keys():
            raise ValueError(f"{count} ids, {len(self.scores)} scores, masks {list(self.rows)}, {list(self.states)}")
        for mask, rows in self.rows.items():
            _require(rows, torch.int64, 1)
            _require(self.states[mask], torch.float32, 2)
            if len(rows) != len(self.states[mask]) or not ((rows >= 0) & (rows < count)).all():
                raise ValueError(f"{mask}: {len(rows)} rows of {count} samples, {len(self.states[mask])} states")

    def check(self, model, file: str | Path) -> None:
        """
        Check that the index is one of a model.

        Raises:
            ValueError: it has other scores, modalities or a size of its own, or other weights made it.
        """
        config = model.config
        names = list(config.modalities)
        problem = None
        if self.scores.shape[1] != config.num_scores:
            problem = f"has {self.scores.shape[1]} scores, the model {config.num_scores}"
        for mask, states in self.states.items():
            parts = mask.split("+")
            if parts != [name for name in names if name in parts]:
                problem = f"has the mask {mask!r}, the modalities are {names}"
            elif states.shape[1] != config.hidden_size:
                problem = f"has states of {states.shape[1]} numbers, the model of {config.hidden_size}"
        if problem is None and not self.is_of(model):
            problem = "was made with other weights"
        if problem is not None:
            raise ValueError(_refusal(file, problem))

    def is_of(self, model) -> bool:
        """Whether a model has the weights that made the index; true of offloaded weights, which nobody can read."""
        tokens = model.model.token_embeddings
        return tokens.device.type == "meta" or self.weights == digest_of_tokens(model)


def _require(tensor: torch.Tensor, dtype: torch.dtype, dimensions: int) -> None:
    if tensor.dtype != dtype or tensor.dim() != dimensions or not tensor.isfinite().all():
        raise ValueError(f"expected finite {dtype} of {dimensions} dimensions, got {tensor.dtype}, {tensor.shape}")


def _refusal(file: str | Path, problem: str) -> str:
    return f"{file} {problem}. Make it again with `limssr calibrate MODEL DATA --neighbours`, or remove it."


def load_neighbours(model, location: str | Path, **hub_arguments) -> NeighbourIndex | None:
    """
    The index beside a checkpoint; `None` where there is none, or the Hub is out of reach.

    Raises:
        ValueError: it is damaged, or not of this model.
    """
    file = cached_file(
        location,
        NEIGHBOURS_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub_arguments,
    )
    if file is None:
        return None
    index = NeighbourIndex.load(file)
    index.check(model, file)
    return index


def save_neighbours(model, folder: str | Path) -> None:
    """Write the index of a model, if it has one and was not trained since it was made."""
    if model.neighbours is None:
        return
    if model.neighbours.is_of(model):
        model.neighbours.save(folder)
    else:
        logger.warning("The model was trained further: %s is of before and is left out.", NEIGHBOURS_FILE)


def digest_of_tokens(model) -> str:
    """SHA-256 of the embeddings of the added tokens, which every training changes and every precision keeps."""
    tokens = model.model.token_embeddings.detach().float().cpu().contiguous()
    return hashlib.sha256(tokens.numpy().tobytes()).hexdigest()


def fusion_states(output) -> torch.Tensor:
    """What a performance is compared by, `(batch, hidden)`: the mean of h_k, or of h_m where there are no h_k."""
    states = output.modality_hidden_state if output.fusion_hidden_state is None else output.fusion_hidden_state
    return states.float().mean(1)
