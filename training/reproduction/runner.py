"""The runs of a table: every configuration under every variant with every seed, one `train.py` after another.

Finished runs stay, interrupted ones go on, failures are reported. A wrong prompt trains nothing: `eval.py` reads the
finished run as configured once more. Beside the folder of a run lie its settings
(`seed_0.yaml`: `train.py` on this file alone repeats it) and everything it printed (`seed_0.log`). The log is locked
during the run, so that two `reproduce.py` (one per GPU) share the work.
"""

import fcntl
import inspect
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from transformers import AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase, set_seed

from ...configuration.configuration_limssr import LimssrConfig
from ...modeling_limssr.language_model_limssr import load_language_model
from ..arguments import training_parser
from ..data import REGISTRY, dataset_class
from ..evaluation.results import METRICS
from ..evaluation.run import FIGURE
from ..fitting.model import describe_random, locate_language_model
from ..utils.checkpoints import checkpoints_in
from ..utils.files import RECORD_FILE
from ..utils.settings import CONFIGS, check_settings, merge, read_pairs, read_settings, read_yaml
from .tables import AS_CONFIGURED, PUBLISHED, Table, Variant

TRAINING = Path(__file__).parents[1]
# States of a run; a reason follows the last three after a colon.
FINISHED, INTERRUPTED, TO_DO = "finished", "interrupted", "to do"
FAILED, ELSEWHERE, IMPOSSIBLE = "failed", "running elsewhere", "not possible"
PUBLISHED_DATASETS = {  # dataset -> its tasks, each with a configuration of its name
    dataset: [task for task in PUBLISHED["per_score"]["LIMSSR"] if task.startswith(f"{dataset}_")]
    for dataset in PUBLISHED["missing_modalities"]["datasets"]
}
LANGUAGE_MODEL_KEYS = ("language_model", "gguf_file", "revision", "num_hidden_layers", "language_model_config")


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        dataset: group of configurations: one of `PUBLISHED_DATASETS`, or the configuration itself.
        configuration: name of its YAML file.
        variant: what is changed in it.
        repetition: number of the seed, from 0.
        settings: complete settings of `train.py`.
        problem: why it cannot be run; empty where it can.
        replaced: where a random language model is used, the `LANGUAGE_MODEL_KEYS` of the one that it replaces.
        trained: where nothing is trained, the folder of the run whose model is evaluated again with a wrong prompt.
    """

    dataset: str
    configuration: str
    variant: Variant
    repetition: int
    settings: dict[str, Any]
    problem: str = ""
    replaced: dict[str, Any] | None = None
    trained: Path | None = None

    @property
    def folder(self) -> Path:
        return Path(self.settings["output_dir"])

    @property
    def is_finished(self) -> bool:
        last = RECORD_FILE if self.trained is None else FIGURE  # of the files of an evaluation
        return all((self.folder / name).is_file() for name in (METRICS, last))

    @property
    def name(self) -> str:
        return f"{self.configuration}, {self.variant.name}, seed {self.settings['seed']}"


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
    List the runs of a table, all of the first seed before those of the next.

    Args:
        table: one of `TABLES`.
        datasets: `fs1000`, `fisv`, `rg` (one model per score or apparatus, as published), names of configurations, or
            paths of YAML files.
        output_dir: parent of the runs' folders, `<configuration>/<variant>/seed_<seed>`.
        seeds: seeds of initialisation, order, validation split and masks; by default the configuration's own.
        changes: settings of `train.py` for all runs. They override the configuration, the variant overrides them.
        folders: name in `REGISTRY` -> the folder of that dataset.
        variants: names of the variants to run; all of them by default.

    Raises:
        OSError, ValueError: an unknown dataset, variant, setting or value.
    """
    changes, folders = changes or {}, folders or {}
    check_settings(changes, training_parser(), "--set")
    if unknown := sorted(folders.keys() - REGISTRY.keys()):
        raise ValueError(f"--folders: no dataset is called {unknown[0]!r}, known: {', '.join(sorted(REGISTRY))}.")
    if unknown := [name for name in variants if name not in table.variants]:
        raise ValueError(f"--variants: this table has no {unknown[0]!r}, only {', '.join(table.variants)}.")
    if len({Path(dataset).stem for dataset in datasets}) < len(datasets):
        raise ValueError(f"--datasets: two of {', '.join(datasets)} have the same name; run one after the other.")
    groups = {Path(dataset).stem: _configurations(dataset) for dataset in datasets}
    chosen = [variant for name, variant in table.variants.items() if not variants or name in variants]
    runs = []
    for (repetition, seed), (dataset, paths) in product(enumerate(seeds or [changes.get("seed")]), groups.items()):
        own = {} if seed is None else {"seed": seed}
        for variant, path in product(chosen, paths):
            settings = _override(_read(path), changes | own)
            if settings["dataset"] in folders:
                settings["data_options"]["folder"] = folders[settings["dataset"]]
            runs.append(_run(dataset, path.stem, variant, repetition, settings, Path(output_dir)))
    return runs


def _configurations(dataset: str) -> list[Path]:
    if dataset in PUBLISHED_DATASETS:
        return [CONFIGS / f"{task}.yaml" for task in PUBLISHED_DATASETS[dataset]]
    path = Path(dataset) if dataset.endswith((".yaml", ".yml")) else CONFIGS / f"{dataset}.yaml"
    if not path.is_file():
        known = sorted({*PUBLISHED_DATASETS, *(file.stem for file in CONFIGS.glob("*.yaml"))})
        raise ValueError(f"--datasets: {dataset!r} is no YAML file and none of {', '.join(known)}.")
    return [path]


def _read(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML file, its KEY=VALUE pairs as dictionaries."""
    settings = read_yaml(path, training_parser())
    if settings.get("dataset") not in REGISTRY:
        raise ValueError(f"{path}: `dataset` is {settings.get('dataset')!r}, known: {', '.join(sorted(REGISTRY))}.")
    return settings | {name: read_pairs(settings.get(name), name) or {} for name in ("data_options", "prompt")}


def _override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply changes, None too; in a dictionary they replace single entries."""
    dictionaries = {
        name: merge(value, settings.get(name)) for name, value in changes.items() if isinstance(value, dict)
    }
    return {**settings, **changes, **dictionaries}


def _run(dataset: str, configuration: str, variant: Variant, repetition: int, settings: dict, output_dir: Path) -> Run:
    problem, replaced = variant.impossible or _find_problem(variant, settings), None
    settings = _override(settings, variant.settings)
    settings["seed"] = settings["mask_seed"] = int(settings.get("seed", 0))
    folder, place = output_dir / configuration, f"seed_{settings['seed']}"
    settings["output_dir"] = str(folder / variant.name / place)
    trained = folder / AS_CONFIGURED / place if variant.wrong_prompt else None
    if variant.random_language_model and not problem:
        replaced = {name: settings.get(name) for name in LANGUAGE_MODEL_KEYS}
        settings |= dict.fromkeys(LANGUAGE_MODEL_KEYS) | {"language_model": settings["output_dir"] + "_language_model"}
    return Run(dataset, configuration, variant, repetition, settings, problem, replaced, trained)


def _find_problem(variant: Variant, settings: Mapping[str, Any]) -> str:
    """Why a variant of this configuration cannot be run, or would say nothing; empty where it can."""
    dataset, changed = settings["dataset"], {name.partition("_")[0] for name in variant.settings}
    freezes_random = variant.random_language_model and variant.settings.get("language_model_training") == "frozen"
    changes_language_model = variant.random_language_model or not changed.isdisjoint({"lora", "language"})
    if settings.get("language_model_config") and changes_language_model and not freezes_random:
        return "the language model of this configuration is a random one, trained as a whole"
    given = {name: settings.get(name, getattr(LimssrConfig, name, None)) for name in variant.settings}
    if variant.settings and given == variant.settings and not variant.random_language_model:
        return "this configuration is so as it stands"
    if ("prompt" in changed or variant.wrong_prompt) and not settings.get("use_prompt", True):
        return "this configuration has no prompt"
    if "prompt" in changed and "template" in settings["prompt"]:
        return "this configuration has a wording of its own, the parts are of the default one"
    if "folder" in inspect.signature(dataset_class(dataset)).parameters and "folder" not in settings["data_options"]:
        return f"no folder given (--folders {dataset}=FOLDER)"
    return ""


def find_state(run: Run) -> str:
    """Tell how far a run is: finished, interrupted (it left a checkpoint to go on from), to do, or not possible."""
    if run.problem:
        return f"{IMPOSSIBLE}: {run.problem}"
    if run.is_finished:
        return FINISHED
    return INTERRUPTED if checkpoints_in(run.folder) else TO_DO


def check_settings_of_earlier_runs(runs: Sequence[Run]) -> None:
    """
    Raises:
        ValueError: a folder holds a run with other settings; only the data may have moved.
    """
    for run in runs:
        path, wanted = run.folder.with_suffix(".yaml"), _comparable(run.settings)
        earlier = _comparable(read_settings(path)) if path.is_file() else wanted
        for name in sorted(earlier.keys() | wanted.keys()):
            if earlier.get(name) != wanted.get(name):
                raise ValueError(
                    f"{run.folder} was run with `{name}` {earlier.get(name)!r}, now it is {wanted.get(name)!r}: give "
                    "another --output_dir, or remove that run."
                )


def _comparable(settings: dict) -> dict:
    options = {name: value for name, value in settings.get("data_options", {}).items() if name != "folder"}
    return settings | {"data_options": options, "output_dir": None}


def run_all(runs: Sequence[Run], report: Callable[[list[str]], None]) -> list[str]:
    """Run what is not finished, in this order, and return all states; `report` gets those so far after each run."""
    states = [find_state(run) for run in runs]
    for index, run in enumerate(runs):
        if states[index] in (TO_DO, INTERRUPTED):
            print(f"[{index + 1}/{len(runs)}] {run.name}: {run.folder.with_suffix('.log')}", flush=True)
            states[index] = _run_one(run)
            print(f"[{index + 1}/{len(runs)}] {run.name}: {states[index]}", flush=True)
            report(states)
    return states


def _run_one(run: Run) -> str:
    run.folder.mkdir(parents=True, exist_ok=True)
    path = run.folder.with_suffix(".log")
    with path.open("a+", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the child holds it too, should this process be killed
        except BlockingIOError:
            return f"{ELSEWHERE}: another process writes {path.name}"
        if run.is_finished:  # by another process, in the meantime
            return FINISHED
        if run.trained is not None and not (run.trained / RECORD_FILE).is_file():
            return f"{TO_DO}: needs {run.trained.parent.name} with the same seed, which is not finished"
        try:
            write_random_language_model(run)
        except (OSError, ValueError) as error:
            return f"{FAILED}: no random language model, {error}"
        code = _start(_command(run), log)
    if code == 0 and run.is_finished:
        return FINISHED
    printed = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return f"{FAILED}: exit {code}, {next((line.strip() for line in reversed(printed) if line.strip()), '')}"


def _command(run: Run) -> list[str]:
    """`train.py` on the settings of the run, from the last complete checkpoint where there is one; or `eval.py`."""
    if run.trained is not None:
        options = ["--batch_size", str(run.settings.get("per_device_eval_batch_size", 16))]
        words = [str(run.trained), str(run.trained.with_suffix(".yaml")), "--output_dir", str(run.folder), *options]
        return [sys.executable, str(TRAINING / "eval.py"), *words, "--wrong_prompt"]
    settings = run.folder.with_suffix(".yaml")
    settings.write_text(yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    resume = ["--resume_from_checkpoint", "last"] if find_state(run) == INTERRUPTED else []
    return [sys.executable, str(TRAINING / "train.py"), str(settings), *resume]


def _start(command: list[str], log: TextIO) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        return process.wait()
    finally:  # when this process is stopped, its child stops too, and goes on from its last checkpoint next time
        process.terminate()
        process.wait()


def write_random_language_model(run: Run) -> None:
    """Save a run's random language model: architecture, layers and tokenizer of the one it replaces, own weights."""
    if run.replaced is None or Path(run.settings["language_model"]).is_dir():
        return
    config, tokenizer, dtype = _describe_replaced(run.replaced)
    set_seed(run.settings["seed"])
    drawn = AutoModel.from_config(config).to(dtype)
    unfinished = Path(run.settings["language_model"] + "_unfinished")
    drawn.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    unfinished.rename(run.settings["language_model"])


def _describe_replaced(replaced: Mapping[str, Any]) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, torch.dtype]:
    """Configuration, tokenizer and precision of the language model that the `LANGUAGE_MODEL_KEYS` name."""
    if replaced["language_model_config"]:
        given = read_pairs(replaced["language_model_config"], "language_model_config")
        text_config, tokenizer = describe_random(given)
        return LimssrConfig(text_config=text_config).text_config, tokenizer, torch.float32
    location, gguf_file = locate_language_model(replaced["language_model"], replaced["gguf_file"])
    names = {"gguf_file": gguf_file, "revision": replaced["revision"]}
    found = {name: value for name, value in names.items() if value is not None}
    pretrained, _ = load_language_model(location, replaced["num_hidden_layers"], **found)
    return pretrained.config, AutoTokenizer.from_pretrained(location, **found), pretrained.dtype
