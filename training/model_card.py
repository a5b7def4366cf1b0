"""Fills the Hub card `model_card.md` from what happened in a run."""

import sysconfig
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .data import AqaData
from .evaluation import EvaluationResult
from .reports.table import evaluation_table

TEMPLATE = "model_card.md"
HEADLINE_METRICS = {"spearman": "Spearman correlation", "mse": "mean squared error"}


def find_template() -> Path:
    """The template at the top of the repository, or where a wheel puts it."""
    places = [Path(__file__).parents[1] / TEMPLATE, Path(sysconfig.get_path("data")) / "share" / "limssr" / TEMPLATE]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"the card template is neither at {places[0]} nor at {places[1]}; install limssr again")


def write_model_card(
    folder: str | Path,
    repo_id: str,
    dataset: str,
    data: AqaData,
    result: EvaluationResult,
    config,
    facts: dict[str, str | int | float],
) -> None:
    """
    Writes `README.md` beside a checkpoint.

    Args:
        folder: of the checkpoint.
        repo_id: name on the Hub, `user/name`, or the folder's name.
        dataset: registry name of the data.
        data: what the model was trained on.
        result: evaluation on the test split.
        config: of the model.
        facts: the entries of the table "How it was made" in the template: `train_samples`, `validation_samples`,
            `missingness`, `selection`, `seed`, `backbone`, `steps`, `batch_size`, `learning_rate`.
    """
    local_backbone = config.checkpoint_form == "adapter" and "repository" not in (config.backbone_source or {})
    card = ModelCard.from_template(
        describe(repo_id, dataset, data, result, config),
        template_path=str(find_template()),
        model_name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        text_model_argument=', text_model="FOLDER_OR_FILE"' if local_backbone else "",
        score_text=join(data.score_names),
        modality_text=join(data.modalities),
        modalities=data.modalities,
        score_names=data.score_names,
        dataset_description=data.description,
        test_samples=result.samples,
        results=evaluation_table(result),
        checkpoint_form=config.checkpoint_form,
        leaky_text=(
            "**The features give the label away** (the commentary says it); these results are no measure of skill."
            if data.leaky
            else "Nothing in the features is known to give the label away."
        ),
        **facts,
    )
    card.save(Path(folder) / "README.md")


def describe(repo_id: str, dataset: str, data: AqaData, result: EvaluationResult, config) -> ModelCardData:
    """The metadata of the card, with each mask as a result in `model-index`."""
    results = [
        EvalResult(
            task_type="action-quality-assessment",
            dataset_type=dataset,
            dataset_name=data.description,
            dataset_split="test",
            metric_type=metric,
            metric_name=f"{title}, {score_name} from {mask.name}",
            metric_value=cell.model[metric],
        )
        for mask in result.masks
        for score_name, cell in mask.scores.items()
        for metric, title in HEADLINE_METRICS.items()
        if cell.model[metric] is not None
    ]
    return ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        tags=["action-quality-assessment", "missing-modalities", "multimodal", "limssr"],
        base_model=(config.backbone_source or {}).get("repository"),
        model_name=repo_id.rpartition("/")[2],
        eval_results=results,
    )


def join(names) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
