"""What `import limssr` offers."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from transformers import AutoConfig

import limssr


def test_every_public_name_can_be_imported():
    for name in limssr.__all__:
        assert getattr(limssr, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'limssr' has no attribute 'LimssrModell'"):
        limssr.LimssrModell  # noqa: B018


def test_the_version_is_the_installed_one():
    assert limssr.__version__ == version("limssr")


def test_importing_registers_the_model_type_and_leaves_training_libraries_alone(tmp_path):
    program = (
        "import sys, limssr\n"
        "from transformers import AutoConfig\n"
        "assert type(AutoConfig.for_model('limssr')) is limssr.LimssrConfig\n"
        "print([name for name in ('datasets', 'peft', 'sklearn', 'matplotlib', 'training') if name in sys.modules])\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"


def test_the_model_type_makes_our_configuration():
    assert type(AutoConfig.for_model("limssr")) is limssr.LimssrConfig
