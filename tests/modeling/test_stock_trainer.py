"""`transformers.Trainer` as it comes: what works, and one sentence where something does not."""

import inspect

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from limssr import LimssrCollator, LimssrForScoreRegression
from tests.helpers.feature_rows import SIZES


@pytest.fixture
def arguments(tmp_path):
    """`arguments(**changes)`: two steps, nothing kept."""

    def make(**changes) -> TrainingArguments:
        settings = {"max_steps": 2, "use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
        return TrainingArguments(str(tmp_path), **settings | {"remove_unused_columns": False} | changes)

    return make


@pytest.fixture
def inputs(tiny_processor) -> Dataset:
    """Four samples as the processor writes them."""
    torch.manual_seed(1)
    batch = tiny_processor(
        features={name: list(torch.randn(4, 5, size)) for name, size in SIZES.items()}, labels=[10, 40, 60, 90]
    )
    return Dataset.from_dict({name: values.tolist() for name, values in batch.items()}).with_format("torch")


@pytest.fixture
def rows() -> list[dict]:
    return [{"sample_id": f"s{n}", "video": np.full((3, 16), n, "float32"), "score": 20.0 * n} for n in range(4)]


def test_rows_train_through_our_collator(tiny_model, tiny_processor, rows, arguments):
    collator = LimssrCollator(tiny_processor, list(SIZES), ["score"])
    assert Trainer(tiny_model, arguments(), train_dataset=rows, data_collator=collator).train().training_loss > 0


def test_dropped_columns_are_said_with_the_way_out(tiny_model, tiny_processor, inputs, rows, arguments):
    way_out = r"remove_unused_columns=False"
    default = arguments(remove_unused_columns=True)
    with pytest.raises(ValueError, match=rf"no video_features at all; .*{way_out}"):
        Trainer(tiny_model, default, train_dataset=inputs).train()
    collator = LimssrCollator(tiny_processor, list(SIZES), ["score"])
    with pytest.raises(ValueError, match=rf"no sample_id; .*{way_out}"):
        Trainer(tiny_model, default, train_dataset=rows, data_collator=collator).train()


def test_metrics_and_losses_of_the_user_see_scores_in_judges_units(tiny_model, inputs, arguments):
    seen = []

    def measure(prediction):
        seen.append((prediction.predictions, prediction.label_ids))
        return {"error": float(np.abs(prediction.predictions - prediction.label_ids).mean())}

    def absolute_error(outputs, labels, num_items_in_batch=None):
        return (outputs.scores - labels).abs().mean()

    given = {"eval_dataset": inputs, "compute_metrics": measure, "compute_loss_func": absolute_error}
    trainer = Trainer(tiny_model, arguments(), train_dataset=inputs, **given)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_error"], rel=1e-5)
    ((predictions, labels),) = seen
    assert predictions.shape == labels.shape == (4, 1)
    assert labels[:, 0].tolist() == [10, 40, 60, 90]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < metrics["eval_loss"]


def test_a_model_can_be_made_by_the_trainer(tiny_config, inputs, arguments):
    trainer = Trainer(args=arguments(), train_dataset=inputs, model_init=lambda: LimssrForScoreRegression(tiny_config))
    assert trainer.train().training_loss > 0


def test_label_smoothing_is_refused_in_one_sentence(tiny_model, inputs, arguments):
    smoothing = arguments(label_smoothing_factor=0.1)
    with pytest.raises(KeyError, match="label_smoothing_factor must stay 0"):
        Trainer(tiny_model, smoothing, train_dataset=inputs).train()


def test_the_signature_names_the_arguments_of_the_language_model(tiny_model):
    for model in (tiny_model, tiny_model.model):
        names = inspect.signature(model.forward).parameters["kwargs"].annotation.__args__[0].__annotations__
        assert {"output_attentions", "output_hidden_states"} <= set(names)
