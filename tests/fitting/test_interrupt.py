"""Ctrl-C and SIGTERM end a run with one line: its newest checkpoint, and the command that goes on."""

import signal
import subprocess
import sys
import time

import pytest

from limssr.training import train
from limssr.training.fitting.run import how_to_go_on
from limssr.training.utils.launching import Interrupted, command_line, exit_on_interrupt, hold_back_signals


@pytest.mark.slow
def test_a_run_that_is_interrupted_names_its_checkpoint_and_the_command_that_goes_on(quick_config, tmp_path):
    config, run = quick_config(), tmp_path / "run"
    command = [sys.executable, train.__file__, str(config), "--num_train_epochs", "500"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 120
        while not list(run.glob("checkpoint-10/trainer_state.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said
    last = said.strip().splitlines()[-1]
    assert f"The newest checkpoint is {run}/checkpoint-" in last
    assert last.endswith(f"{train.__file__} {config} --num_train_epochs 500 --resume_from_checkpoint last")


def test_sigterm_ends_like_ctrl_c_and_only_the_first_process_speaks(capsys, monkeypatch):
    for rank, said in (("0", "advice"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as stop, exit_on_interrupt(lambda: "advice"):
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.code == 143
        assert capsys.readouterr().err.strip() == said
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_signals_are_held_back_until_the_block_ends_and_a_second_one_is_not(monkeypatch):
    survived = []

    def hold(*numbers: int) -> None:
        with hold_back_signals() as received:
            for number in numbers:
                signal.raise_signal(number)
                survived.append(list(received))

    with pytest.raises(Interrupted) as stop:
        hold(signal.SIGTERM)
    assert survived == [[signal.SIGTERM]]
    assert stop.value.signal == signal.SIGTERM
    with pytest.raises(Interrupted):
        hold(signal.SIGINT, signal.SIGINT)
    assert survived[1:] == [[signal.SIGINT]]
    monkeypatch.setenv("WORLD_SIZE", "2")  # whose launcher repeats it
    with pytest.raises(Interrupted):
        hold(signal.SIGINT, signal.SIGTERM)
    assert survived[2:] == [[signal.SIGINT], [signal.SIGINT, signal.SIGTERM]]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_a_checkpoint_the_same_command_starts_anew(tmp_path):
    assert "There is no checkpoint in" in how_to_go_on(str(tmp_path / "nowhere"))
    assert "There is no checkpoint in" in how_to_go_on(str(tmp_path))


def test_the_command_line_is_the_one_that_was_typed(monkeypatch):
    words = [
        "a.yaml",
        "--resume-from-checkpoint",
        "me/run",
        "--output_dir",
        "my runs",
        "--resume_from_checkpoint=last",
    ]
    monkeypatch.setattr(sys, "argv", ["limssr train", *words])
    assert command_line(without=["resume_from_checkpoint"]) == "limssr train a.yaml --output_dir 'my runs'"
