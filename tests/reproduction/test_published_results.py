"""The paper's tables agree with each other, so that no number was mistyped."""

import pytest

from limssr.training.evaluation.metrics.aqa_metrics import average_metrics
from limssr.training.reproduction.published_results import (
    AVERAGE,
    COMPLETE,
    ablation_row,
    dataset_row,
    published_results,
    seed_deviations,
    task_row,
)

TASKS = sorted(published_results()["per_score"]["LIMSSR"])
DATASETS = ("fs1000", "fisv", "rg")
BASE_LINES = {
    "components": "+ MDA",
    "backbone": "Qwen3-0.6B",
    "fusion_tokens": "4",
    "paths": "both",
    "lora_rank": "16/32",
    "prompt": "whole",
}


def test_there_are_thirteen_tasks_of_three_datasets():
    counts = [sum(task.startswith(f"{dataset}_") for task in TASKS) for dataset in DATASETS]
    assert counts == [7, 2, 4]


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_table_of_datasets_is_the_mean_over_their_tasks(dataset):
    tasks = [task_row(task) for task in TASKS if task.startswith(f"{dataset}_")]
    for column, cell in dataset_row(dataset).items():
        mean = average_metrics([row[column] for row in tasks])
        assert mean["spearman"] == pytest.approx(cell["spearman"], abs=0.0016)  # of numbers with three decimals
        assert mean["mse"] == pytest.approx(cell["mse"], abs=0.011)


@pytest.mark.parametrize("task", TASKS)
def test_the_average_of_a_task_is_that_of_its_incomplete_masks(task):
    row = task_row(task)
    mean = average_metrics([cell for column, cell in row.items() if column not in (AVERAGE, COMPLETE)])
    assert mean["spearman"] == pytest.approx(row[AVERAGE]["spearman"], abs=0.0016)
    assert mean["mse"] == pytest.approx(row[AVERAGE]["mse"], abs=0.011)


@pytest.mark.parametrize("method", sorted(published_results()["missing_modalities"]["datasets"]["rg"]))
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_average_of_a_method_is_that_of_its_incomplete_masks(dataset, method):
    row = dataset_row(dataset, method)
    mean = average_metrics([cell for column, cell in row.items() if column not in (AVERAGE, COMPLETE)])
    assert mean["spearman"] == pytest.approx(row[AVERAGE]["spearman"], abs=0.0016)
    assert mean["mse"] == pytest.approx(row[AVERAGE]["mse"], abs=0.011)


@pytest.mark.parametrize("dataset", ["fs1000", "fisv"])
def test_the_unablated_line_of_every_ablation_is_the_published_model(dataset):
    published = dataset_row(dataset)
    for table, line in BASE_LINES.items():
        for column, cell in ablation_row(table, line, dataset).items():
            assert cell == published[column], (table, column)
    complete = published_results()["complete_modalities"]["datasets"][dataset]["LIMSSR"]
    assert complete == list(published[COMPLETE].values())
    assert set(seed_deviations(dataset)) == {AVERAGE, COMPLETE}


def test_what_is_not_published_is_empty():
    assert dataset_row("mtl_aqa") == task_row("mtl_aqa") == ablation_row("paths", "both", "rg") == {}
    assert ablation_row("paths", "path 1", "fs1000").keys() == {AVERAGE}
    assert seed_deviations("finediving") == {}
