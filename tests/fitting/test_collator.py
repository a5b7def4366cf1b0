"""What is random in a batch follows from seed, epoch and samples, whoever makes the batch."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from limssr import LimssrCollator, LimssrConfig, LimssrProcessor
from limssr.training.data.masks import DynamicMask
from limssr.training.fitting.collator import EpochRows, EpochSampler

SIZES = {"video": 16, "audio": 12, "flow": 8}


def make_rows(count: int = 10) -> list[dict]:
    random = np.random.default_rng(0)
    clips = {name: random.normal(size=(count, 30, size)).astype("float32") for name, size in SIZES.items()}
    return [
        {"sample_id": f"s{index}", "score": float(index), **{name: clips[name][index] for name in SIZES}}
        for index in range(count)
    ]


def make_collator(processor, **settings) -> LimssrCollator:
    return LimssrCollator(processor, list(SIZES), ["score"], **settings)


def batches(collator, epoch: int = 0, workers: int = 0) -> list[dict]:
    rows = make_rows()
    sampler = EpochSampler(len(rows), seed=0)
    sampler.set_epoch(epoch)
    return list(DataLoader(EpochRows(rows), batch_size=4, sampler=sampler, collate_fn=collator, num_workers=workers))


def equal(first: list[dict], second: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_are_the_same_for_any_number_of_workers(tiny_processor):
    collator = make_collator(tiny_processor, dynamic_mask=DynamicMask(list(SIZES)))
    torch.manual_seed(1)
    alone = batches(collator)
    torch.manual_seed(2)
    torch.rand(5)
    assert equal(alone, batches(collator, workers=2))


def test_batches_of_every_epoch_are_the_same_for_every_kind_of_worker(tiny_processor):
    masks = DynamicMask(list(SIZES), 0.3)
    collator = make_collator(tiny_processor, dynamic_mask=masks, modality_dropout=masks, clip_dropout={"video": 0.5})
    collator_elsewhere, rows_elsewhere = pickle.loads(pickle.dumps((collator, EpochRows(make_rows()))))  # noqa: S301 (as spawn does)
    runs = []
    for workers, persist in ((0, False), (2, False), (2, True)):
        sampler = EpochSampler(10, seed=0)
        loading = {"num_workers": workers, "persistent_workers": persist}
        loader = DataLoader(rows_elsewhere, batch_size=4, sampler=sampler, collate_fn=collator_elsewhere, **loading)
        torch.manual_seed(0)
        batches_of_run = []
        for epoch in range(3):
            sampler.set_epoch(epoch)
            batches_of_run += list(loader)
        runs.append(batches_of_run)
    assert len(runs[0]) == 9
    assert equal(runs[0], runs[1])
    assert equal(runs[0], runs[2])
    assert equal(runs[0][:3], batches(collator))


def test_every_epoch_and_every_seed_crops_and_shuffles_anew(tiny_processor):
    first = batches(make_collator(tiny_processor))
    assert not equal(first, batches(make_collator(tiny_processor), epoch=1))
    assert not equal(first, batches(make_collator(tiny_processor, seed=1)))
    assert equal(first, batches(make_collator(tiny_processor)))


def test_one_sample_is_cropped_differently_in_another_epoch(tiny_processor):
    collator, row = make_collator(tiny_processor), make_rows(1)[0]
    crops = [collator([EpochRows([row])[epoch, 0]])["video_features"] for epoch in range(5)]
    assert any(not torch.equal(crops[0], crop) for crop in crops)
    assert all(crop.shape == (1, 12, 16) for crop in crops)


def test_an_epoch_visits_every_row_once():
    sampler = EpochSampler(7, seed=0)
    first = [index for _, index in sampler]
    sampler.set_epoch(1)
    assert sorted(first) == list(range(7)) == sorted(index for _, index in sampler)
    assert first != [index for _, index in sampler]


def test_a_dynamic_mask_hides_the_same_in_the_whole_batch(tiny_processor):
    collator = make_collator(tiny_processor, dynamic_mask=DynamicMask(list(SIZES)))
    used = set()
    for epoch in range(30):
        for batch in batches(collator, epoch):
            masks = torch.stack([batch[f"{name}_clip_mask"].any(1) for name in SIZES], dim=1)  # (batch, modalities)
            assert (masks == masks[0]).all()
            used.add(tuple(masks[0].tolist()))
    assert len(used) == 7


def test_labels_are_in_judges_units_and_may_be_missing(tiny_processor):
    rows = [{**row, "score": None if row["sample_id"] == "s1" else 50.0} for row in make_rows(2)]
    labels = make_collator(tiny_processor)(rows)["labels"]
    assert labels[0].item() == 50
    assert labels[1].isnan()


@pytest.mark.parametrize(
    "change",
    [
        {"video": np.full((3, 16), np.nan, dtype="float32")},
        {"video": np.zeros((3, 5), dtype="float32")},
        {"video": None, "audio": None, "flow": None},
        {"score": "high"},
        {"score": float("inf")},
    ],
)
def test_a_bad_row_is_named(tiny_processor, change):
    rows = make_rows(3)
    rows[1] |= change
    for all_masks in (False, True):
        with pytest.raises((TypeError, ValueError), match="sample 's1'"):
            make_collator(tiny_processor, all_masks=all_masks)(rows)


def test_a_dataset_without_the_score_is_named(tiny_processor):
    rows = [{name: value for name, value in row.items() if name != "score"} for row in make_rows(1)]
    with pytest.raises(ValueError, match=r"sample 's0': .*score"):
        make_collator(tiny_processor)(rows)


def test_modality_dropout_hides_more_of_each_sample_anew_in_every_epoch(tiny_processor):
    rows = make_rows(200)
    collator = make_collator(tiny_processor, modality_dropout=DynamicMask(list(SIZES), 0.4, seed=3))

    def used(epoch: int) -> torch.Tensor:
        batch = collator([EpochRows(rows)[epoch, index] for index in range(len(rows))])
        return torch.stack([batch[f"{name}_clip_mask"].any(1) for name in SIZES], dim=1)  # (rows, modalities)

    first, second = used(0), used(1)
    assert first.any(1).all(), "no sample loses everything"
    assert torch.equal(first, used(0)), "the same in the same epoch"
    assert not torch.equal(first, second)
    hidden = 1 - (0.6 / (1 - 0.4**3))  # a draw that hides all three is redrawn
    assert first.float().mean(0).sub(1 - hidden).abs().max() < 0.12


def test_modality_dropout_never_uses_what_a_row_lacks(tiny_processor):
    rows = [{**row, "audio": None} for row in make_rows(20)]
    collator = make_collator(tiny_processor, modality_dropout=DynamicMask(list(SIZES), 0.5))
    assert collator([EpochRows(rows)[0, index] for index in range(20)])["audio_features"].shape[1] == 0


def test_all_masks_give_every_subset_of_the_modalities_a_sample_has(tiny_processor):
    rows = make_rows(3)
    rows[1]["audio"] = None
    rows[2] |= {"video": None, "flow": None}
    rows = [{**row, "score": score} for row, score in zip(rows, (1.0, 2.0, 3.0), strict=True)]
    batch = make_collator(tiny_processor, all_masks=True)([EpochRows(rows)[0, index] for index in range(3)])
    used = torch.stack([batch[f"{name}_clip_mask"].any(1) for name in SIZES], dim=1).int().tolist()
    assert list(SIZES) == ["video", "audio", "flow"]
    everything = [[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert used == [*everything, [1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert batch["labels"][:, 0].tolist() == [1.0] * 7 + [2.0] * 3 + [3.0]


def test_the_masks_of_a_sample_lose_different_clips_repeatably(tiny_processor):
    row = {**make_rows(1)[0], "video": np.ones((12, SIZES["video"]), dtype="float32")}

    def clip_counts(epoch: int) -> list[int]:
        collator = make_collator(tiny_processor, all_masks=True, clip_dropout={"video": 0.5})
        return collator([EpochRows([row])[epoch, 0]])["video_clip_mask"].sum(1).tolist()

    assert clip_counts(0) == clip_counts(0)
    assert len({count for count in clip_counts(0) if count}) > 1
    assert clip_counts(0) != clip_counts(1)


@pytest.mark.parametrize("kind", ["numpy", "list"])
def test_clip_dropout_leaves_out_clips_of_the_named_modality_anew_in_every_epoch_and_repeatably(
    tiny_text_config, tiny_tokenizer, kind
):
    config = LimssrConfig(text_config=tiny_text_config, modalities={"video": 2, "audio": 2})
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, max_clips=200)
    clips = np.arange(400, dtype=np.float32).reshape(200, 2)
    given = clips if kind == "numpy" else clips.tolist()
    row = {"sample_id": "a", "score": 1.0, "video": given, "audio": given}

    def used(epoch: int, rate: float) -> tuple[list[float], list[float]]:
        collator = LimssrCollator(processor, ["video", "audio"], ["score"], clip_dropout={"video": rate})
        batch = collator([EpochRows([row])[epoch, 0]])
        return batch["video_features"][0, :, 0].tolist(), batch["audio_features"][0, :, 0].tolist()

    whole = clips[:, 0].tolist()
    assert used(0, 0.0) == (whole, whole)
    first, untouched = used(0, 0.3)
    assert untouched == whole
    assert first == [clip for clip in whole if clip in set(first)]  # in order, none invented
    assert 110 < len(first) < 170
    assert first == used(0, 0.3)[0]
    assert first != used(1, 0.3)[0]
    row["video"] = row["video"][:1]
    assert all(used(epoch, 0.9)[0] == whole[:1] for epoch in range(5))  # a modality is never emptied


def test_clip_dropout_leaves_out_words_anew_in_every_epoch_and_repeatably(tiny_text_config, tiny_tokenizer):
    config = LimssrConfig(text_config=tiny_text_config, modalities={"commentary": "text"})
    processor = LimssrProcessor.from_config(config, tiny_tokenizer, max_text_tokens=10_000)
    words = [f"w{number}" for number in range(200)]
    row = {"sample_id": "a", "score": 1.0, "commentary": " ".join(words)}

    def used(epoch: int, **settings) -> list[str]:
        collator = LimssrCollator(processor, ["commentary"], ["score"], **settings)
        ids = collator([EpochRows([row])[epoch, 0]])["input_ids"][0].tolist()
        start, end = (ids.index(processor._ids[f"<|commentary_{side}|>"]) for side in ("start", "end"))
        return tiny_tokenizer.decode(ids[start + 1 : end]).split()

    assert used(0) == words
    first = used(0, clip_dropout={"commentary": 0.3})
    assert first == [word for word in words if word in set(first)]  # in order, none invented
    assert 110 < len(first) < 170
    assert first == used(0, clip_dropout={"commentary": 0.3})
    assert first != used(1, clip_dropout={"commentary": 0.3})
    row["commentary"] = "one"
    assert all(
        used(epoch, clip_dropout={"commentary": 0.9}) == ["one"] for epoch in range(5)
    )  # a text is never emptied


def test_label_weights_follow_their_samples_under_all_masks_too(tiny_processor):
    weights = {f"s{index}": [index / 4] for index in range(10)}
    collator = make_collator(tiny_processor, all_masks=True, label_weights=weights)
    batch = collator(make_rows()[2:4])
    assert batch["loss_weights"].tolist() == [[0.5]] * 7 + [[0.75]] * 7
    assert batch["loss_weights"].dtype == torch.float32
    assert "loss_weights" not in make_collator(tiny_processor)(make_rows()[:1])
    with pytest.raises(ValueError, match="sample 's1' has no label weights"):
        make_collator(tiny_processor, label_weights={"s0": [1.0]})(make_rows()[:2])


def test_rows_are_augmented_anew_in_every_epoch_and_repeatably_before_anything_is_hidden(tiny_processor):
    def shift(row, generator):
        return {**row, "video": row["video"] + generator.normal()}

    rows = [{**row, "training_epoch": epoch} for epoch in (0, 1) for row in make_rows(2)]
    plain, augmented = (make_collator(tiny_processor, crop="center", **each) for each in ({}, {"augment": shift}))
    first, second = (augmented(rows[epoch : epoch + 2])["video_features"] for epoch in (0, 2))
    torch.testing.assert_close(first, augmented(rows[:2])["video_features"], rtol=0, atol=0)
    shifts = [(batch - plain(rows[:2])["video_features"]) for batch in (first, second)]
    assert not torch.allclose(shifts[0], shifts[1])
    assert not torch.allclose(shifts[0][0, 0], shifts[0][1, 0])  # each sample its own
