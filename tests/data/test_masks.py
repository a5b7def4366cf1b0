"""Masks are what was asked for, depend on nothing else, and what they hide is never read."""

import math

import numpy as np
import pyarrow as pa
import pytest
from datasets import Array2D, Dataset, Features, LargeList, List, Value, concatenate_datasets, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from limssr.training.data import load
from limssr.training.data.aqa_data import build_split, feature_column
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import (
    DynamicMask,
    all_subsets,
    available_masks,
    draw_static_masks,
    subset_name,
    validate_rates,
)

MODALITIES = ["video", "audio", "flow"]
SAMPLE_IDS = [f"sample_{index}" for index in range(4000)]


class Tripwire(Dataset):
    """A dataset that raises when a row is read through a view that holds a column hidden for this row."""

    masks: list

    def __getitem__(self, key):
        for name, bit in zip(MODALITIES, self.masks[key], strict=True):
            if not bit and name in self.column_names:
                raise AssertionError(f"column {name} was requested for row {key}, which hides it")
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return load("synthetic", samples_train=40, samples_test=1).splits["train"]


def test_subsets_of_three_come_fullest_first():
    names = ["".join(map(str, mask)) for mask in all_subsets(3)]
    assert names == ["111", "110", "101", "011", "100", "010", "001"]


@given(st.integers(1, 7))
def test_every_non_empty_subset_occurs_once(count):
    subsets = all_subsets(count)
    assert len(set(subsets)) == len(subsets) == 2**count - 1
    assert all(any(mask) and len(mask) == count for mask in subsets)
    assert [sum(mask) for mask in subsets] == sorted(map(sum, subsets), reverse=True)


def test_subset_name_lists_what_is_present():
    assert subset_name((1, 0, 1), MODALITIES) == "video+flow"


@given(st.floats(0, 1, exclude_max=True))
def test_one_rate_is_the_rate_of_every_modality(rate):
    assert validate_rates(rate, MODALITIES) == dict.fromkeys(MODALITIES, rate)


@given(st.dictionaries(st.sampled_from(MODALITIES), st.floats(0, 1, exclude_max=True)))
def test_a_modality_without_a_rate_is_never_hidden(rates):
    assert validate_rates(rates, MODALITIES) == {name: rates.get(name, 0.0) for name in MODALITIES}


@given(
    st.one_of(
        st.floats(max_value=0, exclude_max=True), st.floats(min_value=1), st.just(math.nan), st.booleans(), st.text()
    )
)
def test_impossible_rates_are_refused_by_name(rate):
    with pytest.raises(ValueError, match="video"):
        validate_rates({"video": rate}, MODALITIES)


def test_unknown_modality_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vidoe'.*video, audio, flow"):
        validate_rates({"vidoe": 0.3}, MODALITIES)


@settings(max_examples=25)
@given(st.permutations(SAMPLE_IDS[:30]), st.integers(1, 30), st.integers(0, 5))
def test_static_masks_depend_on_seed_and_id_alone(order, count, seed):
    whole = dict(zip(SAMPLE_IDS[:30], draw_static_masks(SAMPLE_IDS[:30], MODALITIES, 0.5, seed), strict=True))
    part = draw_static_masks(order[:count], MODALITIES, 0.5, seed)
    assert part == [whole[sample_id] for sample_id in order[:count]]


def test_static_masks_do_not_depend_on_the_order_of_the_modalities():
    forward = draw_static_masks(SAMPLE_IDS[:200], MODALITIES, 0.5, seed=1)
    backward = draw_static_masks(SAMPLE_IDS[:200], MODALITIES[::-1], 0.5, seed=1)
    assert forward == [mask[::-1] for mask in backward]


def test_another_seed_draws_other_static_masks():
    assert draw_static_masks(SAMPLE_IDS, MODALITIES, 0.5, 0) != draw_static_masks(SAMPLE_IDS, MODALITIES, 0.5, 1)


@pytest.mark.parametrize("rates", [{"video": 0.3, "audio": 0.5, "flow": 0.7}, {"audio": 0.2}, 0.3])
def test_static_rates_are_close_to_those_asked_for(rates):
    masks = np.array(draw_static_masks(SAMPLE_IDS, MODALITIES, rates, seed=3))
    expected = np.array(list(validate_rates(rates, MODALITIES).values()))
    nothing_left = expected.prod()  # such draws are redrawn, which lowers the rates a little
    expected = (expected - nothing_left) / (1 - nothing_left)
    np.testing.assert_allclose(1 - masks.mean(axis=0), expected, atol=4 * math.sqrt(0.25 / len(masks)))
    assert masks.any(axis=1).all()


def test_static_masks_show_only_what_the_data_has():
    observed = [(1, 0, 0), (0, 1, 1)] * 50
    masks = draw_static_masks(SAMPLE_IDS[:100], MODALITIES, 0.6, 0, observed)
    assert all(any(mask) and np.all(np.array(mask) <= have) for mask, have in zip(masks, observed, strict=True))
    with pytest.raises(ValueError, match="sample_0"):
        draw_static_masks(SAMPLE_IDS[:1], MODALITIES, 0.6, 0, [(0, 0, 0)])


def test_dynamic_masks_are_uniform_over_subsets_and_repeatable():
    masks = [DynamicMask(MODALITIES, seed=7).draw(step) for step in range(7000)]
    counts = [masks.count(mask) for mask in all_subsets(3)]
    assert sum(counts) == 7000
    assert min(counts) > 850
    assert max(counts) < 1150
    assert masks[123] == DynamicMask(MODALITIES, seed=7).draw(123)
    assert masks != [DynamicMask(MODALITIES, seed=8).draw(step) for step in range(7000)]


def test_dynamic_masks_follow_rates():
    drawn = DynamicMask(MODALITIES, {"audio": 0.9})
    masks = np.array([drawn.draw("epoch", 0, step) for step in range(3000)])
    assert masks[:, [0, 2]].all()
    assert abs(1 - masks[:, 1].mean() - 0.9) < 0.03


def test_dynamic_mask_hides_in_every_row_but_leaves_none_empty():
    rows = [{"sample_id": "a", "video": 1, "audio": 2, "flow": 3}, {"sample_id": "b", "audio": 4}]
    shown = DynamicMask(MODALITIES).apply(rows, (1, 0, 0))
    assert shown == [{"sample_id": "a", "video": 1, "audio": None, "flow": None}, {"sample_id": "b", "audio": 4}]


def test_hidden_columns_are_never_requested(rows):
    Tripwire.masks = draw_static_masks(rows["sample_id"], MODALITIES, 0.5, seed=0)
    assert len(set(Tripwire.masks)) > 3
    guarded = Tripwire(rows.data.table)
    with pytest.raises(AssertionError, match="was requested"):
        guarded.with_format("arrow")[next(i for i, mask in enumerate(Tripwire.masks) if not all(mask))]
    masked = MaskedDataset(guarded, MODALITIES, Tripwire.masks)
    for index, mask in enumerate(Tripwire.masks):
        row = masked[index]
        assert [int(row[name] is not None) for name in MODALITIES] == list(mask)


def test_visible_rows_are_those_of_the_dataset(rows):
    masked = MaskedDataset(rows, MODALITIES, [(1, 1, 1)] * len(rows))
    for index in (0, 7, len(rows) - 1):
        for name in MODALITIES:
            np.testing.assert_array_equal(masked[index][name], np.array(rows[index][name], dtype=np.float32))
            assert masked[index][name].dtype == np.float32
        assert masked[index]["sample_id"] == rows[index]["sample_id"]
        assert masked[index]["score"] == rows[index]["score"]
    assert masked[-1]["sample_id"] == rows[-1]["sample_id"]
    with pytest.raises(IndexError):
        masked[len(rows)]


def test_reading_a_sample_touches_its_own_rows_alone(tmp_path):
    clips = np.ones((400 * 50, 64), dtype=np.float32)
    column = feature_column(clips, [50] * 400)  # 5 MB, of which a sample is 13 kB
    build_split([str(number) for number in range(400)], {}, {"video": column}).save_to_disk(tmp_path / "split")
    del column
    masked = MaskedDataset(load_from_disk(tmp_path / "split"), ["video"], [(1,)] * 400)
    masked[7]
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)  # a fresh one knows the most that was held while the sample is read
    try:
        row = masked[317]["video"]
    finally:
        pa.set_memory_pool(usual)
    assert row.shape == (50, 64)
    assert row.flags.owndata or row.base.nbytes == row.nbytes  # nothing larger is kept alive
    assert pool.max_memory() < 2 * row.nbytes


def test_a_shuffled_selection_reads_its_own_rows(rows):
    chosen = rows.select([5, 3, 30])
    masked = MaskedDataset(chosen, MODALITIES, [(1, 0, 0)] * 3)
    assert [row["sample_id"] for row in masked] == chosen["sample_id"][:]
    np.testing.assert_array_equal(masked[1]["video"], np.array(rows[3]["video"], dtype=np.float32))


def test_missing_data_is_observed_and_read_as_none(rows):
    lacking = rows.select(range(3)).map(lambda row: {"audio": None}, features=rows.features)
    both = concatenate_datasets([rows.select(range(3, 5)), lacking])
    assert available_masks(both, MODALITIES) == [(1, 1, 1)] * 2 + [(1, 0, 1)] * 3
    assert MaskedDataset(both, MODALITIES, [(1, 1, 1)] * 5)[3]["audio"] is None


@pytest.mark.parametrize("mask", [(0, 0, 0), (1, 1), (1, 2, 0)])
def test_masks_that_do_not_fit_are_refused(rows, mask):
    with pytest.raises(ValueError, match="sample number 1"):
        MaskedDataset(rows.select(range(2)), MODALITIES, [(1, 1, 1), mask])
    with pytest.raises(ValueError, match="1 masks for 2 samples"):
        MaskedDataset(rows.select(range(2)), MODALITIES, [(1, 1, 1)])


@pytest.mark.parametrize(
    "column",
    [
        None,  # as `Dataset.from_dict` infers it: lists of any length, float64
        List(List(Value("float32"), length=3)),
        LargeList(LargeList(Value("float16"))),
        Array2D(shape=(2, 3), dtype="float64"),
    ],
)
def test_clips_may_be_any_lists_of_numbers(column):
    clips = np.arange(6).reshape(2, 3)
    given = {
        "sample_id": ["a", "b"],
        "video": [clips.tolist(), None],
        "audio": [clips.tolist()] * 2,
        "tags": [["x"], []],
    }
    types = Features(
        {
            "sample_id": Value("string"),
            "video": column or List(List(Value("int64"))),
            "audio": column or List(List(Value("int64"))),
            "tags": List(Value("string")),
        }
    )
    rows = MaskedDataset(Dataset.from_dict(given, types if column else None), ["video", "audio"], [(1, 1), (1, 0)])
    assert rows.extents()[0] == {"video": 2, "audio": 2}
    first, second = rows[0], rows[1]
    for name in ("video", "audio"):
        assert first[name].dtype == np.float32
        np.testing.assert_array_equal(first[name], clips)
    assert (first["tags"], second["audio"]) == (["x"], None)


def test_ragged_clips_are_refused_with_their_row():
    rows = Dataset.from_dict({"sample_id": ["a", "b"], "video": [[[1.0]], [[1.0, 2.0], [3.0]]]})
    with pytest.raises(ValueError, match=r"row 1, column 'video': expected clips of one width"):
        MaskedDataset(rows, ["video"], [(1,), (1,)])[1]
