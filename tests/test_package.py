"""What can be imported, and what `import limssr` costs."""

import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import limssr

API = Path(__file__).parents[1] / "docs" / "api.md"
ROW = re.compile(r"^\| `(\w+)` \| `([\w.]+)` \| .+ \|$", flags=re.MULTILINE)


def test_every_name_of_the_public_api_can_be_imported():
    names = ROW.findall(API.read_text(encoding="utf-8"))
    assert len(names) == sum(line.startswith("| `") for line in API.read_text(encoding="utf-8").splitlines()) > 20
    for name, module in names:
        assert hasattr(import_module(module), name), f"{module}.{name}"
    assert {name for name, module in names if module == "limssr"} == set(limssr.__all__)


def test_each_package_exports_its_class():
    for package, name in {
        "configuration": "LimssrConfig",
        "modeling_limssr": "LimssrForScoreRegression",
        "processing": "LimssrProcessor",
    }.items():
        assert getattr(import_module(f"limssr.{package}"), name) is getattr(limssr, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'limssr' has no attribute 'LimssrModell'"):
        limssr.LimssrModell  # noqa: B018


def test_the_version_is_the_installed_one():
    assert limssr.__version__ == version("limssr")


@pytest.mark.slow
def test_importing_registers_the_model_type_and_leaves_training_libraries_alone(tmp_path):
    program = (
        "import sys, limssr\n"
        "from transformers import AutoConfig\n"
        "assert type(AutoConfig.for_model('limssr')) is limssr.LimssrConfig\n"
        "heavy = ('datasets', 'evaluate', 'peft', 'sklearn', 'matplotlib', 'ray', 'pyarrow', 'training')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "[]"
