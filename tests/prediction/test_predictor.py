"""The one scoring loop: masks, models and files make no difference to a score, and nothing is done twice."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from limssr import LimssrConfig, LimssrForScoreRegression, LimssrProcessor
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import all_subsets
from limssr.training.data.sources.files import SUFFIXES
from limssr.training.prediction.files import FileSample, samples_from_folder
from limssr.training.prediction.predictions import round_scores
from limssr.training.prediction.predictor import (
    PATHS,
    load_members,
    predict,
    predict_masks,
    predict_stream,
)
from tests.helpers.feature_rows import SIZES, make_dataset, write_folder

MASKS = all_subsets(len(SIZES))
NAMES = list(SIZES)


@pytest.fixture
def dataset():
    return make_dataset(10)


@pytest.fixture
def other_model(tiny_config):
    torch.manual_seed(1)
    return LimssrForScoreRegression(tiny_config).eval()


def test_a_modality_that_training_never_saw_is_said_when_a_model_is_loaded(
    tiny_model, tiny_processor, tmp_path, caplog
):
    for folder, seen in (("untrained", ()), ("trained", SIZES), ("without", ("video", "flow"))):
        for name in seen:
            tiny_model.model.projectors[name].norm_1.num_batches_tracked.fill_(3)
        tiny_model.save_pretrained(tmp_path / folder)
        tiny_processor.save_pretrained(tmp_path / folder)
        for projector in tiny_model.model.projectors.values():
            projector.norm_1.num_batches_tracked.zero_()
        load_members([tmp_path / folder])
    said = [record.getMessage() for record in caplog.records if "was trained without" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path / 'without'} was trained without a sample that has audio: ")


@pytest.fixture
def samples(tmp_path):
    return samples_from_folder(write_folder(tmp_path / "features", 13), dict.fromkeys(NAMES, SUFFIXES))


def has(dataset, mask, names=NAMES) -> np.ndarray:
    """Which samples have every modality of the mask."""
    wanted = [name for name, bit in zip(names, mask, strict=True) if bit]
    return np.array([all(row[name] is not None for name in wanted) for row in dataset])


def alone(model, processor, dataset, mask):
    """The samples that have every modality of a mask, and their predictions without any other mask."""
    rows = np.flatnonzero(has(dataset, mask))
    return rows, predict(model, processor, MaskedDataset(dataset.select(rows), NAMES, [mask] * len(rows)))


def count_calls(monkeypatch) -> list[str]:
    """The ids of the samples that any processor writes from now on."""
    written, call = [], LimssrProcessor.__call__

    def counted(self, features, *arguments, sample_ids=None, **options):
        written.extend(sample_ids)
        return call(self, features, *arguments, sample_ids=sample_ids, **options)

    monkeypatch.setattr(LimssrProcessor, "__call__", counted)
    return written


@torch.no_grad()
def test_a_row_has_the_score_of_its_own_forward_pass(tiny_model, tiny_processor, dataset):
    predictions = predict(tiny_model, tiny_processor, dataset, batch_size=4)
    for number, row in enumerate(dataset.with_format("numpy")):
        output = tiny_model(**tiny_processor(features={name: [row[name]] for name in NAMES}))
        for path in PATHS:
            np.testing.assert_allclose(getattr(predictions, path)[number], output[path][0], atol=1e-3)
        assert predictions.used_names(number) == [name for name in NAMES if row[name] is not None]
    assert predictions.sample_ids == dataset["sample_id"][:]


@pytest.mark.parametrize("batch_size", [3, 64])
def test_every_mask_equals_its_own_pass(tiny_model, tiny_processor, dataset, batch_size):
    wanted = {mask: has(dataset, mask) for mask in MASKS}
    found = predict_masks([(tiny_model, tiny_processor)], dataset, wanted, NAMES, batch_size)
    assert list(found) == MASKS
    for mask in MASKS:
        rows, expected = alone(tiny_model, tiny_processor, dataset, mask)
        for path in PATHS:
            np.testing.assert_allclose(found[mask][path][rows], getattr(expected, path), atol=1e-3)
            assert np.isnan(np.delete(found[mask][path], rows, axis=0)).all()


def test_masks_name_some_modalities_in_any_order(tiny_model, tiny_processor, dataset):
    wanted = {(0, 1): np.arange(len(dataset)) < 4}
    found = predict_masks([(tiny_model, tiny_processor)], dataset, wanted, ["flow", "video"])[0, 1]["scores"]
    _, expected = alone(tiny_model, tiny_processor, dataset.select(range(4)), (1, 0, 0))
    np.testing.assert_allclose(found[:4], expected.scores, atol=1e-3)
    assert np.isnan(found[4:]).all()


def test_each_clip_is_projected_once_and_one_outside_all_masks_never(tiny_model, tiny_processor, dataset):
    projected, scored = dict.fromkeys(SIZES, 0), []

    def count(name):
        return lambda module, args: projected.__setitem__(name, projected[name] + len(args[0]))

    for name in SIZES:
        tiny_model.model.projectors[name].register_forward_pre_hook(count(name))
    tiny_model.register_forward_pre_hook(
        lambda module, args, kwargs: scored.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    wanted = {mask: has(dataset, mask) for mask in MASKS if not mask[2]}
    predict_masks([(tiny_model, tiny_processor)], dataset, wanted, NAMES, batch_size=4)
    clips = {name: sum(min(len(cell), 12) for cell in dataset[name][:] if cell is not None) for name in SIZES}
    assert projected == clips | {"flow": 0}
    assert sum(scored) == sum(chosen.sum() for chosen in wanted.values())


@torch.no_grad()
def test_projected_clips_of_another_width_are_refused(tiny_model, tiny_processor, tiny_features):
    batch = dict(tiny_processor(features=tiny_features))
    batch["video_projected"] = batch.pop("video_features")
    with pytest.raises(ValueError, match=r"video_projected has shape \(3, 9, 16\), expected \(3, clips, 32\)"):
        tiny_model(**batch)


def test_members_that_write_alike_share_what_the_processor_made(
    tiny_model, other_model, tiny_config, tiny_tokenizer, tiny_processor, dataset, samples, monkeypatch
):
    same = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_clips=12)
    members = [(tiny_model, tiny_processor), (other_model, same)]
    written = count_calls(monkeypatch)
    wanted = {mask: has(dataset, mask) for mask in MASKS}
    predict_masks(members, dataset, wanted, NAMES)
    assert len(written) == sum(chosen.sum() for chosen in wanted.values())
    written.clear()
    assert len(list(predict_stream(members, samples, batch_size=2))) == 13
    assert sorted(written) == [sample.sample_id for sample in samples]


def test_members_that_write_differently_each_read_their_own(
    tiny_model, other_model, tiny_config, tiny_tokenizer, tiny_processor, dataset, samples
):
    members = [(tiny_model, tiny_processor), (other_model, tiny_processor)]
    members.append((other_model, LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_clips=1)))
    wanted = {mask: has(dataset, mask) for mask in MASKS}
    found = predict_masks(members, dataset, wanted, NAMES)
    for mask in MASKS:
        each = [alone(*member, dataset, mask) for member in members]
        for path in PATHS:
            mean = np.mean([getattr(predictions, path) for _, predictions in each], axis=0)
            np.testing.assert_allclose(found[mask][path][each[0][0]], mean, atol=1e-3)
    streams = [predict_stream([member], samples, batch_size=2) for member in members]
    for mean, *single in zip(predict_stream(members, samples, batch_size=2), *streams, strict=True):
        np.testing.assert_allclose(mean.scores, np.mean([one.scores for one in single], axis=0), atol=1e-3)
    assert np.abs(single[1].scores - single[2].scores).max() > 0


def test_a_mean_has_no_path_that_one_member_lacks(tiny_model, tiny_config, tiny_processor, dataset):
    single_path = LimssrForScoreRegression(type(tiny_config)(**{**tiny_config.to_dict(), "aggregation": "reasoning"}))
    members = [(tiny_model, tiny_processor), (single_path.eval(), tiny_processor)]
    found = predict_masks(members, dataset, {(1, 0, 0): has(dataset, (1, 0, 0))}, NAMES)[1, 0, 0]
    assert np.isfinite(found["scores"]).all()
    assert np.isfinite(found["reasoning_scores"]).all()
    assert np.isnan(found["cross_modal_scores"]).all()


def test_predict_draws_as_much_as_one_data_loader_and_restores_the_mode(tiny_model, tiny_processor, dataset):
    tiny_model.train()
    tiny_model.model.projectors["video"].eval()
    torch.manual_seed(0)
    next(iter(DataLoader([0])))
    expected = torch.rand(())
    torch.manual_seed(0)
    predict(tiny_model, tiny_processor, dataset)
    assert torch.rand(()) == expected
    assert tiny_model.training
    assert not tiny_model.model.projectors["video"].training


def test_a_prompt_prefix_is_encoded_once_a_call_and_kept_no_longer(tiny_model, tiny_processor, dataset):
    batches = []
    tiny_model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: batches.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    video = MaskedDataset(dataset, NAMES, [(1, 0, 0)] * len(dataset))
    for _ in range(2):
        batches.clear()
        predict(tiny_model, tiny_processor, video, batch_size=2)
        assert batches == [1, 2, 2, 2, 2, 2]


def test_a_stream_scores_as_a_dataset_does_and_in_the_order_of_the_samples(tiny_model, tiny_processor, samples):
    rows = [{"sample_id": sample.sample_id, **sample.read()} for sample in samples]
    expected = predict(tiny_model, tiny_processor, rows)
    for batch_size in (1, 2, 16):
        found = list(predict_stream([(tiny_model, tiny_processor)], samples, batch_size))
        assert [one.sample_id for one in found] == expected.sample_ids
        assert [one.used for one in found] == [expected.used_names(row) for row in range(13)]
        for path in PATHS:
            np.testing.assert_allclose([getattr(one, path) for one in found], getattr(expected, path), atol=1e-3)


def test_a_sample_that_cannot_be_scored_comes_out_with_its_reason_in_its_place(tiny_model, tiny_processor, tmp_path):
    folder = write_folder(tmp_path / "features", 6)
    (folder / "video" / "s001.npy").write_bytes(b"damaged")
    np.save(folder / "audio" / "s004.npy", np.zeros((2, 99)))
    samples = [
        *samples_from_folder(folder, dict.fromkeys(NAMES, SUFFIXES)),
        FileSample("nothing"),
        FileSample("twice", error="two files"),
    ]
    found = list(predict_stream([(tiny_model, tiny_processor)], samples, batch_size=2))
    assert [one.sample_id for one in found] == [sample.sample_id for sample in samples]
    errors = {one.sample_id: one.error for one in found if one.error is not None}
    assert list(errors) == ["s001", "s004", "nothing", "twice"]
    assert str(folder / "video" / "s001.npy") in errors["s001"]
    assert "expected shape [clips, 12], got [2, 99]" in errors["s004"]
    assert str(folder / "audio" / "s004.npy") in errors["s004"]
    assert "no modality is given" in errors["nothing"]
    assert errors["twice"] == "two files"
    assert all((one.scores is None) == (one.error is not None) for one in found)


def test_models_with_other_modalities_have_no_mean(tiny_model, tiny_processor, tiny_config, tiny_tokenizer, tmp_path):
    config = type(tiny_config)(text_config=tiny_config.text_config, modalities={"video": 16})
    video = LimssrForScoreRegression(config), LimssrProcessor.from_config(config, tiny_tokenizer)
    for name, member in {"one": (tiny_model, tiny_processor), "two": video}.items():
        for part in member:
            part.save_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=r"`modalities` is {'video': 16} in .*two and {.*} in .*one"):
        load_members([tmp_path / "one", tmp_path / "two"])


def test_windows_score_all_clips_as_the_mean(tiny_model, tiny_processor):
    torch.manual_seed(2)
    rows = [
        {"sample_id": "long", "video": torch.randn(30, 16).numpy(), "audio": torch.randn(20, 12).numpy()},
        {"sample_id": "short", "video": torch.randn(12, 16).numpy()},
    ]
    found = predict(tiny_model, tiny_processor, rows, windows=True)
    windows, samples = tiny_processor.split_windows(
        {"video": [row["video"] for row in rows], "audio": [rows[0]["audio"], None]}
    )
    with torch.no_grad():
        outputs = tiny_model(**tiny_processor(features=windows))
    assert samples == [0, 0, 0, 1]
    for path in PATHS:
        expected = torch.stack([outputs[path][:3].mean(0), outputs[path][3]])
        np.testing.assert_allclose(getattr(found, path), expected, atol=1e-4)
    cropped = predict(tiny_model, tiny_processor, rows).scores
    assert cropped[1] == found.scores[1]
    assert abs(cropped[0] - found.scores[0]) > 1e-3


def test_members_with_other_limits_make_windows_of_their_own(tiny_model, other_model, tiny_tokenizer, tmp_path):
    (tmp_path / "video").mkdir()
    np.save(tmp_path / "video" / "s.npy", np.random.default_rng(0).normal(size=(30, 16)).astype("float32"))
    samples = samples_from_folder(tmp_path, dict.fromkeys(NAMES, SUFFIXES))
    members = [
        (model, LimssrProcessor.from_config(model.config, tiny_tokenizer, max_clips=limit))
        for model, limit in ((tiny_model, 12), (other_model, 7))
    ]
    (mean,) = predict_stream(members, samples, windows=True)
    alone = [next(predict_stream([member], samples, windows=True)).scores for member in members]
    np.testing.assert_allclose(mean.scores, np.mean(alone, axis=0), atol=1e-4)


def test_scores_are_rounded_so_that_noise_of_float32_makes_no_order(tiny_config):
    random = np.random.default_rng(0)
    tied = random.uniform(20, 80, 46).repeat(7)[:, None]
    rounded = round_scores(tied.astype("float32"), tiny_config)
    noisy = round_scores(tied + random.uniform(-1e-5, 1e-5, tied.shape), tiny_config)
    assert np.abs(rounded - tied).max() < 5e-4
    assert len(np.unique(rounded)) == 46
    assert len(np.unique(noisy)) < 46 + 9  # a value beside the middle of two steps may fall on either
    scores = random.uniform(0, 100, (50, 1))
    assert round_scores(scores * 1e-6, LimssrConfig(**{**tiny_config.to_dict(), "score_ranges": [1e-4]})).std() > 0


def test_whatever_happens_to_one_sample_the_others_are_scored(tiny_model, tiny_processor, samples, monkeypatch):
    expected = list(predict_stream([(tiny_model, tiny_processor)], samples))

    def crash(path):
        raise RuntimeError(f"a parser gave up on {path}")

    damaged = list(samples)
    monkeypatch.setattr("limssr.training.prediction.files.read_text", crash)
    damaged.insert(3, FileSample("odd", {"video": next(iter(samples[0].paths.values())).with_suffix(".txt")}))
    found = list(predict_stream([(tiny_model, tiny_processor)], damaged))
    assert "a parser gave up" in found.pop(3).error
    assert [each.scores.tolist() for each in found] == [each.scores.tolist() for each in expected]


def test_a_score_is_finite_or_an_error(tiny_model, tiny_processor, samples, dataset):
    with torch.no_grad():
        tiny_model.model.projectors["video"].norm_1.running_mean.fill_(torch.nan)
    for prediction, sample in zip(predict_stream([(tiny_model, tiny_processor)], samples), samples, strict=True):
        assert (prediction.scores is None) == ("video" in sample.paths)
        assert prediction.error is None or "not a finite number" in prediction.error
    with pytest.raises(ValueError, match=r"\d+ of 10 samples, such as '.+: the score is not a finite number"):
        predict(tiny_model, tiny_processor, dataset)
