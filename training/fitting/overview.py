"""What a run says before it trains: an overview, and what differs from the checkpoint it goes on from."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...configuration.configuration_limssr import LimssrConfig
from ..evaluation.results import EvaluationResult
from ..evaluation.seeds import TRAINING_SETTINGS
from ..utils.errors import taking_fields
from ..utils.files import RECORD_FIELDS, RECORD_FILE, read_json, without_paths

FEWEST_FOR_SELECTION = 30  # with fewer, a correlation's standard error is about 0.2 or more
FAR_AHEAD = 0.1  # Spearman
LITTLE_LEARNT = 0.8  # of the training mean's squared error
KEPT_BY_OPTIMIZER = ("learning_rate", "head_learning_rate", "weight_decay")
ALSO_COMPARED = ("seed", "data_seed", "bf16", "fp16", "train_sampling_strategy")
LONGEST = 40  # of a digest or a name that is said
WITHOUT_EFFECT = ("list_missing", "require_complete")  # on the model


def overview(record: dict, config: LimssrConfig, output_dir: str) -> str:
    """Describe a run that is about to train, a line for each subject.

    Args:
        record: record of the run, from `describe_run`.
        config: configuration of its model.
        output_dir: folder of its checkpoints and results.
    """
    dataset, seeds, parameters = record["dataset"], record["seeds"], record["parameters"]
    processes = f"{record['processes']} process" + ("es" if record["processes"] > 1 else "")
    lines = {
        "data": f"{dataset['name']}: {dataset['description']}",
        "samples": _samples(dataset, record["selection"]["on"], record["arguments"]["data"]["folds"]),
        "hidden": _hidden(record["missingness"], dataset["train"], list(config.modalities)),
        "language model": _language_model(record["arguments"]["model"], config),
        "parameters": f"{parameters['trained']:,} of {parameters['all']:,} trained",
        "device": f"{record['device']}, {processes}",
        "seed": f"{seeds['training']}, masks {seeds['masks']}",
        "output": output_dir,
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _samples(dataset: dict, selected_on: str, folds: int | None) -> str:
    train, validation, test = (dataset[split]["samples"] for split in ("train", "validation", "test"))
    held_back = f"{validation}" if folds is None else f"{folds} folds of them"
    selecting = {"validation": f"{held_back} to validate", "test": "selected on the test split (not a fair measure)"}
    parts = [f"{train} to train", selecting.get(selected_on, "none to validate")]
    parts += [f"{count} to calibrate"] if (count := dataset["calibration"]["samples"]) else []
    return ", ".join([*parts, f"{test} to test"])


def _hidden(missingness: dict, train: dict, modalities: list[str]) -> str:
    """Describe how training hides modalities, and the share of its samples that lacks each, from whatever cause."""
    rates = "" if missingness["rates"] is None else f" at {_rates(missingness['rates'])}"
    kinds = {"none": "nothing", "available": "nothing", "static": f"for good{rates}", "dynamic": f"by batch{rates}"}
    kept = Counter()
    for mask, count in train["masks"].items():
        kept.update(dict.fromkeys(mask.split("+"), count))
    lacking = ", ".join(f"{name} {1 - kept[name] / train['samples']:.0%}" for name in modalities)
    before = " before" if missingness["kind"] == "dynamic" else ""
    return f"{kinds[missingness['kind']]} (missing in training{before}: {lacking})"


def _rates(rates: float | dict) -> str:
    return ", ".join(f"{name} {rate:g}" for name, rate in rates.items()) if isinstance(rates, dict) else f"{rates:g}"


def _language_model(arguments: dict, config: LimssrConfig) -> str:
    source, text_config = config.language_model_source or {}, config.language_model_config
    revision = f" at {source['revision'][:12]}" if source.get("revision") else ""
    name = f"{arguments['language_model']}{revision}" if arguments["language_model"] else "random weights"
    layers = f"{text_config.num_hidden_layers} layer" + ("s" if text_config.num_hidden_layers > 1 else "")
    trained = {"lora": f"LoRA of rank {config.lora_rank}", "full": "trained as a whole", "frozen": "frozen"}
    return f"{name}, {text_config.model_type}, {layers}, {trained[config.language_model_training]}"


def warn_of_few(counts: Sequence[int]) -> str | None:
    """Return a warning if so few samples select the checkpoint that chance decides.

    Args:
        counts: samples of each validation set.
    """
    fewest = min(counts, default=FEWEST_FOR_SELECTION)
    if fewest >= FEWEST_FOR_SELECTION:
        return None
    sets = f" in the smallest of {len(counts)} mask sets" if len(counts) > 1 else ""
    return (
        f"{fewest} samples{sets} select the best checkpoint: the standard error of their correlation is about "
        f"{1 / max(fewest - 3, 1) ** 0.5:.2f} (in Fisher's z), so that chance may decide. Raise `validation_fraction` "
        f"for {FEWEST_FOR_SELECTION} or more, or set `select_on` to nothing and keep the last checkpoint."
    )


def advise(result: EvaluationResult, record: dict) -> str | None:
    """Say what to try if ridge regression is far ahead of the model; None if it is not.

    Args:
        result: evaluation on the test split.
        record: record of the run.
    """
    mask, training = result.masks[0], record["arguments"]["training"]
    for name, row in mask.scores.items():
        if row.ridge is None or row.ridge["spearman"] is None:
            continue
        model = row.model["spearman"] or 0.0
        if row.ridge["spearman"] - model < FAR_AHEAD:
            continue
        errors = f"its MSE is {row.model['mse']:.4g}, the training mean's {row.mean_baseline['mse']:.4g}"
        if row.model["mse"] > LITTLE_LEARNT * row.mean_baseline["mse"]:
            found = f"The model has hardly learnt: {errors} after {record['selection']['steps']} steps"
            remedy = (
                f"train longer (`num_train_epochs`, now {training['num_train_epochs']:g}) or at a higher "
                f"`learning_rate` (now {training['learning_rate']:g}), and set `start_at_mean: true`"
            )
        else:
            found = f"The model has learnt something, but does not generalise as well: {errors}"
            remedy = (
                f"fewer layers (`num_hidden_layers: 1`), `language_model_training: frozen`, more `projector_dropout` "
                f"and `modality_dropout`, for there are {record['dataset']['train']['samples']} training samples"
            )
        ahead = f"{name}: ridge regression on the same inputs is far ahead, Spearman {row.ridge['spearman']:.3f}"
        return f"{ahead} against {model:.3f} ({mask.name}). {found}. Try: {remedy}."
    return None


def read_run(folder: str | Path) -> dict | None:
    """Read the record of the run that wrote a folder, None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = Path(folder) / RECORD_FILE
    if not path.is_file():
        return None
    record = read_json(path, RECORD_FIELDS)
    with taking_fields(path, "name a whole checkpoint"):
        _comparable(record)
    return record


def changed_settings(before: dict, now: dict) -> list[str]:
    """List the settings that differ between the records of two runs and change the result: `name before -> now`."""
    return _changed(_comparable(before), _comparable(now))


def changed_software(before: dict, now: dict) -> list[str]:
    """List the packages, the code and the kind of processor that differ: `name before -> now`."""
    return _changed(*(_software(record) for record in (before, now)))


def changed_data(before: dict, now: dict) -> list[str]:
    """List what of the data differs: a split, its samples, or columns of labels and features."""
    before, now = (_as_json(_fields(record["dataset"], "fingerprint")) for record in (before, now))
    changed = []
    for split in now if before else []:  # an earlier version did not record it
        old, new = _fields(before, split), now[split]
        if old.get("sample_id") != new.get("sample_id"):
            changed.append(f"samples of {split}")
        elif columns := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
            changed.append(f"{', '.join(columns)} of {split}")
    return changed


def _changed(before: dict, now: dict) -> list[str]:
    return [f"{name} {before[name]} -> {now[name]}" for name in now if name in before and before[name] != now[name]]


def _software(record: dict) -> dict:
    found = {name: str(record[name])[:LONGEST] for name in ("code", "hardware") if name in record}
    return found | _fields(record, "versions")


def _fields(record: dict, name: str) -> dict:
    """The fields of a field; none where there are none."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _as_json(record: dict) -> dict:
    """A record as it is after a trip through its file."""
    return json.loads(json.dumps(without_paths(record)))


def _comparable(record: dict) -> dict:
    """Everything in a record that decides the result, as it is after a trip through JSON."""
    record = _as_json(record)
    arguments, dataset = record["arguments"], record["dataset"]
    settings = {name: arguments["training"].get(name) for name in (*TRAINING_SETTINGS, *ALSO_COMPARED)}
    settings |= arguments["model"] | arguments["data"]
    settings |= {f"{split} data": _extent(dataset[split]) for split in ("train", "validation", "test")}
    settings |= {name: record[name] for name in ("processes", "device")}
    return {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}


def _extent(split: dict) -> str:
    """Count the samples of a split and the modalities they have in all."""
    present = sum(len(mask.split("+")) * count for mask, count in split.get("masks", {}).items())
    return f"{split['samples']} samples" + (f" with {present} modalities" if present else "")
