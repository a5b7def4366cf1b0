import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from limssr.training.data import load
from limssr.training.data.masks import draw_static_masks, subset_name
from limssr.training.evaluation.baselines import Baselines, pool_rows
from limssr.training.evaluation.evaluator import CURVE_RATES, Evaluator, Protocol, evaluate_subsets
from limssr.training.evaluation.figures import save_figure
from limssr.training.evaluation.metrics.aqa_metrics import average_metrics, score_metrics
from limssr.training.evaluation.results import write_predictions
from limssr.training.evaluation.tables import evaluation_table
from limssr.training.utils.files import write_json

MODALITIES = ["video", "audio", "flow"]
IMBALANCED = {"video": 0.3, "audio": 0.5, "flow": 0.7}


@pytest.fixture
def data(tiny_config):
    noise, clips = dict.fromkeys(MODALITIES, (0.5, 0.5)), dict.fromkeys(MODALITIES, (2, 4))
    return load(
        "synthetic", samples_train=40, samples_test=30, modalities=tiny_config.modalities, noise=noise, clips=clips
    )


@pytest.fixture
def evaluator(tiny_model, tiny_processor, data):
    return Evaluator(tiny_model, tiny_processor, data.splits["test"], train_rows=data.splits["train"], progress=False)


def complete(count):
    return [(1, 1, 1)] * count


def test_subsets_show_every_sample_the_same_mask():
    mask_sets = Protocol("subsets").mask_sets(["a", "b"], complete(2), MODALITIES)
    assert [mask_set.name for mask_set in mask_sets][:2] == ["video+audio+flow", "video+audio"]
    assert len(mask_sets) == 7
    assert all(mask_set.mask == mask_set.masks[0] == mask_set.masks[1] for mask_set in mask_sets)


def test_drawn_masks_follow_from_seed_and_sample_alone():
    """Neither other samples, nor their order, nor other seeds, nor other settings change a mask."""
    ids = [f"s{number}" for number in range(50)]
    protocol = Protocol("rates", IMBALANCED, permutations=True, seeds=(3, 8))
    of_all = {
        (mask_set.name, mask_set.seed): dict(zip(ids, mask_set.masks, strict=True))
        for mask_set in protocol.mask_sets(ids, complete(50), MODALITIES)
    }
    few = list(reversed(ids[:7]))
    for mask_set in Protocol("rates", IMBALANCED, seeds=(8,)).mask_sets(few, complete(7), MODALITIES):
        assert mask_set.masks == [of_all[mask_set.name, 8][name] for name in few]
    assert of_all["video 0.3, audio 0.5, flow 0.7", 3] != of_all["video 0.3, audio 0.5, flow 0.7", 8]
    (mask_set,) = Protocol("rates", 0.4, seeds=(3,)).mask_sets(ids, complete(50), MODALITIES)
    assert mask_set.masks == draw_static_masks(ids, MODALITIES, 0.4, 3)


def test_permutations_are_all_orders_of_the_rates():
    mask_sets = Protocol("rates", IMBALANCED, permutations=True, seeds=(0,)).mask_sets(["a"], complete(1), MODALITIES)
    orders = {tuple(mask_set.rates[name] for name in MODALITIES) for mask_set in mask_sets}
    assert len(mask_sets) == len(orders) == 6
    assert {tuple(sorted(order)) for order in orders} == {(0.3, 0.5, 0.7)}
    twice = Protocol("rates", {"video": 0.3, "audio": 0.3}, permutations=True, seeds=(0,))
    assert len(twice.mask_sets(["a"], complete(1), MODALITIES)) == 3  # .3 .3 0 has no more different orders


def test_the_curve_hides_more_and_more_with_every_seed():
    ids = [f"s{number}" for number in range(400)]
    mask_sets = Protocol("curve", seeds=(0, 1)).mask_sets(ids, complete(400), MODALITIES)
    assert [(mask_set.name, mask_set.seed) for mask_set in mask_sets] == [
        (f"{rate:.1f}", seed) for rate in CURVE_RATES for seed in (0, 1)
    ]
    hidden = [1 - np.mean(mask_set.masks) for mask_set in mask_sets if mask_set.seed == 0]
    assert hidden[0] == 0
    assert hidden == sorted(hidden)
    for mask_set in mask_sets:
        rate = float(mask_set.name)
        # Each of three is hidden with the rate, unless all are, which is drawn again.
        expected = (rate - rate**3) / (1 - rate**3)
        assert 1 - np.mean(mask_set.masks) == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 1200))


def test_nothing_is_shown_that_the_data_lacks():
    available = [(1, 0, 1), (0, 0, 1), (0, 0, 0)] * 20
    ids = [f"s{number}" for number in range(60)]
    for mask_set in Protocol("curve", seeds=(0,)).mask_sets(ids, available, MODALITIES):
        assert (np.array(mask_set.masks) <= np.array(available)).all()
        assert (np.any(mask_set.masks, axis=1) == np.any(available, axis=1)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "half"}, "unknown protocol 'half'; there are subsets"),
        ({"name": "rates"}, "needs `rates`"),
        ({"name": "curve", "rates": 0.3}, "takes no `rates`"),
        ({"name": "rates", "rates": 0.3, "permutations": True}, "a rate for each modality"),
        ({"name": "curve", "seeds": ()}, "one or more different numbers"),
        ({"name": "curve", "seeds": (1, 1)}, r"\[1, 1\]"),
    ],
)
def test_protocols_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**arguments)


def test_a_drawn_pass_scores_each_sample_under_its_own_mask(evaluator, data):
    """Against the scores of the subsets, which are tested one by one."""
    subsets = evaluator.evaluate(Protocol("subsets"))
    by_name = {mask.name: mask.predictions.scores[:, 0] for mask in subsets.masks}
    result = evaluator.evaluate(Protocol("rates", IMBALANCED, seeds=(5,)))
    ids, targets = data.splits["test"]["sample_id"][:], np.array(data.splits["test"]["score"])
    masks = draw_static_masks(ids, MODALITIES, IMBALANCED, 5)
    expected = [by_name[subset_name(mask, MODALITIES)][row] for row, mask in enumerate(masks)]
    (drawn,) = result.masks
    np.testing.assert_array_equal(drawn.predictions.scores[:, 0], expected)
    np.testing.assert_array_equal(drawn.predictions.used, np.array(masks, dtype=bool))
    assert drawn.scores["score"].model["mse"] == pytest.approx(np.mean((np.array(expected) - targets) ** 2))
    assert drawn.hidden == pytest.approx(1 - np.mean(masks))
    pooled = pool_rows(data.splits["test"], MODALITIES, ["score"])
    baselines = Baselines(data.splits["train"], MODALITIES, ["score"])
    every = {mask: baselines.ridge_predictions(pooled, np.tile(mask, (30, 1)), mask) for mask in set(masks)}
    ridge = [every[mask][row, 0] for row, mask in enumerate(masks)]
    np.testing.assert_allclose(drawn.ridge[:, 0], ridge)


def test_a_rate_of_one_hides_a_modality_from_everyone(evaluator, data):
    rates = {"video": 1.0, "audio": 0.5}
    (result,) = evaluator.evaluate(Protocol("rates", rates, seeds=(5,))).masks
    used = result.predictions.used  # (samples, modalities)
    assert not used[:, 0].any()
    assert used.any(axis=1).all()
    assert 0 < used[:, 1].mean() < 1
    ids = data.splits["test"]["sample_id"][:]
    expected = draw_static_masks(ids, MODALITIES, {"audio": 0.5}, 5, [(0, 1, 1)] * len(ids))
    np.testing.assert_array_equal(used, np.array(expected, dtype=bool))
    only_video = [(1, 0, 0), (1, 1, 0)]
    (mask_set,) = Protocol("rates", rates, seeds=(5,)).mask_sets(["a", "b"], only_video, MODALITIES)
    assert mask_set.masks == [(0, 0, 0), (0, 1, 0)]  # nothing is left of the first sample, which is not scored
    with pytest.raises(ValueError, match="1 for every modality, which leaves nothing"):
        Protocol("rates", 1.0).mask_sets(["a"], complete(1), MODALITIES)


def test_what_subsets_scored_is_not_scored_again(evaluator, monkeypatch):
    evaluator.evaluate(Protocol("subsets"))
    monkeypatch.setattr(evaluator, "members", None)  # scoring anything would now fail
    evaluator.evaluate(Protocol("curve", seeds=(0, 1)))
    evaluator.evaluate(Protocol("available"))


def test_features_that_every_mask_hides_are_not_read(tiny_model, tiny_processor, data):
    test = data.splits["test"]
    ids = test["sample_id"][:]
    protocol = Protocol("rates", {"video": 0.6, "audio": 0.6}, seeds=(0,))
    masks = draw_static_masks(ids, MODALITIES, protocol.rates, 0)

    def spoil(row, index):
        """What is hidden of the sample becomes far too large."""
        return {
            name: row[name] if shown else (np.array(row[name]) * 1e6).tolist()
            for name, shown in zip(MODALITIES, masks[index], strict=True)
        }

    spoiled = test.map(spoil, with_indices=True, features=test.features)
    assert spoiled["video"][:] != test["video"][:]
    results = [
        Evaluator(tiny_model, tiny_processor, rows, progress=False).evaluate(protocol) for rows in (test, spoiled)
    ]
    np.testing.assert_allclose(*(result.masks[0].predictions.scores for result in results), atol=1e-3)


def test_available_is_one_pass_over_what_the_data_has(tiny_model, tiny_processor, data):
    test = data.splits["test"].map(
        lambda row: {"audio": None} if row["sample_id"].endswith("3") else {}, features=data.splits["test"].features
    )
    result = evaluate_subsets(tiny_model, tiny_processor, test, progress=False)
    available = Evaluator(tiny_model, tiny_processor, test, progress=False).evaluate(Protocol("available"))
    (row,) = available.masks
    np.testing.assert_allclose(row.predictions.scores, result.masks[0].predictions.scores, atol=1e-3)
    assert (row.samples, row.complete) == (30, 27)
    assert available.averages["score"].model is None


def test_rows_of_drawn_masks_are_mean_and_deviation_over_the_seeds(evaluator):
    result = evaluator.evaluate(Protocol("rates", IMBALANCED, permutations=True, seeds=(0, 1, 2)))
    assert len(result.masks) == 18
    first = result.summaries[0]
    assert (first.name, first.seeds) == ("video 0.3, audio 0.5, flow 0.7", [0, 1, 2])
    rows = [mask.scores["score"].model for mask in result.masks if mask.name == first.name]
    for metric in ("spearman", "mse"):
        values = [row[metric] for row in rows]
        assert first.scores["score"].model[metric] == pytest.approx(np.mean(values))
        assert first.scores["score"].model["sd"][metric] == pytest.approx(np.std(values, ddof=1))
    of_seeds = [
        average_metrics([mask.scores["score"].model for mask in result.masks if mask.seed == seed])
        for seed in (0, 1, 2)
    ]
    average = result.averages["score"].model
    assert average["spearman"] == pytest.approx(np.mean([entry["spearman"] for entry in of_seeds]))
    assert average["sd"]["mse"] == pytest.approx(np.std([entry["mse"] for entry in of_seeds], ddof=1))
    low, high = average["intervals"]["mse"]
    assert low < average["mse"] < high


def test_reports_of_drawn_masks_show_rates_share_and_deviation(evaluator, tmp_path):
    result = replace(evaluator.evaluate(Protocol("curve", seeds=(0, 1))), title="tiny", caveats=["leaky"])
    lines = evaluation_table(result).splitlines()
    line = next(line for line in lines if line.startswith("| 0.5 "))
    row = next(row for row in result.summaries if row.name == "0.5")
    model = row.scores["score"].model
    assert f"{model['spearman']:.3f} ± {model['sd']['spearman']:.3f}" in line
    assert f"{row.hidden:.0%}" in line
    assert any(line.startswith("Mean ± s.d. over 2 draws of the masks") for line in lines)
    save_figure(result, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 1000
    write_json(tmp_path / "metrics.json", result.to_dict())
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read["protocol"] == "curve"
    assert read["summaries"][3]["rates"] == dict.fromkeys(MODALITIES, 0.3)
    write_predictions(result, tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.schema.metadata == {b"protocol": b"curve", b"caveats": b'["leaky"]'}
    rows = [row for row in table.to_pylist() if row["rates"] == "video 0.5, audio 0.5, flow 0.5" and row["seed"] == 1]
    drawn = next(mask for mask in result.masks if mask.name == "0.5" and mask.seed == 1)
    assert score_metrics([row["score"] for row in rows], [row["target"] for row in rows])["mse"] == pytest.approx(
        drawn.scores["score"].model["mse"]
    )
    assert [row["used"] for row in rows] == [row["mask"] for row in rows]
    assert len({row["mask"] for row in rows}) > 1
