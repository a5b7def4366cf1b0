import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, List, Value
from PIL import Image

from limssr.modeling_limssr.modeling_limssr import LimssrForScoreRegression
from limssr.training.data.masks import all_subsets
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.evaluation.figures import save_figure
from limssr.training.evaluation.metrics.aqa_metrics import METRIC_NAMES, score_metrics
from limssr.training.evaluation.metrics.bootstrap import (
    average_resampled,
    draw_resamples,
    percentile_interval,
    resampled_metrics,
)
from limssr.training.evaluation.results import ScoredRow, write_predictions
from limssr.training.evaluation.tables import card_table, evaluation_table, format_interval
from limssr.training.prediction.predictor import PATHS, predict
from limssr.training.utils.files import write_json


def make_dataset(
    modalities: dict[str, int], samples: int = 24, missing: dict | None = None, scores=("score",)
) -> Dataset:
    """Clips that follow a latent quality; `missing` is modality -> numbers of the samples that lack it."""
    random = np.random.default_rng(1)
    quality = random.normal(size=samples)
    columns = {"sample_id": [f"s{number}" for number in range(samples)]}
    columns |= {name: (50 + 10 * quality).tolist() for name in scores}
    for name, width in modalities.items():
        clips = [value + random.normal(size=(random.integers(1, 9), width)).astype("float32") for value in quality]
        lacking = (missing or {}).get(name, ())
        columns[name] = [None if number in lacking else array for number, array in enumerate(clips)]
    clip_features = {name: List(List(Value("float32"), length=width)) for name, width in modalities.items()}
    score_features = {name: Value("float32") for name in scores}
    return Dataset.from_dict(
        columns, features=Features({"sample_id": Value("string"), **score_features, **clip_features})
    )


@pytest.fixture
def dataset(tiny_model):
    return make_dataset(tiny_model.config.modalities)


@pytest.fixture
def lacking(tiny_model):
    """Samples 0 and 1 lack the last modality, sample 2 all but the last."""
    *others, last = tiny_model.config.modalities
    return make_dataset(tiny_model.config.modalities, missing={last: (0, 1), **dict.fromkeys(others, (2,))})


@pytest.fixture
def other_model(tiny_config):
    torch.manual_seed(1)
    return LimssrForScoreRegression(tiny_config).eval()


def one_by_one(model, processor, dataset, shown):
    scores = []
    for row in dataset:
        features = {name: [np.array(row[name], dtype="float32")] for name in shown if row[name] is not None}
        with torch.no_grad():
            scores.append(model.eval()(**processor(features=features)).scores[0].tolist())
    return np.array(scores)


def test_batched_predictions_equal_one_sample_at_a_time(tiny_model, tiny_processor, dataset):
    predictions = predict(tiny_model, tiny_processor, dataset, batch_size=5)
    expected = one_by_one(tiny_model, tiny_processor, dataset, tiny_model.config.modalities)
    np.testing.assert_allclose(predictions.scores, expected, atol=1e-3)
    assert predictions.sample_ids == dataset["sample_id"][:]
    assert predictions.used.all()


def test_paths_blend_into_the_score_in_judges_units(tiny_model, tiny_processor, dataset):
    predictions = predict(tiny_model, tiny_processor, dataset)
    weight = tiny_model.reasoning_weight.item()
    blend = weight * predictions.reasoning_scores + (1 - weight) * predictions.cross_modal_scores
    np.testing.assert_allclose(predictions.scores, blend, atol=1e-3)
    np.testing.assert_allclose(
        predictions.path_disagreement, np.abs(predictions.reasoning_scores - predictions.cross_modal_scores)
    )


def test_prediction_restores_the_mode_of_every_module(tiny_model, tiny_processor, dataset):
    tiny_model.train()
    frozen = next(module for module in tiny_model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    frozen.eval()
    before = {name: value.clone() for name, value in tiny_model.state_dict().items()}
    predict(tiny_model, tiny_processor, dataset)
    assert tiny_model.training
    assert not frozen.training
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_an_accelerator_changes_no_prediction(tiny_model, tiny_processor, dataset):
    expected = predict(tiny_model, tiny_processor, dataset, batch_size=7)
    accelerator = Accelerator(cpu=True)
    predictions = predict(accelerator.prepare(tiny_model), tiny_processor, dataset, 7, accelerator)
    np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-4)
    assert predictions.sample_ids == expected.sample_ids


def test_every_subset_is_scored_from_its_modalities_alone(tiny_model, tiny_processor, dataset):
    result = evaluate_subsets(tiny_model, tiny_processor, dataset, batch_size=6, progress=False)
    modalities = list(tiny_model.config.modalities)
    assert [mask.mask for mask in result.masks] == all_subsets(len(modalities))
    for mask in result.masks:
        shown = [name for name, flag in zip(modalities, mask.mask, strict=True) if flag]
        assert mask.name == "+".join(shown)
        assert (mask.samples, mask.complete) == (24, 24)
        expected = one_by_one(tiny_model, tiny_processor, dataset, shown)
        np.testing.assert_allclose(mask.predictions.scores, expected, atol=1e-3)
        metrics = mask.scores["score"].model
        assert metrics["mse"] == pytest.approx(np.mean((expected[:, 0] - np.array(dataset["score"])) ** 2), rel=1e-3)


def test_several_models_are_scored_as_the_mean_of_each_under_every_mask(
    tiny_model, other_model, tiny_processor, lacking
):
    one, other, both = (
        evaluate_subsets(model, tiny_processor, lacking, progress=False, others=others)
        for model, others in ((tiny_model, ()), (other_model, ()), (tiny_model, [(other_model, tiny_processor)]))
    )
    for first, second, mean in zip(one.masks, other.masks, both.masks, strict=True):
        assert np.abs(first.predictions.scores - second.predictions.scores).min() > 0
        for path in PATHS:
            expected = (getattr(first.predictions, path) + getattr(second.predictions, path)) / 2
            np.testing.assert_allclose(getattr(mean.predictions, path), expected, atol=1e-3)  # each is rounded
        assert mean.predictions.used_names(0) == first.predictions.used_names(0)
        assert mean.scores["score"].model["mse"] == pytest.approx(
            ((mean.predictions.scores - mean.targets) ** 2).mean()
        )


def test_hidden_columns_are_not_read(tiny_model, tiny_processor, dataset):
    first, *hidden = tiny_model.config.modalities
    expected = evaluate_subsets(tiny_model, tiny_processor, dataset, [first], progress=False)
    without = evaluate_subsets(tiny_model, tiny_processor, dataset.remove_columns(hidden), [first], progress=False)
    assert without.to_dict() == expected.to_dict()


def test_samples_that_lack_data_are_scored_and_counted(tiny_model, tiny_processor, lacking):
    result = evaluate_subsets(tiny_model, tiny_processor, lacking, train_rows=lacking, progress=False)
    *_, last = tiny_model.config.modalities
    complete, only_last = result.masks[0], next(mask for mask in result.masks if mask.name == last)
    assert (complete.samples, complete.complete) == (24, 21)
    assert (only_last.samples, only_last.complete) == (22, 22)
    assert {"s0", "s1"}.isdisjoint(only_last.predictions.sample_ids)
    assert complete.predictions.used_names(2) == [last]
    assert np.isfinite(complete.ridge).all()


def test_metrics_do_not_depend_on_the_baselines(tiny_model, tiny_processor, lacking):
    plain = evaluate_subsets(tiny_model, tiny_processor, lacking, progress=False)
    full = evaluate_subsets(tiny_model, tiny_processor, lacking, train_rows=lacking, progress=False)
    for without, with_ in zip(plain.masks, full.masks, strict=True):
        assert without.scores["score"].model == with_.scores["score"].model
        assert without.scores["score"].mean_baseline is None
        assert without.samples == with_.samples
    assert plain.averages["score"].ridge is None


def test_the_baselines_come_from_the_training_rows(tiny_model, tiny_processor, dataset):
    train = make_dataset(tiny_model.config.modalities, samples=40)
    result = evaluate_subsets(tiny_model, tiny_processor, dataset, train_rows=train, progress=False)
    row = result.masks[0].scores["score"]
    mean_baseline = score_metrics(np.full(24, np.mean(train["score"])), np.array(dataset["score"]))
    assert row.mean_baseline["mse"] == pytest.approx(mean_baseline["mse"])
    assert row.mean_baseline["spearman"] is None
    assert row.ridge["spearman"] > 0.8  # clips follow the quality closely


def test_averages_leave_the_complete_mask_out(tiny_model, tiny_processor, dataset):
    result = evaluate_subsets(tiny_model, tiny_processor, dataset, train_rows=dataset, progress=False)
    incomplete = [mask.scores["score"].model for mask in result.masks[1:]]
    average = result.averages["score"].model
    assert average["rows"] == len(incomplete)
    assert average["mse"] == pytest.approx(np.mean([metrics["mse"] for metrics in incomplete]))
    z = np.mean([math.atanh(metrics["spearman"]) for metrics in incomplete])
    assert average["spearman"] == pytest.approx(math.tanh(z))


def test_every_row_and_the_average_have_intervals_of_the_same_resamples(tiny_model, tiny_processor, lacking):
    result = evaluate_subsets(tiny_model, tiny_processor, lacking, train_rows=lacking, progress=False)
    counts = draw_resamples(len(lacking))
    targets, resampled = np.array(lacking["score"]), []
    for mask in result.masks:
        rows = [lacking["sample_id"][:].index(name) for name in mask.predictions.sample_ids]
        resampled.append(resampled_metrics(mask.predictions.scores[:, 0], targets[rows], counts[rows]))
        row = mask.scores["score"]
        assert row.model["intervals"]["mse"] == pytest.approx(percentile_interval(resampled[-1]["mse"])[0])
        assert row.ridge["intervals"].keys() == row.mean_baseline["intervals"].keys() == set(METRIC_NAMES)
    average = percentile_interval(average_resampled(resampled[1:])["spearman"])[0]
    assert result.averages["score"].model["intervals"]["spearman"] == pytest.approx(average)


def test_json_is_strict_and_complete(tiny_model, tiny_processor, lacking, tmp_path):
    result = evaluate_subsets(tiny_model, tiny_processor, lacking, train_rows=lacking, progress=False)
    write_json(tmp_path / "metrics.json", {"model": "somewhere"} | result.to_dict())

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    read = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=refuse)
    assert read["model"] == "somewhere"
    assert len(read["masks"]) == 2 ** len(tiny_model.config.modalities) - 1
    assert read["masks"][0]["scores"]["score"]["mean_baseline"]["spearman"] is None
    assert "predictions are the same" in read["masks"][0]["scores"]["score"]["mean_baseline"]["undefined"]["spearman"]


def test_parquet_keeps_every_sample_mask_and_both_paths(tiny_model, tiny_processor, lacking, tmp_path):
    result = evaluate_subsets(tiny_model, tiny_processor, lacking, progress=False)
    write_predictions(result, tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.num_rows == sum(mask.samples for mask in result.masks)
    rows = table.to_pylist()
    targets = dict(zip(lacking["sample_id"], lacking["score"], strict=True))
    assert all(row["target"] == pytest.approx(targets[row["sample_id"]]) for row in rows)
    assert all(row["ridge"] is None for row in rows)
    for mask in result.masks:
        scores = [row["score"] for row in rows if row["mask"] == mask.name]
        np.testing.assert_array_equal(scores, mask.predictions.scores[:, 0])
    third = next(row for row in rows if row["sample_id"] == "s2")
    assert third["used"] == list(tiny_model.config.modalities)[-1]
    assert third["mask"] == result.masks[0].name


def test_scores_that_are_not_given_are_left_out(tiny_model, tiny_processor, dataset):
    scores = [None if number < 4 else score for number, score in enumerate(dataset["score"])]
    dataset = dataset.remove_columns("score").add_column("score", scores, feature=Value("float32"))
    result = evaluate_subsets(tiny_model, tiny_processor, dataset, progress=False)
    metrics = result.masks[0].scores["score"].model
    assert (metrics["samples"], metrics["not_given"]) == (20, 4)
    assert "4 of 24 samples have no judged score" in evaluation_table(result)


def test_a_modality_nobody_has_gives_undefined_rows_and_says_so(tiny_model, tiny_processor):
    *others, last = tiny_model.config.modalities
    absent = make_dataset({name: tiny_model.config.modalities[name] for name in others})
    result = evaluate_subsets(tiny_model, tiny_processor, absent, train_rows=absent, progress=False)
    only_last = next(mask for mask in result.masks if mask.name == last)
    assert only_last.samples == 0
    assert only_last.scores["score"].model["mse"] is None
    text = evaluation_table(result)
    assert f"Undefined for {last}" in text
    assert f"No ridge for {last}: 0 training rows" in text
    assert result.averages["score"].model["spearman"] is None


def test_unknown_modalities_are_refused(tiny_model, tiny_processor, dataset):
    with pytest.raises(ValueError, match="'smell'"):
        evaluate_subsets(tiny_model, tiny_processor, dataset, ["smell"])


def test_a_row_is_not_better_than_the_mean_baseline_unless_it_beats_it():
    targets = np.array([1.0, 2.0, 3.0, 4.0])
    mean_baseline = score_metrics(np.full(4, 2.5), targets)
    assert ScoredRow(score_metrics(targets + 0.1, targets), mean_baseline=mean_baseline).not_better_than_mean == []
    assert set(ScoredRow(score_metrics(-targets, targets), mean_baseline=mean_baseline).not_better_than_mean) == set(
        METRIC_NAMES
    )
    assert ScoredRow(score_metrics(targets + 9, targets), mean_baseline=mean_baseline).not_better_than_mean == [
        "mse",
        "mae",
        "relative_l2",
    ]
    assert set(ScoredRow(mean_baseline, mean_baseline=mean_baseline).not_better_than_mean) == set(METRIC_NAMES)


def test_the_table_shows_model_both_baselines_and_best_for_each_mask(tiny_model, tiny_processor, dataset):
    masks = all_subsets(len(tiny_model.config.modalities))
    best = {mask: {"spearman": 0.9 + sum(mask) / 100, "mse": 7.25} for mask in masks}
    options = {"train_rows": dataset, "best_attainable": best, "progress": False}
    result = evaluate_subsets(tiny_model, tiny_processor, dataset, **options)
    lines = evaluation_table(result).splitlines()
    header = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert header[:5] == ["modalities", "samples", "Spearman", "95 %", "ridge"]
    assert {"best", "mean"} <= set(header)
    assert len({len(line) for line in lines[2 : 5 + len(masks)]}) == 1  # aligned
    for mask in result.masks:
        line = next(line for line in lines if line.startswith(f"| {mask.name} "))
        metrics = mask.scores["score"].model
        assert f"{metrics['spearman']:.3f}" in line
        assert format_interval(metrics, "spearman") in line
        assert "7.25" in line
    line, mask = result.masks[0].scores["score"].model["calibration"], result.masks[0].name
    judged = np.array(dataset["score"])
    assert line["judged"] == [judged.min(), judged.max()]
    said = f"Calibration line of {mask}: judged = {line['slope']:.2f} * predicted"
    assert any(text.startswith(said) for text in lines)
    assert said in card_table(result)
    # An untrained model is not better than the mean.
    assert "* not better than predicting the training mean" in "\n".join(lines)


@pytest.mark.parametrize("with_baselines", [True, False])
def test_the_picture_is_a_png_of_reasonable_size(tiny_model, tiny_processor, dataset, tmp_path, with_baselines):
    rows = dataset if with_baselines else None
    result = evaluate_subsets(tiny_model, tiny_processor, dataset, train_rows=rows, progress=False)
    save_figure(replace(result, title="tiny"), tmp_path / "evaluation.png")
    with Image.open(tmp_path / "evaluation.png") as picture:
        assert picture.format == "PNG"
        assert 1000 < picture.width < 3000
