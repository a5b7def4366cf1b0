"""A training run of seconds: a tiny random language model, few synthetic performances."""

import pytest
import yaml

from limssr.training.arguments import parse_training_arguments

QUICK_RUN = {
    "dataset": "synthetic",
    "data_options": {"samples_train": 48, "samples_test": 21},
    "missingness": "static",
    "missing_rates": 0.3,
    "validation_fraction": 0.25,
    "text_config": {
        "model_type": "qwen3",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "max_position_embeddings": 512,
    },
    "missing_length": 1,
    "max_clips": 5,
    "use_prompt": False,
    "num_train_epochs": 2,
    "warmup_epochs": 1,
    "learning_rate": 0.001,
    "disable_tqdm": True,
    "seed": 0,
}


@pytest.fixture
def quick_config(tmp_path):
    """`quick_config(key=value, ...)` writes the YAML file of a quick run and returns its path."""

    def write(**changes):
        settings = {**QUICK_RUN, "output_dir": str(tmp_path / "run"), **changes}
        path = tmp_path / "quick.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return path

    return write


@pytest.fixture
def quick_arguments(quick_config):
    """`quick_arguments(key=value, ...)` parses it: arguments of model, data and training."""
    return lambda *flags, **changes: parse_training_arguments([str(quick_config(**changes)), *flags])
