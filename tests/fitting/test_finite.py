"""Numbers that overflow stop the training by the names of the samples; none of them is saved."""

import re

import numpy as np
import pytest
import torch
from datasets import Dataset

from limssr import LimssrForScoreRegression, LimssrProcessor, LimssrTrainer, LimssrTrainingArguments

SIZES = {"video": 16, "audio": 12, "flow": 8}


@pytest.fixture
def train(tiny_config, tiny_tokenizer, tmp_path):
    """`train(largest, hook=None, **arguments)` trains on 12 samples, of which s7 has a feature so large."""

    def run(largest: float, hook=None, **arguments) -> LimssrTrainer:
        generator = np.random.default_rng(0)
        rows = [
            {"sample_id": f"s{row}", "score": 10.0 * row % 100}
            | {name: generator.normal(size=(3, size)).astype(np.float32) for name, size in SIZES.items()}
            for row in range(12)
        ]
        rows[7]["video"][1, 2] = largest
        torch.manual_seed(0)
        model = LimssrForScoreRegression(tiny_config)
        if hook is not None:
            hook(model)
        settings = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "disable_tqdm": True, "use_cpu": True}
        args = LimssrTrainingArguments(output_dir=str(tmp_path / "run"), **{**settings, **arguments})
        processor = LimssrProcessor.from_config(tiny_config, tiny_tokenizer, max_feature=3.4e38)
        dataset = Dataset.from_list(rows)
        trainer = LimssrTrainer(model, args, train_dataset=dataset, processing_class=processor)
        trainer.train()
        return trainer

    return run


@pytest.mark.parametrize("largest", [1e22, 3e38])
def test_a_feature_that_overflows_stops_the_training_and_names_its_batch(train, tmp_path, largest):
    with pytest.raises(
        ValueError, match=r"the (loss|buffer \S+) is not finite after step \d, at the samples"
    ) as caught:
        train(largest)
    named = re.findall(r"'(s\d+)'", str(caught.value))
    assert "s7" in named
    assert len(named) == 4
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_gradient_that_overflows_stops_the_training(train):
    def spoil(model):
        model.reasoning_weight.register_hook(lambda gradient: gradient * torch.inf)

    with pytest.raises(ValueError, match="a gradient is not finite after step 0, at the samples") as caught:
        train(1.0, spoil, gradient_accumulation_steps=2)
    assert len(re.findall(r"'(s\d+)'", str(caught.value))) == 8  # of both batches of the step


def test_weights_that_are_not_finite_are_not_saved(train, tmp_path):
    trainer = train(1.0, save_strategy="no", eval_strategy="no", load_best_model_at_end=False)
    with torch.no_grad():
        trainer.model.reasoning_weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"run is not written: 1 tensors of the model, such as reasoning_weight"):
        trainer.save_model()
    assert not list(tmp_path.rglob("*.safetensors"))
