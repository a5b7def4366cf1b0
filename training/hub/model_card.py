"""Fills the Hub card `model_card.md` from the records that lie beside a model: what happened, and nothing else."""

import json
import sysconfig
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ...configuration.configuration_limssr import LimssrConfig
from ..evaluation.results import METRICS, read_results
from ..evaluation.tables import card_table
from ..utils.files import without_paths

TEMPLATE = "model_card.md"
HEADLINE_METRICS = {"spearman": ("spearmanr", "Spearman correlation"), "mse": ("mse", "mean squared error")}
SETTINGS = (  # of the training arguments, those that change what a model learns
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "head_learning_rate",
    "lr_scheduler_type",
    "warmup_epochs",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "optim",
    "bf16",
    "fp16",
)
SPLITS = ("train", "validation", "test")
WEIGHTINGS = ("regression_weight", "consistency_weight", "separation_weight")


def find_template() -> Path:
    """The template at the top of the repository, or where a wheel puts it."""
    places = [Path(__file__).parents[2] / TEMPLATE, Path(sysconfig.get_path("data")) / "share" / "limssr" / TEMPLATE]
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"the card template is neither at {places[0]} nor at {places[1]}; install limssr again")


def write_model_card(folder: str | Path, repo_id: str) -> None:
    """
    Writes `README.md` beside a model.

    Args:
        folder: holds `config.json` and what there is of `run.json` (what was trained, on what and how), `metrics.json`
            (the evaluation on the test split), `trainer_state.json` (of a training in progress) and the pictures.
        repo_id: name on the Hub, `user/name`, or the folder's name.
    """
    (Path(folder) / "README.md").write_text(render_model_card(folder, repo_id), encoding="utf-8")


def render_model_card(folder: str | Path, repo_id: str) -> str:
    """The text of that card."""
    folder = Path(folder)
    config = LimssrConfig.from_pretrained(folder)
    run, metrics = _read(folder / "run.json"), _read(folder / "metrics.json")
    state = _read(folder / "trainer_state.json")
    finds_its_own = not {"repository", "subfolder"}.isdisjoint(config.language_model_source or {})
    card = ModelCard.from_template(
        describe(repo_id, run, metrics, config),
        template_path=str(find_template()),
        model_name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        language_model_argument=""
        if config.checkpoint_form == "full" or finds_its_own
        else ', language_model="FOLDER_OR_FILE"',
        score_text=join_words(config.score_names),
        score_count=len(config.score_names),
        modality_text=join_words(config.modalities),
        modalities=config.modalities,
        results_title=metrics.get("title", "Test split"),
        results=card_table(read_results(folder)) if (folder / METRICS).is_file() else "",
        has_intervals="intervals" in json.dumps(metrics),
        caveats=metrics.get("caveats", []),
        progress=describe_progress(state) if state else "",
        pictures=[file.name for file in folder.glob("*.png")],
        facts=describe_run_facts(run, config) | describe_model_facts(config),
        settings=describe_settings(run, config),
        environment=describe_environment(run),
    )
    return card.content.rstrip() + "\n"


def describe(repo_id: str, run: dict, metrics: dict, config: LimssrConfig) -> ModelCardData:
    """The metadata of the card, with each mask as a result in `model-index`."""
    dataset = run.get("dataset", {})
    results = [
        EvalResult(
            task_type="action-quality-assessment",
            dataset_type=dataset.get("name", "unknown"),
            dataset_name=dataset.get("description", "unknown"),
            dataset_split="test",
            metric_type=kind,
            metric_name=f"{title}, {score_name} from {mask['name']}",
            metric_value=cell["model"][metric],
        )
        for mask in metrics.get("masks", [])
        for score_name, cell in mask["scores"].items()
        for metric, (kind, title) in HEADLINE_METRICS.items()
        if cell["model"][metric] is not None
    ]
    language_model = (config.language_model_source or {}).get("repository")
    return ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        tags=["action-quality-assessment", "missing-modalities", "multimodal", "limssr"],
        base_model=language_model,
        base_model_relation=language_model and ("adapter" if config.checkpoint_form == "adapter" else "finetune"),
        model_name=repo_id.rpartition("/")[2],
        eval_results=results or None,
    )


def describe_progress(state: dict) -> str:
    """How far a training is, and its last validation."""
    progress = f"step {state['global_step']} of {state['max_steps']}"
    validations = [entry for entry in state["log_history"] if entry.get("eval_spearman") is not None]
    if validations:
        progress += f", Spearman {validations[-1]['eval_spearman']:.3f} on the validation rows"
    return progress


def describe_run_facts(run: dict, config: LimssrConfig) -> dict[str, str]:
    """Rows of the table: data, what was hidden of it, selection, seeds."""
    if not run:
        return {}
    dataset, missingness, selection, seeds = (run[name] for name in ("dataset", "missingness", "selection", "seeds"))
    rates = "" if missingness["rates"] is None else f", rates {join_pairs(missingness['rates'])}"
    dropouts = {"modality": missingness["dropout"], "clip": missingness["clip_dropout"]}
    dropout = "".join(
        f"; {kind} dropout {join_pairs(rate)}, anew each epoch" for kind, rate in dropouts.items() if rate is not None
    )
    views = "; each sample under every mask, side by side" if missingness["all_masks"] else ""
    options = f": {join_pairs(dataset['options'])}" if dataset["options"] else ""
    mean = f"the mean over {len(selection['mask_sets'])} mask sets of " if len(selection["mask_sets"]) > 1 else ""
    return {
        "data": f"{dataset['description']} (`{dataset['name']}`{options})",
        "split": "samples: " + ", ".join(f"{dataset[name]['samples']} {name}" for name in SPLITS),
        "missing in training": f"{missingness['kind']}{rates}{dropout}{views}",
        "selection": f"the last of {selection['steps']} steps, no sample held back"
        if selection["on"] == "nothing"
        else f"step {selection['step']} of {selection['steps']} by {selection['metric']} "
        f"on {mean}the {selection['on']} split",
        "seeds": join_pairs({name: seed for name, seed in seeds.items() if seed is not None}),
    }


def describe_model_facts(config: LimssrConfig) -> dict[str, str]:
    """Rows of the table: language model and form of the checkpoint."""
    source, language_model = config.language_model_source or {}, config.language_model_config
    files = ", ".join(source.get("sha256", {}))
    name = source.get("repository") or (f"a local one, {files}" if files else "small, random at first")
    revision = f" at `{source['revision']}`" if source.get("revision") else ""
    layers = f"{language_model.num_hidden_layers} layers of width {language_model.hidden_size}"
    training = {"lora": f"LoRA of rank {config.lora_rank}, alpha {config.lora_alpha}"}.get(
        config.language_model_training
    )
    return {
        "language model": f"{name}{revision}, {language_model.model_type}, {layers}",
        "trained of it": training or {"full": "all", "frozen": "nothing"}[config.language_model_training],
        "checkpoint": {"full": "full", "adapter": "adapter, without the language model"}[config.checkpoint_form],
    }


def describe_settings(run: dict, config: LimssrConfig) -> dict:
    """Training arguments and weights of the loss terms."""
    if not run:
        return {}
    arguments = run["arguments"]["training"]
    given = {name: arguments[name] for name in SETTINGS if arguments.get(name) not in (None, False, 0, -1)}
    return without_paths(given) | {name: getattr(config, name) for name in WEIGHTINGS}


def describe_environment(run: dict) -> str:
    if not run:
        return ""
    seconds = f", {run['training_seconds']:.0f} seconds of training" if "training_seconds" in run else ""
    processes = "1 process" if run["processes"] == 1 else f"{run['processes']} processes"
    return f"{join_pairs(run['versions'])}; {processes} on {run['device']}{seconds}"


def join_pairs(values) -> str:
    """`a 1, b 2` of a dictionary; anything else as it is."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, dict) else str(values)


def join_words(names) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
