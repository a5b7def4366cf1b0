"""The files and arguments of a training run of seconds."""

import pytest
import yaml

from limssr.training.arguments import parse_training_arguments


@pytest.fixture
def quick_config(quick_run, tmp_path):
    """`quick_config(key=value, ...)` writes the YAML file of a quick run and returns its path."""

    def write(**changes):
        settings = {**quick_run, "output_dir": str(tmp_path / "run"), **changes}
        path = tmp_path / "quick.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in settings.items() if value is not None}))
        return path

    return write


@pytest.fixture
def quick_arguments(quick_config):
    """`quick_arguments(key=value, ...)` parses it: arguments of model, data and training."""
    return lambda *flags, **changes: parse_training_arguments([str(quick_config(**changes)), *flags])
