"""A stopped run goes on from a whole checkpoint, says what changed, and refuses what would end elsewhere."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from limssr.training.fitting.run import finish_run, prepare_run, run_training
from tests.helpers.checkpoints import flip_a_byte, rewritten

LAST = ["--resume_from_checkpoint", "last"]
SETTINGS = {"save_total_limit": 5, "report_to": "none", "logging_strategy": "steps", "logging_steps": 1}


@pytest.fixture
def stopped(quick_arguments, tmp_path) -> Path:
    """The checkpoint in the middle of a run that was stopped there."""
    run_training(*quick_arguments(**SETTINGS))
    first, last = sorted((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    return first


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename_random_file(checkpoint: Path) -> None:
    edit(checkpoint / "rng_state.json", processes=2)
    (checkpoint / "rng_state.json").rename(checkpoint / "rng_state_0.json")


def copy_tensors_of_another_step(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.safetensors"
    save_file(load_file(path), path, metadata={"step": "4"})


@pytest.mark.slow
def test_what_is_missing_or_foreign_in_the_training_state_is_refused_by_name(stopped, quick_arguments, tmp_path):
    whole = tmp_path / "whole"
    stopped.rename(whole)
    for damage, message in (
        (lambda path: (path / "optimizer.safetensors").unlink(), r"optimizer\.safetensors is missing"),
        (lambda path: (path / "optimizer.json").unlink(), r"optimizer\.json is missing"),
        (lambda path: (path / "rng_state.json").unlink(), r"rng_state\.json is missing"),
        (rewritten(rename_random_file), r"rng_state\.json is missing, there is rng_state_0\.json of other processes"),
        (rewritten(lambda path: edit(path / "rng_state.json", processes=2)), r"is of processes 2, expected 1"),
        (rewritten(lambda path: edit(path / "optimizer.json", step=4)), r"optimizer\.json is of step 4, expected 5"),
        (rewritten(copy_tensors_of_another_step), r"optimizer\.safetensors is of step 4, expected 5"),
        (lambda path: (path / "optimizer.safetensors").write_bytes(b"0" * 99), r"optimizer\.safetensors is damaged"),
        (rewritten(lambda path: edit(path / "optimizer.json", parameters="3")), r"is of parameters 3, expected"),
        (lambda path: flip_a_byte(path / "optimizer.safetensors"), r"optimizer\.safetensors is damaged \(it changed"),
        (lambda path: flip_a_byte(path / "rng_state.json"), r"rng_state\.json is damaged"),
    ):
        shutil.copytree(whole, stopped)
        damage(stopped)
        named = ["--resume_from_checkpoint", str(stopped)]
        with pytest.raises(ValueError, match=f"{message}.*--resume_without_optimizer"):
            prepare_run(*quick_arguments(*named, **SETTINGS))
        prepare_run(*quick_arguments(*LAST, "--resume_without_optimizer", **SETTINGS))
        shutil.rmtree(stopped)
    shutil.copytree(whole, stopped)
    with pytest.raises(ValueError, match=r"optimizer\.json is of optimizer .*AdamW, expected .*SGD"):
        prepare_run(*quick_arguments(*LAST, "--optim", "sgd", **SETTINGS))
    trainer = prepare_run(*quick_arguments("--optim", "sgd", output_dir=str(tmp_path / "other"), **SETTINGS)).trainer
    with pytest.raises(ValueError, match="is of optimizer"):
        trainer.train(resume_from_checkpoint=str(stopped))
    (stopped / "trainer_state.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint is whole.*trainer_state\.json is missing"):
        prepare_run(*quick_arguments(*LAST, "--resume_without_optimizer", **SETTINGS))
    with pytest.raises(FileNotFoundError, match="it is no checkpoint of a training"):
        trainer.train(resume_from_checkpoint=str(stopped))


def test_damaged_weights_are_refused_also_without_the_optimizer(stopped, quick_arguments):
    flip_a_byte(stopped / "model.safetensors")
    for flags in ([], ["--resume_without_optimizer"]):
        with pytest.raises(ValueError, match=r"no checkpoint is whole.*model\.safetensors is damaged"):
            prepare_run(*quick_arguments(*LAST, *flags, **SETTINGS))
    named = ["--resume_from_checkpoint", str(stopped), "--resume_without_optimizer"]
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*Name a whole checkpoint"):
        prepare_run(*quick_arguments(*named, **SETTINGS))


def learning_rates(history: list[dict]) -> dict[int, float]:
    return {entry["step"]: entry["learning_rate"] for entry in history if "learning_rate" in entry}


def test_without_its_optimizer_a_run_goes_on_at_the_step_and_learning_rate_it_had(stopped, quick_arguments):
    straight = learning_rates(json.loads((stopped.parent / "run.json").read_text())["history"])
    (stopped / "optimizer.safetensors").unlink()
    run = prepare_run(*quick_arguments(*LAST, "--resume_without_optimizer", **SETTINGS))
    finish_run(run)
    assert learning_rates(run.trainer.state.log_history) == straight
    assert len(straight) == 10


def change_record(checkpoint: Path) -> None:
    """As if it had been written by another version of numpy and of this code, from another file of flow."""
    record = json.loads((checkpoint / "run.json").read_text())
    record["versions"]["numpy"], record["code"] = "1.0", "0" * 64
    record["dataset"]["fingerprint"]["test"]["flow"] = "0" * 64
    edit(checkpoint / "run.json", **record)


def test_settings_data_and_software_that_changed_are_said(stopped, quick_arguments, caplog):
    prepare_run(*quick_arguments(*LAST, **SETTINGS))
    assert "other settings" not in caplog.text
    changes = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "data_options": {"samples_train": 60}}
    prepare_run(*quick_arguments(*LAST, "--resume_without_optimizer", **SETTINGS, **changes))
    (said,) = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert "per_device_train_batch_size 8 -> 4" in said
    assert "train data 36 samples with" in said
    assert "samples of train" in said
    assert "The optimizer keeps its own learning_rate." in said
    rewritten(change_record)(stopped)
    refused = r"its data has changed \(flow of test\)\. Restore the data, or give `--resume_without_optimizer`"
    with pytest.raises(ValueError, match=refused):
        prepare_run(*quick_arguments(*LAST, **SETTINGS))
    caplog.clear()
    prepare_run(*quick_arguments(*LAST, "--resume_without_optimizer", **SETTINGS))
    (said,) = [record.getMessage() for record in caplog.records if "other settings" in record.getMessage()]
    assert re.search(r"flow of test; code 0{40} -> [0-9a-f]{40}; numpy 1\.0 -> 2\.", said)
    rewritten(lambda folder: edit(folder / "run.json", processes="1"))(stopped)
    with pytest.raises(ValueError, match=r"run\.json: `processes` is '1', expected int"):
        prepare_run(*quick_arguments(*LAST, **SETTINGS))
