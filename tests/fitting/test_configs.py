"""Every YAML that comes along says what the paper says, and trains on files of its dataset's exact layout."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from limssr import LimssrConfig
from limssr.training.arguments import parse_training_arguments
from limssr.training.data import build
from limssr.training.evaluation.evaluator import evaluate_subsets
from limssr.training.fitting.run import prepare_run
from limssr.training.reproduction import tables
from limssr.training.utils.settings import find_config

CONFIGS = Path(__file__).parents[2] / "training" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
TASKS = sorted(tables.PUBLISHED["per_score"]["LIMSSR"])

# Task -> clips, score range, epochs, and what differs from the defaults of the paper.
PUBLISHED = {
    "fs1000_tes": (95, 130, 160, {}),
    "fs1000_pcs": (95, 60, 100, {"regression_weight": 1}),
    "fs1000_ss": (95, 10, 130, {}),
    "fs1000_tr": (95, 10, 90, {"consistency_weight": 10}),
    "fs1000_pe": (95, 10, 130, {"regression_weight": 1}),
    "fs1000_co": (95, 10, 200, {"consistency_weight": 10}),
    "fs1000_in": (95, 10, 290, {"regression_weight": 1, "separation_weight": 0.5}),
    "fisv_tes": (124, 45, 270, {}),
    "fisv_pcs": (124, 40, 140, {}),
    "rg_ball": (68, 25, 80, {"dropout": 0.35, "seed": 6}),
    "rg_clubs": (68, 25, 410, {"dropout": 0.35, "separation_weight": 2, "seed": 113}),
    "rg_hoop": (68, 25, 100, {"dropout": 0.3, "consistency_weight": 2, "min_lr_rate": 0.01}),
    "rg_ribbon": (68, 25, 270, {"dropout": 0.35}),
}
DEFAULTS = {
    "regression_weight": 10,
    "consistency_weight": 1,
    "separation_weight": 1,
    "dropout": 0.15,
    "min_lr_rate": 0.1,
    "seed": 0,
}
SCORES = {"fs1000": ["tes", "pcs", "ss", "tr", "pe", "co", "in"], "fisv": ["tes", "pcs"]}
SCORES["rg"] = ["total", "difficulty", "execution"]
QUICK = "--max_steps 2 --save_strategy no --load_best_model_at_end false --disable_tqdm true --report_to none"


@pytest.fixture(scope="module")
def layouts(write_layout, tmp_path_factory):
    """Name of a dataset -> folder with a few samples of it, written once."""
    folders = {}

    def folder_of(dataset: str) -> Path:
        if dataset not in folders:
            folders[dataset] = tmp_path_factory.mktemp(dataset)
            write_layout(dataset, folders[dataset])
            if dataset in ("fisv", "rhythmic_gymnastics"):  # real labels: hundreds of samples
                keep_few(folders[dataset] / "train.txt", 16)
                keep_few(folders[dataset] / "test.txt", 6)
        return folders[dataset]

    return folder_of


def keep_few(path: Path, count: int) -> None:
    """Of each apparatus (or of everything) the first lines, and the header where there is one."""
    kept, seen = [], {}
    for line in path.read_text().splitlines(keepends=True):
        kind = re.match(r"[A-Za-z_]*", line).group()
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= count:
            kept.append(line)
    path.write_text("".join(kept))


def published_values(name: str) -> tuple:
    """Clips, score range, epochs and all that the paper's tasks differ in, as `train.py` understands the YAML."""
    model, data, training = parse_training_arguments(
        [str(CONFIGS / f"{name}.yaml"), "--data_options", "folder=nowhere"]
    )
    dataset = build(data.dataset, **data.data_options)
    assert len(dataset.scores) == 1
    config = LimssrConfig(**model.config_fields())
    assert config.projector_dropout == config.head_dropout
    values = {
        "regression_weight": config.regression_weight,
        "consistency_weight": config.consistency_weight,
        "separation_weight": config.separation_weight,
        "dropout": config.projector_dropout,
        "min_lr_rate": training.lr_scheduler_kwargs["min_lr_rate"],
        "seed": training.seed,
    }
    clips = dataset.max_clips if model.max_clips is None else model.max_clips
    return clips, dataset.score_ranges[dataset.scores[0]], training.num_train_epochs, values


@pytest.mark.parametrize("name", TASKS)
def test_a_published_task_has_the_published_values(name):
    clips, score_range, epochs, differing = PUBLISHED[name]
    assert published_values(name) == (clips, score_range, epochs, {**DEFAULTS, **differing})
    model, data, training = parse_training_arguments([str(CONFIGS / f"{name}.yaml")])
    assert (model.language_model, model.pad_to_max_clips, model.missing_length) == ("Qwen/Qwen3-0.6B", True, "match")
    assert (data.missingness, data.missing_rates, data.select_on) == ("dynamic", None, "validation")
    assert (training.learning_rate, training.weight_decay, training.warmup_epochs) == (2e-4, 1e-4, 5)
    assert (training.per_device_train_batch_size, training.max_grad_norm) == (8, 1.0)
    task = data.data_options.get("apparatus") or data.data_options["scores"][0]
    assert name.split("_")[1] == task.lower()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in NAMES if not name.startswith(("mtl_aqa", "simulated", "synthetic"))]
)
def test_it_trains_on_files_of_its_layout(name, layouts, tiny_language_model, tmp_path):
    arguments = parse_training_arguments([str(CONFIGS / f"{name}.yaml")])
    folder = layouts(arguments[1].dataset)
    flags = f"--data_options folder={folder} --output_dir {tmp_path / 'run'}"
    if arguments[0].language_model is not None:
        flags += f" --language_model {tiny_language_model}"
    arguments = parse_training_arguments([str(CONFIGS / f"{name}.yaml"), *flags.split(), *QUICK.split()])
    run = prepare_run(*arguments)
    run.trainer.train()
    assert run.trainer.state.global_step == 2
    assert math.isfinite(run.trainer.state.log_history[0]["loss"])
    result = evaluate_subsets(run.trainer.model, run.trainer.processing_class, run.data.splits["test"], progress=False)
    assert len(result.masks) == 2 ** len(result.modalities) - 1
    lowest, span = np.array(run.data.score_minimums), np.array(run.data.score_ranges)
    for mask in result.masks:
        assert ((lowest <= mask.predictions.scores) & (mask.predictions.scores <= lowest + span)).all()
    if name in SCORES:
        assert result.score_names == SCORES[name]
    elif name in TASKS:
        assert len(result.score_names) == 1
        assert result.modalities == ["video", "audio", "flow"]


@pytest.mark.slow
def test_it_trains_on_simulated_dives(tmp_path):
    options = f"folder={tmp_path / 'dives'} samples_train=12 samples_test=4 size=48 recipe=classic"
    flags = f"--data_options {options} --output_dir {tmp_path / 'run'} {QUICK}"
    run = prepare_run(*parse_training_arguments([str(CONFIGS / "simulated_dives.yaml"), *flags.split()]))
    run.trainer.train()
    assert math.isfinite(run.trainer.state.log_history[0]["loss"])
    assert run.trainer.processing_class.modality_sizes.keys() == {"video", "audio", "commentary"}
    assert run.trainer.processing_class.recipe["name"] == "classic"


def test_a_configuration_is_found_by_its_name_and_a_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = CONFIGS / "mtl_aqa.yaml"
    assert find_config("mtl_aqa") == find_config("mtl_aqa.yaml") == find_config(packaged) == packaged
    (tmp_path / "mtl_aqa.yaml").write_text("dataset: synthetic\n")
    assert find_config("mtl_aqa.yaml") == Path("mtl_aqa.yaml")
    with pytest.raises(FileNotFoundError, match=r"there is no file mtl_apa, and none of the configurations .*mtl_aqa"):
        find_config("mtl_apa")
