"""With `average_decay` the average of the weights is validated, saved and kept, and training goes on with the rest."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from limssr import LimssrTrainingArguments
from limssr.training.fitting.averaging import WeightAverage, settle_weights
from limssr.training.fitting.checkpoints import load_trained_weights
from limssr.training.fitting.run import prepare_run

SETTINGS = {"average_decay": 0.5, "save_total_limit": 5, "report_to": "none", "learning_rate": 0.01}


def moving_average(steps: list[torch.Tensor], decay: float) -> torch.Tensor:
    average = steps[0]
    for t, weights in enumerate(steps[1:], start=1):
        kept = min(decay, (1 + t) / (10 + t))
        average = kept * average + (1 - kept) * weights
    return average


def make_average(decay=0.3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model[2].bias.requires_grad_(False)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.1)
    average = WeightAverage(model, decay)
    average.follow(optimizer)
    return model, optimizer, average


def step(model, optimizer) -> dict[str, torch.Tensor]:
    optimizer.train()
    optimizer.zero_grad()
    model(torch.randn(8, 3) + 1).square().mean().backward()
    optimizer.step()
    return state(model)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_forgets_at_its_rate_and_faster_at_the_beginning(decay):
    model, optimizer, _ = make_average(decay)
    steps = [step(model, optimizer) for _ in range(12)]
    settle_weights(optimizer)
    settled = state(model)
    for name in settled:
        if name in ("2.bias", "1.num_batches_tracked"):
            assert torch.equal(settled[name], steps[-1][name])
        else:
            expected = moving_average([each[name] for each in steps], decay)
            torch.testing.assert_close(settled[name], expected, rtol=0, atol=1e-6)
            assert not torch.equal(settled[name], steps[-1][name])


@torch.no_grad()
def test_an_averaged_running_mean_is_the_mean_under_the_averaged_weights():
    (linear, norm, _), _, average = make_average()
    inputs = torch.randn(64, 3) + 1
    for _ in range(5):
        nn.init.normal_(linear.weight)
        norm.running_mean.copy_(linear(inputs).mean(0))
        average.update()
    average.eval()
    torch.testing.assert_close(norm.running_mean, linear(inputs).mean(0), atol=1e-5, rtol=0)


def test_validating_in_between_changes_nothing():
    runs = []
    for settles in (False, True):
        model, optimizer, _ = make_average()
        for _ in range(5):
            step(model, optimizer)
            if settles:
                settle_weights(optimizer)
                settle_weights(optimizer)
        optimizer.train()
        weights = state(model)
        optimizer.eval()
        runs.append((weights, state(model)))
    assert_same(runs[0][0], runs[1][0])
    assert_same(runs[0][1], runs[1][1])


@pytest.mark.parametrize("settled", [True, False])
def test_a_loaded_average_goes_on_as_the_saved_one(tmp_path, settled):
    model, optimizer, average = make_average()
    for _ in range(4):
        step(model, optimizer)
    if settled:
        optimizer.eval()
    average.save(tmp_path / "average.safetensors", step=4)
    other, other_optimizer, loaded = make_average()
    loaded.load(tmp_path / "average.safetensors")
    other_optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    for number in range(3):
        torch.manual_seed(number)
        first = step(model, optimizer)
        torch.manual_seed(number)
        second = step(other, other_optimizer)
        del first["1.num_batches_tracked"], second["1.num_batches_tracked"]  # of the model's own checkpoint
        assert_same(first, second)
    assert_same(average.average, loaded.average)


def test_weights_in_half_precision_are_averaged_in_float32():
    model = nn.Linear(2, 1, bias=False).bfloat16()
    average = WeightAverage(model, 0.999)
    average.steps = 100_000
    nn.init.zeros_(model.weight)
    average.average["weight"].fill_(1.0)
    for _ in range(10):
        average.update()
    torch.testing.assert_close(average.average["weight"], torch.full((1, 2), 0.999**10))


def test_the_average_is_validated_selected_saved_and_kept(quick_arguments, tmp_path):
    trainer = prepare_run(*quick_arguments(**SETTINGS, metric_for_best_model="mse", num_train_epochs=3)).trainer
    names = {name for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    names |= {name for name in trainer.model.state_dict() if name.endswith(("running_mean", "running_var"))}
    steps = []

    class Steps(TrainerCallback):
        def on_optimizer_step(self, *_, **__):
            own = trainer.model.state_dict()
            steps.append({name: own[name].clone() for name in names})

    trainer.add_callback(Steps())
    trainer.train()
    logged = {entry["step"]: entry["eval_mse"] for entry in trainer.state.log_history if "eval_mse" in entry}
    assert len(logged) == 3
    best = trainer.state.best_global_step
    assert logged[best] == min(logged.values())
    trainer.save_model()
    for number, folder in (*((number, tmp_path / "run" / f"checkpoint-{number}") for number in logged), (best, "run")):
        saved = load_file(tmp_path / folder / "model.safetensors")
        for name in names:
            expected = moving_average([each[name] for each in steps[:number]], 0.5)
            torch.testing.assert_close(saved[name], expected, rtol=0, atol=1e-5)
    assert trainer.evaluate()["eval_mse"] == logged[best]
    load_trained_weights(trainer.model, tmp_path / "run" / "checkpoint-5")
    assert trainer.evaluate()["eval_mse"] == logged[5]


def test_a_run_resumes_only_with_both_kinds_of_weights(quick_arguments, tmp_path):
    prepare_run(*quick_arguments(**SETTINGS)).trainer.train()
    last = ["--resume_from_checkpoint", str(tmp_path / "run" / "checkpoint-5")]
    with pytest.raises(ValueError, match=r"average\.safetensors is of a training with `average_decay`"):
        prepare_run(*quick_arguments(*last, **{**SETTINGS, "average_decay": None}))
    (tmp_path / "run" / "checkpoint-5" / "average.safetensors").unlink()
    with pytest.raises(ValueError, match=r"average\.safetensors is missing"):
        prepare_run(*quick_arguments(*last, **SETTINGS))
    run = prepare_run(*quick_arguments(*last, "--resume_without_optimizer", **SETTINGS))
    run.trainer.train(resume_from_checkpoint=run.checkpoint)
    assert run.trainer.state.global_step == 10


def test_without_it_there_is_no_average(quick_arguments, tmp_path):
    trainer = prepare_run(*quick_arguments(**{**SETTINGS, "average_decay": None, "max_steps": 1})).trainer
    trainer.train()
    assert trainer.weight_average is None
    assert not list(tmp_path.rglob("average.safetensors"))
    assert json.loads(Path(tmp_path, "run", "checkpoint-1", "training_args.json").read_text())["average_decay"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average_decay": 1.0}, r"`average_decay` is 1\.0; allowed is above 0 and below 1"),
        ({"average_decay": 0.0}, r"`average_decay` is 0\.0; allowed is above 0 and below 1"),
        (
            {"average_decay": 0.9, "optim": "schedule_free_adamw", "lr_scheduler_type": "constant"},
            "`average_decay` is 0.9, but `optim` 'schedule_free_adamw' averages the weights itself",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        LimssrTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **settings)
