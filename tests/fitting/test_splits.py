"""Training, validation and baselines use what they may, and validation is alike in its scores."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from limssr.training.arguments import DataArguments
from limssr.training.data import AqaData, load
from limssr.training.data.masks import available_masks, draw_static_masks
from limssr.training.evaluation.baselines import Baselines
from limssr.training.fitting.collator import LimssrCollator
from limssr.training.fitting.model import build_model
from limssr.training.fitting.splits import prepare_training_data, split_validation
from limssr.training.fitting.trainer import LimssrTrainer

MODALITIES = ["video", "audio", "flow"]


class Tripwire(Dataset):
    """A dataset that raises when a row is read through a selection that holds a column hidden for this row."""

    hidden: dict

    def __getitem__(self, key):
        if isinstance(key, int):
            sample_id = self.data.column("sample_id")[key].as_py()
            if wrong := self.hidden[sample_id] & set(self.column_names):
                raise AssertionError(f"{wrong} was requested of {sample_id}, which hides it")
        return super().__getitem__(key)


@pytest.fixture(scope="module")
def data() -> AqaData:
    return load("synthetic", samples_train=60, samples_test=12)


@pytest.fixture
def lacking(data) -> AqaData:
    """Training samples 0 to 9 lack audio, 10 and 11 all but flow."""

    def remove(row, index):
        gone = ["audio"] * (index < 10) + ["video", "audio"] * (index in (10, 11))
        return dict.fromkeys(gone)

    train = data.splits["train"]
    changed = train.map(remove, with_indices=True, features=train.features)
    return AqaData(**{**vars(data), "splits": DatasetDict(train=changed, test=data.splits["test"])})


def prepare(data: AqaData, **settings):
    return prepare_training_data(data, DataArguments(dataset="synthetic", **settings), seed=0)


def ids(rows) -> set[str]:
    return {rows[index]["sample_id"] for index in range(len(rows))}


def masks(rows) -> set[tuple]:
    return {tuple(rows[index][name] is not None for name in MODALITIES) for index in range(len(rows))}


def test_training_and_validation_share_no_sample(data):
    rows = prepare(data, validation_fraction=0.25)
    validation = rows.validation["available"]
    assert (len(rows.train), len(validation), len(rows.baseline)) == (45, 15, 60)
    assert not ids(rows.train) & ids(validation)
    assert ids(rows.baseline) == ids(rows.train) | ids(validation)


def test_a_share_of_the_training_split_trains_and_fits_the_baselines(data):
    shares = [prepare(data, train_fraction=share, validation_fraction=0.25).baseline for share in (0.25, 0.5, 1)]
    assert [len(rows) for rows in shares] == [15, 30, 60]
    assert ids(shares[0]) < ids(shares[1]) < ids(shares[2])
    other = prepare_training_data(data, DataArguments(dataset="synthetic", train_fraction=0.25), seed=1)
    assert ids(other.baseline) != ids(shares[0])


def test_validation_is_alike_in_its_scores(data):
    train = data.splits["train"]
    scores = np.array(train["score"][:])
    for seed in range(5):
        _, validation = split_validation(train, ["score"], 0.3, seed)
        assert len(validation) == 18
        assert abs(np.median(scores[validation]) - np.median(scores)) < 0.25 * scores.std()
        assert abs(scores[validation].std() - scores.std()) < 0.35 * scores.std()


def test_the_split_depends_on_the_seed_alone(data):
    train = data.splits["train"]
    first, again, other = (split_validation(train, ["score"], 0.2, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_scores_that_are_not_given_or_tied_do_not_hinder_the_split():
    rows = Dataset.from_dict({"sample_id": [str(n) for n in range(20)], "score": [None] * 5 + [3.0] * 15})
    train, validation = split_validation(rows, ["score"], 0.2, 0)
    assert sorted([*train, *validation]) == list(range(20))


def test_too_few_rows_are_refused():
    rows = Dataset.from_dict({"sample_id": ["a", "b", "c"], "score": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match=r"0\.15 of 3 training rows"):
        split_validation(rows, ["score"], 0.15, 0)


def test_a_group_is_in_training_or_in_validation(data):
    def with_performers(count: int) -> AqaData:
        train = data.splits["train"]
        performers = [f"performer{row % count}" for row in range(len(train))]
        splits = DatasetDict(train=train.add_column("performer", performers), test=data.splits["test"])
        return AqaData(**{**vars(data), "splits": splits, "group_column": "performer"})

    rows = prepare(with_performers(12), validation_fraction=0.25)
    performers = [
        {part[index]["performer"] for index in range(len(part))} for part in (rows.train, rows.validation["available"])
    ]
    assert sum(map(len, performers)) == 12
    assert 2 <= len(performers[1]) <= 4  # whole groups cannot always be a quarter
    assert not performers[0] & performers[1]
    assert ids(rows.baseline) == ids(rows.train) | ids(rows.validation["available"])
    with pytest.raises(ValueError, match=r"`validation_fraction` 0\.25 holds back one of 4 parts .* has 3 groups"):
        prepare(with_performers(3), validation_fraction=0.25)


def test_a_validation_split_of_the_dataset_is_used(data):
    with_validation = DatasetDict(**data.splits, validation=data.splits["test"])
    rows = prepare(AqaData(**{**vars(data), "splits": with_validation}))
    assert len(rows.train) == 60
    assert ids(rows.validation["available"]) == set(data.splits["test"]["sample_id"][:])


def test_selection_on_test_uses_all_training_rows(data):
    rows = prepare(data, select_on="test")
    assert len(rows.train) == 60
    assert ids(rows.validation["available"]) == set(data.splits["test"]["sample_id"][:])


def test_selection_and_calibration_share_no_sample(data, caplog):
    rows = prepare(data, validation_fraction=0.7)
    parts = ids(rows.train), ids(rows.validation["available"]), ids(rows.calibration)
    assert list(map(len, parts)) == [18, 21, 21]
    assert len(set.union(*parts)) == 60
    assert rows.summary["calibration"]["samples"] == len(rows.calibration_masks) == 21
    again = prepare(data, validation_fraction=0.7)
    assert ids(again.calibration) == parts[2]
    assert not len(prepare(data, validation_fraction=0.7, calibrate_on="nothing").calibration)
    assert "too few" not in caplog.text


def test_too_few_validation_samples_all_select_and_a_warning_says_so(data, caplog):
    rows = prepare(data, validation_fraction=0.25)
    assert (len(rows.validation["available"]), len(rows.calibration)) == (15, 0)
    assert "15 samples to validate: half of them are too few" in caplog.text


def test_a_split_that_selects_nothing_calibrates_as_a_whole(data):
    with_validation = AqaData(**{**vars(data), "splits": DatasetDict(**data.splits, validation=data.splits["test"])})
    for settings in ({"select_on": "nothing"}, {"select_on": "test"}, {"folds": 3}):
        assert len(prepare(with_validation, **settings).calibration) == 12
        assert not len(prepare(data, **settings).calibration)
    assert len(prepare(data, calibrate_on="test").calibration) == 12
    with pytest.raises(ValueError, match=r"`calibrate_on` is 'dev'; the dataset has the splits train, test"):
        prepare(data, calibrate_on="dev")
    with pytest.raises(ValueError, match=r"`calibrate_on` is 'train'"):
        prepare(data, calibrate_on="train")


def test_static_masks_hide_from_calibration_too(data):
    rows = prepare(data, validation_fraction=0.7, missingness="static", missing_rates=0.5, mask_seed=3)
    expected = draw_static_masks(
        rows.calibration["sample_id"][:], MODALITIES, 0.5, 3, available_masks(rows.calibration, MODALITIES)
    )
    assert rows.calibration_masks == expected


@pytest.mark.parametrize("validation_masks", ["available", "subsets"])
def test_selection_on_nothing_holds_no_row_back(data, validation_masks):
    rows = prepare(
        data, select_on="nothing", validation_masks=validation_masks, missingness="static", missing_rates=0.5
    )
    assert (len(rows.train), rows.validation) == (60, {})
    assert [rows.train[index]["sample_id"] for index in range(60)] == data.splits["train"]["sample_id"][:]


def test_static_masks_are_those_drawn_for_good(data):
    rows = prepare(data, missingness="static", missing_rates=0.5, mask_seed=3)
    for index in range(len(rows.train)):
        row = rows.train[index]
        expected = draw_static_masks([row["sample_id"]], MODALITIES, 0.5, 3)[0]
        assert tuple(int(row[name] is not None) for name in MODALITIES) == expected


@pytest.fixture
def guarded(data) -> AqaData:
    """Training and validation rows that raise where a mask (static, rate 0.5, seed 0) hides what is asked for."""
    splits = {}
    for name in ("train", "test"):
        split = data.splits[name]
        hidden = draw_static_masks(split["sample_id"][:], MODALITIES, 0.5, 0)
        Tripwire.hidden = getattr(Tripwire, "hidden", {}) | {
            sample_id: {modality for modality, bit in zip(MODALITIES, mask, strict=True) if not bit}
            for sample_id, mask in zip(split["sample_id"][:], hidden, strict=True)
        }
        splits[name] = Tripwire(split.data.table)
    return AqaData(**{**vars(data), "splits": DatasetDict(train=splits["train"], validation=splits["test"])})


def test_hidden_columns_are_never_requested(guarded):
    with pytest.raises(AssertionError, match="which hides it"):
        [guarded.splits["train"][index] for index in range(60)]
    for kind in ("available", "subsets"):
        rows = prepare(guarded, missingness="static", missing_rates=0.5, validation_masks=kind)
        assert len(masks(rows.train)) == 7
        assert len(masks(rows.validation.get("available", rows.train))) > 3


def test_hidden_columns_are_never_requested_by_a_training_run(guarded, quick_arguments):
    model_arguments, _, args = quick_arguments("--max_steps", "3")
    rows = prepare(guarded, missingness="static", missing_rates=0.5)
    model, processor = build_model(model_arguments, guarded)
    collator = LimssrCollator(processor, MODALITIES, guarded.score_names)
    trainer = LimssrTrainer(model, args, collator, rows.train, rows.validation, processor)
    trainer.train()
    assert trainer.state.global_step == 3
    assert any("eval_mse" in entry for entry in trainer.state.log_history)
    Baselines(rows.baseline, MODALITIES, guarded.score_names)


def test_subset_mask_sets_use_no_more_than_their_subset(data):
    mask_sets = prepare(data, missingness="static", missing_rates=0.4, validation_masks="subsets").validation
    assert list(mask_sets) == ["video+audio+flow", "video+audio", "video+flow", "audio+flow", *MODALITIES]
    assert masks(mask_sets["audio"]) == {(False, True, False)}
    assert all(not flow for _, _, flow in masks(mask_sets["video+audio"]))
    assert len(mask_sets["audio"]) < len(mask_sets["video+audio+flow"])


def test_without_missingness_incomplete_samples_are_left_out(lacking, caplog):
    rows = prepare(lacking, missingness="none")
    assert masks(rows.train) == {(True, True, True)}
    assert len(rows.baseline) == 48
    assert "12 samples of train lack a modality" in caplog.text
    assert "train_000000" in caplog.text


def test_available_uses_what_the_data_has(lacking):
    rows = prepare(lacking)
    assert masks(rows.baseline) == {(True, True, True), (True, False, True), (False, False, True)}
    assert rows.summary["train"]["samples"] == sum(rows.summary["train"]["masks"].values()) == 51


def test_samples_without_anything_are_left_out(data, caplog):
    train = data.splits["train"]
    empty = train.map(
        lambda row: dict.fromkeys(MODALITIES) if row["sample_id"].endswith("7") else {}, features=train.features
    )
    assert (0, 0, 0) in available_masks(empty, MODALITIES)
    rows = prepare(AqaData(**{**vars(data), "splits": DatasetDict(train=empty, test=data.splits["test"])}))
    assert len(rows.baseline) == 54
    assert "lack every modality" in caplog.text


def test_dynamic_masks_leave_the_rows_complete(data):
    rows = prepare(data, missingness="dynamic", missing_rates={"audio": 0.9})
    assert masks(rows.train) == {(True, True, True)}
    assert len(rows.validation) == 7
    drawn = np.array([rows.dynamic_mask.draw(step) for step in range(50)])
    assert drawn[:, [0, 2]].all()
    assert drawn[:, 1].mean() < 0.4


def test_an_unknown_modality_in_the_rates_is_named(data):
    with pytest.raises(ValueError, match="'sound'"):
        prepare(data, missingness="static", missing_rates={"sound": 0.3})


def test_training_without_any_label_is_refused_and_unseen_modalities_are_said(data, caplog):
    train = data.splits["train"]
    (score,) = data.score_names
    nothing = train.remove_columns([score]).add_column(score, [float("nan")] * len(train))
    unlabelled = replace(data, splits=DatasetDict({**data.splits, "train": nothing}))
    with pytest.raises(ValueError, match=rf"no training sample has a label of {score}"):
        prepare_training_data(unlabelled, DataArguments(dataset="synthetic"), seed=0)
    silent = train.remove_columns(["audio"]).add_column("audio", [None] * len(train), feature=train.features["audio"])
    prepare_training_data(
        replace(data, splits=DatasetDict({**data.splits, "train": silent})), DataArguments(dataset="synthetic"), seed=0
    )
    assert "no training sample has audio" in caplog.text
