"""The trainer repeats, resumes exactly, refuses weights that do not fit and logs what it did."""

import json
import math
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, EvalPrediction, TrainerCallback, TrainingArguments, set_seed
from transformers.utils import is_bitsandbytes_available

from limssr import LimssrCollator, LimssrForScoreRegression, LimssrProcessor, LimssrTrainer, LimssrTrainingArguments
from limssr.training.data import load
from limssr.training.data.aqa_data import read_targets
from limssr.training.data.masked_dataset import MaskedDataset
from limssr.training.data.masks import DynamicMask, draw_static_masks
from limssr.training.evaluation.metrics.aqa_metrics import score_metrics
from limssr.training.fitting.checkpoints import load_trained_weights
from limssr.training.prediction.predictor import predict
from tests.helpers.checkpoints import rewrite_manifest


@pytest.fixture(scope="module")
def data():
    return load("synthetic", samples_train=20, samples_test=13)


@pytest.fixture
def make_trainer(data, tiny_language_model, tmp_path):
    """`make_trainer(folder, dynamic=False, config={}, hooks={}, **arguments)`: LoRA on the tiny language model.

    `hooks` are arguments of the trainer; with `model_init=True` it makes its model itself.
    """

    def make(folder="run", dynamic=False, config=None, eval_dataset=None, hooks=None, **arguments) -> LimssrTrainer:
        def make_model(trial=None) -> LimssrForScoreRegression:
            bounds = {"score_minimums": data.score_minimums, "score_ranges": data.score_ranges, "lora_rank": 2}
            fields = {**bounds, **(config or {}), **(trial or {})}
            return LimssrForScoreRegression.from_language_model(
                tiny_language_model, modalities=data.modalities, **fields
            )

        set_seed(0)
        model, hooks = make_model(), hooks or {}
        tokenizer = AutoTokenizer.from_pretrained(tiny_language_model)
        processor = LimssrProcessor.from_config(model.config, tokenizer, max_clips=4, missing_length=1)
        modalities = list(data.modalities)
        mask = DynamicMask(modalities) if dynamic else None
        settings = {"num_train_epochs": 2, "warmup_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 0.01}
        settings |= {"logging_strategy": "steps", "logging_steps": 1, "disable_tqdm": True, "use_cpu": True}
        if hooks.get("model_init"):
            hooks = {**hooks, "model_init": make_model}
        return LimssrTrainer(
            model=None if "model_init" in hooks else model,
            args=LimssrTrainingArguments(output_dir=str(tmp_path / folder), **{**settings, **arguments}),
            train_dataset=data.splits["train"],
            eval_dataset=data.splits["test"] if eval_dataset is None else eval_dataset,
            processing_class=processor,
            data_collator=LimssrCollator(processor, modalities, ["score"], mask),
            **hooks,
        )

    return make


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def assert_same_weights(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def history(trainer, *names) -> list[dict]:
    return [{name: entry[name] for name in names} for entry in trainer.state.log_history if names[0] in entry]


EIGHT_BITS = pytest.param(
    5,
    {"optim": "adamw_bnb_8bit"},
    id="with an optimizer of eight bits",
    marks=pytest.mark.skipif(not is_bitsandbytes_available(), reason="needs the package bitsandbytes"),
)


@pytest.mark.parametrize(
    ("stop", "settings"),
    [
        pytest.param(5, {}, id="at the end of an epoch"),
        pytest.param(3, {}, id="within an epoch"),
        EIGHT_BITS,
        pytest.param(
            3,
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant_with_warmup"},
            id="with a schedule-free optimizer",
        ),
        pytest.param(3, {"average_decay": 0.9}, id="with an average of the weights"),
    ],
)
def test_a_resumed_run_equals_one_that_was_never_stopped(make_trainer, tmp_path, stop, settings):
    steps = {"dynamic": True, "save_strategy": "steps", "save_steps": stop, **settings}
    steps |= {"eval_strategy": "steps", "eval_steps": stop}
    straight = make_trainer("straight", **steps, save_total_limit=5, load_best_model_at_end=False)
    straight.train()
    resumed = make_trainer("resumed", **steps, load_best_model_at_end=False)
    set_seed(123)  # what the process drew before must not matter
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / f"checkpoint-{stop}"))
    assert_same_weights(weights(straight), weights(resumed))
    terms = ("loss", "grad_norm", "learning_rate", "regression_loss", "consistency_loss", "separation_loss")
    assert history(straight, *terms) == history(resumed, *terms)
    assert len(history(resumed, *terms)) == 10
    assert history(straight, "eval_loss", "eval_spearman") == history(resumed, "eval_loss", "eval_spearman")


def test_batches_of_about_equal_length_resume_too(make_trainer, tmp_path):
    steps = {"train_sampling_strategy": "group_by_length", "load_best_model_at_end": False, "eval_strategy": "no"}
    steps |= {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 5}
    straight = make_trainer("straight", **steps)
    straight.train()
    resumed = make_trainer("resumed", **steps)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    assert_same_weights(weights(straight), weights(resumed))


@pytest.mark.slow
def test_workers_change_nothing_whether_they_persist_or_not(make_trainer, tmp_path):
    runs = []
    kinds = [(0, False), (2, False), (2, True)]
    for workers, persist in kinds:
        loading = {"dataloader_num_workers": workers, "dataloader_persistent_workers": persist}
        steps = {"save_strategy": "steps", "save_steps": 7, "save_total_limit": 5, "load_best_model_at_end": False}
        trainer = make_trainer(f"workers{workers}{persist}", dynamic=True, num_train_epochs=3, **loading, **steps)
        trainer.train()
        runs.append((weights(trainer), history(trainer, "loss")))
    resumed = make_trainer("resumed", dynamic=True, num_train_epochs=3, **loading, **steps)
    resumed.train(resume_from_checkpoint=str(tmp_path / "workers0False" / "checkpoint-7"))  # of 15, within an epoch
    runs.append((weights(resumed), history(resumed, "loss")))
    for other_weights, losses in runs[1:]:
        assert_same_weights(runs[0][0], other_weights)
        assert losses == runs[0][1]


def test_another_seed_is_another_run(make_trainer):
    losses = []
    for seed in (1, 2):
        trainer = make_trainer(f"seed{seed}", seed=seed, max_steps=2, save_strategy="no", load_best_model_at_end=False)
        trainer.train()
        losses.append(history(trainer, "loss"))
    assert losses[0] != losses[1]


def test_of_a_schedule_free_optimizer_the_mean_of_its_steps_is_validated_and_saved(make_trainer, tmp_path):
    free = {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "load_best_model_at_end": False}
    trainer = make_trainer(**free, warmup_epochs=0, num_train_epochs=1)
    taken = defaultdict(list)

    class Steps(TrainerCallback):
        def on_optimizer_step(self, *_, **__):
            for name, weight in trainer.model.named_parameters():
                if weight.requires_grad:
                    taken[name].append(trainer.optimizer.state[weight]["z"].clone())

    trainer.add_callback(Steps())
    trainer.train()
    assert {len(steps) for steps in taken.values()} == {5}
    expected = {name: torch.stack(steps).mean(0) for name, steps in taken.items()}
    own = weights(trainer)
    torch.testing.assert_close({name: own[name] for name in expected}, expected, rtol=0, atol=1e-5)
    logged = [entry["eval_mse"] for entry in trainer.state.log_history if "eval_mse" in entry]
    load_trained_weights(trainer.model, tmp_path / "run" / "checkpoint-5")
    assert_same_weights(weights(trainer), own)
    assert [trainer.evaluate()["eval_mse"]] == logged


def test_without_validation_a_schedule_free_optimizer_ends_with_its_mean_too(make_trainer, tmp_path):
    free = {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant_with_warmup", "eval_strategy": "no"}
    trainer = make_trainer(**free, load_best_model_at_end=False)
    trainer.train()
    ended = weights(trainer)
    load_trained_weights(trainer.model, tmp_path / "run" / "checkpoint-10")
    assert_same_weights(weights(trainer), ended)
    trainer.optimizer.train()  # to where the next step would be taken
    assert not all(torch.equal(tensor, ended[name]) for name, tensor in weights(trainer).items())


def test_the_best_checkpoint_is_kept_and_loaded(make_trainer):
    trainer = make_trainer(metric_for_best_model="mse", num_train_epochs=4)
    trainer.train()
    values = [entry["eval_mse"] for entry in trainer.state.log_history if "eval_mse" in entry]
    assert trainer.state.best_metric == min(values)
    assert trainer.evaluate()["eval_mse"] == pytest.approx(min(values), rel=1e-6)
    saved = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    own = trainer.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in saved.items() if "lora" not in name)


def test_of_checkpoints_that_validate_alike_the_lower_error_wins(make_trainer, monkeypatch):
    errors = iter([9.0, 5.0, 7.0, 5.0])
    trainer = make_trainer(num_train_epochs=4)
    measure = trainer._measure

    def tied(rows, bar):
        (metrics,), others = measure(rows, bar)
        return [{**metrics, "spearman": 0.5, "mse": next(errors)}], others

    monkeypatch.setattr(trainer, "_measure", tied)
    trainer.train()
    assert trainer.state.best_global_step == 10
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-10")


def test_a_perfect_order_of_few_samples_does_not_outweigh_the_others(make_trainer, data, monkeypatch):
    rows = data.splits["test"]
    trainer = make_trainer(eval_dataset={"few": rows.select(range(2)), "all": rows})
    metrics = trainer.evaluate()
    assert metrics["eval_few_spearman"] == 0
    expected = math.tanh(math.atanh(metrics["eval_all_spearman"]) / 2)
    assert metrics["eval_spearman"] == pytest.approx(expected)


def test_predict_of_the_trainer_draws_nothing(make_trainer, data):
    trainer = make_trainer(dynamic=True, train_sampling_strategy="group_by_length")
    rows = data.splits["test"]
    expected = predict(trainer.model, trainer.processing_class, rows).scores  # center crops, no modality hidden
    np.testing.assert_allclose(trainer.predict(rows).predictions, expected, atol=1e-3)


def test_terms_of_the_loss_are_logged(make_trainer):
    trainer = make_trainer(max_steps=3)
    trainer.train()
    for entry in history(trainer, "loss", "regression_loss", "consistency_loss", "separation_loss"):
        weighted = 10 * entry["regression_loss"] + entry["consistency_loss"] + entry["separation_loss"]
        assert entry["loss"] == pytest.approx(weighted, rel=1e-4)
    assert not [entry for entry in trainer.state.log_history if "pairwise_loss" in entry]
    assert list(Path(trainer.args.output_dir, "logs").glob("events*"))


def test_the_ranking_of_pairs_is_logged_where_it_is_trained(make_trainer):
    trainer = make_trainer(config={"pairwise_weight": 2}, max_steps=2)
    trainer.train()
    terms = ("regression_loss", "consistency_loss", "separation_loss", "pairwise_loss")
    weights = dict(zip(terms, (10, 1, 1, 2), strict=True))
    for entry in history(trainer, "loss", *terms):
        assert entry["loss"] == pytest.approx(sum(weights[name] * entry[name] for name in terms), rel=1e-4)
        assert entry["pairwise_loss"] > 0


def test_checkpoints_hold_what_was_trained_and_no_pickle(make_trainer, tmp_path, tiny_language_model, data):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json", ".py"}
    assert {"optimizer.safetensors", "optimizer.json", "rng_state.json"} <= {
        path.name for path in checkpoint.iterdir()
    }
    saved = load_file(checkpoint / "model.safetensors")
    assert not [name for name in saved if "language_model" in name and "lora" not in name]
    arguments = (checkpoint / "training_args.json").read_text()
    assert json.loads(arguments)["learning_rate"] == 0.01
    assert str(tmp_path) not in arguments + (checkpoint / "config.json").read_text()
    model = LimssrForScoreRegression.from_pretrained(checkpoint, language_model=tiny_language_model).eval()
    rows = data.splits["test"]
    reloaded = predict(model, LimssrProcessor.from_pretrained(checkpoint), rows)
    np.testing.assert_allclose(
        reloaded.scores, predict(trainer.model, trainer.processing_class, rows).scores, atol=1e-3
    )


def test_a_language_model_trained_as_a_whole_is_in_its_checkpoints(make_trainer, tmp_path):
    trainer = make_trainer(config={"language_model_training": "full"}, max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert_same_weights(weights(trainer), load_file(checkpoint / "model.safetensors"))
    other = make_trainer("other", config={"language_model_training": "full"}, max_steps=2)
    load_trained_weights(other.model, checkpoint)
    assert_same_weights(weights(trainer), weights(other))


def test_frozen_weights_never_change(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4)
    before = weights(trainer)
    trainer.train()
    load_trained_weights(trainer.model, tmp_path / "run" / "checkpoint-4")
    changed = {name for name in before if not torch.equal(before[name], trainer.model.state_dict()[name])}
    assert not [name for name in changed if "language_model" in name and "lora" not in name]
    assert [name for name in changed if "lora_B" in name]
    assert "model.token_embeddings" in changed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda saved: saved.pop("reasoning_weight"), "1 missing, first reasoning_weight"),
        (lambda saved: saved.update(extra=torch.zeros(1)), "1 unexpected, first extra"),
        (lambda saved: saved.update(reasoning_weight=torch.zeros(2)), "1 misshapen, first reasoning_weight"),
        (
            lambda saved: [saved.pop(name) for name in list(saved) if name.endswith("lora_A.weight")],
            r"8 missing, first .*lora_A\.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(make_trainer, tmp_path, change, named):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    broken = tmp_path / "broken"
    shutil.copytree(tmp_path / "run" / "checkpoint-2", broken)
    saved = load_file(broken / "model.safetensors")
    change(saved)
    save_file(saved, broken / "model.safetensors", metadata={"format": "pt"})
    rewrite_manifest(broken)
    before = weights(trainer)
    with pytest.raises(ValueError, match=named):
        make_trainer("other", max_steps=4).train(resume_from_checkpoint=str(broken))
    with pytest.raises(ValueError, match=named):
        load_trained_weights(trainer.model, broken)
    assert_same_weights(before, weights(trainer))


def test_a_checkpoint_of_another_language_model_is_refused(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    config = json.loads((checkpoint / "config.json").read_text())
    config["language_model_source"]["sha256"] = {"model.safetensors": "0" * 64}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="was trained on the language model"):
        load_trained_weights(trainer.model, checkpoint)
    with pytest.raises(FileNotFoundError, match="holds no model"):
        load_trained_weights(trainer.model, tmp_path)


def test_parameter_groups_hold_every_trained_weight_once(make_trainer):
    trainer = make_trainer(head_learning_rate=0.5, decay_all=False)
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    groups = trainer.create_optimizer().param_groups
    assert sorted(id(value) for group in groups for value in group["params"]) == sorted(names)
    for group in groups:
        for value in group["params"]:
            name = names[id(value)]
            assert group["lr"] == (0.01 if "language_model" in name else 0.5)
            assert (group["weight_decay"] == 0) == (value.dim() < 2 or "token_embeddings" in name)


def test_published_optimizer_decays_everything_at_one_rate(make_trainer):
    groups = make_trainer().create_optimizer().param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(0.01, 1e-4)}


def test_validation_scores_each_sample_once(make_trainer, data):
    trainer = make_trainer(per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    rows = data.splits["test"]
    predictions, targets = predict(trainer.model, trainer.processing_class, rows), read_targets(rows, ["score"])
    expected = score_metrics(predictions.scores[:, 0], targets[:, 0])
    assert metrics["eval_spearman"] == pytest.approx(expected["spearman"])
    assert metrics["eval_mse"] == pytest.approx(expected["mse"], rel=1e-5)
    consistency = np.mean((predictions.path_disagreement / 100) ** 2)
    assert metrics["eval_loss"] == pytest.approx(10 * expected["mse"] / 100**2 + consistency, rel=1e-5)


def test_validation_averages_its_mask_sets_in_fishers_z(make_trainer, data):
    rows = data.splits["test"]
    masks = {"video": (1, 0, 0), "flow": (0, 0, 1)}
    sets = {name: MaskedDataset(rows, list(data.modalities), [mask] * len(rows)) for name, mask in masks.items()}
    trainer = make_trainer(eval_dataset=sets)
    metrics = trainer.evaluate()
    z = [math.atanh(metrics[f"eval_{name}_spearman"]) for name in masks]
    assert metrics["eval_spearman"] == pytest.approx(math.tanh(sum(z) / 2))


def test_metrics_of_the_user_join_those_of_validation(make_trainer, data):
    given = []

    def largest_error(prediction: EvalPrediction) -> dict[str, float]:
        given.append(prediction)
        return {"largest_error": np.abs(prediction.predictions - prediction.label_ids).max()}

    rows = data.splits["test"]
    sets = {"all": rows, "some": rows.select(range(4))}
    hooks = {"compute_metrics": largest_error}
    trainer = make_trainer(eval_dataset=sets, hooks=hooks, metric_for_best_model="largest_error", warmup_epochs=0)
    metrics = trainer.evaluate()
    scores, targets = predict(trainer.model, trainer.processing_class, rows).scores, read_targets(rows, ["score"])
    np.testing.assert_allclose(given[0].predictions, scores, atol=1e-3)
    np.testing.assert_array_equal(given[0].label_ids, targets)
    errors = np.abs(scores - targets)
    assert metrics["eval_all_largest_error"] == pytest.approx(errors.max(), abs=1e-3)
    assert metrics["eval_some_largest_error"] == pytest.approx(errors[:4].max(), abs=1e-3)
    both = metrics["eval_all_largest_error"] + metrics["eval_some_largest_error"]
    assert metrics["eval_largest_error"] == pytest.approx(both / 2)
    assert "eval_spearman" in metrics
    predicted = trainer.predict(rows)
    assert predicted.metrics["test_largest_error"] == pytest.approx(errors.max(), abs=1e-3)
    np.testing.assert_allclose(predicted.label_ids, targets, atol=1e-4)
    trainer.train()
    logged = [entry["eval_largest_error"] for entry in trainer.state.log_history if "eval_largest_error" in entry]
    assert trainer.state.best_metric == min(logged)


def test_the_loss_of_the_user_is_trained_validated_and_logged(make_trainer, data):
    given = []

    def absolute_error(outputs, labels, num_items_in_batch=None):
        given.append((outputs, labels))
        return (outputs.scores - labels).abs().sum() / num_items_in_batch

    hooks = {"compute_loss_func": absolute_error}
    trainer = make_trainer(hooks=hooks, max_steps=2, logging_steps=2, gradient_accumulation_steps=2)
    trainer.train()
    (logged,) = history(trainer, "loss", "grad_norm")
    batches = [(outputs.scores.detach() - labels).abs().mean() for outputs, labels in given[:4]]
    assert logged["loss"] == pytest.approx(np.mean(batches), rel=1e-5)  # batches of four, two in each step
    assert logged["grad_norm"] > 0
    assert "regression_loss" not in trainer.state.log_history[0]
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_mae"], abs=1e-3)  # of rounded scores


def test_a_model_that_the_trainer_makes_is_made_anew_for_every_training(make_trainer):
    trainer = make_trainer(hooks={"model_init": True}, max_steps=3, save_strategy="no", load_best_model_at_end=False)
    trainer.train()
    first, losses = weights(trainer), history(trainer, "loss")
    trainer.train()
    assert_same_weights(first, weights(trainer))
    assert history(trainer, "loss") == losses
    assert len(losses) == 3
    trainer.train(trial={"lora_rank": 3})
    assert trainer.model.config.lora_rank == 3
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_model_that_cannot_be_saved_as_asked_is_refused_wherever_it_comes_from(make_trainer):
    full = {"config": {"language_model_training": "full"}, "save_form": "adapter"}
    for hooks in ({}, {"model_init": True}):
        with pytest.raises(ValueError, match="`save_form` is 'adapter'"):
            make_trainer(hooks=hooks, **full)


def test_arguments_of_a_stock_trainer_are_kept_as_they_are(make_trainer, data, tmp_path):
    made = make_trainer()
    plain = TrainingArguments(output_dir=str(tmp_path / "plain"), max_steps=2, use_cpu=True, report_to=[])
    rows = data.splits["train"]
    trainer = LimssrTrainer(made.model, plain, train_dataset=rows, processing_class=made.processing_class)
    trainer.train()
    assert trainer.args.learning_rate == plain.learning_rate
    assert trainer.args.lr_scheduler_type == plain.lr_scheduler_type
    assert trainer.args.get_warmup_steps(100) == plain.get_warmup_steps(100) == 0
    assert trainer.state.global_step == 2
    with pytest.raises(TypeError, match=r"expected LimssrTrainingArguments\(output_dir=...\)"):
        LimssrTrainer(made.model)


def test_what_the_trainer_lacks_is_named(make_trainer, data, tmp_path):
    made = make_trainer()
    args = LimssrTrainingArguments(output_dir=str(tmp_path / "new"), num_train_epochs=3, use_cpu=True, report_to=[])
    assert args.warmup_epochs == 0.75
    with pytest.raises(ValueError, match="needs the model's LimssrProcessor"):
        LimssrTrainer(made.model, args)
    with pytest.raises(TypeError, match="`model` is Linear, expected LimssrForScoreRegression"):
        LimssrTrainer(torch.nn.Linear(1, 1), args, processing_class=made.processing_class)
    trainer = LimssrTrainer(made.model, args, processing_class=made.processing_class)
    assert not trainer.args.load_best_model_at_end
    with pytest.raises(TypeError, match="`eval_dataset` is NoneType, expected"):
        trainer.evaluate()
    rows = data.splits["test"]
    for wrong, message in (
        (rows.select([]), "has no rows"),
        (rows.remove_columns("sample_id"), "has no column `sample_id`"),
        (rows.remove_columns("score"), "no column for the scores"),
        (rows.remove_columns(list(data.modalities)), "none of the modalities"),
    ):
        trainer.train_dataset = wrong
        with pytest.raises(ValueError, match=message):
            trainer.train()


def test_an_undefined_metric_is_nan_and_never_the_best(make_trainer, data):
    trainer = make_trainer(eval_dataset=data.splits["test"].select([0]), max_steps=2)
    trainer.train()
    assert math.isnan(trainer.evaluate()["eval_spearman"])
    assert trainer.state.best_model_checkpoint is None


def test_several_scores_train_together(make_trainer, data):
    def add_score(row):
        return {"artistry": None if row["sample_id"].endswith("3") else row["score"] / 10}

    rows = data.splits["train"].map(add_score)
    names = {"score_names": ["score", "artistry"], "score_minimums": [0, 0], "score_ranges": [100, 10]}
    trainer = make_trainer(config=names, eval_dataset=rows, max_steps=2)
    trainer.train_dataset = rows
    trainer.data_collator.score_names = names["score_names"]
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in history(trainer, "loss"))
    assert math.isfinite(trainer.evaluate()["eval_mse"])


def test_masked_rows_train(make_trainer, data):
    train = data.splits["train"]
    modalities = list(data.modalities)
    masks = draw_static_masks(train["sample_id"][:], modalities, 0.5, 0)
    trainer = make_trainer(max_steps=3)
    trainer.train_dataset = MaskedDataset(train, modalities, masks)
    trainer.train()
    assert trainer.state.global_step == 3


def test_activation_checkpointing_changes_nothing(make_trainer):
    results = []
    for switched in (False, True):
        trainer = make_trainer(f"checkpointing{switched}", max_steps=2, activation_checkpointing=switched)
        trainer.model.model.shares_prefix = False  # checkpointing does so too, and dropout must be drawn alike
        trainer.train()
        results.append(weights(trainer))
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=0, atol=1e-6, msg=name)


def test_bf16_trains_with_weights_in_float32(make_trainer):
    trainer = make_trainer(max_steps=2, bf16=True)
    trainer.train()
    assert all(math.isfinite(entry["loss"]) for entry in history(trainer, "loss"))
    assert {parameter.dtype for parameter in trainer.model.parameters() if parameter.requires_grad} == {torch.float32}


def test_accumulated_batches_weigh_alike(make_trainer):
    trainer = make_trainer(max_steps=1, gradient_accumulation_steps=3)
    losses = []
    step = trainer.training_step
    trainer.training_step = lambda *args, **kwargs: losses.append(step(*args, **kwargs)) or losses[-1]
    trainer.train()
    terms = history(trainer, "loss", "regression_loss", "consistency_loss", "separation_loss")[0]
    assert len(losses) == 3
    assert terms["loss"] == pytest.approx(sum(map(float, losses)), rel=1e-5)
    weighted = 10 * terms["regression_loss"] + terms["consistency_loss"] + terms["separation_loss"]
    assert terms["loss"] == pytest.approx(weighted, rel=1e-4)
