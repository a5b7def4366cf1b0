"""Judged performances that a checkpoint remembers: what is nearest, where they go along, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from limssr import LimssrForScoreRegression
from limssr.modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE, NeighbourIndex, digest_of_tokens
from tests.helpers.feature_rows import SIZES

IDS = ["a", "b", "c", "d"]


def make_index(model) -> NeighbourIndex:
    states = torch.randn(4, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    return NeighbourIndex(
        IDS,
        torch.arange(4, dtype=torch.float64)[:, None],
        {"video+audio": torch.arange(4), "video": torch.tensor([1, 3])},
        {"video+audio": states, "video": states[:2].clone()},
        digest_of_tokens(model),
    )


@pytest.fixture
def model(tiny_model) -> LimssrForScoreRegression:
    tiny_model.neighbours = make_index(tiny_model)
    return tiny_model


def test_the_nearest_are_of_the_same_mask_and_their_mean_says_nothing():
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, 0.2]]) + 100
    rows = {"video": torch.arange(4), "audio": torch.tensor([2])}
    scores = torch.tensor([[10.0], [20.0], [30.0], [40.0]], dtype=torch.float64)
    index = NeighbourIndex(IDS, scores, rows, {"video": states, "audio": states[:1]}, "")
    found = index.nearest(torch.tensor([101.0, 100.0]), "video")
    assert [(name, score) for name, score, _ in found] == [("a", [10.0]), ("c", [30.0]), ("b", [20.0])]
    similarities = [similarity for *_, similarity in found]
    assert similarities[0] == pytest.approx(1, abs=1e-4)
    assert similarities == sorted(similarities, reverse=True)
    assert [name for name, *_ in index.nearest(states[0], "audio")] == ["c"]
    assert index.nearest(states[0], "video+audio") == []


@pytest.mark.parametrize("form", ["full", "adapter"])
def test_the_index_goes_along_and_a_folder_keeps_none_of_another_model(tiny_language_model, tmp_path, form):
    model = LimssrForScoreRegression.from_language_model(tiny_language_model, modalities=SIZES, lora_rank=2)
    model.neighbours = make_index(model)
    model.save_pretrained(tmp_path / "adapter", form="adapter")
    place = {"language_model": tiny_language_model}
    loaded = LimssrForScoreRegression.from_pretrained(tmp_path / "adapter", trainable=form == "adapter", **place)
    loaded.save_pretrained(tmp_path / "again", form=form)
    found = LimssrForScoreRegression.from_pretrained(tmp_path / "again", **place).neighbours
    assert found.sample_ids == IDS
    for mask, states in model.neighbours.states.items():
        assert found.states[mask].equal(states)
        assert found.rows[mask].equal(model.neighbours.rows[mask])

    loaded.model.token_embeddings.data += 0.1  # trained: the states are not its own any more
    loaded.save_pretrained(tmp_path / "again", form=form)
    assert not (tmp_path / "again" / NEIGHBOURS_FILE).exists()
    assert LimssrForScoreRegression.from_pretrained(tmp_path / "again", **place).neighbours is None


def damage(tensors: dict, metadata: dict, how: str) -> None:
    if how == "not finite":
        tensors["states.video"][0, 0] = torch.nan
    elif how == "row beyond the samples":
        tensors["rows.video"][0] = 4
    elif how == "other number of states":
        tensors["states.video"] = tensors["states.video"][:1].clone()
    elif how == "no scores":
        del tensors["scores"]
    elif how == "scores of another model":
        tensors["scores"] = torch.zeros(4, 2, dtype=torch.float64)
    elif how == "states of another size":
        tensors["states.video"] = torch.zeros(2, 3)
    elif how == "unknown modality":
        tensors["states.taste"], tensors["rows.taste"] = tensors.pop("states.video"), tensors.pop("rows.video")
    elif how == "unknown part":
        tensors["other"] = torch.zeros(1)
    elif how == "ids of another kind":
        metadata["sample_ids"] = json.dumps([1, 2, 3, 4])
    elif how == "deep nesting":
        metadata["sample_ids"] = "[" * 100_000
    elif how == "other weights":
        metadata["weights"] = "0" * 64


DAMAGES = [
    "not finite",
    "row beyond the samples",
    "other number of states",
    "no scores",
    "scores of another model",
    "states of another size",
    "unknown modality",
    "unknown part",
    "ids of another kind",
    "deep nesting",
    "other weights",
]


def test_a_damaged_index_is_one_error_that_names_the_file(model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / NEIGHBOURS_FILE
    with safe_open(file, framework="pt") as stored:
        tensors, metadata = {name: stored.get_tensor(name) for name in stored.keys()}, stored.metadata()  # noqa: SIM118
    for how in DAMAGES:
        changed = {name: tensor.clone() for name, tensor in tensors.items()}, dict(metadata)
        damage(*changed, how)
        save_file(changed[0], file, changed[1])
        with pytest.raises(ValueError, match=rf"{NEIGHBOURS_FILE} .*limssr calibrate MODEL DATA --neighbours"):
            LimssrForScoreRegression.from_pretrained(tmp_path)
    file.write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match="is damaged, or no index"):
        LimssrForScoreRegression.from_pretrained(tmp_path)
    file.unlink()
    assert LimssrForScoreRegression.from_pretrained(tmp_path).neighbours is None
