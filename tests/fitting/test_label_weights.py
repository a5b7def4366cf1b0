"""A run weighs its training labels by their raters' deviation, if asked to, and validates all alike."""

import numpy as np
import pytest

from limssr.training.fitting.run import prepare_run


@pytest.fixture
def percepiano(write_layout, tmp_path):
    write_layout("percepiano", tmp_path)
    options = {"folder": str(tmp_path), "scores": ["drama", "tempo"]}
    return {"dataset": "percepiano", "data_options": options, "max_steps": 1, "per_device_eval_batch_size": 256}


def test_a_run_weighs_its_labels_by_deviation(percepiano, quick_arguments):
    run = prepare_run(*quick_arguments(**percepiano, label_weights="deviation"))
    weights = run.trainer.data_collator.label_weights
    assert len(weights) == len(run.rows.train)
    table = np.array(list(weights.values()))  # (rows, scores)
    np.testing.assert_allclose(table.mean(axis=0), 1)
    assert table.std(axis=0).min() > 0.1
    deviations = [[run.rows.train[index][f"{name}_deviation"] for name in ("drama", "tempo")] for index in (0, 1, 2)]
    order = np.argsort(np.array(deviations), axis=0)
    np.testing.assert_array_equal(np.argsort(-table[:3], axis=0), order)
    batch = next(iter(run.trainer.get_train_dataloader()))
    assert batch["loss_weights"].shape == batch["labels"].shape == (8, 2)
    assert "loss_weights" not in next(iter(run.trainer.get_test_dataloader(run.data.splits["test"].select([0]))))
    run.trainer.train()


def test_labels_weigh_alike_by_default_and_a_dataset_without_deviations_says_so(quick_arguments):
    assert prepare_run(*quick_arguments()).trainer.data_collator.label_weights is None
    with pytest.raises(ValueError, match="no column 'score_deviation'"):
        prepare_run(*quick_arguments(label_weights="deviation"))
