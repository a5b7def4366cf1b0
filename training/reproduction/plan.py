"""From a table to its runs: every configuration under every variant with every seed."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..arguments import training_parser
from ..data import REGISTRY, dataset_class
from ..utils.settings import check_settings, merge, read_pairs, read_yaml
from .random_language_model import RandomLanguageModel
from .tables import Table, Variant

CONFIGS = Path(__file__).parents[1] / "configs"
PUBLISHED_DATASETS = {
    "fs1000": [f"fs1000_{score}" for score in ("tes", "pcs", "ss", "tr", "pe", "co", "in")],
    "fisv": ["fisv_tes", "fisv_pcs"],
    "rg": ["rg_ball", "rg_clubs", "rg_hoop", "rg_ribbon"],
}


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        dataset: the group of configurations it belongs to: one of `PUBLISHED_DATASETS`, or its own configuration.
        configuration: name of its YAML file.
        variant: what is changed of it.
        repetition: counts the seeds from 0.
        settings: of `train.py`, all of them.
        problem: why it cannot be run; empty where it can.
        random_language_model: to be written first, where the variant asks for one.
    """

    dataset: str
    configuration: str
    variant: Variant
    repetition: int
    settings: dict[str, Any]
    problem: str = ""
    random_language_model: RandomLanguageModel | None = None

    @property
    def folder(self) -> Path:
        """Where the run leaves its model and results."""
        return Path(self.settings["output_dir"])

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def name(self) -> str:
        return f"{self.configuration}, {self.variant.name}, seed {self.seed}"


def plan_runs(
    table: Table,
    datasets: Sequence[str],
    output_dir: str | Path,
    *,
    seeds: Sequence[int] = (),
    changes: Mapping[str, Any] | None = None,
    folders: Mapping[str, str] | None = None,
    variants: Sequence[str] = (),
) -> list[Run]:
    """
    The runs of a table, all of the first seed before those of the next.

    Args:
        table: one of `TABLES`.
        datasets: `fs1000`, `fisv`, `rg` (one model a score or apparatus, as published), names of configurations, or
            paths of YAML files.
        output_dir: a run goes to `<configuration>/<variant>/seed_<seed>` in it.
        seeds: of everything that is drawn: initialisation, order, validation split and masks. The configuration's own
            by default.
        changes: settings of `train.py` for all runs. They win over the configuration, the variant wins over them.
        folders: where a dataset lies, by its name in `REGISTRY`: its option `folder`.
        variants: names of the variants to run; all of them by default.

    Raises:
        OSError, ValueError: a dataset, variant, setting or value that is not known.
    """
    changes, folders = dict(changes or {}), dict(folders or {})
    check_settings(changes, training_parser(), "--set")
    if unknown := sorted(folders.keys() - REGISTRY.keys()):
        raise ValueError(f"--folders: no dataset is called {unknown[0]!r}, known: {', '.join(sorted(REGISTRY))}.")
    chosen = _choose(table, variants)
    if len({Path(dataset).stem for dataset in datasets}) < len(datasets):
        raise ValueError(f"--datasets: two of {', '.join(datasets)} have the same name; run one after the other.")
    groups = {Path(dataset).stem: _configurations(dataset) for dataset in datasets}
    runs = []
    for repetition in range(max(1, len(seeds))):
        for dataset, paths in groups.items():
            for variant in chosen:
                for path in paths:
                    settings = _combine(_read(path), changes)
                    if seeds:
                        settings["seed"] = seeds[repetition]
                    runs.append(_run(dataset, path.stem, variant, repetition, settings, folders, Path(output_dir)))
    return runs


def _choose(table: Table, names: Sequence[str]) -> list[Variant]:
    known = {variant.name: variant for variant in table.variants}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--variants: this table has no {unknown[0]!r}, only {', '.join(known)}.")
    return [variant for name, variant in known.items() if not names or name in names]


def _configurations(dataset: str) -> list[Path]:
    if dataset in PUBLISHED_DATASETS:
        return [CONFIGS / f"{name}.yaml" for name in PUBLISHED_DATASETS[dataset]]
    path = Path(dataset) if dataset.endswith((".yaml", ".yml")) else CONFIGS / f"{dataset}.yaml"
    if not path.is_file():
        known = sorted({*PUBLISHED_DATASETS, *(file.stem for file in CONFIGS.glob("*.yaml"))})
        raise ValueError(f"--datasets: {dataset!r} is no YAML file and none of {', '.join(known)}.")
    return [path]


def _read(path: Path) -> dict[str, Any]:
    """The settings of a YAML file, its pairs as dictionaries."""
    settings = read_yaml(path, training_parser())
    if settings.get("dataset") not in REGISTRY:
        raise ValueError(f"{path}: `dataset` is {settings.get('dataset')!r}, known: {', '.join(sorted(REGISTRY))}.")
    pairs = {name: read_pairs(settings.get(name), name) or {} for name in ("data_options", "prompt")}
    return settings | pairs


def _run(
    dataset: str,
    configuration: str,
    variant: Variant,
    repetition: int,
    settings: dict,
    folders: Mapping[str, str],
    output_dir: Path,
) -> Run:
    problem = variant.impossible or why_pointless(variant, settings)
    settings = _combine(settings, variant.settings)
    settings["seed"] = settings["mask_seed"] = int(settings.get("seed", 0))
    settings["output_dir"] = str(output_dir / configuration / variant.name / f"seed_{settings['seed']}")
    if settings["dataset"] in folders:
        settings["data_options"] = {**settings.get("data_options", {}), "folder": folders[settings["dataset"]]}
    problem = problem or missing_options(settings)
    random_language_model = None
    if variant.random_language_model and not problem:
        random_language_model = RandomLanguageModel(settings, Path(settings["output_dir"] + "_language_model"))
        settings |= random_language_model.settings
    return Run(dataset, configuration, variant, repetition, settings, problem, random_language_model)


def _combine(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes win; of a dictionary they replace single entries."""
    return {**settings, **{name: merge(value, settings.get(name)) for name, value in changes.items()}}


def why_pointless(variant: Variant, settings: Mapping[str, Any]) -> str:
    """Why a variant says nothing about this configuration; empty where it does."""
    changes_backbone = variant.random_language_model or any(
        name.startswith(("lora_", "backbone_", "language_model")) for name in variant.settings
    )
    if settings.get("language_model_config") and changes_backbone:
        return "the language model of this configuration is a random one, trained as a whole"
    if "prompt" in variant.settings and not settings.get("use_prompt", True):
        return "this configuration has no prompt"
    if "prompt" in variant.settings and "template" in (settings.get("prompt") or {}):
        return "this configuration has a wording of its own, the parts are of the default one"
    return ""


def missing_options(settings: Mapping[str, Any]) -> str:
    """What the dataset must be told and is not; empty where nothing is missing."""
    dataset = settings["dataset"]
    parameters = inspect.signature(dataset_class(dataset)).parameters.values()
    needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    missing = [name for name in needed if name not in settings.get("data_options", {})]
    if missing == ["folder"]:
        return f"no folder given (--folders {dataset}=FOLDER)"
    return f"no {missing[0]} given (`data_options` of {dataset})" if missing else ""
