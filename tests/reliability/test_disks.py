"""A full or read-only disk, and files that vanish or change: one sentence, and what was whole stays whole."""

import logging
import os
import resource
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from limssr.training.arguments import parse_training_arguments
from limssr.training.fitting.checkpoints import SaveError, find_last
from limssr.training.fitting.run import prepare_run
from limssr.training.soaking.kills import SETTINGS, Training
from limssr.training.utils.checkpoints import checkpoints_in, find_damage, newest_whole, read_manifest
from limssr.training.utils.locks import lock_folder
from tests.helpers.checkpoints import flip_a_byte
from tests.helpers.disks import read_only

LAST = ["--resume_from_checkpoint", "last"]


def prepare_in(folder: Path, *flags: str, **changes):
    words = [str(Training(folder, **changes).config), "--output_dir", f"{folder}/run", *flags]
    return prepare_run(*parse_training_arguments(words))


@pytest.fixture
def prepare(tmp_path):
    """`prepare(*flags, **changes)` prepares a small training in `tmp_path / "run"`."""
    return partial(prepare_in, tmp_path)


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    prepare_in(folder, save_total_limit=5).trainer.train()
    return folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path) -> Path:
    """A training with all its checkpoints, to be damaged."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


class DiskFullAfter(TrainerCallback):
    """No file may be larger than some kilobytes after a step, which fails as on a full disk."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoints(prepare, tmp_path):
    run, before = prepare(), resource.getrlimit(resource.RLIMIT_FSIZE)
    run.trainer.add_callback(DiskFullAfter(4))
    try:
        with pytest.raises(SaveError, match=r"checkpoint-4 could not be saved: .*Earlier checkpoints are whole"):
            run.trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in checkpoints_in(tmp_path / "run")] == ["checkpoint-2"]
    assert not list((tmp_path / "run").glob(".writing-*"))
    run = prepare(*LAST)
    run.trainer.train(resume_from_checkpoint=run.checkpoint)
    assert run.trainer.state.global_step == SETTINGS["max_steps"]


class ReadOnlyAfter(TrainerCallback):
    """Nothing can be written to a folder after a step, until `stack` ends."""

    def __init__(self, step: int, folder: Path, stack: ExitStack):
        self.step, self.folder, self.stack = step, folder, stack

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.stack.enter_context(read_only(self.folder))


def test_a_folder_that_becomes_read_only_is_one_sentence_and_its_run_goes_on_later(prepare, tmp_path):
    run, out = prepare(), tmp_path / "run"
    with ExitStack() as stack:
        run.trainer.add_callback(ReadOnlyAfter(4, out, stack))
        with pytest.raises(SaveError, match=r"checkpoint-4 could not be saved: .*Earlier checkpoints are whole"):
            run.trainer.train()
        with pytest.raises(PermissionError, match=r"run.\.lock"), lock_folder(out):
            pass
    run = prepare(*LAST)
    run.trainer.train(resume_from_checkpoint=run.checkpoint)
    assert run.trainer.state.global_step == SETTINGS["max_steps"]


def test_last_is_the_newest_whole_checkpoint_and_says_what_it_skipped(trained, caplog):
    caplog.set_level(logging.WARNING)
    newest, second, oldest = checkpoints_in(trained)
    assert newest_whole(trained) == (newest, {})
    flip_a_byte(newest / "optimizer.safetensors")
    (second / "rng_state.json").unlink()
    assert find_last(trained) == str(oldest)
    assert f"{newest}: optimizer.safetensors is damaged (it changed after it was written)" in caplog.text
    assert f"{second}: rng_state.json is missing" in caplog.text
    assert find_last(trained, with_optimizer=False) == str(newest)


def test_a_flipped_bit_is_found_in_every_file(trained):
    folder = checkpoints_in(trained)[0]
    for path in sorted(folder.iterdir()):
        original, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        for place in (0, 9, 100, -1):
            if path.name != "manifest.json" and len(original) > place:
                flip_a_byte(path, place)
                assert path.name in (find_damage(folder) or ""), path.name
                path.write_bytes(original)
        os.utime(path, ns=times)
    assert find_damage(folder) is None


def test_a_damaged_manifest_is_no_manifest(trained):
    folder = checkpoints_in(trained)[0]
    for content in (
        b"",
        b"{}",
        b"[1",
        b'{"files": {"../x": {}}, "best": null}',
        b'{"files": {}, "best": "../x"}',
        b"\xff",
    ):
        (folder / "manifest.json").write_bytes(content)
        assert "manifest.json is damaged" in find_damage(folder)
    (folder / "manifest.json").unlink()
    assert "manifest.json is missing" in find_damage(folder)


def test_the_best_checkpoint_that_is_gone_is_said(prepare, trained):
    best = read_manifest(checkpoints_in(trained)[0])[1]
    shutil.rmtree(best)
    if checkpoints_in(trained)[0].name > best.name:
        with pytest.raises(
            ValueError, match=rf"{best.name}, its best checkpoint, is not whole: manifest.json is missing"
        ):
            prepare(*LAST)
    prepare(*LAST, "--load_best_model_at_end", "false")


def test_the_best_checkpoint_that_goes_during_the_run_is_said(prepare, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    run = prepare()
    save = run.trainer._save_checkpoint

    def save_and_lose_the_best(*arguments):
        save(*arguments)
        if run.trainer.state.global_step == SETTINGS["max_steps"]:
            shutil.rmtree(run.trainer.state.best_model_checkpoint)

    run.trainer._save_checkpoint = save_and_lose_the_best
    run.trainer.train()
    assert "was the best checkpoint, but manifest.json is missing" in caplog.text
    assert "the model of the last step is kept" in caplog.text
    assert run.trainer.state.best_global_step is None


def test_of_one_checkpoint_the_best_and_the_last_stay_also_at_the_end(prepare, tmp_path):
    run = prepare(save_total_limit=1, metric_for_best_model="loss", greater_is_better=True)
    run.trainer.train()
    best, last = run.trainer.state.best_global_step, SETTINGS["max_steps"]
    assert best < last
    assert [path.name for path in checkpoints_in(tmp_path / "run")] == [f"checkpoint-{last}", f"checkpoint-{best}"]
    assert prepare(*LAST).checkpoint.endswith(f"checkpoint-{last}")


def test_resuming_the_very_end_takes_no_step_and_counts_the_losses_of_the_whole_run(prepare, tmp_path):
    runs, outputs = [prepare()], []
    outputs.append(runs[0].trainer.train())
    kept = checkpoints_in(tmp_path / "run")
    shutil.copytree(kept[-1], kept[-1].with_name("checkpoint-1"))  # as a kill before it was removed would leave it
    runs.append(prepare(*LAST))  # in the middle of an epoch, where the training ends
    outputs.append(runs[1].trainer.train(resume_from_checkpoint=runs[1].checkpoint))
    assert checkpoints_in(tmp_path / "run") == kept
    shutil.rmtree(kept[0])
    runs.append(prepare(*LAST, "--load_best_model_at_end", "false"))
    outputs.append(runs[2].trainer.train(resume_from_checkpoint=runs[2].checkpoint))
    steps = [run.trainer.state.global_step for run in runs]
    assert steps == [SETTINGS["max_steps"]] * 3
    assert [output.training_loss for output in outputs] == pytest.approx([outputs[0].training_loss] * 3)
    logged = [run.trainer.state.log_history[-1]["train_loss"] for run in runs]
    assert logged == pytest.approx([outputs[0].training_loss] * 3)
    first, again = (run.trainer.model.state_dict() for run in runs[:2])
    assert all(torch.equal(first[name], again[name]) for name in first)
