"""The paper's tables agree with each other, so that no number is mistyped, and every published row has its variant."""

import pytest

from limssr.processing.inputs_limssr import Prompt
from limssr.training.evaluation.metrics.aqa_metrics import average_metrics
from limssr.training.reproduction.tables import (
    AS_CONFIGURED,
    AVERAGE,
    COMPLETE,
    PUBLISHED,
    TABLES,
    ablation_row,
    dataset_row,
    seed_deviations,
    task_row,
)

TASKS = sorted(PUBLISHED["per_score"]["LIMSSR"])
DATASETS = ("fs1000", "fisv", "rg")
PUBLISHED_MODEL = {  # ablation -> the row of the published model itself
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


def assert_average_is_that_of_incomplete_masks(row: dict[str, dict]) -> None:
    mean = average_metrics([cell for column, cell in row.items() if column not in (AVERAGE, COMPLETE)])
    assert mean["spearman"] == pytest.approx(row[AVERAGE]["spearman"], abs=0.0016)
    assert mean["mse"] == pytest.approx(row[AVERAGE]["mse"], abs=0.011)


@pytest.mark.parametrize("task", TASKS)
def test_the_average_of_a_task_is_that_of_its_incomplete_masks(task):
    assert_average_is_that_of_incomplete_masks(task_row(task))


@pytest.mark.parametrize("method", sorted(PUBLISHED["missing_modalities"]["datasets"]["rg"]))
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_average_of_a_method_is_that_of_its_incomplete_masks(dataset, method):
    assert_average_is_that_of_incomplete_masks(dataset_row(dataset, method))


@pytest.mark.parametrize("dataset", ["fs1000", "fisv"])
def test_the_unablated_row_of_every_ablation_is_the_published_model(dataset):
    published = dataset_row(dataset)
    for table, row in PUBLISHED_MODEL.items():
        for column, cell in ablation_row(table, row, dataset).items():
            assert cell == published[column], (table, column)
    complete = PUBLISHED["complete_modalities"]["datasets"][dataset]["LIMSSR"]
    assert complete == list(published[COMPLETE].values())
    assert set(seed_deviations(dataset)) == {AVERAGE, COMPLETE}


def test_what_is_not_published_is_empty():
    assert dataset_row("mtl_aqa") == task_row("mtl_aqa") == ablation_row("paths", "both", "rg") == {}
    assert ablation_row("paths", "path 1", "fs1000").keys() == {AVERAGE}
    assert seed_deviations("finediving") == {}


def test_every_published_row_has_one_variant():
    """Except the row of the published model itself, which is the configuration as it is."""
    rows = PUBLISHED["ablations"]["variants"]
    variants = [variant for table in TABLES.values() for variant in table.variants.values() if variant.published]
    used = {tuple(variant.published): variant for variant in variants}
    assert all(used[tuple(variant.published)] == variant for variant in variants)
    assert set(used) | set(PUBLISHED_MODEL.items()) == {(table, row) for table in rows for row in rows[table]}


def test_as_configured_is_in_every_table_and_changes_nothing():
    assert all(table.variants[AS_CONFIGURED].settings == {} for table in TABLES.values())


def test_a_prompt_loses_only_the_part_that_its_variant_names():
    whole = Prompt().template
    parts = {
        "condition": " Available: {available}. Missing: {missing}.",
        "task": "Judge how well this performance is executed. Infer what is missing from what is available, and ",
        "fusion_guide": ", and gather all that matters for the score at the end",
    }
    for name, part in parts.items():
        template = TABLES["prompt"].variants[f"prompt_without_{name}"].settings["prompt"]["template"]
        assert part in whole
        assert template.lower() == whole.replace(part, "").lower()
        Prompt(template)
