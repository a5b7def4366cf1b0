"""The YAML file comes first, flags win over it, and what nobody knows or nobody can do is refused by name."""

import json
import logging
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from transformers import get_scheduler

from limssr import LimssrConfig
from limssr.training.arguments import (
    DERIVED_FIELDS,
    MAIN_FLAGS,
    DataArguments,
    LimssrTrainingArguments,
    ModelArguments,
    parse_training_arguments,
)

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
    words = [quick_config(), "--data_options", "samples_test=5", "noise={video: [1, 2], audio: [1, 1], flow: [2, 1]}"]
    model, data, _ = parse_training_arguments([str(word) for word in words])
    assert data.data_options == {
        "samples_train": 48,
        "samples_test": 5,
        "noise": {"video": [1, 2], "audio": [1, 1], "flow": [2, 1]},
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
        ({"train_fraction": 0}, "`train_fraction` is 0.0"),
        ({"all_masks": True, "modality_dropout": ["0.3"]}, "`all_masks` reads every mask"),
        ({"language_model": "some/model"}, "either `language_model`"),
        ({"language_model_config": None}, "either `language_model`"),
        ({"language_model_training": "lora"}, "which only 'full' trains"),
        ({"dataset": None}, "`dataset` is not given"),
        ({"output_dir": None}, "`output_dir` is not given"),
        ({"warmup_epochs": -1}, "`warmup_epochs` is -1.0"),
        ({"dataloader_in_order": False}, "`dataloader_in_order` is false"),
        ({"seed": 1.5}, "invalid int value: '1.5'"),
        ({"hub_strategy": "checkpoint"}, "allowed are end, every_save"),
        ({"select_on": "train"}, "`select_on` is 'train'"),
        ({"max_clips": "many"}, "invalid int value: 'many'"),
        ({"data_options": ["samples_train"]}, "expected KEY=VALUE"),
        ({"data_options": 3}, "`data_options` has 3, expected KEY=VALUE"),
        ({"train_sampling_strategy": "sequential"}, "allowed are random, group_by_length"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` smooths classes"),
        ({"quantization": "4bit"}, "`quantization` is '4bit', but `language_model_config` makes a random"),
        ({"attention": "fast"}, "`attention` is 'fast'; allowed are sdpa, eager, flash_attention_2"),
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


def test_the_warm_up_is_shorter_than_the_training(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    for given, epochs, expected in ((None, 100, 5), (None, 3, 0.75), (1, 3, 1), (5, 3, 0.75)):
        args = LimssrTrainingArguments(output_dir=str(tmp_path), num_train_epochs=epochs, warmup_epochs=given)
        assert args.warmup_epochs == expected
        assert ("is shortened to a quarter" in caplog.text) == (given == 5)


def test_numbers_and_dates_of_a_file_are_read_as_they_are_meant(quick_config, tmp_path):
    path = quick_config(output_dir=None)
    text = path.read_text() + 'output_dir: 2024-05-01\nclip_dropout: {video: 1e-1}\nhub_model_id: "me/a #1"\n'
    path.write_text(text)
    flags = ["--data_options", "folder=runs/a #1", "noise=1e-1", "since=2024-05-01"]
    _, data, training = parse_training_arguments([str(path), *flags])
    assert (training.output_dir, training.hub_model_id) == ("2024-05-01", "me/a #1")
    assert data.clip_dropout == {"video": 0.1}
    given = {"folder": "runs/a #1", "noise": 0.1, "since": "2024-05-01"}
    assert data.data_options == {"samples_train": 48, "samples_test": 21, **given}


def help_text(capsys, flag: str) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_training_arguments([flag])
    assert stop.value.code == 0
    return capsys.readouterr().out


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  --(\w+)", text, flags=re.MULTILINE)


def test_help_shows_twenty_flags_in_groups_and_where_the_rest_is(capsys):
    text = help_text(capsys, "--help")
    assert sorted(flags_in(text)) == sorted(MAIN_FLAGS | {"help_all"})
    assert len(MAIN_FLAGS) == 20
    model, data, training = (flags_in(text.split(f"\n{title}:\n")[1]) for title in ("model", "data", "training"))
    assert "language_model" in model
    assert "dataset" in data
    assert "language_model" not in data
    assert "output_dir" in training
    assert "dataset" not in training


def test_help_all_shows_every_flag(capsys):
    shown = set(flags_in(help_text(capsys, "--help_all")))
    assert {"adam_beta2", "clip_dropout", "separation_margin"} | MAIN_FLAGS < shown
    assert len(shown) > 150


def test_settings_of_the_model_are_those_of_its_configuration():
    arguments = ModelArguments(language_model="some/model", lora_rank=4)
    config = LimssrConfig(**arguments.config_fields())
    assert config.lora_rank == 4
    for name, value in LimssrConfig().to_dict().items():
        if name in arguments.config_fields() and name != "lora_rank":
            assert getattr(config, name) == value, name
    missing = {entry.name for entry in fields(LimssrConfig) if "help" in entry.metadata} - DERIVED_FIELDS
    assert missing - set(arguments.config_fields()) == {"language_model_training", "lora_target_modules"}  # None


@pytest.mark.usefixtures("without_bitsandbytes")
@pytest.mark.parametrize("optim", ["adamw_bnb_8bit", "paged_adamw_8bit", "adamw_8bit"])
def test_an_optimizer_of_eight_bits_says_what_it_needs_before_training(tmp_path, optim):
    with pytest.raises(ValueError, match=r"`optim` '\w+' needs the package bitsandbytes: pip install bitsandbytes"):
        LimssrTrainingArguments(output_dir=str(tmp_path), optim=optim, use_cpu=True)


@pytest.mark.usefixtures("without_schedulefree")
def test_a_schedule_free_optimizer_says_what_it_needs_before_training(tmp_path):
    with pytest.raises(ValueError, match="needs the package schedulefree: pip install schedulefree"):
        LimssrTrainingArguments(output_dir=str(tmp_path), optim="schedule_free_adamw", use_cpu=True)


def test_a_schedule_free_optimizer_refuses_a_falling_learning_rate(tmp_path):
    with pytest.raises(ValueError, match=r"'cosine_with_min_lr', but .*: give constant or constant_with_warmup"):
        LimssrTrainingArguments(output_dir=str(tmp_path), optim="schedule_free_adamw", use_cpu=True)


def test_sharding_a_model_on_the_cpu_is_refused_rather_than_left_undone(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"accelerators only.*ddp_cpu\.yaml"):
        LimssrTrainingArguments(output_dir=str(tmp_path), use_cpu=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            lambda: DataArguments(dataset="synthetic", select_on="train"),
            "`select_on` is 'train'; allowed are validation",
        ),
        (lambda: ModelArguments(language_model="a", dtype="float8"), "`dtype` is 'float8'; allowed are auto, float32"),
        (
            lambda: LimssrTrainingArguments(output_dir="runs", hub_strategy="checkpoint"),
            "`hub_strategy` is 'checkpoint'; allowed are end, every_save",
        ),
    ],
)
def test_choices_are_checked_without_a_command_line_too(arguments, message):
    with pytest.raises(ValueError, match=message):
        arguments()
